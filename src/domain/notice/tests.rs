use super::*;
use crate::domain::{
    failure::{Class, Failure},
    name::JobName,
    report::{Outcome, TargetReport},
    target::Target,
};

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(hours * 3600).unwrap()
}

fn rules(on: &[Event]) -> Rules {
    Rules {
        on: on.iter().copied().collect(),
        min_severity: Severity::Warning,
        repeat: Some(Duration::from_hours(24)),
        each_run: false,
    }
}

fn usual() -> Rules {
    rules(&[Event::Failure, Event::Recovery, Event::Findings])
}

/// A report whose targets of these names failed, beside one that was done.
fn failing(names: &[&str]) -> Report {
    let target = |name: &str| Target { object: Some(name.to_owned()), ..Target::default() };
    let failure = || Outcome::Failed(Failure::new(Class::Sql, "x", "y"));
    let mut targets = vec![TargetReport::new(target("good"), Outcome::Succeeded)];
    targets.extend(names.iter().map(|name| TargetReport::new(target(name), failure())));
    Report { targets, ..Report::default() }
}

fn finding(severity: Severity, what: &str) -> Finding {
    // The second word is what it is about.
    let object = what.split(' ').nth(1).map(str::to_owned);
    Finding::new("c", severity, what).about(Target { object, ..Target::default() })
}

fn finds(whats: &[&str]) -> Report {
    let findings = whats.iter().map(|what| finding(Severity::Warning, what)).collect();
    Report { findings, ..Report::default() }
}

fn run(verdict: Verdict, report: &Report, hour: i64) -> EndedRun {
    EndedRun {
        run: "20261121T021500Z-k3f9q2x7".to_owned(),
        trigger: "schedule".to_owned(),
        started: at(0),
        ended: at(hour),
        took: Duration::ZERO,
        verdict,
        attempts: 1,
        report: report.clone(),
    }
}

/// Tells a story run by run; the answer is what was told.
fn story(rules: &Rules, runs: &[(i64, Verdict, Report)]) -> Vec<Option<Event>> {
    let mut memory = Memory::default();
    let mut told = Vec::new();
    for (hour, verdict, report) in runs {
        let decision = decide(&memory, &run(*verdict, report, *hour), rules);
        told.push(decision.event);
        // As the journal keeps it.
        let json = serde_json::to_string(&decision.memory).unwrap();
        memory = serde_json::from_str(&json).unwrap();
    }
    told
}

const FAIL: Option<Event> = Some(Event::Failure);
const BACK: Option<Event> = Some(Event::Recovery);
const FOUND: Option<Event> = Some(Event::Findings);

#[test]
fn a_failure_is_told_once_and_so_is_its_end() {
    use Verdict::{Cancelled, Failed, Interrupted, Partial, Succeeded};
    let none = Report::default;
    let cases = [
        (vec![(0, Succeeded, none())], vec![None]),
        (vec![(0, Failed, none()), (1, Failed, none())], vec![FAIL, None]),
        (
            vec![(0, Failed, none()), (1, Succeeded, none()), (2, Succeeded, none())],
            vec![FAIL, BACK, None],
        ),
        // Cancelled says nothing, and hides nothing.
        (
            vec![(0, Failed, none()), (1, Cancelled, none()), (2, Succeeded, none())],
            vec![FAIL, None, BACK],
        ),
        (vec![(0, Cancelled, none()), (1, Succeeded, none())], vec![None, None]),
        (vec![(0, Interrupted, none()), (1, Succeeded, none())], vec![FAIL, BACK]),
        // Partly failed is failed.
        (vec![(0, Partial, failing(&["a"])), (1, Partial, failing(&["a"]))], vec![FAIL, None]),
    ];
    for (runs, told) in cases {
        assert_eq!(story(&usual(), &runs), told, "{runs:?}");
    }
}

#[test]
fn a_failure_that_spreads_is_news_and_one_that_shrinks_is_not() {
    let runs = [
        (0, Verdict::Partial, failing(&["a"])),
        (1, Verdict::Partial, failing(&["a", "b"])),
        (2, Verdict::Partial, failing(&["b"])),
        (3, Verdict::Partial, failing(&["a", "b"])),
        (4, Verdict::Failed, Report::from_failure(Failure::new(Class::Connection, "x", "y"))),
        (5, Verdict::Succeeded, Report::default()),
        (6, Verdict::Partial, failing(&["a"])),
    ];
    assert_eq!(story(&usual(), &runs), [FAIL, FAIL, None, None, FAIL, BACK, FAIL]);
}

