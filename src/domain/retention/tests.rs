use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const ALL_PERIODS: [Period; 6] =
    [Period::Each, Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];

fn candidate(at: Timestamp, random: u64) -> Candidate {
    let id = BackupId::new(at, random);
    Candidate {
        id,
        standing: Standing::Complete,
        verified: false,
        drilled: false,
        held: false,
        ahead: false,
        suspicious: false,
    }
}

fn of(times: &[&str]) -> Vec<Candidate> {
    let times = times.iter().map(|time| time.parse().unwrap());
    times.zip(0..).map(|(at, random)| candidate(at, random)).collect()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn count(period: Period, count: u32) -> Rule {
    Rule { period, limit: Limit::Count(count) }
}

fn within(period: Period, hours: u64) -> Rule {
    Rule { period, limit: Limit::Within(Duration::from_hours(hours)) }
}

fn policy(rules: &[Rule], zone_name: &str) -> Policy {
    Policy::new(rules.iter().copied(), zone(zone_name)).unwrap()
}

const LATE: &str = "2200-01-01T00:00:00Z";

fn late() -> Timestamp {
    LATE.parse().unwrap()
}

/// The reasons, one line for each.
fn said(policy: &Policy, candidates: &[Candidate]) -> Vec<String> {
    plan(policy, candidates, late()).iter().map(ToString::to_string).collect()
}

/// Which of them stay.
fn kept(policy: &Policy, candidates: &[Candidate], now: Timestamp) -> BTreeSet<BackupId> {
    let reasons = plan(policy, candidates, now);
    let stays = candidates.iter().zip(reasons).filter(|(_, reasons)| !reasons.is_empty());
    stays.map(|(candidate, _)| candidate.id.clone()).collect()
}

/// One a day at noon, the oldest first.
fn daily(first: &str, days: i64) -> Vec<Candidate> {
    let first: Timestamp = first.parse().unwrap();
    let at = |day| first + SignedDuration::from_hours(24 * day);
    (0..days).map(|day| candidate(at(day), day.unsigned_abs())).collect()
}

#[test]
fn the_examples_of_restics_manual_come_out_as_it_says() {
    let sundays = of(&[
        "2019-09-01T11:00:00Z",
        "2019-09-08T11:00:00Z",
        "2019-09-15T11:00:00Z",
        "2019-09-22T11:00:00Z",
        "2019-09-29T11:00:00Z",
        "2019-10-06T11:00:00Z",
        "2019-10-13T11:00:00Z",
        "2019-10-20T11:00:00Z",
        "2019-10-27T11:00:00Z",
        "2019-11-03T11:00:00Z",
        "2019-11-10T11:00:00Z",
        "2019-11-17T11:00:00Z",
    ]);
    let reasons = said(&policy(&[count(Period::Day, 4)], "UTC"), &sundays);
    let mut expected = vec!["no rule keeps it"; 8];
    expected.extend(["keep_daily", "keep_daily", "keep_daily"]);
    expected.push("the newest whole backup; keep_daily");
    assert_eq!(reasons, expected);

    // A hundred years of daily backups, from 1 January 1920 to 31 December 2019, a Tuesday.
    let days = daily("1920-01-01T12:00:00Z", 36_525);
    let rules = [
        count(Period::Day, 7),
        count(Period::Week, 5),
        count(Period::Month, 12),
        count(Period::Year, 75),
    ];
    let reasons = plan(&policy(&rules, "UTC"), &days, late());
    let by = |key| reasons.iter().filter(|it| it.contains(Reason::Rule(key))).count();
    let counts = ["keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"].map(by);
    assert_eq!(counts, [7, 5, 12, 75]);
    // Of the weeks two end among the seven days (this one, and the last on Sunday), of the months
    // and of the years one.
    assert_eq!(reasons.iter().filter(|it| !it.is_empty()).count(), 7 + 3 + 11 + 74);
    assert_eq!(days.last().unwrap().id.time(), "2019-12-31T12:00:00Z".parse().unwrap());
}

#[test]
fn the_oldest_stays_until_the_rule_is_satisfied() {
    let backups = of(&["2026-01-05T02:00:00Z", "2026-01-05T14:00:00Z", "2026-01-06T02:00:00Z"]);
    let rule = |count_of| policy(&[count(Period::Day, count_of)], "UTC");
    assert_eq!(
        said(&rule(3), &backups),
        ["keep_daily (the oldest)", "keep_daily", "the newest whole backup; keep_daily"]
    );
    assert_eq!(said(&rule(2), &backups)[0], "no rule keeps it");
}

#[test]
fn within_counts_back_from_the_newest_and_not_from_now() {
    let backups = of(&[
        "2026-01-01T00:00:00Z",
        "2026-01-04T00:00:00Z",
        "2026-01-04T00:00:01Z",
        "2026-01-07T00:00:00Z",
    ]);
    let three_days = policy(&[within(Period::Each, 72)], "UTC");
    assert_eq!(
        said(&three_days, &backups),
        [
            "no rule keeps it",
            // Exactly three days before: restic keeps what is later.
            "no rule keeps it",
            "keep_within",
            "the newest whole backup; keep_within"
        ]
    );
    let daily = policy(&[within(Period::Day, 24 * 30)], "UTC");
    assert_eq!(
        said(&daily, &backups),
        [
            "keep_within_daily",
            "no rule keeps it",
            "keep_within_daily",
            "the newest whole backup; keep_within_daily"
        ]
    );
}

#[test]
fn days_begin_at_midnight_in_the_zone_of_the_policy() {
    // 23:30 and 00:30 in Zurich, the same day in UTC.
    let backups = of(&["2026-01-05T22:30:00Z", "2026-01-05T23:30:00Z"]);
    let one_day = |name| policy(&[count(Period::Day, 1)], name);
    assert_eq!(kept(&one_day("UTC"), &backups, late()).len(), 1);
    let two_days = policy(&[count(Period::Day, 2)], "Europe/Zurich");
    assert_eq!(said(&two_days, &backups), ["keep_daily", "the newest whole backup; keep_daily"]);
}

#[test]
fn the_hour_that_the_clock_shows_twice_is_two_hours() {
    // 25 October 2026 in Zurich: 02:30 summer time, 02:30 winter time, 03:30.
    let backups = of(&["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]);
    let hours = policy(&[count(Period::Hour, 3)], "Europe/Zurich");
    assert_eq!(
        said(&hours, &backups),
        ["keep_hourly", "keep_hourly", "the newest whole backup; keep_hourly"]
    );
    // It is one day of 25 hours, and the one of 29 March has 23.
    let long_day = of(&["2026-10-24T21:59:59Z", "2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z"]);
    let short_day = of(&["2026-03-28T22:59:59Z", "2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z"]);
    for day in [long_day, short_day] {
        let days = policy(&[count(Period::Day, 2)], "Europe/Zurich");
        assert_eq!(
            said(&days, &day),
            ["keep_daily", "no rule keeps it", "the newest whole backup; keep_daily"]
        );
    }
}

#[test]
fn weeks_begin_on_monday_and_belong_to_a_year() {
    // Sunday, Monday; and 31 December 2024, which is of the first week of 2025.
    let backups = of(&[
        "2024-12-29T12:00:00Z",
        "2024-12-30T12:00:00Z",
        "2024-12-31T12:00:00Z",
        "2025-01-01T12:00:00Z",
    ]);
    let weeks = policy(&[count(Period::Week, 2)], "UTC");
    assert_eq!(
        said(&weeks, &backups),
        [
            "keep_weekly",
            "no rule keeps it",
            "no rule keeps it",
            "the newest whole backup; keep_weekly"
        ]
    );
}

#[test]
fn what_cannot_be_counted_on_stays_and_pushes_nothing_out() {
    let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
    let mut backups = of(&[
        "2026-01-01T00:00:00Z",
        "2026-01-02T00:00:00Z",
        "2026-01-03T00:00:00Z",
        "2026-01-04T00:00:00Z",
        "2026-01-05T00:00:00Z",
        "2027-01-01T00:00:00Z",
    ]);
    backups[2].standing = Standing::Damaged;
    backups[3].standing = Standing::Incomplete;
    // By the store's clock it was written long before its id says: the host's clock was ahead.
    let written = |at: &str| is_ahead(&backups[4].id, at.parse().unwrap());
    assert!(!written("2026-01-04T00:00:00Z"), "clocks differ");
    backups[4].ahead = written("2026-01-03T12:00:00Z");
    let last = policy(&[count(Period::Each, 1)], "UTC");
    let reasons: Vec<String> = plan(&last, &backups, now).iter().map(ToString::to_string).collect();
    assert_eq!(
        reasons,
        [
            "no rule keeps it",
            "the newest whole backup; keep_last",
            "damaged, not counted",
            "no manifest, not a backup",
            "from the future, not counted",
            "from the future, not counted",
        ]
    );
}

#[test]
fn floors_hold_whatever_the_rules_say() {
    let mut backups = daily("2026-01-01T12:00:00Z", 9);
    backups[1].drilled = true;
    backups[2].held = true;
    backups[3].verified = true;
    backups[4].verified = true;
    let last = policy(&[count(Period::Each, 1)], "UTC");
    let stay: Vec<usize> = plan(&last, &backups, late())
        .iter()
        .enumerate()
        .filter(|(_, reasons)| !reasons.is_empty())
        .map(|(at, _)| at)
        .collect();
    assert_eq!(stay, [1, 2, 4, 8]);
}

#[test]
fn a_policy_that_keeps_nothing_is_none() {
    let nothing = [count(Period::Each, 0), within(Period::Day, 0)];
    assert_eq!(Policy::new(nothing, TimeZone::UTC).unwrap_err(), KeepsNothing);
    assert!(Policy::new([], TimeZone::UTC).is_err());
}

#[test]
fn proofs_are_known_by_their_names() {
    let cases = [
        ("proof-20261121T021500Z-verify.json", Some(Proof::Verified)),
        ("proof-20261121T021500Z-drill.json", Some(Proof::Drilled)),
        ("proof-20261121T021500Z-other.json", None),
        ("proof-drill.json", None),
        ("manifest.json", None),
        ("proof-.json", None),
    ];
    for (name, proof) in cases {
        assert_eq!(Proof::from_name(name), proof, "{name}");
    }
}

/// The rules as the manual words them, without regard to cost: the spans that have a backup, the
/// newest of each, as many as are asked for, and the oldest of all where there are fewer.
fn as_the_manual_says(
    rules: &[Rule],
    zone: &TimeZone,
    candidates: &[Candidate],
) -> BTreeSet<BackupId> {
    let mut newest_first: Vec<&Candidate> = candidates.iter().collect();
    newest_first
        .sort_by_key(|candidate| std::cmp::Reverse((candidate.id.time(), candidate.id.clone())));
    let Some(newest) = newest_first.first() else { return BTreeSet::new() };
    let mut stay = BTreeSet::from([newest.id.clone()]);
    for rule in rules {
        let (most, after) = match rule.limit {
            Limit::Count(count) => (usize::try_from(count).unwrap(), None),
            Limit::Unlimited => (usize::MAX, None),
            Limit::Within(within) => (usize::MAX, Some(newest.id.time() - within)),
        };
        let span = |candidate: &Candidate| {
            let zoned = candidate.id.time().to_zoned(zone.clone());
            match rule.period {
                Period::Each => candidate.id.to_string(),
                Period::Hour => zoned.strftime("%Y-%m-%d %H %z").to_string(),
                Period::Day => zoned.strftime("%Y-%m-%d").to_string(),
                Period::Week => zoned.strftime("%G-%V").to_string(),
                Period::Month => zoned.strftime("%Y-%m").to_string(),
                Period::Year => zoned.strftime("%Y").to_string(),
            }
        };
        let reach: Vec<&&Candidate> = newest_first
            .iter()
            .filter(|candidate| after.is_none_or(|after| candidate.id.time() > after))
            .collect();
        let mut spans: Vec<String> = Vec::new();
        for candidate in &reach {
            let span = span(candidate);
            if !spans.contains(&span) && spans.len() < most {
                stay.insert(candidate.id.clone());
                spans.push(span);
            }
        }
        if spans.len() < most && reach.len() == newest_first.len() {
            stay.extend(reach.last().map(|oldest| oldest.id.clone()));
        }
    }
    stay
}

fn any_limit() -> impl Strategy<Value = Limit> {
    prop_oneof![
        6 => (0_u32..6).prop_map(Limit::Count),
        1 => Just(Limit::Unlimited),
        3 => (0_u64..24 * 900).prop_map(|hours| Limit::Within(Duration::from_hours(hours))),
    ]
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (prop::sample::select(ALL_PERIODS.to_vec()), any_limit());
    prop::collection::vec(rule.prop_map(|(period, limit)| Rule { period, limit }), 1..5)
        .prop_filter("a policy", |rules| rules.iter().any(|rule| rule.keeps()))
}

/// Backups of a few hours, days or years round the end of summer time, some in the same second.
fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let minutes = prop_oneof![0_i64..300, 0_i64..20_000, 0_i64..2_000_000];
    let one = (minutes, any::<[bool; 4]>(), 0_u8..12);
    prop::collection::vec(one, 1..40).prop_map(|all| {
        let last: Timestamp = "2026-10-25T04:00:00Z".parse().unwrap();
        let make = |(number, (minutes, flags, fate)): (u64, (i64, [bool; 4], u8))| {
            let [verified, drilled, held, suspicious] = flags;
            let at = last - SignedDuration::from_mins(minutes);
            let standing = match fate {
                0 => Standing::Damaged,
                1 => Standing::Incomplete,
                _ => Standing::Complete,
            };
            let rare = fate % 4 == 2;
            Candidate {
                standing,
                verified: verified && rare,
                drilled: drilled && rare,
                held: held && rare,
                suspicious,
                ..candidate(at, number)
            }
        };
        (0..).zip(all).map(make).collect()
    })
}

fn any_zone() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "UTC",
        "Europe/Zurich",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "America/New_York",
    ])
}

