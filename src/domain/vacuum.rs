//! Which tables are vacuumed, why, and in which order; and what holds dead rows back.
//!
//! All of it is decided from facts that the statistics and the catalogue have. What can still go
//! wrong: statistics are estimates, and lost after a crash; a table that nobody counted since has
//! no dead rows as far as they go. `not_vacuumed_for` and `xid_age` do not depend on them.

mod horizon;

use std::{collections::BTreeSet, fmt, time::Duration};

use super::{
    finding::{CheckName, Finding, Severity},
    relation::{RelationName, RelationPatterns},
    target::Target,
    units::format_duration,
};

pub use horizon::{Holder, HolderSort, Horizon, horizon};

/// What is done to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Vacuum,
    VacuumAnalyze,
    Analyze,
    Freeze,
    Full,
}

impl Mode {
    /// Whether dead rows are removed.
    pub const fn vacuums(self) -> bool {
        !matches!(self, Self::Analyze)
    }

    /// Whether the planner's statistics are made anew.
    pub const fn analyzes(self) -> bool {
        matches!(self, Self::Analyze | Self::VacuumAnalyze)
    }
}

/// When a table is due: as soon as one of those that are given says so; always where none is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thresholds {
    pub min_dead_tuples: Option<u64>,
    /// Dead rows as a share of all, 0 to 1.
    pub min_dead_ratio: Option<f64>,
    /// Age in transactions (or multixacts) of the oldest row that is not frozen.
    pub xid_age: Option<u64>,
    /// Time since the last VACUUM, autovacuum's included.
    pub not_vacuumed_for: Option<Duration>,
    pub min_changed_tuples: Option<u64>,
    /// Time since the last ANALYZE, autovacuum's included.
    pub not_analyzed_for: Option<Duration>,
}

/// What the role may do with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Granted,
    /// It may, and cannot name it: it has no USAGE on the schema.
    SchemaClosed,
    /// Nobody here can name it: its name, or that of its schema, is no UTF-8.
    Unnameable,
    Denied,
}

/// What the server knows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its object id: names may change while others are vacuumed.
    pub oid: u32,
    pub relation: RelationName,
    /// Whether it is a partitioned parent, which has no rows of its own.
    pub partitioned: bool,
    pub system: bool,
    pub access: Access,
    pub live: u64,
    pub dead: u64,
    pub changed: u64,
    /// Age in transactions or multixacts, its TOAST table's included; 0 for a partitioned parent.
    pub xid_age: u64,
    /// Time since the last VACUUM; none: never.
    pub vacuumed_before: Option<Duration>,
    /// Time since the last ANALYZE; none: never.
    pub analyzed_before: Option<Duration>,
}

/// Why a table that is due was not vacuumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// Somebody held a lock for too long.
    Locked,
    NotPermitted,
    /// Autovacuum is vacuuming it to prevent wraparound, and does not give way.
    AntiWraparound,
    Gone,
    Unnameable,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Locked => "locked",
            Self::NotPermitted => "not permitted",
            Self::AntiWraparound => "under an anti-wraparound autovacuum",
            Self::Gone => "gone",
            Self::Unnameable => "not named in UTF-8",
        })
    }
}

/// What is to be done with a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    NotSelected,
    Due(String),
    /// It is due, and cannot be done.
    Skip(Skip, String),
    /// It is selected and not due, for this reason.
    Leave(String),
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct VacuumRules {
    pub mode: Mode,
    pub tables: RelationPatterns,
    pub thresholds: Thresholds,
}

impl VacuumRules {
    /// Decides on one table. `only` are those that failed before (`schema.name`): they were due
    /// then, and still are.
    pub fn decide(&self, facts: &Facts, only: Option<&BTreeSet<String>>) -> Decision {
        if !self.tables.select(&facts.relation)
            || only.is_some_and(|only| !only.contains(&facts.relation.to_string()))
        {
            return Decision::NotSelected;
        }
        if facts.partitioned && !self.mode.analyzes() {
            let why = "it is partitioned: its partitions are vacuumed, each for itself";
            return Decision::Leave(why.to_owned());
        }
        let reason = match only {
            Some(_) => "it failed before".to_owned(),
            None => match self.reason(facts) {
                Ok(reason) => reason,
                Err(why) => return Decision::Leave(why),
            },
        };
        let denied = match facts.access {
            Access::Granted => return Decision::Due(reason),
            Access::SchemaClosed => {
                format!("the role has no USAGE on schema {}", facts.relation.schema)
            }
            Access::Unnameable => {
                let why = "its name is not UTF-8: no statement of ours can name it".to_owned();
                return Decision::Skip(Skip::Unnameable, why);
            }
            Access::Denied if facts.system && !self.tables.names_schema_of(&facts.relation) => {
                let why = "a system catalogue that the role may not vacuum";
                return Decision::Leave(why.to_owned());
            }
            Access::Denied => {
                "the role neither owns the table nor the database, nor may it maintain it"
                    .to_owned()
            }
        };
        Decision::Skip(Skip::NotPermitted, denied)
    }

