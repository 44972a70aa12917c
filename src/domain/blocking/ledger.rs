//! All looks of one backup, added up.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{Look, Party, WhenBlocking};
use crate::domain::{
    finding::{CheckName, Finding, Severity},
    units::format_duration,
};

/// Sessions that are named; of others only the number is.
const NAMED: usize = 5;
/// A wait from which on the finding is a warning.
const NOTABLE: Duration = Duration::from_secs(10);

/// Names of relations, by the oids of their database and their own.
pub type Names = BTreeMap<(u32, u32), String>;

/// What a backup held up, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The greatest number of sessions that waited at once.
    pub sessions: usize,
    /// The longest wait of one.
    pub longest: Duration,
    /// The greatest age of its xmin, in transactions.
    pub xmin_age: Option<u64>,
    /// For how long it held its snapshot.
    pub snapshot: Duration,
}

#[derive(Debug, Clone)]
struct Waiter {
    party: Party,
    since: Timestamp,
    waited: Duration,
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    looks: u64,
    greatest: usize,
    longest: Duration,
    xmin_age: Option<u64>,
    /// Those that wait now, and since when, where the server does not tell: by process.
    now: BTreeMap<i32, Timestamp>,
    /// How many wait now, and the longest wait of one of them.
    count: usize,
    current: Duration,
    worst: Vec<Waiter>,
    /// Who was in the way when the backup last waited.
    ahead: Vec<Party>,
    stuck: bool,
}

impl Ledger {
    /// Adds a look.
    pub fn heed(&mut self, look: Look) {
        self.looks += 1;
        self.xmin_age = self.xmin_age.max(look.xmin_age);
        self.greatest = self.greatest.max(look.count);
        self.count = look.count;
        self.current = Duration::ZERO;
        let before = std::mem::take(&mut self.now);
        for party in look.behind {
            let known = before.get(&party.pid).copied();
            let since = party.since.or(known).unwrap_or(look.at).min(look.at);
            self.now.insert(party.pid, since);
            let waited = between(since, look.at);
            self.current = self.current.max(waited);
            self.remember(Waiter { party, since, waited });
        }
        self.longest = self.longest.max(self.current);
        self.stuck = !look.ahead.is_empty();
        if self.stuck {
            self.ahead = look.ahead;
            self.ahead.truncate(NAMED);
        }
    }

    fn remember(&mut self, waiter: Waiter) {
        let same = |known: &&mut Waiter| {
            known.party.pid == waiter.party.pid && known.since == waiter.since
        };
        match self.worst.iter_mut().find(same) {
            Some(known) => *known = waiter,
            None => self.worst.push(waiter),
        }
        self.worst.sort_by_key(|waiter| std::cmp::Reverse(waiter.waited));
        self.worst.truncate(NAMED);
    }

    /// Whether anything was seen at all.
    pub fn has_looked(&self) -> bool {
        self.looks > 0
    }

    /// Whether the backup has to give way now.
    pub fn gives_way(&self, policy: WhenBlocking) -> bool {
        match policy {
            WhenBlocking::Report => false,
            WhenBlocking::CancelAfter(limit) => self.count > 0 && self.current >= limit,
        }
    }

    /// The relations that are to be named, by the oids of their database and their own.
    pub fn relations(&self) -> Vec<(u32, u32)> {
        let parties = self.worst.iter().map(|waiter| &waiter.party).chain(&self.ahead);
        let relations = parties.filter_map(|party| party.wanted.as_ref()?.relation);
        let mut relations: Vec<(u32, u32)> = relations.collect();
        relations.sort_unstable();
        relations.dedup();
        relations
    }

    /// What goes into the metrics; none where nothing was seen.
    pub fn held(&self, snapshot: Duration) -> Option<Held> {
        self.has_looked().then_some(Held {
            sessions: self.greatest,
            longest: self.longest,
            xmin_age: self.xmin_age,
            snapshot,
        })
    }

