use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::prelude::*;

use super::*;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(text: &str, zone_name: &str) -> Schedule {
    Schedule::parse(text, zone(zone_name), at("2026-01-01T00:00:00Z")).unwrap()
}

/// The slots of a schedule after `from`, in the zone's own time with its offset.
fn slots(text: &str, zone_name: &str, from: &str, count: usize) -> Vec<String> {
    let schedule = schedule(text, zone_name);
    let show = |slot: &Timestamp| {
        slot.to_zoned(schedule.zone().clone()).strftime("%m-%d %H:%M %:z").to_string()
    };
    let ahead = schedule.preview(count, at(from));
    // Searching backwards finds the very same slots.
    let mut behind = Vec::new();
    let mut upto = *ahead.last().unwrap();
    while let Some(slot) = schedule.latest_at_or_before(upto, at(from)) {
        behind.insert(0, slot);
        upto = slot - SignedDuration::from_millis(1);
    }
    assert_eq!(ahead, behind);
    ahead.iter().map(show).collect()
}

// Switzerland: 2026-03-29 02:00 -> 03:00, 2026-10-25 03:00 -> 02:00.
const BEFORE_SPRING: &str = "2026-03-28T12:00:00Z";
const BEFORE_AUTUMN: &str = "2026-10-24T12:00:00Z";

#[test]
fn a_time_that_spring_skips_comes_right_after_the_gap() {
    assert_eq!(
        slots("30 2 * * *", "Europe/Zurich", BEFORE_SPRING, 2),
        ["03-29 03:00 +02:00", "03-30 02:30 +02:00"]
    );
    assert_eq!(
        slots("0 2,14 * * *", "Europe/Zurich", BEFORE_SPRING, 4),
        ["03-28 14:00 +01:00", "03-29 03:00 +02:00", "03-29 14:00 +02:00", "03-30 02:00 +02:00"],
        "more than one named hour loses nothing either"
    );
    assert_eq!(
        slots("*/20 2 * * *", "Europe/Zurich", BEFORE_SPRING, 3),
        ["03-29 03:00 +02:00", "03-30 02:00 +02:00", "03-30 02:20 +02:00"],
        "three times of one gap become one"
    );
    assert_eq!(
        slots("0 1-4 * * *", "Europe/Zurich", BEFORE_SPRING, 4),
        ["03-29 01:00 +01:00", "03-29 03:00 +02:00", "03-29 04:00 +02:00", "03-30 01:00 +02:00"],
        "the end of the gap is not run twice"
    );
    assert_eq!(
        slots("30 1 * * *", "Europe/Zurich", BEFORE_SPRING, 2),
        ["03-29 01:30 +01:00", "03-30 01:30 +02:00"],
        "the hour before the gap is untouched"
    );
}

#[test]
fn a_time_that_autumn_repeats_comes_once() {
    assert_eq!(
        slots("30 2 * * *", "Europe/Zurich", BEFORE_AUTUMN, 2),
        ["10-25 02:30 +02:00", "10-26 02:30 +01:00"]
    );
    assert_eq!(
        slots("*/20 2 * * *", "Europe/Zurich", BEFORE_AUTUMN, 4),
        ["10-25 02:00 +02:00", "10-25 02:20 +02:00", "10-25 02:40 +02:00", "10-26 02:00 +01:00"]
    );
    assert_eq!(
        slots("0 1-3 * * *", "Europe/Zurich", BEFORE_AUTUMN, 4),
        ["10-25 01:00 +02:00", "10-25 02:00 +02:00", "10-25 03:00 +01:00", "10-26 01:00 +01:00"]
    );
}

#[test]
fn in_the_second_pass_what_ran_in_the_first_is_the_latest() {
    let nightly = schedule("30 2 * * *", "Europe/Zurich");
    let first_pass = at("2026-10-25T00:30:00Z");
    for now in ["2026-10-25T00:30:00Z", "2026-10-25T01:10:00Z", "2026-10-25T01:30:00.5Z"] {
        assert_eq!(nightly.latest_at_or_before(at(now), at(BEFORE_AUTUMN)), Some(first_pass));
        assert_eq!(nightly.next_after(at(now)), Some(at("2026-10-26T01:30:00Z")));
    }
}

#[test]
fn every_half_hour_follows_real_time_through_both_changes() {
    assert_eq!(
        slots("*/30 * * * *", "Europe/Zurich", "2026-03-29T00:15:00Z", 3),
        ["03-29 01:30 +01:00", "03-29 03:00 +02:00", "03-29 03:30 +02:00"]
    );
    assert_eq!(
        slots("*/30 * * * *", "Europe/Zurich", "2026-10-24T23:45:00Z", 6),
        [
            "10-25 02:00 +02:00",
            "10-25 02:30 +02:00",
            "10-25 02:00 +01:00",
            "10-25 02:30 +01:00",
            "10-25 03:00 +01:00",
            "10-25 03:30 +01:00"
        ]
    );
}

