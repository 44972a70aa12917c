use super::*;

const HOUR: Duration = Duration::from_hours(1);

fn facts() -> Facts {
    Facts {
        oid: 1,
        relation: RelationName { schema: "public".to_owned(), name: "a".to_owned() },
        partitioned: false,
        system: false,
        access: Access::Granted,
        live: 900,
        dead: 100,
        changed: 50,
        xid_age: 1000,
        vacuumed_before: Some(3 * HOUR),
        analyzed_before: None,
    }
}

fn ask(mode: Mode, thresholds: Thresholds) -> VacuumRules {
    let include = vec!["public.*".parse().unwrap(), "*.pg_class".parse().unwrap()];
    let tables = RelationPatterns { include, exclude: vec!["*.not".parse().unwrap()] };
    VacuumRules { mode, tables, thresholds }
}

fn is_due(decision: &Decision) -> bool {
    matches!(decision, Decision::Due(_))
}

#[test]
fn one_threshold_that_is_met_is_enough() {
    let none = Thresholds::default();
    let cases = [
        (Mode::Vacuum, none.clone(), true),
        (Mode::Vacuum, Thresholds { min_dead_tuples: Some(100), ..none.clone() }, true),
        (Mode::Vacuum, Thresholds { min_dead_tuples: Some(101), ..none.clone() }, false),
        (Mode::Vacuum, Thresholds { min_dead_ratio: Some(0.1), ..none.clone() }, true),
        (Mode::Vacuum, Thresholds { min_dead_ratio: Some(0.11), ..none.clone() }, false),
        (Mode::Freeze, Thresholds { xid_age: Some(1000), ..none.clone() }, true),
        (Mode::Freeze, Thresholds { xid_age: Some(1001), ..none.clone() }, false),
        (Mode::Vacuum, Thresholds { not_vacuumed_for: Some(3 * HOUR), ..none.clone() }, true),
        (Mode::Vacuum, Thresholds { not_vacuumed_for: Some(4 * HOUR), ..none.clone() }, false),
        // What the mode does not do is not asked.
        (Mode::Vacuum, Thresholds { min_changed_tuples: Some(1), ..none.clone() }, false),
        (Mode::Analyze, Thresholds { min_changed_tuples: Some(50), ..none.clone() }, true),
        (Mode::Analyze, Thresholds { min_dead_tuples: Some(1), ..none.clone() }, false),
        (Mode::VacuumAnalyze, Thresholds { not_analyzed_for: Some(HOUR), ..none.clone() }, true),
        (
            Mode::VacuumAnalyze,
            Thresholds { min_dead_tuples: Some(999), xid_age: Some(5), ..none.clone() },
            true,
        ),
    ];
    for (mode, thresholds, due) in cases {
        let decision = ask(mode, thresholds.clone()).decide(&facts(), None);
        assert_eq!(is_due(&decision), due, "{mode:?} {thresholds:?}: {decision:?}");
        assert!(due || matches!(decision, Decision::Leave(_)));
    }
    let empty = Facts { live: 0, dead: 0, ..facts() };
    let ratio = Thresholds { min_dead_ratio: Some(0.0), ..none };
    assert!(!is_due(&ask(Mode::Vacuum, ratio).decide(&empty, None)), "nothing is dead in it");
}

#[test]
fn reasons_have_numbers() {
    let all = Thresholds {
        min_dead_tuples: Some(1),
        min_dead_ratio: Some(0.05),
        not_vacuumed_for: Some(HOUR),
        not_analyzed_for: Some(HOUR),
        ..Thresholds::default()
    };
    let Decision::Due(reason) = ask(Mode::VacuumAnalyze, all).decide(&facts(), None) else {
        panic!("it is due");
    };
    assert_eq!(
        reason,
        "100 dead rows, 100 of 1000 rows are dead, not vacuumed for 3h, never analyzed"
    );
}

#[test]
fn what_may_not_be_touched_is_skipped_or_left() {
    let named = |schema: &str, name: &str| RelationName {
        schema: schema.to_owned(),
        name: name.to_owned(),
    };
    let vacuum = ask(Mode::Vacuum, Thresholds::default());
    let theirs = Facts { access: Access::Denied, ..facts() };
    assert!(matches!(vacuum.decide(&theirs, None), Decision::Skip(Skip::NotPermitted, _)));
    let hidden = Facts { access: Access::SchemaClosed, ..facts() };
    let Decision::Skip(Skip::NotPermitted, why) = vacuum.decide(&hidden, None) else {
        panic!("its owner may not name it either");
    };
    assert!(why.contains("USAGE on schema public"), "{why}");
    let system = Facts { system: true, relation: named("pg_catalog", "pg_class"), ..theirs };
    assert!(matches!(vacuum.decide(&system, None), Decision::Leave(_)), "by wildcard");
    let mut literal = vacuum.clone();
    literal.tables.include.push("pg_catalog.pg_class".parse().unwrap());
    assert!(matches!(literal.decide(&system, None), Decision::Skip(..)), "by name");
    let parent = Facts { partitioned: true, xid_age: 0, ..facts() };
    assert!(matches!(vacuum.decide(&parent, None), Decision::Leave(_)));
    assert!(is_due(&ask(Mode::Analyze, Thresholds::default()).decide(&parent, None)));
    let other = Facts { relation: named("shop", "a"), ..facts() };
    assert_eq!(vacuum.decide(&other, None), Decision::NotSelected);
    let excluded = Facts { relation: named("public", "not"), ..facts() };
    assert_eq!(vacuum.decide(&excluded, None), Decision::NotSelected);
}

#[test]
fn a_retry_does_what_failed_and_nothing_else() {
    let strict = ask(Mode::Vacuum, Thresholds { xid_age: Some(u64::MAX), ..Thresholds::default() });
    let only = BTreeSet::from(["public.a".to_owned()]);
    assert!(is_due(&strict.decide(&facts(), Some(&only))));
    let none = BTreeSet::from(["public.b".to_owned()]);
    assert_eq!(strict.decide(&facts(), Some(&none)), Decision::NotSelected);
}

#[test]
fn the_most_needed_goes_first() {
    let (dead, old) = (Facts { dead: 9, ..facts() }, Facts { xid_age: 9999, dead: 1, ..facts() });
    let need = |mode| {
        let ask = ask(mode, Thresholds::default());
        ask.need(&dead) > ask.need(&old)
    };
    assert!(need(Mode::Vacuum) && need(Mode::VacuumAnalyze) && !need(Mode::Freeze));
}

#[test]
fn old_databases_are_found() {
    let age = |name: &str, xids, mxids| DatabaseAge { name: name.to_owned(), xids, mxids };
    let ages = [
        age("young", 200_000_000, 5),
        age("old", 1_000_000_000, 0),
        age("failsafe", 5, 1_600_000_000),
    ];
    let found = wraparound(&ages);
    let severities: Vec<_> = found.iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Warning, Severity::Critical]);
    assert!(found[1].what.contains("failsafe") && found[1].what.contains("multixacts"));
}
