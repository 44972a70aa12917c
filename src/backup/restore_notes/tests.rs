//! The lines, as text and run by real shells.

mod volumes;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Stdio},
};

use proptest::prelude::*;

use super::*;
use crate::{
    backup::copy::tests::{manifest, series},
    domain::{
        backup::BackupId,
        manifest::{Extension, SQL, StoredFile},
        pattern::Glob,
    },
    postgres::params::Params,
    sys::clock::{Clock as _, SystemClock},
};

#[test]
fn what_is_encrypted_names_its_key() {
    let volumes = ["g.sql.zst.age".to_owned(), "g.sql.zst.age.001".to_owned()];
    let somebody: Recipients = ["age1x".to_owned()].into_iter().collect();
    let nobody = Recipients::default();
    let of = |recipients: &Recipients| {
        lines(&about(None, &Scope::default(), &volumes, &[], recipients)).join("\n")
    };
    let lines = of(&somebody);
    let step = "cat g.sql.zst.age g.sql.zst.age.001 | age -d -i KEYFILE | zstd -dc | psql";
    assert!(lines.contains(step) && lines.contains("secret key of: age1x."), "{lines}");
    let lines = of(&nobody);
    assert!(!lines.contains("age -d") && !lines.contains("KEYFILE"), "{lines}");
}

fn facts(name: &str, extensions: &[(&str, &str)]) -> DatabaseFacts {
    DatabaseFacts {
        name: name.to_owned(),
        owner: name.to_owned(),
        encoding: "UTF8".to_owned(),
        collate: "C".to_owned(),
        ctype: "C".to_owned(),
        collation_version: None,
        collation_actual_version: None,
        locale_provider: Some("icu".to_owned()),
        locale: Some(name.to_owned()),
        icu_rules: Some(name.to_owned()),
        collations: Vec::new(),
        size_bytes: 0,
        extensions: extensions
            .iter()
            .map(|(name, version)| Extension {
                name: (*name).to_owned(),
                version: (*version).to_owned(),
                available_version: None,
            })
            .collect(),
    }
}

fn object(name: &str) -> StoredObject {
    StoredObject { name: name.to_owned(), bytes: u64::MAX, sha256: "0".repeat(64) }
}

fn about(
    database: Option<&DatabaseFacts>,
    scope: &Scope,
    volumes: &[String],
    files: &[StoredFile],
    recipients: &Recipients,
) -> Manifest {
    let id = BackupId::new(SystemClock::new().now().wall, 1);
    Manifest {
        database: database.cloned(),
        selection: Some(scope.clone()),
        objects: volumes.iter().map(|name| object(name)).collect(),
        files: files.to_vec(),
        recipients: recipients.clone(),
        ..manifest(&series(), &id)
    }
}

#[test]
fn where_pg_cron_can_be_is_said() {
    let (scope, nobody) = (Scope::default(), Recipients::default());
    let of = |name| {
        let facts = facts("app", &[(name, "1.6")]);
        lines(&about(Some(&facts), &scope, &["v".to_owned()], &[], &nobody)).join("\n")
    };
    assert!(of("pg_cron").contains("cron.database_name") && !of("citext").contains("cron"));
}

/// Programs of these names that write down what they are called with, and read nothing.
fn recorders(folder: &Path) {
    let script = "#!/bin/sh\nprintf '%s\\0' \"${0##*/}\" \"$@\" '' >> \"$CALLS\"\n";
    let program = folder.join("recorder");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["cat", "age", "zstd", "sha256sum", "createdb", "psql", "pg_restore", "vacuumdb"] {
        symlink(&program, folder.join(name)).unwrap();
    }
}