#[test]
fn half_an_hour_is_a_change_too() {
    // Lord Howe: 2026-04-05 02:00 -> 01:30 (+11 -> +10:30), 2026-10-04 02:00 -> 02:30.
    let zone = "Australia/Lord_Howe";
    assert_eq!(
        slots("45 1 * * *", zone, "2026-04-04T00:00:00Z", 2),
        ["04-05 01:45 +11:00", "04-06 01:45 +10:30"]
    );
    assert_eq!(
        slots("*/15 * * * *", zone, "2026-04-04T14:25:00Z", 5),
        [
            "04-05 01:30 +11:00",
            "04-05 01:45 +11:00",
            "04-05 01:30 +10:30",
            "04-05 01:45 +10:30",
            "04-05 02:00 +10:30"
        ]
    );
    assert_eq!(
        slots("15 2 * * *", zone, "2026-10-03T00:00:00Z", 2),
        ["10-04 02:30 +11:00", "10-05 02:15 +11:00"]
    );
    assert_eq!(
        slots("*/15 * * * *", zone, "2026-10-03T15:10:00Z", 3),
        ["10-04 01:45 +10:30", "10-04 02:30 +11:00", "10-04 02:45 +11:00"]
    );
}

#[test]
fn a_day_that_never_was_still_has_its_slot() {
    // Samoa had no 30 December 2011.
    let noon = schedule("0 12 * * *", "Pacific/Apia");
    let shown: Vec<String> = noon
        .preview(3, at("2011-12-29T00:00:00Z"))
        .iter()
        .map(|slot| slot.to_zoned(noon.zone().clone()).strftime("%m-%d %H:%M").to_string())
        .collect();
    assert_eq!(shown, ["12-29 12:00", "12-31 00:00", "12-31 12:00"]);
}

#[test]
fn nicknames_and_names_are_read() {
    let next = |text| slots(text, "Etc/UTC", "2026-11-21T10:30:00Z", 1).remove(0);
    assert_eq!(next("@hourly"), "11-21 11:00 +00:00");
    assert_eq!(next("@Daily"), "11-22 00:00 +00:00");
    assert_eq!(next("@midnight"), "11-22 00:00 +00:00");
    assert_eq!(next("@weekly"), "11-22 00:00 +00:00");
    assert_eq!(next("@monthly"), "12-01 00:00 +00:00");
    assert_eq!(next("@yearly"), "01-01 00:00 +00:00");
    assert_eq!(next("0 3 * jan mon-fri"), "01-01 03:00 +00:00");
    assert_eq!(next("0 3 L * *"), "11-30 03:00 +00:00");
    assert_eq!(next("0 3 13 * FRI"), "11-27 03:00 +00:00", "day of month OR day of week");
    assert_eq!(next("  0   3 29 2 *  "), "02-29 03:00 +00:00", "in 2028");
}

#[test]
fn what_is_no_schedule_is_refused_with_a_hint() {
    let refused = |text: &str| {
        let now = at("2026-11-21T10:30:00Z");
        let error = Schedule::parse(text, TimeZone::UTC, now).unwrap_err();
        (error.to_string(), error.hint.unwrap())
    };
    for (text, what, hint) in [
        ("", "is empty", "five fields"),
        ("0 3 * *", "has 4 fields", "five fields"),
        ("daily", "has 1 field", "five fields"),
        ("0 0 3 * * *", "has 6 fields", "without seconds"),
        ("0 0 3 * * * 2026", "has 7 fields", "without seconds"),
        ("@reboot", "is not a time", "catch-up"),
        ("@every 5m", "is not cron's", "*/5"),
        ("@fortnightly", "is not known", "@hourly"),
        ("H 3 * * *", "has an `H`", "jitter"),
        ("H/15 * * * *", "has an `H`", "jitter"),
        ("60 3 * * *", "cannot be read", "minute 0-59"),
        ("0 3 * * MONDAY", "cannot be read", "SUN-SAT"),
        ("0 0 31 2 *", "is never due", "day of the month"),
        ("0 0 31 4,6 *", "is never due", "day of the month"),
    ] {
        let (said, hinted) = refused(text);
        assert!(said.contains(what) && said.contains(&format!("{text:?}")), "{text:?}: {said}");
        assert!(hinted.contains(hint), "{text:?}: {hinted}");
    }
}

#[test]
fn equality_is_text_and_zone() {
    let nightly = schedule("15  2 * * *", "Europe/Zurich");
    assert_eq!(nightly, schedule("15 2 * * *", "Europe/Zurich"));
    assert_ne!(nightly, schedule("15 2 * * *", "Europe/Berlin"));
    assert_ne!(nightly, schedule("16 2 * * *", "Europe/Zurich"));
    assert_eq!(nightly.to_string(), "15 2 * * * Europe/Zurich");
}

#[test]
fn the_typical_gap_is_the_longest_one() {
    let from = at("2026-11-21T10:30:00Z");
    let hours = |text| {
        let gap = schedule(text, "Europe/Zurich").typical_gap(from).unwrap();
        gap.as_secs_f64() / 3600.0
    };
    let same = |text, expected: f64| {
        let found = hours(text);
        assert!((found - expected).abs() < 1e-9, "{text}: {found} hours");
    };
    same("*/5 * * * *", 5.0 / 60.0);
    same("30 4 * * *", 25.0);
    same("* 9-16 * * 1-5", 64.0 + 1.0 / 60.0 + 1.0);
    same("0 3 * * MON", 24.0 * 7.0 + 1.0);
    same("0 3 1 * *", 24.0 * 31.0 + 1.0);
    same("@yearly", 24.0 * 365.0);
    same("0 3 29 2 *", 24.0 * (4.0 * 365.0 + 1.0));
}