#[test]
fn what_lasts_is_told_again() {
    let failed = |hour| (hour, Verdict::Failed, Report::default());
    // A nightly run that ends a little earlier than the day before counts as a day later.
    let runs = [failed(0), failed(12), failed(23), failed(24), failed(46)];
    assert_eq!(story(&usual(), &runs), [FAIL, None, FAIL, None, FAIL]);
    let never = Rules { repeat: None, ..usual() };
    assert_eq!(story(&never, &[failed(0), failed(10_000)]), [FAIL, None]);
    let each = Rules { each_run: true, ..rules(&[Event::Failure, Event::Success]) };
    let good = (2, Verdict::Succeeded, Report::default());
    assert_eq!(story(&each, &[failed(0), failed(1), good]), [FAIL, FAIL, Some(Event::Success)]);
}

#[test]
fn a_clock_that_was_ahead_silences_nothing() {
    let failed = |hour| run(Verdict::Failed, &Report::default(), hour);
    let ahead = decide(&Memory::default(), &failed(9000), &usual());
    let next = decide(&ahead.memory, &failed(1), &usual());
    assert_eq!((next.event, next.memory.failing.as_ref().unwrap().at), (None, at(1)));
    let later = decide(&next.memory, &failed(26), &usual());
    assert_eq!(later.event, FAIL);
}

#[test]
fn findings_are_told_when_they_change() {
    let good = |hour, whats: &[&str]| (hour, Verdict::Succeeded, finds(whats));
    let runs = [
        good(0, &[]),
        good(1, &["12 segments wait for 34s"]),
        // Only the measurements moved.
        good(2, &["99 segments wait for 56s"]),
        good(3, &["12 segments wait for 34s", "a gap"]),
        good(4, &["a gap"]),
        good(5, &["a gap", "a gap"]),
        (6, Verdict::Failed, Report::default()),
        good(7, &["a gap"]),
        good(8, &[]),
        good(9, &[]),
    ];
    let told = [None, FOUND, None, FOUND, None, FOUND, FAIL, BACK, FOUND, None];
    assert_eq!(story(&usual(), &runs), told);
    let runs = [good(0, &["a gap"]), good(12, &["a gap"]), good(24, &["a gap"])];
    assert_eq!(story(&usual(), &runs), [FOUND, None, FOUND]);
}

#[test]
fn what_a_finding_is_about_tells_it_from_others_not_its_sentence() {
    let of = |hour, object: &str, what: &str| {
        let found = Finding::new("index-invalid", Severity::Warning, what);
        let findings = vec![found.about(Target::object(object))];
        (hour, Verdict::Succeeded, Report { findings, ..Report::default() })
    };
    let runs = [
        of(0, "orders_2024", "it is not valid"),
        of(1, "orders_2024", "it is not valid, and nobody rebuilds it"),
        of(2, "orders_2025", "it is not valid"),
        of(3, "orders_2025", "it is not valid"),
    ];
    assert_eq!(story(&usual(), &runs), [FOUND, None, FOUND, None]);
}

#[test]
fn only_what_is_severe_enough_is_told() {
    let report = |severity| Report { findings: vec![finding(severity, "x")], ..Report::default() };
    for (min, severity, told) in [
        (Severity::Warning, Severity::Info, None),
        (Severity::Warning, Severity::Warning, FOUND),
        (Severity::Critical, Severity::Warning, None),
        (Severity::Critical, Severity::Critical, FOUND),
        (Severity::Info, Severity::Info, FOUND),
    ] {
        let rules = Rules { min_severity: min, ..usual() };
        assert_eq!(story(&rules, &[(0, Verdict::Succeeded, report(severity))]), [told], "{min:?}");
    }
}

#[test]
fn what_is_not_asked_for_is_remembered_and_not_told() {
    let failed = (0, Verdict::Failed, Report::default());
    let good = (1, Verdict::Succeeded, finds(&["a gap"]));
    let runs = [failed, good.clone()];
    assert_eq!(story(&rules(&[Event::Recovery]), &runs), [None, BACK]);
    assert_eq!(story(&rules(&[Event::Success]), &runs), [None, Some(Event::Success)]);
    assert_eq!(story(&rules(&[Event::Findings]), &runs), [None, FOUND]);
    let both = rules(&[Event::Success, Event::Findings]);
    assert_eq!(story(&both, &[good.clone(), good]), [FOUND, Some(Event::Success)]);
}

