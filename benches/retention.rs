//! What is promised of retention: a plan over a million backups takes a second at most.
//!
//! `cargo bench --bench retention` prints the time and its ratio to sorting the same backups by
//! their ids, and fails where the promise is not kept.

use std::{hint::black_box, process::ExitCode};

use jiff::{SignedDuration, tz::TimeZone};
use pgkeep::{
    domain::{
        Timestamp,
        backup::BackupId,
        retention::{Candidate, Limit, Period, Policy, Rule, Standing, plan},
    },
    sys::clock::{Clock as _, SystemClock},
};

const BACKUPS: i64 = 1_000_000;
const ROUNDS: u32 = 5;

fn main() -> ExitCode {
    let last: Timestamp = Timestamp::from_second(1_795_000_000).unwrap_or_default();
    let candidate = |number: i64| {
        let at = last - SignedDuration::from_mins(7 * number);
        let id = BackupId::new(at, number.unsigned_abs());
        Candidate {
            id,
            standing: Standing::Complete,
            verified: false,
            drilled: false,
            held: false,
            ahead: false,
            suspicious: false,
        }
    };
    let candidates: Vec<Candidate> = (0..BACKUPS).rev().map(candidate).collect();
    let count = |period, count| Rule { period, limit: Limit::Count(count) };
    // Hourly ones without a limit: every backup has to be placed in the calendar.
    let rules = [
        count(Period::Each, 3),
        Rule { period: Period::Hour, limit: Limit::Unlimited },
        count(Period::Day, 14),
        count(Period::Week, 8),
        count(Period::Month, 12),
        count(Period::Year, 10),
    ];
    let zone = TimeZone::get("Europe/Zurich").unwrap_or(TimeZone::UTC);
    let Ok(policy) = Policy::new(rules, zone) else { return ExitCode::FAILURE };
    let clock = SystemClock::new();
    let mut best = f64::MAX;
    let mut sorting = f64::MAX;
    for _ in 0..ROUNDS {
        let start = clock.now().mono;
        black_box(plan(&policy, black_box(&candidates), last));
        best = best.min(clock.now().mono.saturating_sub(start).as_secs_f64());
        let mut ids: Vec<&BackupId> = candidates.iter().map(|candidate| &candidate.id).collect();
        // Not sorted already.
        ids.rotate_left(candidates.len() / 3);
        ids.sort_by_key(|id| {
            id.as_str()
                .as_bytes()
                .iter()
                .rev()
                .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
        });
        let start = clock.now().mono;
        ids.sort_unstable();
        black_box(&ids);
        sorting = sorting.min(clock.now().mono.saturating_sub(start).as_secs_f64());
    }
    let kept = best <= 1.0;
    let ratio = best / sorting;
    println!("plan over {BACKUPS} backups: {best:.3} s (promised: at most 1 s)");
    println!("the same ÷ sorting their ids: {ratio:.2}");
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
