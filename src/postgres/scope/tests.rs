//! The arguments, and what is refused before pg_dump is asked.

use super::*;
use crate::domain::failure::IntoFailure as _;

fn list<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Vec<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn patterns_are_pg_dumps_own() {
    for (ours, theirs) in [
        ("shop.orders", "\"shop\".\"orders\""),
        ("shop.order?", "\"shop\".\"order\"?"),
        ("*.*", "*.*"),
        ("a b.c*", "\"a b\".\"c\"*"),
        (r"my\.schema.t", "\"my.schema\".\"t\""),
        (r"x.a\*b", "\"x\".\"a*b\""),
        ("x.\"q\"", "\"x\".\"\"\"q\"\"\""),
        (r"x.*$\\(|)", "\"x\".*\"$\\(|)\""),
    ] {
        assert_eq!(client_pattern(&ours.parse().unwrap()), theirs, "{ours}");
    }
}

#[test]
fn a_scope_becomes_arguments() {
    assert_eq!(arguments(&Scope::default(), 15), [""; 0]);
    let scope = Scope {
        contents: Contents::Data,
        tables: list(&["shop.*"]),
        exclude_tables: list(&["*.log"]),
        large_objects: Some(true),
        ..Scope::default()
    };
    let line = arguments(&scope, 15).join(" ");
    assert_eq!(
        line,
        "--data-only --strict-names --table=\"shop\".* --exclude-table=*.\"log\" \
         --exclude-table=\"pg_\"*.* --exclude-table=\"information_schema\".* --blobs"
    );
    assert_eq!(
        arguments(&scope, 16).join(" "),
        "--data-only --strict-names --table-and-children=\"shop\".* \
         --exclude-table-and-children=*.\"log\" --exclude-table=\"pg_\"*.* \
         --exclude-table=\"information_schema\".* --large-objects"
    );
    let rows = Scope { exclude_table_data: list(&["a.b"]), ..Scope::default() };
    assert_eq!(arguments(&rows, 16), ["--exclude-table-data-and-children=\"a\".\"b\""]);
    let scope = Scope {
        schemas: list(&["*"]),
        exclude_schemas: list(&["log"]),
        exclude_table_data: list(&["a.b"]),
        ..Scope::default()
    };
    assert_eq!(
        arguments(&scope, 15).join(" "),
        "--strict-names --schema=* --exclude-schema=\"log\" --exclude-schema=\"pg_\"* \
         --exclude-schema=\"information_schema\" --exclude-table-data=\"a\".\"b\""
    );
}

#[test]
fn what_pg_dump_does_not_have_yet_is_refused_with_its_version() {
    let scope = Scope { options: vec!["--extension=x".to_owned()], ..Scope::default() };
    check_version(&scope, Form::default(), 14).unwrap();
    let refused = check_version(&scope, Form::default(), 13).unwrap_err().into_failure("x");
    assert!(refused.what.contains("came with PostgreSQL 14"), "{refused}");
    assert_eq!(refused.class, Class::ToolVersion);
    let form = Form { options: &["--statistics".to_owned()], ..Form::default() };
    check_version(&Scope::default(), form, 17).unwrap_err();
    check_version(&Scope::default(), form, 18).unwrap();
}

#[test]
fn what_is_left_out_by_name_or_by_pattern_is_meant() {
    let scope = Scope {
        exclude_tables: list(&["a.t"]),
        exclude_table_data: list(&["b.log_*", "c.u"]),
        ..Scope::default()
    };
    let meant = Meant::of(&scope);
    let has = |schema: &str, name: &str| {
        meant.has(&RelationName { schema: schema.to_owned(), name: name.to_owned() })
    };
    assert!(has("a", "t") && has("b", "log_1") && has("c", "u"));
    assert!(!has("a", "u") && !has("b", "log") && !has("b", "t"));
}

#[test]
fn a_line_that_is_too_long_is_refused() {
    let word = "x".repeat(1000);
    check_length(&vec![word.clone(); 1000], 15).unwrap();
    let refused = check_length(&vec![word; 1100], 15).unwrap_err().into_failure("x");
    assert!(refused.hint.unwrap().contains("16 or newer"));
}

#[test]
fn characters_that_would_become_others_are_refused() {
    let scope = Scope { exclude_tables: list(&["public.né"]), ..Scope::default() };
    let line = arguments(&scope, HAS_CHILDREN);
    check_characters(&line, "UTF8").unwrap();
    check_characters(&arguments(&Scope::default(), 15), "LATIN1").unwrap();
    let refused = check_characters(&line, "LATIN1").unwrap_err().into_failure("x");
    assert!(refused.what.contains("né") && refused.hint.is_some(), "{refused}");
}