fn origin() -> Origin {
    Origin {
        host: "db1".to_owned(),
        job: "nightly".parse().unwrap(),
        kind: "k".to_owned(),
        servers: vec!["main".parse().unwrap()],
    }
}

#[test]
fn the_body_is_bounded_whatever_the_report() {
    let long = "é".repeat(2_000);
    let names: Vec<String> = (0..5000).map(|at| format!("{at} {long}")).collect();
    let mut report = failing(&names.iter().map(String::as_str).collect::<Vec<_>>());
    report.failure = Some(Failure::new(Class::Sql, long.clone(), long.clone()).hint(long.clone()));
    report.findings = (0..5000).map(|_| finding(Severity::Critical, &long)).collect();
    let ended = run(report.verdict(), &report, 0);
    let notice = Notice::end(Event::Failure, &origin(), &ended, None, Severity::Warning);
    let json = serde_json::to_string(&notice).unwrap();
    assert!(json.len() < 300_000, "{}", json.len());
    assert!(notice.lines().len() < 300_000);
    assert_eq!((notice.left_out.failures, notice.left_out.findings), (4981, 4950));
    let decision = decide(&Memory::default(), &run(Verdict::Partial, &report, 0), &usual());
    assert!(serde_json::to_string(&decision.memory).unwrap().len() < 50_000);
    // Too many to remember them all, and yet no news.
    let again = decide(&decision.memory, &run(Verdict::Partial, &report, 1), &usual());
    assert_eq!(again.event, None);
}

#[test]
fn the_text_says_what_happened() {
    let report = failing(&["a", "b"]);
    let text = |event, verdict, report: &Report| {
        Notice::end(event, &origin(), &run(verdict, report, 0), None, Severity::Warning).text
    };
    for (said, expected) in [
        (
            text(Event::Failure, Verdict::Partial, &report),
            "nightly on db1 failed in part (and 1 more): x: y",
        ),
        (
            text(Event::Recovery, Verdict::Succeeded, &Report::default()),
            "nightly on db1 succeeded again",
        ),
        (
            text(Event::Findings, Verdict::Succeeded, &finds(&["a gap"])),
            "nightly on db1: warning: a gap",
        ),
        (
            text(Event::Findings, Verdict::Succeeded, &finds(&[])),
            "nightly on db1: all findings are resolved",
        ),
    ] {
        assert_eq!(said, expected);
    }
}

#[test]
fn a_run_has_one_uuid() {
    let job: JobName = "nightly".parse().unwrap();
    let uuid = run_uuid(&job, "20261121T021500Z-k3f9q2x7");
    assert_eq!(uuid, run_uuid(&job, "20261121T021500Z-k3f9q2x7"));
    assert_ne!(uuid, run_uuid(&job, "20261121T021500Z-k3f9q2x8"));
    let parts: Vec<usize> = uuid.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12]);
    assert_eq!(&uuid[14..15], "8");
    assert!(["8", "9", "a", "b"].contains(&&uuid[19..20]));
}

#[test]
fn a_text_is_one_line_that_does_nothing_to_a_terminal() {
    let hostile = "a\nfailed [sql]: b\u{1b}[2J\u{9b}\u{202e}";
    let mut report = finds(&[hostile]);
    report.failure = Some(Failure::new(Class::Sql, hostile, hostile).hint(hostile));
    for (event, report) in [(Event::Failure, &report), (Event::Findings, &finds(&[hostile]))] {
        let ended = run(Verdict::Failed, report, 0);
        let notice = Notice::end(event, &origin(), &ended, None, Severity::Warning);
        assert!(notice.text.contains("a\\nfailed"), "{}", notice.text);
        assert!(!notice.text.contains(crate::domain::text::is_unsafe), "{}", notice.text);
        let lines = notice.lines();
        assert!(!lines.contains(|c| c != '\n' && crate::domain::text::is_unsafe(c)), "{lines}");
        let begins = |line: &&str| line.starts_with("failed [");
        assert_eq!(lines.lines().filter(begins).count(), notice.failures.len(), "{lines}");
        // What programs read is exact.
        assert_eq!(notice.findings[0].what, hostile);
    }
}