fn complete(candidates: &[Candidate]) -> Vec<Candidate> {
    let whole = candidates.iter().map(|candidate| Candidate {
        standing: Standing::Complete,
        verified: false,
        drilled: false,
        held: false,
        suspicious: false,
        ..candidate.clone()
    });
    whole.collect()
}

proptest! {
    #[test]
    fn the_rules_are_the_manuals(
        rules in any_rules(), candidates in any_candidates(), name in any_zone(),
    ) {
        let candidates = complete(&candidates);
        let expected = as_the_manual_says(&rules, &zone(name), &candidates);
        prop_assert_eq!(kept(&policy(&rules, name), &candidates, late()), expected);
    }

    #[test]
    fn the_order_in_which_backups_come_does_not_matter(
        rules in any_rules(), candidates in any_candidates(), by in 0_usize..40,
    ) {
        let policy = policy(&rules, "Europe/Zurich");
        let mut turned = candidates.clone();
        turned.reverse();
        let by = by % turned.len();
        turned.rotate_left(by);
        prop_assert_eq!(
            kept(&policy, &candidates, late()),
            kept(&policy, &turned, late())
        );
    }

    #[test]
    fn planning_again_removes_nothing_more(
        rules in any_rules(), candidates in any_candidates(), name in any_zone(),
    ) {
        let policy = policy(&rules, name);
        let stay = kept(&policy, &candidates, late());
        let left: Vec<Candidate> =
            candidates.into_iter().filter(|candidate| stay.contains(&candidate.id)).collect();
        prop_assert_eq!(kept(&policy, &left, late()), stay);
    }

    #[test]
    fn another_rule_or_a_longer_one_never_removes_more(
        rules in any_rules(), more in any_rules(), candidates in any_candidates(),
    ) {
        let less = kept(&policy(&rules, "Europe/Zurich"), &candidates, late());
        let mut both = rules.clone();
        both.extend(more);
        let longer: Vec<Rule> = rules.iter().map(|rule| Rule {
            limit: match rule.limit {
                Limit::Count(count) => Limit::Count(count + 1),
                Limit::Within(within) => Limit::Within(within + Duration::from_hours(5)),
                Limit::Unlimited => Limit::Unlimited,
            },
            ..*rule
        }).collect();
        let now = late();
        prop_assert!(less.is_subset(&kept(&policy(&both, "Europe/Zurich"), &candidates, now)));
        prop_assert!(less.is_subset(&kept(&policy(&longer, "Europe/Zurich"), &candidates, now)));
    }

    /// However the rules are and whenever it is: the newest that counts stays, what does not count
    /// stays, and what does not count changes nothing for the others.
    #[test]
    fn floors_hold(
        rules in any_rules(), candidates in any_candidates(), hours in -24_i64 * 400..24,
    ) {
        let last: Timestamp = "2026-10-25T04:00:00Z".parse().unwrap();
        let now = last + SignedDuration::from_hours(hours);
        let policy = policy(&rules, "Europe/Zurich");
        let stay = kept(&policy, &candidates, now);
        let newest = |of: &dyn Fn(&Candidate) -> bool| {
            let of = candidates.iter().filter(|candidate| candidate.counts(now) && of(candidate));
            of.max_by_key(|candidate| (candidate.id.time(), candidate.id.clone()))
        };
        let floors = [
            newest(&|_| true),
            newest(&|it| it.verified),
            newest(&|it| it.drilled),
            newest(&|it| !it.suspicious),
        ];
        for floor in floors.into_iter().flatten() {
            prop_assert!(stay.contains(&floor.id));
        }
        for candidate in &candidates {
            let apart = !candidate.counts(now) || candidate.held;
            prop_assert!(!apart || stay.contains(&candidate.id));
        }
        let counted: Vec<Candidate> =
            candidates.iter().filter(|candidate| candidate.counts(now)).cloned().collect();
        let alone = kept(&policy, &counted, now);
        let of_them: BTreeSet<BackupId> = counted
            .iter()
            .filter(|candidate| stay.contains(&candidate.id))
            .map(|candidate| candidate.id.clone())
            .collect();
        prop_assert_eq!(alone, of_them);
    }
}

#[test]
fn suspicious_backups_do_not_take_the_place_of_the_last_that_is_not() {
    let mut backups = daily("2026-10-01T12:00:00Z", 6);
    let policy = policy(&[count(Period::Each, 2)], "UTC");
    let last = |backups: &[Candidate]| said(&policy, backups)[2].clone();
    assert_eq!(last(&backups), "no rule keeps it");
    for candidate in &mut backups[3..] {
        candidate.suspicious = true;
    }
    let why = "the last one before suspicious backups that nobody has acknowledged";
    assert_eq!(last(&backups), why);
    assert_eq!(said(&policy, &backups)[1], "no rule keeps it");
    // One that is damaged holds nothing; the one before it stays in its place.
    backups[2].standing = Standing::Damaged;
    assert_eq!(said(&policy, &backups)[1], why);
    backups[2].standing = Standing::Complete;
    // Somebody has looked at the newest: it counts as any other.
    backups[5].suspicious = false;
    assert_eq!(last(&backups), "no rule keeps it");
}
