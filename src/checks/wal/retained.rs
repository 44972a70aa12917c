//! What keeps WAL from being removed: the archiver, slots, `wal_keep_size`, checkpoints.

use super::ServerView;
use crate::{
    domain::{
        finding::{Found, Severity},
        text::size,
        wal::{Lsn, SegmentName},
    },
    postgres::wal::Slot,
};

/// Segments above what the settings allow that are nothing to speak of.
const SLACK_SEGMENTS: u64 = 4;
/// Slots that are spoken of.
const SLOTS_MAX: usize = 10;

/// One that keeps WAL.
struct Holder {
    bytes: u64,
    what: String,
    hint: String,
}

pub(super) fn retained(view: &ServerView) -> Vec<Found> {
    let facts = &view.facts;
    let Some(directory) = facts.directory else { return Vec::new() };
    let usual = facts.settings.max_wal_size.saturating_add(facts.settings.keep_bytes);
    let slack = facts.segment_size.bytes() * SLACK_SEGMENTS;
    if directory.bytes <= usual.saturating_add(slack) {
        return Vec::new();
    }
    let Some(most) = holders(view).into_iter().max_by_key(|holder| holder.bytes) else {
        return Vec::new();
    };
    let filling = view.space.is_some_and(|space| space.free < space.total / 10);
    let severity = if filling { Severity::Critical } else { Severity::Warning };
    vec![Found::new(
        severity,
        format!(
            "pg_wal has {}, above max_wal_size and wal_keep_size together ({}): {} keeps {}",
            size(directory.bytes),
            size(usual),
            most.what,
            size(most.bytes)
        ),
        most.hint,
    )]
}

fn holders(view: &ServerView) -> Vec<Holder> {
    let facts = &view.facts;
    let mut holders = vec![
        Holder {
            bytes: facts.lsn.since(facts.redo),
            what: "the WAL since the last checkpoint".to_owned(),
            hint: "checkpoints fall behind: raise max_wal_size, and look at the server's log for \
                   checkpoints that take long"
                .to_owned(),
        },
        Holder {
            bytes: facts.settings.keep_bytes,
            what: "wal_keep_size".to_owned(),
            hint: "lower wal_keep_size; a slot or an archive serves standbys better".to_owned(),
        },
    ];
    if let Some(first) = first_waiting(view) {
        holders.push(Holder {
            bytes: facts.lsn.since(first),
            what: "the archiver".to_owned(),
            hint: "the server's log has what the archive command said".to_owned(),
        });
    }
    holders.extend(facts.slots.iter().filter_map(|slot| slot_holder(slot, facts.lsn)));
    holders
}

/// The first byte that waits to be archived.
fn first_waiting(view: &ServerView) -> Option<Lsn> {
    let size = view.facts.segment_size;
    let name: SegmentName = view.facts.ready.as_ref()?.first_segment.as_ref()?.parse().ok()?;
    Some(size.start_of(name.number(size)?))
}

fn slot_holder(slot: &Slot, lsn: Lsn) -> Option<Holder> {
    let state = if slot.active { "active" } else { "inactive" };
    let hint = if slot.active {
        "its reader does not keep up: look at it, and at pg_stat_replication".to_owned()
    } else {
        format!(
            "nobody reads from it: start its reader, or SELECT pg_drop_replication_slot('{}'). \
             max_slot_wal_keep_size sets a limit",
            slot.name
        )
    };
    Some(Holder {
        bytes: lsn.since(slot.kept_from()?),
        what: format!("the {state} replication slot {}", slot.name),
        hint,
    })
}

pub(super) fn slot_lost(view: &ServerView) -> Vec<Found> {
    let lost =
        view.facts.slots.iter().filter_map(|slot| {
            let (what, hint) = match slot.wal_status.as_deref()? {
                "lost" => why_lost(slot.invalidation_reason.as_deref()),
                "unreserved" => ("keeps WAL that the next checkpoint removes", WAL_REMOVED),
                _ => return None,
            };
            Some(Found::new(
            Severity::Warning,
            format!("replication slot {} {what}", slot.name),
            format!(
                "{hint}. One that is lost is of no more use: drop it, and build its standby or \
                 subscription anew"
            ),
        )
        .of(&slot.name))
        });
    lost.take(SLOTS_MAX).collect()
}

const WAL_REMOVED: &str =
    "its reader is too far behind: look at it, or raise max_slot_wal_keep_size";

/// What became of a slot, and what keeps it from happening again.
fn why_lost(reason: Option<&str>) -> (&'static str, &'static str) {
    match reason {
        Some("idle_timeout") => (
            "was given up: nobody read it for idle_replication_slot_timeout",
            "raise idle_replication_slot_timeout if its reader may stay away for longer",
        ),
        Some("rows_removed") => (
            "was given up: rows of the catalogue that it needs were removed on the primary",
            "set hot_standby_feedback = on here, and let this standby read a slot of the primary",
        ),
        Some("wal_level_insufficient") => (
            "was given up: the primary no longer writes what logical decoding needs",
            "set wal_level = logical on the primary (from PostgreSQL 19 on effective_wal_level rises by \
             itself as long as the primary has a logical slot)",
        ),
        _ => ("has lost WAL that it needs: its reader has to start anew", WAL_REMOVED),
    }
}
