//! What keeps VACUUM from removing dead rows, and what can be done about it.
//!
//! What can still go wrong: a slot does not say for how long it has held something, so that it is
//! told only once many transactions have gone by.

use std::time::Duration;

use crate::domain::{
    finding::{CheckName, Finding, Severity},
    target::Target,
    units::format_duration,
};

/// The oldest that hold dead rows back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Horizon {
    /// Who holds back those of every table.
    pub rows: Option<Holder>,
    /// The slot that holds back those of the system catalogue alone, by its `catalog_xmin`: logical
    /// decoding reads the catalogue as it was, and nothing else.
    pub catalogue: Option<Holder>,
}

/// Who keeps VACUUM from removing dead rows: the oldest snapshot or transaction of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// A session, a prepared transaction, a replication slot.
    pub sort: HolderSort,
    /// Who it is, for people: `process 123 of role app in database shop, idle in transaction`.
    pub who: String,
    /// How old what it holds is, in transactions.
    pub age: u64,
    /// For how long it has held it, where the server says so.
    pub held_for: Option<Duration>,
}

/// What sort of thing holds the horizon back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderSort {
    /// A session with a snapshot, or one that stands in a transaction.
    Session,
    /// A standby with hot_standby_feedback: its walsender, or the physical slot that it reads.
    Standby,
    Prepared,
    /// A replication slot that nobody reads.
    Slot,
    /// A logical slot that somebody reads.
    Subscriber,
    /// The slot `pg_conflict_detection` (19+): subscriptions with `retain_dead_tuples`.
    Conflicts,
}

/// A twentieth of autovacuum_freeze_max_age's default: so many transactions' worth of dead rows
/// stay. For holders whose time is not known.
const HELD_AGE: u64 = 10_000_000;

/// What is to be said of the oldest holders: something where one has been there for `limit`.
pub fn horizon(horizon: &Horizon, limit: Duration) -> Vec<Finding> {
    let rows = horizon.rows.as_ref().map(|holder| (holder, "rows", rows_hint(holder.sort)));
    let catalogue = horizon.catalogue.as_ref().map(|holder| {
        (holder, "rows of the system catalogue (of no other table)", catalogue_hint(holder.sort))
    });
    [rows, catalogue].into_iter().flatten().filter_map(|it| finding(it, limit)).collect()
}

fn finding((holder, rows, hint): (&Holder, &str, &str), limit: Duration) -> Option<Finding> {
    let long = holder.held_for.is_some_and(|held| held >= limit);
    if !long && holder.age < HELD_AGE {
        return None;
    }
    let held = holder.held_for.map_or_else(String::new, |held| {
        format!(", for {}", format_duration(Duration::from_secs(held.as_secs())))
    });
    let what = format!(
        "{rows} that died in the last {} transactions cannot be removed: {} holds them back{held}",
        holder.age, holder.who
    );
    let whose = match holder.sort {
        // Another process each night.
        HolderSort::Session => "a session",
        _ => &holder.who,
    };
    let target = Target::object(format!("{rows}: {whose}"));
    Some(Finding::new(CheckName("xmin-horizon"), Severity::Warning, what).hint(hint).about(target))
}

const NOBODY_READS: &str =
    "nobody reads the slot: start its reader, or pg_drop_replication_slot() it";

const fn rows_hint(sort: HolderSort) -> &'static str {
    match sort {
        HolderSort::Session => {
            "end it: pg_terminate_backend(pid); idle_in_transaction_session_timeout keeps it from \
             coming back"
        }
        HolderSort::Standby => {
            "a query on a standby with hot_standby_feedback: look at pg_stat_activity there"
        }
        HolderSort::Prepared => "COMMIT PREPARED or ROLLBACK PREPARED it: see pg_prepared_xacts",
        HolderSort::Slot => NOBODY_READS,
        HolderSort::Subscriber => {
            "the slot is being made, and its reader copies tables: look at pg_stat_activity for \
             what it waits for"
        }
        HolderSort::Conflicts => CONFLICTS,
    }
}

const CONFLICTS: &str = "subscriptions here with retain_dead_tuples need them to detect conflicts, as long as \
                         what they apply is behind: look at pg_stat_subscription, and for long transactions on \
                         their publishers. max_retention_duration of a subscription sets a limit. The slot is \
                         the server's own: it cannot be dropped";

const fn catalogue_hint(sort: HolderSort) -> &'static str {
    match sort {
        HolderSort::Standby => {
            "a logical slot on the standby that reads this one is behind, or nobody reads it: look \
             at pg_replication_slots there"
        }
        HolderSort::Subscriber => {
            "its reader is behind: look at pg_stat_replication here, and at the log of the reader"
        }
        HolderSort::Conflicts => CONFLICTS,
        // Sessions have no horizon of their own for the catalogue.
        HolderSort::Slot | HolderSort::Session | HolderSort::Prepared => NOBODY_READS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn holder(sort: HolderSort, age: u64, held_for: Option<Duration>) -> Holder {
        Holder { sort, who: "x".to_owned(), age, held_for }
    }

    #[test]
    fn a_holder_is_found_by_time_or_by_age() {
        let cases = [
            (holder(HolderSort::Session, 10, Some(HOUR)), true),
            (holder(HolderSort::Session, 10, Some(HOUR / 2)), false),
            (holder(HolderSort::Session, 10, None), false),
            (holder(HolderSort::Slot, HELD_AGE, None), true),
            (holder(HolderSort::Prepared, HELD_AGE, Some(Duration::ZERO)), true),
            (holder(HolderSort::Standby, 1, None), false),
        ];
        for (holder, found) in cases {
            let of = Horizon { rows: Some(holder), catalogue: None };
            assert_eq!(!horizon(&of, HOUR).is_empty(), found, "{of:?}");
        }
        assert_eq!(horizon(&Horizon::default(), HOUR), []);
    }

    #[test]
    fn only_a_slot_that_nobody_reads_is_to_be_dropped() {
        let sorts = [
            HolderSort::Session,
            HolderSort::Standby,
            HolderSort::Prepared,
            HolderSort::Subscriber,
            HolderSort::Conflicts,
            HolderSort::Slot,
        ];
        for sort in sorts {
            let rows = Some(holder(sort, HELD_AGE, None));
            let hint = horizon(&Horizon { rows, catalogue: None }, HOUR).remove(0).hint.unwrap();
            let drops = hint.contains("pg_drop_replication_slot");
            assert_eq!(drops, sort == HolderSort::Slot, "{sort:?}: {hint}");
        }
    }

    #[test]
    fn a_slot_of_the_catalogue_is_told_as_such() {
        for (sort, part) in [
            (HolderSort::Slot, "pg_drop_replication_slot"),
            (HolderSort::Standby, "on the standby"),
            (HolderSort::Subscriber, "pg_stat_replication"),
        ] {
            let catalogue = Some(holder(sort, HELD_AGE, None));
            let found = horizon(&Horizon { rows: None, catalogue }, HOUR).remove(0);
            assert!(found.what.starts_with("rows of the system catalogue"), "{}", found.what);
            assert!(found.hint.as_ref().unwrap().contains(part), "{sort:?}: {found:?}");
        }
    }
}
