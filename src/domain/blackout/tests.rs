//! Windows against moments, in zones with and without daylight saving.

use super::*;
use proptest::prelude::*;

fn blackout(windows: &[&str], zone: &str) -> Blackout {
    let windows = windows.iter().map(|text| Window::parse(text).unwrap()).collect();
    Blackout::new(windows, TimeZone::get(zone).unwrap()).unwrap().unwrap()
}

fn ends(windows: &[&str], at: &str) -> Option<String> {
    let at: Timestamp = at.parse().unwrap();
    blackout(windows, "Europe/Zurich").ends(at).map(|end| end.to_string())
}

#[test]
fn windows_end_when_they_say() {
    let office: &[&str] = &["mon-fri 08:00-18:00", "00:00-00:30"];
    for (windows, at, end) in [
        // Friday 20 November 2026, 12:00 in Zurich is 11:00Z.
        (office, "2026-11-20T11:00:00Z", Some("2026-11-20T17:00:00Z")),
        (office, "2026-11-20T07:00:00Z", Some("2026-11-20T17:00:00Z")),
        (office, "2026-11-20T06:59:59Z", None),
        (office, "2026-11-20T17:00:00Z", None),
        (office, "2026-11-21T11:00:00Z", None),
        (office, "2026-11-20T23:15:00Z", Some("2026-11-20T23:30:00Z")),
        // Over midnight, and the day is that of the beginning.
        (&["fri 22:00-06:00"], "2026-11-21T04:00:00Z", Some("2026-11-21T05:00:00Z")),
        (&["fri 22:00-06:00"], "2026-11-20T04:00:00Z", None),
        (&["sun 22:00-06:00"], "2026-11-23T04:00:00Z", Some("2026-11-23T05:00:00Z")),
        // One after the other.
        (&["20:00-24:00", "sat 00:00-09:00"], "2026-11-20T19:00:00Z", Some("2026-11-21T08:00:00Z")),
        (&["20:00-00:00", "08:00-20:00"], "2026-11-20T11:00:00Z", Some("2026-11-20T23:00:00Z")),
        // All but Sunday.
        (&["mon-sat 00:00-24:00"], "2026-11-16T11:00:00Z", Some("2026-11-21T23:00:00Z")),
    ] {
        assert_eq!(ends(windows, at).as_deref(), end, "{windows:?} at {at}");
    }
}

#[test]
fn windows_follow_the_clock_on_the_wall() {
    // 29 March 2026: 02:00 is followed by 03:00, at 01:00Z.
    assert_eq!(ends(&["01:30-02:30"], "2026-03-29T00:45:00Z").unwrap(), "2026-03-29T01:00:00Z");
    assert_eq!(ends(&["02:10-02:50"], "2026-03-29T01:00:00Z"), None);
    assert_eq!(ends(&["01:00-04:00"], "2026-03-29T00:30:00Z").unwrap(), "2026-03-29T02:00:00Z");
    // 25 October 2026: 03:00 is followed by 02:00, at 01:00Z.
    assert_eq!(ends(&["01:00-02:30"], "2026-10-25T00:15:00Z").unwrap(), "2026-10-25T00:30:00Z");
    assert_eq!(ends(&["01:00-02:30"], "2026-10-25T00:45:00Z"), None);
    assert_eq!(ends(&["01:00-02:30"], "2026-10-25T01:15:00Z").unwrap(), "2026-10-25T01:30:00Z");
    assert_eq!(ends(&["02:00-03:00"], "2026-10-25T00:30:00Z").unwrap(), "2026-10-25T02:00:00Z");
}

#[test]
fn what_is_no_window_is_refused() {
    for text in [
        "",
        "mon",
        "08:00",
        "08:00-",
        "8:00-18:00",
        "08:00-25:00",
        "08:60-09:00",
        "24:01-03:00",
        "24:00-03:00",
        "08:00-08:00",
        "foo 08:00-09:00",
        "mon- 08:00-09:00",
        "mon,, 08:00-09:00",
        "mon fri 08:00-09:00",
        "08:00 - 09:00",
        "-1:00-02:00",
        "+1:00-02:00",
    ] {
        let error = Window::parse(text).unwrap_err();
        assert!(!error.hint.is_empty(), "{text}: {error}");
    }
    let whole = ["08:00-20:00", "20:00-08:00"].map(|text| Window::parse(text).unwrap());
    let error = Blackout::new(whole.to_vec(), TimeZone::UTC).unwrap_err();
    assert!(error.what.contains("whole week"), "{error}");
    assert_eq!(Blackout::new(Vec::new(), TimeZone::UTC), Ok(None));
}

#[test]
fn the_longest_goes_over_the_end_of_the_week() {
    let longest = |windows: &[&str]| blackout(windows, "UTC").longest();
    assert_eq!(longest(&["mon-fri 08:00-18:00"]), Duration::from_hours(10));
    assert_eq!(longest(&["fri-mon 00:00-24:00"]), Duration::from_hours(96));
    assert_eq!(longest(&["sun 22:00-06:00"]), Duration::from_hours(8));
}

fn any_window() -> impl Strategy<Value = Window> {
    (1_u8..128, 0..DAY, 0..=DAY).prop_filter_map("a window", |(mask, from, to)| {
        let days = std::array::from_fn(|day| mask & (1 << day) != 0);
        let text = Window { days, from, to: if to == 0 { DAY } else { to } }.to_string();
        Window::parse(&text).ok()
    })
}

proptest! {
    #[test]
    fn an_end_is_the_first_moment_outside(
        windows in prop::collection::vec(any_window(), 1..5),
        second in 1_770_000_000_i64..1_800_000_000,
        zone in prop::sample::select(vec!["Europe/Zurich", "Australia/Lord_Howe", "America/St_Johns"]),
    ) {
        let Ok(Some(blackout)) = Blackout::new(windows, TimeZone::get(zone).unwrap()) else {
            return Ok(());
        };
        let at = Timestamp::from_second(second).unwrap();
        let Some(end) = blackout.ends(at) else { return Ok(()) };
        prop_assert!(end > at && blackout.ends(end).is_none());
        // Each minute in between lies in a window.
        let mut minute = at;
        while minute < end {
            prop_assert!(blackout.holds(minute), "{} is free", minute);
            minute += SignedDuration::from_mins(1);
        }
        prop_assert!(blackout.holds(end - SignedDuration::from_nanos(1)));
    }

    #[test]
    fn windows_round_trip(window in any_window()) {
        prop_assert_eq!(Window::parse(&window.to_string()), Ok(window));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,30}", more in "[a-z,-]{0,8} ?[0-9:-]{0,12}") {
        drop(Window::parse(&text));
        drop(Window::parse(&more));
    }
}