    /// What is going on, in a few words, for `status`; nothing where there is nothing to tell.
    pub fn live(&self, snapshot: Duration) -> String {
        let age = self.xmin_age.filter(|age| *age > 0);
        let age = age.map(|age| format!(", xmin {age} transactions old")).unwrap_or_default();
        let longest = seconds(self.current);
        let waiting = match self.count {
            0 => String::new(),
            1 => format!("; 1 session waits behind it, for {longest}"),
            count => format!("; {count} sessions wait behind it, the longest for {longest}"),
        };
        let stuck = if self.stuck { "; it waits for a lock" } else { "" };
        format!("snapshot held for {}{age}{waiting}{stuck}", seconds(snapshot))
    }

    /// Who waited behind the backup; none where nobody did.
    pub fn waited(&self, names: &Names) -> Option<String> {
        if self.worst.is_empty() {
            return None;
        }
        let each = self.worst.iter().map(|waiter| {
            let since = waiter.since.strftime("%H:%M:%SZ");
            let waited = seconds(waiter.waited);
            format!("{}, since {since} for {waited}", describe(&waiter.party, names))
        });
        let each: Vec<String> = each.collect();
        let more = self.greatest.saturating_sub(self.worst.len());
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let longest = seconds(self.longest);
        let count = sessions(self.greatest);
        Some(format!("{count}, the longest for {longest}: {}{more}", each.join("; ")))
    }

    /// Whom the backup itself waited for; none where that was not seen.
    pub fn in_the_way(&self, names: &Names) -> Option<String> {
        let first = self.ahead.first()?;
        let wanted = first.wanted.as_ref();
        let relation = wanted.and_then(|wanted| relation(wanted.relation?, names));
        let what =
            relation.map_or_else(|| "a lock".to_owned(), |name| format!("the lock on {name}"));
        let each = self.ahead.iter().map(|party| {
            let open = party.since.map(|since| {
                format!(", its transaction open since {}", since.strftime("%H:%M:%SZ"))
            });
            let state = party.state.as_deref().map(|state| format!(", {state}"));
            let party = Party { wanted: None, ..party.clone() };
            let (state, open) = (state.unwrap_or_default(), open.unwrap_or_default());
            format!("{}{state}{open}", describe(&party, names))
        });
        Some(format!(
            "{what} was held or asked for before by {}",
            each.collect::<Vec<_>>().join("; ")
        ))
    }

    /// What is found of the backup of `subject`.
    pub fn findings(
        &self,
        subject: &str,
        snapshot: Duration,
        max_xmin_age: Option<u64>,
        names: &Names,
    ) -> Vec<Finding> {
        let waited = self.waited(names).map(|waited| {
            let is_long = self.longest >= NOTABLE;
            let severity = if is_long { Severity::Warning } else { Severity::Info };
            let what = format!("behind the locks of the backup of {subject}: {waited}");
            Finding::new(CheckName("sessions-blocked"), severity, what).hint(
                "run the job when nobody changes tables, or give such statements a lock_timeout; \
                 `when_blocking` of the job says when the backup gives way",
            )
        });
        let old = self.xmin_age.zip(max_xmin_age).filter(|(age, max)| age > max);
        let old = old.map(|(age, max)| {
            let what = format!(
                "the backup of {subject} held the xmin horizon back by {age} transactions, more than {max}, \
                 and its snapshot for {}: dead rows stayed for so long",
                seconds(snapshot)
            );
            Finding::new(CheckName("xmin-age"), Severity::Warning, what)
                .hint("let it run when less is written, or from a standby without hot_standby_feedback")
        });
        waited.into_iter().chain(old).collect()
    }
}

fn between(since: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(since).max(SignedDuration::ZERO)).unwrap_or_default()
}

fn seconds(duration: Duration) -> String {
    format_duration(Duration::from_secs(duration.as_secs()))
}

fn sessions(count: usize) -> String {
    if count == 1 { "1 session waited".to_owned() } else { format!("{count} sessions waited") }
}

fn relation(oids: (u32, u32), names: &Names) -> Option<String> {
    names.get(&oids).cloned()
}