/// Has a shell run the lines where nothing else than the recorders can be called. Gives the words that
/// they were called with. Whatever a line does beside that makes a file in the folder.
#[expect(clippy::disallowed_methods, reason = "a test's own shell, which ends by itself")]
fn run(shell: &str, script: &str, folder: &Path) -> Vec<String> {
    let (bin, work, calls) = (folder.join("bin"), folder.join("work"), folder.join("calls"));
    fs::write(&calls, "").unwrap();
    let output = Command::new(shell)
        .args(["-c", script])
        .env_clear()
        .env("PATH", &bin)
        .env("CALLS", &calls)
        .current_dir(&work)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}\n{script}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "it did something: {script}");
    let calls = String::from_utf8(fs::read(calls).unwrap()).unwrap();
    calls.split('\0').map(str::to_owned).collect()
}

/// What people have as names, and what a shell would do something for; each only makes a file.
fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        prop::sample::select(vec![
            "\n: > made\n",
            "$(: > made)",
            "`: > made`",
            "'; : > made; '",
            "\"; : > made; \"",
            "\t",
            "\r",
            "\n",
            "\\",
            "'",
            "\"",
            "#",
            "%s",
            "%",
            "!",
            "=",
            "host=x",
            "é🐘",
            "\u{1b}[2J",
            "\u{9b}",
            "\u{202e}",
            "\u{2028}",
            " ",
            "*",
            "~",
            "-",
            "&",
            "|",
            "(",
            "a",
            "$HOME",
        ])
        .prop_map(str::to_owned),
        "[^\0]{1,3}",
    ];
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.concat())
}

/// What `--dbname=` means to libpq.
fn database(word: &str) -> Option<String> {
    let text = word.strip_prefix("--dbname=")?;
    if !text.contains('=') && !text.contains("://") {
        return Some(text.to_owned());
    }
    Params::parse(text).unwrap().get("dbname").map(str::to_owned)
}

/// Every line is one line; run as they are, and with those run that stand behind `#` to be chosen, they
/// call the programs and nothing else.
fn check(about: &Manifest, folder: &Path, wanted: Option<&str>) {
    let lines = lines(about);
    for line in &lines {
        assert!(!line.contains(text::is_unsafe), "{line:?}");
    }
    let chosen = |line: &String| {
        let command = line.strip_prefix("#    ").filter(|line| line.starts_with("cat "));
        command.unwrap_or(line).to_owned()
    };
    for shell in ["/bin/sh", "/bin/bash"] {
        run(shell, &lines.join("\n"), folder);
        let script = lines.iter().map(chosen).collect::<Vec<_>>().join("\n");
        let words = run(shell, &script, folder);
        let Some(name) = wanted else { continue };
        let named = words.iter().any(|word| database(word).as_deref() == Some(name));
        assert!(named, "{words:?}");
        // The shell takes the ends of lines at the end away; to a locale they are nothing.
        let rules = format!("--icu-rules={}", name.trim_end_matches('\n'));
        assert!(words.contains(&rules), "{words:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_shell_does_nothing_for_a_name_but_pass_it_on(
        name in name(),
        other in name(),
        volume in name(),
        is_script: bool,
        has_statistics: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        recorders(&folder.path().join("bin"));
        let facts = facts(&name, &[(&other, &volume), ("pg_cron", &name)]);
        let schemas = [&name, &other].into_iter().filter_map(|text| text.parse::<Glob>().ok());
        let scope = Scope { schemas: schemas.collect(), ..Scope::default() };
        let key: Recipients = [volume.clone()].into_iter().collect();
        let files = [StoredFile {
            object: object(&volume),
            path: Some(other.clone()),
            plain_bytes: 0,
            plain_sha256: String::new(),
        }];
        let volumes = [volume.clone(), "b".to_owned()];
        for recipients in [&key, &Recipients::default()] {
            let mut one = about(Some(&facts), &scope, &volumes, &files, recipients);
            one.plain.format = if is_script { SQL } else { "custom 1.16" }.to_owned();
            one.tool.command.extend(has_statistics.then(|| "--statistics".to_owned()));
            check(&one, folder.path(), Some(&name));
        }
        check(&about(None, &scope, &volumes, &files, &key), folder.path(), None);
    }
}