#[test]
fn jitter_is_stable_bounded_and_spread() {
    let offset = |name: &str, secs| {
        jitter_offset(&name.parse().unwrap(), Duration::from_secs(secs)).as_secs()
    };
    assert_eq!(offset("nightly", 0), 0);
    // A changed hash would move every job of every installation.
    assert_eq!(offset("nightly", 600), 99);
    let places: std::collections::BTreeSet<u64> =
        (0..100).map(|n| offset(&format!("job-{n}"), 600)).collect();
    assert!(places.len() > 80 && places.iter().all(|place| *place <= 600), "{places:?}");
}

#[test]
fn years_of_slots_cost_nothing() {
    let every_minute = schedule("* * * * *", "Europe/Zurich");
    let latest =
        every_minute.latest_at_or_before(at("2037-01-01T00:00:30Z"), at("2026-01-01T00:00:00Z"));
    assert_eq!(latest, Some(at("2037-01-01T00:00:00Z")));
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let minute = prop_oneof!["[0-9]", "[1-5][0-9]", Just("*".to_owned()), "\\*/(7|15|20)"];
    let hour = prop_oneof![
        "[0-9]",
        Just("*".to_owned()),
        Just("*/5".to_owned()),
        Just("1-3".to_owned()),
        Just("2,14".to_owned())
    ];
    let days = prop_oneof![
        8 => Just("* * *"),
        1 => Just("29 3,10 *"),
        1 => Just("* * SUN"),
        1 => Just("1 * MON")
    ];
    let zones = prop_oneof![
        Just("Europe/Zurich"),
        Just("Australia/Lord_Howe"),
        Just("America/New_York"),
        Just("Africa/Cairo"),
        Just("Africa/Casablanca"),
        Just("America/Santiago"),
        Just("Etc/UTC")
    ];
    (minute, hour, days, zones)
        .prop_map(|(minute, hour, days, zone)| schedule(&format!("{minute} {hour} {days}"), zone))
}

/// Seconds within a week round a change of the clocks of one of the zones, or anywhere in 2026.
fn any_time() -> impl Strategy<Value = Timestamp> {
    let week = 7 * 86_400_i64;
    let near = |change: &str| {
        let middle = at(change).as_second();
        (middle - week..middle + week).boxed()
    };
    let year = at("2026-01-01T00:00:00Z").as_second();
    prop_oneof![
        near("2026-03-29T01:00:00Z"),
        near("2026-10-25T01:00:00Z"),
        near("2026-04-04T15:00:00Z"),
        near("2026-10-03T15:30:00Z"),
        (year..year + 53 * week).boxed()
    ]
    .prop_map(|second| Timestamp::from_second(second).unwrap())
}

proptest! {
    #[test]
    fn searches_forward_and_backward_agree(schedule in any_schedule(), t in any_time()) {
        let next = schedule.next_after(t).unwrap();
        prop_assert!(next > t);
        prop_assert_eq!(schedule.latest_at_or_before(next, t), Some(next));
        let just_before = next - SignedDuration::from_millis(1);
        prop_assert_eq!(schedule.latest_at_or_before(just_before, t), None);
        let latest = schedule.latest_at_or_before(t, Timestamp::MIN).unwrap();
        prop_assert!(latest <= t);
        prop_assert_eq!(schedule.next_after(latest), Some(next));
    }

    /// Against a scan of the clock, minute by minute, that knows nothing of the search.
    #[test]
    fn an_interval_is_due_when_the_clock_shows_it(t in any_time(), step in 1_i64..31) {
        let zone = zone("Europe/Zurich");
        let schedule = schedule(&format!("*/{step} * * * *"), "Europe/Zurich");
        let mut minute = t.as_second().div_euclid(60) * 60 + 60;
        let shown = |second: i64| {
            i64::from(zone.to_datetime(Timestamp::from_second(second).unwrap()).minute())
        };
        while shown(minute) % step != 0 {
            minute += 60;
        }
        prop_assert_eq!(schedule.next_after(t).unwrap().as_second(), minute);
    }

    /// A daily job runs once on each calendar day, whatever the clocks do.
    #[test]
    fn a_daily_job_runs_once_a_day(hour in 0_i8..24, minute in 0_i8..60, t in any_time()) {
        for name in ["Europe/Zurich", "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo"] {
            let schedule = schedule(&format!("{minute} {hour} * * *"), name);
            let days: Vec<_> = schedule
                .preview(10, t)
                .into_iter()
                .map(|slot| zone(name).to_datetime(slot).date())
                .collect();
            for pair in days.windows(2) {
                prop_assert_eq!(pair[0].tomorrow().unwrap(), pair[1], "{}", name);
            }
        }
    }
}