    /// Why the table is due, or why it is not.
    fn reason(&self, facts: &Facts) -> Result<String, String> {
        let t = &self.thresholds;
        if *t == Thresholds::default() {
            return Ok("there are no thresholds".to_owned());
        }
        let mut due = Vec::new();
        let rows = facts.live + facts.dead;
        if self.mode.vacuums() && !facts.partitioned {
            if t.min_dead_tuples.is_some_and(|least| facts.dead >= least) {
                due.push(format!("{} dead rows", facts.dead));
            }
            if t.min_dead_ratio
                .is_some_and(|least| facts.dead > 0 && facts.dead as f64 >= least * rows as f64)
            {
                due.push(format!("{} of {rows} rows are dead", facts.dead));
            }
            if t.xid_age.is_some_and(|least| facts.xid_age >= least) {
                due.push(format!("{} transactions old", facts.xid_age));
            }
            due.extend(since("vacuumed", t.not_vacuumed_for, facts.vacuumed_before));
        }
        if self.mode.analyzes() {
            if t.min_changed_tuples.is_some_and(|least| facts.changed >= least) {
                due.push(format!("{} rows changed", facts.changed));
            }
            due.extend(since("analyzed", t.not_analyzed_for, facts.analyzed_before));
        }
        if due.is_empty() {
            let Facts { dead, changed, xid_age, .. } = facts;
            return Err(format!(
                "no threshold is met: {dead} of {rows} rows dead, {changed} changed, {xid_age} \
                 transactions old"
            ));
        }
        Ok(due.join(", "))
    }

    /// How much a table needs it, to be compared with others: the larger goes first.
    pub fn need(&self, facts: &Facts) -> (u64, u64) {
        match self.mode {
            Mode::Freeze => (facts.xid_age, facts.dead),
            Mode::Analyze => (facts.changed, facts.live),
            Mode::Vacuum | Mode::VacuumAnalyze | Mode::Full => (facts.dead, facts.xid_age),
        }
    }
}

fn since(done: &str, limit: Option<Duration>, before: Option<Duration>) -> Option<String> {
    let limit = limit?;
    match before {
        None => Some(format!("never {done}")),
        Some(before) if before >= limit => {
            let whole = Duration::from_secs(before.as_secs());
            Some(format!("not {done} for {}", format_duration(whole)))
        }
        Some(_) => None,
    }
}

/// How old a database's oldest row is that is not frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseAge {
    pub name: String,
    /// `age(datfrozenxid)`, in transactions.
    pub xids: u64,
    /// `mxid_age(datminmxid)`, in multixacts.
    pub mxids: u64,
}

/// Half of the way to where the server stops taking writes (2³¹), and five times
/// autovacuum_freeze_max_age: autovacuum has not kept up for long.
const AGE_WARNING: u64 = 1_000_000_000;
/// `vacuum_failsafe_age`: from here on VACUUM itself leaves everything else undone.
const AGE_CRITICAL: u64 = 1_600_000_000;

/// The databases that are on their way to transaction id wraparound.
pub fn wraparound(ages: &[DatabaseAge]) -> Vec<Finding> {
    let old = ages.iter().filter_map(|age| {
        let (count, unit) = if age.mxids > age.xids {
            (age.mxids, "multixacts")
        } else {
            (age.xids, "transactions")
        };
        let severity = match count {
            AGE_CRITICAL.. => Severity::Critical,
            AGE_WARNING.. => Severity::Warning,
            _ => return None,
        };
        let what = format!(
            "database {}: its oldest row is {count} {unit} old; the server stops taking writes at 2147 \
             million",
            age.name
        );
        let hint = "run a job with mode = \"freeze\" and xid_age on it; look first at what holds back the \
                    xmin horizon";
        let target = Target::object(age.name.clone());
        Some(Finding::new(CheckName("wraparound"), severity, what).hint(hint).about(target))
    });
    old.collect()
}

#[cfg(test)]
mod tests;
