//! The checks, on states of the world that a server takes long to get into.

use super::*;
use crate::{
    domain::relation::RelationName,
    postgres::preflight::{Kind, LargeObjects, ReadAll, Relation, UserMapping},
};

fn facts() -> Facts {
    Facts {
        version_num: 150_018,
        database: "app".to_owned(),
        role: "\"back up\"".to_owned(),
        mappings_are_certain: true,
        ..Facts::default()
    }
}

fn relation(name: &str, kind: Kind) -> Relation {
    Relation {
        schema: "shop".to_owned(),
        name: name.to_owned(),
        schema_ident: "shop".to_owned(),
        ident: format!("shop.{name}"),
        kind,
        lacks_usage: false,
        lacks_select: true,
        owned: false,
    }
}

fn accepting(names: &[&'static str]) -> Accepted {
    Accepted { names: names.iter().copied().collect(), by: "[job.nightly]".to_owned() }
}

fn failure(facts: &Facts) -> Failure {
    judge(facts, &accepting(&[])).failure("dump database app").expect("a refusal")
}

#[test]
fn nothing_in_the_way_is_nothing_said() {
    assert_eq!(judge(&facts(), &accepting(&["subscriptions"])), Judged::default());
    assert!(Judged::default().failure("x").is_none());
}

#[test]
fn all_that_is_in_the_way_is_said_at_once_with_the_statements() {
    let mut table = relation("orders", Kind::Table);
    table.lacks_usage = true;
    let facts = Facts {
        unreadable: vec![table, relation("numbers", Kind::Sequence)],
        row_security: vec![relation("notes", Kind::Table)],
        large_objects: LargeObjects { count: 2, first: vec![7, 9] },
        ..facts()
    };
    let failure = failure(&facts);
    assert_eq!(failure.class, Class::Privilege);
    for part in [
        "role \"back up\" may not read 1 table and 1 sequence of database app: shop.orders, shop.numbers;",
        "hides rows of 1 table of database app from role \"back up\": shop.notes;",
        "may not read 2 large objects of database app: 7, 9",
    ] {
        assert!(failure.what.contains(part), "{part}\n{}", failure.what);
    }
    let hint = failure.hint.unwrap();
    for part in [
        "as a superuser, in database app: GRANT USAGE ON SCHEMA shop TO \"back up\"; \
         GRANT SELECT ON TABLE shop.orders TO \"back up\"; \
         GRANT SELECT ON SEQUENCE shop.numbers TO \"back up\"; \
         Or, for all that there is and will be: GRANT pg_read_all_data TO \"back up\";",
        "ALTER ROLE \"back up\" BYPASSRLS;",
        "GRANT SELECT ON LARGE OBJECT 7, 9 TO \"back up\";",
        "ALTER ROLE \"back up\" SET lo_compat_privileges = on;",
    ] {
        assert!(hint.contains(part), "{part}\n{hint}");
    }
}

#[test]
fn many_are_counted_and_mended_by_schema() {
    let tables = (0..30).map(|n| relation(&format!("t{n}"), Kind::Table)).collect();
    let facts = Facts {
        version_num: 130_001,
        unreadable: tables,
        large_objects: LargeObjects { count: 1_000_000, first: vec![5, 6] },
        ..facts()
    };
    let failure = failure(&facts);
    assert!(failure.what.contains("may not read 30 tables"), "{}", failure.what);
    assert!(failure.what.contains("shop.t19 and 10 more"), "{}", failure.what);
    assert!(failure.what.contains("5, 6 and 999998 more"), "{}", failure.what);
    let hint = failure.hint.unwrap();
    assert!(hint.contains("GRANT SELECT ON ALL TABLES IN SCHEMA shop TO"), "{hint}");
    assert!(!hint.contains("pg_read_all_data"), "PostgreSQL 13 has no such role: {hint}");
    assert!(hint.contains("\\gexec") && hint.len() < 1000, "{hint}");
}

#[test]
fn names_of_any_length_make_no_long_message() {
    let name = "n\n".repeat(5_000);
    let unreadable = vec![relation(&name, Kind::Table); 500];
    let failure = failure(&Facts { unreadable, ..facts() });
    assert!(failure.what.len() < 8_000, "{}", failure.what.len());
    assert!(!failure.what.contains('\n'));
}

#[test]
fn what_is_accepted_is_told_and_written_down_and_nothing_else_is() {
    let facts = Facts {
        user_mappings: vec![UserMapping { server: "far".into(), user: "PUBLIC".into() }],
        subscriptions: vec!["news".into(), "\"Olds\"".into()],
        foreign_tables: ["a", "b", "c"]
            .map(|name| RelationName { schema: "shop".into(), name: name.into() })
            .into(),
        ..facts()
    };
    let refused = judge(&facts, &accepting(&[]));
    let names: Vec<_> = refused.refused.iter().map(|(_, found)| found.check.as_str()).collect();
    assert_eq!(names, ["user-mapping-options", "subscriptions"]);
    let failure = refused.failure("x").unwrap();
    assert!(failure.hint.unwrap().contains("accept = [\"subscriptions\"]"));

    let half = judge(&facts, &accepting(&["subscriptions"]));
    assert_eq!(half.refused.len(), 1);
    assert_eq!(half.accepted, ["subscriptions"].into());

    let judged = judge(&facts, &accepting(&["subscriptions", "user-mapping-options"]));
    assert!(judged.failure("x").is_none());
    let left_out: Vec<String> =
        judged.left_out.iter().map(|it| format!("{}: {}", it.what, it.reason)).collect();
    assert_eq!(
        left_out,
        [
            "options of 1 user mapping: PUBLIC on server far: accepted in [job.nightly]",
            "2 subscriptions: news, \"Olds\": accepted in [job.nightly]",
            "rows of 3 foreign tables: they belong to other servers",
        ]
    );
    assert!(judged.told.iter().all(|it| it.severity == Severity::Info && it.hint.is_none()));
    assert_eq!(judged.told.len(), 2);
}

#[test]
fn what_pg_dump_fails_at_cannot_be_accepted() {
    let names: Vec<_> = acceptable().collect();
    assert_eq!(names, ["user-mapping-options", "subscriptions"]);
}

#[test]
fn security_that_is_forced_on_the_owner_has_a_way_of_its_own() {
    let mut table = relation("notes", Kind::Table);
    table.owned = true;
    let hint = failure(&Facts { row_security: vec![table], ..facts() }).hint.unwrap();
    assert!(hint.contains("ALTER TABLE shop.notes NO FORCE ROW LEVEL SECURITY;"), "{hint}");
}

#[test]
fn passwords_are_refused_only_where_they_are_wanted() {
    let facts = GlobalsFacts {
        database: "postgres".into(),
        role: "pgkeep".into(),
        passwords_wanted: true,
        passwords_refused: Some("ERROR: permission denied for table pg_authid".into()),
        service: None,
    };
    let failure = judge_globals(&facts, "dump globals").unwrap_err();
    assert!(failure.what.contains("pg_authid"), "{failure}");
    assert!(failure.hint.unwrap().contains("role_passwords = false"));
    let unwanted = GlobalsFacts { passwords_wanted: false, ..facts };
    assert!(judge_globals(&unwanted, "x").is_ok());
}

/// A closed schema with a table, a sequence and a table with forced security, `count` times.
fn closed(count: usize) -> Facts {
    let of = |kind| {
        move |n: usize| {
            let mut it = relation("x", kind);
            it.schema_ident = format!("\"Schema {n} {}\"", "\"\"".repeat(50));
            it.ident = format!("{}.x", it.schema_ident);
            (it.lacks_usage, it.owned) = (true, true);
            it
        }
    };
    let tables: Vec<_> = (0..count).map(of(Kind::Table)).collect();
    let sequences = (0..count).map(of(Kind::Sequence));
    let row_security = tables.clone();
    Facts { unreadable: tables.into_iter().chain(sequences).collect(), row_security, ..facts() }
}

#[test]
fn statements_hold_names_whole_or_let_psql_find_them() {
    for (count, by_name) in [(1, true), (LISTED_MAX, true), (LISTED_MAX + 1, false), (25, false)] {
        let failure = failure(&closed(count));
        let hint = failure.hint.unwrap();
        for statement in
            ["GRANT USAGE", "GRANT SELECT ON TABLE", "GRANT SELECT ON SEQUENCE", "ALTER TABLE"]
        {
            let (_, from) =
                hint.split_once(statement).unwrap_or_else(|| panic!("{statement}: {hint}"));
            let end = from.find(if by_name { ";" } else { "\\gexec" }).expect("an end");
            let text = &from[..end];
            assert!(!text.contains(" more ") && !text.contains('…'), "{count}: {text}");
            assert_eq!(text.contains("\"Schema 0 "), by_name, "{count}: {text}");
        }
        assert_eq!(hint.contains("\\gexec"), !by_name, "{count}: {hint}");
    }
}

#[test]
fn names_that_cannot_be_pasted_are_left_to_psql() {
    let mut one = closed(1);
    for it in one.unreadable.iter_mut().chain(&mut one.row_security) {
        it.schema_ident = "\"line\nend\"".to_owned();
        it.ident = "\"line\nend\".x".to_owned();
    }
    let hint = failure(&one).hint.unwrap();
    assert!(!hint.contains('\n') && !hint.contains("line"), "{hint}");
    let percent = Facts { role: "\"100%'\"".to_owned(), ..one };
    let hint = failure(&percent).hint.unwrap();
    assert!(hint.contains("%I TO \"100%%''\"'"), "{hint}");
    assert!(hint.contains("'\"100%''\"'::regrole"), "{hint}");
}

#[test]
fn a_limit_on_connections_that_no_dump_fits_in_is_refused() {
    let with = |role_limit, database_limit| Facts { role_limit, database_limit, ..facts() };
    for fits in [with(None, None), with(Some(3), Some(100))] {
        assert!(judge(&fits, &accepting(&[])).refused.is_empty());
    }
    let tight = judge(&with(Some(2), Some(2)), &accepting(&[]));
    assert!(tight.refused.is_empty());
    let [told] = &tight.told[..] else { panic!("{tight:?}") };
    assert!(told.severity == Severity::Info && told.what.contains("of role"), "{told:?}");
    let maintenance = Facts { is_maintenance: true, ..with(None, Some(2)) };
    assert_eq!(judge(&maintenance, &accepting(&[])).told.len(), 1);
    assert!(maintenance.has_no_room_to_watch() && with(Some(2), None).has_no_room_to_watch());
    assert!(!with(Some(3), Some(2)).has_no_room_to_watch());
    let refused = failure(&with(Some(1), Some(0)));
    assert_eq!(refused.class, Class::Configuration);
    let hint = refused.hint.unwrap();
    for part in
        ["ALTER ROLE \"back up\" CONNECTION LIMIT 9", "ALTER DATABASE app CONNECTION LIMIT 9"]
    {
        assert!(hint.contains(part), "{hint}");
    }
}

#[test]
fn a_language_that_is_not_understood_is_told_and_refuses_nothing() {
    let judged =
        judge(&Facts { language: Some("de_DE.UTF-8".to_owned()), ..facts() }, &accepting(&[]));
    assert!(judged.refused.is_empty());
    let [told] = &judged.told[..] else { panic!("{judged:?}") };
    assert_eq!((told.check.as_str(), told.severity), ("server-language", Severity::Info));
    assert!(told.hint.as_ref().unwrap().contains("ALTER ROLE \"back up\" SET lc_messages = 'C'"));
}

#[test]
fn a_member_that_does_not_inherit_is_told_what_helps() {
    let hint = |version_num, read_all| {
        let unreadable = vec![relation("orders", Kind::Table)];
        failure(&Facts { version_num, read_all, unreadable, ..facts() }).hint.unwrap()
    };
    assert!(hint(150_000, ReadAll::None).contains("GRANT pg_read_all_data TO \"back up\";"));
    let old = hint(150_000, ReadAll::NotInherited);
    assert!(
        old.contains("ALTER ROLE \"back up\" INHERIT;") && !old.contains("GRANT pg_read"),
        "{old}"
    );
    let new = hint(160_000, ReadAll::NotInherited);
    assert!(new.contains("GRANT pg_read_all_data TO \"back up\" WITH INHERIT TRUE;"), "{new}");
}

#[test]
fn pg_read_all_data_reads_large_objects_since_19() {
    for (read_all, version_num, reads) in [
        (ReadAll::Held, 180_099, false),
        (ReadAll::Held, 190_000, true),
        (ReadAll::NotInherited, 190_000, false),
        (ReadAll::None, 190_000, false),
    ] {
        assert_eq!(read_all.reads_large_objects(version_num), reads, "{read_all:?} {version_num}");
    }
    let large_objects = LargeObjects { count: 2, first: vec![7, 9] };
    let hint = failure(&Facts { version_num: 190_000, large_objects, ..facts() }).hint.unwrap();
    assert!(hint.contains("GRANT pg_read_all_data TO") && !hint.contains("lo_compat"), "{hint}");
}

#[test]
fn a_snapshot_that_cannot_be_exported_is_told_with_its_grant() {
    let failure = failure(&Facts { lacks_export: true, ..facts() });
    assert_eq!(failure.class, Class::Privilege);
    let grant = "in database app: GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() TO \"back up\";";
    assert!(failure.hint.unwrap().contains(grant));
}
