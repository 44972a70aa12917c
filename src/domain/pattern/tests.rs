//! Patterns of database names against names.

use super::*;
use proptest::prelude::*;

fn globs(texts: &[&str]) -> Vec<Glob> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn candidate(name: &str) -> Candidate {
    Candidate { name: name.parse().unwrap(), access: Access::Open }
}

fn select(include: &[&str], exclude: &[&str], candidates: &[Candidate]) -> Selection {
    let patterns = DatabasePatterns { include: globs(include), exclude: globs(exclude) };
    patterns.select(candidates)
}

#[test]
fn wildcards_match_whole_names() {
    let cases = [
        ("*", "", true),
        ("app", "app", true),
        ("app", "app2", false),
        ("app*", "app", true),
        ("a?p", "app", true),
        ("a?p", "a🐘p", true),
        ("?", "", false),
        ("*_test", "a_test_test", true),
        ("*_test", "a_test2", false),
        ("a*b*c", "a--b--b--c", true),
        ("a*b*c", "a--c--b", false),
        (r"\*", "*", true),
        (r"\*", "x", false),
        ("App", "app", false),
        ("[a]", "a", false),
    ];
    for (pattern, name, expected) in cases {
        assert_eq!(pattern.parse::<Glob>().unwrap().matches(name), expected, "{pattern} {name}");
    }
    assert_eq!("".parse::<Glob>(), Err(PatternError::Empty));
    assert!(r"a\".parse::<Glob>().is_err());
}

#[test]
fn a_pattern_is_written_for_like() {
    let cases = [("a*", "a%"), ("a?b", "a_b"), (r"50%_\*\\", r"50\%\_*\\")];
    for (pattern, like) in cases {
        assert_eq!(pattern.parse::<Glob>().unwrap().like(), like);
    }
}

#[test]
fn a_long_run_of_wildcards_is_not_exponential() {
    let glob: Glob = "*a".repeat(30).parse().unwrap();
    assert!(!glob.matches(&format!("{}b", "a".repeat(60))));
}

#[test]
fn wildcards_leave_out_what_cannot_be_dumped() {
    let template = candidate("template1");
    let closed = Candidate { access: Access::Closed, ..candidate("closed") };
    let all = [candidate("b"), template, closed, candidate("a"), candidate("rdsadmin")];
    let selection = select(&["*"], &["b"], &all);
    assert_eq!(selection.chosen, ["a".parse().unwrap()]);
    assert_eq!(selection.left_out.len(), 4);
    assert_eq!(selection.problems, []);
    assert_eq!(select(&["rdsadmin"], &[], &all).chosen.len(), 1);
}

#[test]
fn what_is_named_and_cannot_be_had_is_a_problem() {
    let all = [candidate("template1"), candidate("app")];
    let selection = select(&["app", "template1", "gone", "x*"], &[], &all);
    assert_eq!(selection.chosen.len(), 1);
    let problems: Vec<String> = selection.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "database \"template1\" is named but left out: it is one of the templates that every server has",
            "there is no database \"gone\"",
        ]
    );
    assert_eq!(select(&["x*"], &[], &all).problems, [Problem::NothingSelected]);
    assert_eq!(select(&["app"], &["app"], &all).problems.len(), 1);
}

/// The definition, without regard to cost.
fn slow(tokens: &[Token], name: &[char]) -> bool {
    match (tokens.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((Token::Run, rest)), _) => {
            slow(rest, name) || name.split_first().is_some_and(|(_, more)| slow(tokens, more))
        }
        (Some((Token::One, rest)), Some((_, more))) => slow(rest, more),
        (Some((Token::Char(c), rest)), Some((d, more))) => c == d && slow(rest, more),
        _ => false,
    }
}

proptest! {
    #[test]
    fn matching_agrees_with_the_definition(
        pattern in r"[ab*?]{1,8}",
        name in "[ab]{0,10}",
    ) {
        let glob: Glob = pattern.parse().unwrap();
        let chars: Vec<char> = name.chars().collect();
        prop_assert_eq!(glob.matches(&name), slow(&glob.tokens, &chars));
    }

    #[test]
    fn every_name_can_be_written_literally(name in "\\PC{1,20}") {
        let mut escaped = String::new();
        for c in name.chars() {
            if matches!(c, '*' | '?' | '\\') {
                escaped.push('\\');
            }
            escaped.push(c);
        }
        let glob: Glob = escaped.parse().unwrap();
        prop_assert_eq!(glob.literal(), Some(name.clone()));
        prop_assert!(glob.matches(&name));
    }

    #[test]
    fn every_database_is_accounted_for(
        names in proptest::collection::btree_set("[ab]{1,4}", 0..6),
        include in "[ab*?]{1,4}",
        exclude in "[ab*?]{1,4}",
    ) {
        let candidates: Vec<_> = names.iter().map(|name| candidate(name)).collect();
        let selection = select(&[&include], &[&exclude], &candidates);
        prop_assert_eq!(selection.chosen.len() + selection.left_out.len(), candidates.len());
    }
}
