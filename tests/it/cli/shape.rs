//! The shapes of `--json`, held against docs/CLI.md: what is documented is there, and what is there
//! is documented.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::{
    harness::{
        client::Client,
        fakes::Fake,
        wait::{PATIENCE, eventually},
    },
    lifecycle::Bench,
};

/// Every key with its way from the root; entries of lists count as one.
pub(crate) fn shape(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, at: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let at = format!("{at}.{key}");
                    walk(value, &at, found);
                    found.insert(at);
                }
            }
            Value::Array(items) => {
                for item in items {
                    walk(item, &format!("{at}[]"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(value, "", &mut found);
    found
}

/// The example below a heading of docs/CLI.md.
fn documented(command: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CLI.md");
    let page = fs::read_to_string(path).unwrap();
    let heading = format!("\n### `{command}`\n");
    let (_, section) = page.split_once(&heading).unwrap_or_else(|| panic!("no section {command}"));
    let (_, example) = section.split_once("```json\n").unwrap();
    let (example, _) = example.split_once("\n```").unwrap();
    serde_json::from_str(example).unwrap_or_else(|error| panic!("{command}: {error}\n{example}"))
}

#[track_caller]
pub(crate) fn assert_documented(command: &str, said: &Value) {
    let (there, page) = (shape(said), shape(&documented(command)));
    let unknown: Vec<_> = there.difference(&page).collect();
    let missing: Vec<_> = page.difference(&there).collect();
    let text = serde_json::to_string_pretty(said).unwrap();
    assert!(
        unknown.is_empty() && missing.is_empty(),
        "docs/CLI.md, {command}: not documented {unknown:?}, not there {missing:?}\n{text}"
    );
}

#[test]
fn json_is_as_documented() {
    let bench = Bench::new(Fake::Gated);
    let home = &bench.home;
    assert_documented("check-config", &home.run(&["check-config", "--json"]).expect_code(0).json());
    let next = home.run(&["schedule", "next", "-n", "2", "--json"]).expect_code(0).json();
    assert_documented("schedule next", &next);

    let mut daemon = home.ready_daemon();
    let first = Client::start(home, &["run", "nightly", "--json"]);
    bench.fake.wait_stopped();
    let while_running = home.run(&["status", "--json"]).expect_code(0).json();
    bench.fake.release();
    let ended = first.end().expect_code(0).json();
    assert_documented("run", &ended);
    let after = eventually("a server that was asked for its databases", PATIENCE, || {
        let status = home.run(&["status", "--json"]).expect_code(0).json();
        status["unprotected"]["main"].is_array().then_some(status)
    });
    let mut status = after;
    status["running"] = while_running["running"].clone();
    assert_documented("status", &status);
    assert_documented("reload", &home.run(&["reload", "--json"]).expect_code(0).json());

    let list = home.run(&["list", "--json"]).expect_code(0).json();
    assert_documented("list", &list);
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(ended["report"]["targets"][0]["figures"]["backup"], id);
    // Its beginning will do.
    assert_documented("show", &home.run(&["show", &id[..20], "--json"]).expect_code(0).json());
    daemon.stop();
    daemon.assert_log_clean(&[]);

    home.rewrite(&home.config().replace("\"disk\"]", "\"disc\"]"));
    let wrong = home.run(&["check-config", "--json"]).expect_code(3).json();
    assert_documented("check-config, invalid", &wrong);
}

#[test]
fn the_comparison_of_shapes_finds_what_differs() {
    let value = serde_json::json!({ "a": [{ "b": 1 }, { "c": null }], "d": {} });
    let keys: Vec<String> = shape(&value).into_iter().collect();
    assert_eq!(keys, [".a", ".a[].b", ".a[].c", ".d"]);
}