/// `ALTER TABLE shop.orders ADD (process 71, role app, psql) on shop.orders`
fn describe(party: &Party, names: &Names) -> String {
    let statement = party.statement.as_deref().filter(|text| !text.is_empty());
    let prepared = party.pid == 0;
    let who = [
        (!prepared).then(|| format!("process {}", party.pid)),
        party.role.as_ref().map(|role| format!("role {role}")),
        party.application.clone().filter(|name| !name.is_empty()),
    ];
    let who: Vec<String> = who.into_iter().flatten().collect();
    let on = party.wanted.as_ref().and_then(|wanted| {
        let oids = wanted.relation?;
        let name = relation(oids, names).unwrap_or_else(|| format!("relation {}", oids.1));
        Some(format!(" for {} on {name}", wanted.mode))
    });
    let nameless = if prepared { "a prepared transaction" } else { "a session" };
    let statement = statement.unwrap_or(nameless);
    format!("{statement} ({}){}", who.join(", "), on.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::blocking::Wanted;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn party(pid: i32, since: Option<i64>) -> Party {
        Party {
            pid,
            database: Some("app".to_owned()),
            role: Some("owner".to_owned()),
            application: Some("psql".to_owned()),
            state: Some("active".to_owned()),
            statement: Some("ALTER TABLE t".to_owned()),
            wanted: Some(Wanted { mode: "AccessExclusiveLock".to_owned(), relation: Some((5, 7)) }),
            since: since.map(at),
        }
    }

    fn look(second: i64, behind: Vec<Party>) -> Look {
        let count = behind.len();
        Look { at: at(second), xmin_age: Some(3), count, behind, ahead: Vec::new() }
    }

    #[test]
    fn waits_are_measured_from_their_start_or_from_the_first_look() {
        for since in [Some(0), None] {
            let mut ledger = Ledger::default();
            let policy = WhenBlocking::CancelAfter(Duration::from_secs(10));
            ledger.heed(look(0, vec![party(1, since)]));
            ledger.heed(look(9, vec![party(1, since), party(2, since.map(|_| 8))]));
            assert!(!ledger.gives_way(policy));
            ledger.heed(look(10, vec![party(1, since)]));
            assert!(ledger.gives_way(policy) && !ledger.gives_way(WhenBlocking::Report));
            ledger.heed(look(11, vec![]));
            assert!(!ledger.gives_way(policy), "nobody waits any more");
            let held = ledger.held(Duration::from_secs(12)).unwrap();
            assert_eq!((held.sessions, held.longest), (2, Duration::from_secs(10)));
            assert_eq!(held.xmin_age, Some(3));
        }
    }

    #[test]
    fn who_comes_back_waits_anew() {
        let mut ledger = Ledger::default();
        ledger.heed(look(0, vec![party(1, None)]));
        ledger.heed(look(5, vec![]));
        ledger.heed(look(9, vec![party(1, None)]));
        assert_eq!(ledger.held(Duration::ZERO).unwrap().longest, Duration::ZERO);
    }

    #[test]
    fn a_finding_names_a_few_and_counts_the_rest() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.findings("app", Duration::ZERO, Some(0), &Names::new()), []);
        let crowd: Vec<Party> = (0..200).map(|pid| party(pid, Some(0))).collect();
        ledger.heed(look(9, crowd));
        let names: Names = [((5, 7), "shop.orders".to_owned())].into();
        let found = ledger.findings("app", Duration::from_mins(1), Some(2), &names);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].severity, Severity::Info);
        let what = &found[0].what;
        assert!(what.contains("200 sessions waited, the longest for 9s"), "{what}");
        assert!(what.contains("AccessExclusiveLock on shop.orders"), "{what}");
        assert!(what.contains("and 195 more") && what.len() < 800, "{what}");
        assert!(found[1].what.contains("3 transactions, more than 2"), "{:?}", found[1]);
        ledger.heed(look(10, vec![party(1, Some(0))]));
        let found = ledger.findings("app", Duration::ZERO, None, &Names::new());
        assert_eq!((found.len(), found[0].severity), (1, Severity::Warning));
        assert!(found[0].what.contains("relation 7"), "{found:?}");
    }

    #[test]
    fn a_role_that_sees_little_tells_little() {
        let mut ledger = Ledger::default();
        let (role, application, state, statement) = (None, None, None, None);
        let blind = Party { role, application, state, statement, wanted: None, ..party(9, None) };
        ledger.heed(Look { ahead: vec![blind.clone()], ..look(1, vec![blind]) });
        assert!(ledger.waited(&Names::new()).unwrap().contains("a session (process 9), since"));
        let text = ledger.in_the_way(&Names::new()).unwrap();
        assert_eq!(text, "a lock was held or asked for before by a session (process 9)");
    }
}
