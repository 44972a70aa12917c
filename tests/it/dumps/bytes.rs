//! Text that is no UTF-8: names and statements in the encoding of whoever wrote them.

use pgkeep::domain::{failure::Class, finding::Severity, report::Verdict};

use super::{DISK, ONCE, Running, bin_dir, disk, listed, run_job};
use crate::harness::{
    fakes::{Fake, fake_bin_dir},
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    process::spawn,
    wait::{PATIENCE, eventually},
};

/// A database of bytes, with two tables: the name of one is no UTF-8.
const BYTES: &str = "CREATE TABLE big AS SELECT i, repeat(md5(i::text), 30) AS text \
    FROM generate_series(1, 20000) AS i;
    SELECT 'CREATE TABLE t' || chr(233) || ' AS SELECT 1 AS one' \\gexec";

fn create(cluster: &Cluster, name: &str, encoding: &str) {
    cluster.psql(
        "postgres",
        &format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        ),
    );
}

#[test]
fn a_database_whose_name_is_no_utf_8_fails_alone() {
    let cluster = Cluster::start();
    create(&cluster, "latin", "LATIN1");
    cluster.psql("latin", "SELECT 'CREATE DATABASE ' || quote_ident('caf' || chr(233)) \\gexec");
    let maintain = "[job.tidy]\nkind = \"vacuum\"\nserver = \"main\"\ndatabases = [\"*\"]\n\
                    exclude = [\"we*\"]\ntables = [\"shop.*\"]\nschedule = \"0 0 29 2 *\"\nattempts = 1";
    let lines = "exclude = [\"we*\"]\nattempts = 1";
    let without = "exclude = [\"we*\", \"caf*\"]\nattempts = 1";
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local(DISK)
        .toml(maintain)
        .dump("nightly", "main", &["*"], &[DISK], lines)
        .dump("others", "main", &["*"], &[DISK], without);
    let ran = run_job(&home, "nightly", 4);
    assert_eq!(ran.verdict, Verdict::Partial);
    let failure = ran.failed("caf\\xE9", DISK, Class::Configuration);
    assert!(failure.what.contains("\"caf\\xE9\" is not UTF-8"), "{failure}");
    assert!(failure.hint.as_ref().unwrap().contains("RENAME TO"), "{failure:?}");
    for name in [APP, "latin", "postgres", "@globals"] {
        ran.assert_succeeded(name, DISK);
    }
    let copies = listed(&home, &disk(&home));
    let globals = copies.iter().find(|copy| copy.subject() == "@globals").unwrap();
    let left = &globals.manifest.left_out;
    assert!(left.iter().any(|it| it.what.contains("caf\\xE9")), "{left:?}");

    let ran = run_job(&home, "others", 0);
    let told: Vec<_> = ran.report.findings.iter().map(|it| (&*it.check, it.severity)).collect();
    assert_eq!(told, [("globals-unread", Severity::Info)]);
    let tidied = home.run(&["run", "tidy", "--json"]).expect_code(4).json();
    let targets = tidied["report"]["targets"].as_array().unwrap();
    let of = |state: &str| {
        let of = targets.iter().filter(|it| it["outcome"]["state"] == state);
        of.filter_map(|it| it["target"]["subject"]["database"].as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of("failed"), ["caf\\xE9"], "{targets:?}");
    assert!(of("succeeded").contains(&APP), "{targets:?}");
    // It answers, and names it among the others.
    let doctor = home.run(&["doctor"]).text();
    assert!(doctor.contains("caf\\xE9"), "{doctor}");
}

#[test]
fn statements_and_names_of_bytes_are_shown_and_stop_nothing() {
    let cluster = Cluster::start();
    create(&cluster, "bytes", "SQL_ASCII");
    cluster.psql("bytes", BYTES);
    let fake = fake_bin_dir(Fake::Midway, cluster.bin_dir());
    let lines = format!("when_blocking = \"cancel-after 1s\"\n{ONCE}");
    let tidy = "[job.tidy]\nkind = \"vacuum\"\nserver = \"main\"\ndatabases = [\"bytes\"]\n\
                tables = [\"public.*\"]\nschedule = \"0 0 29 2 *\"\nattempts = 1";
    let home = Pgkeep::new()
        .server_with("main", &cluster, &bin_dir(fake.path()))
        .local(DISK)
        .toml(tidy)
        .dump("nightly", "main", &["bytes"], &[DISK], &lines);
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    // In the way of a person whose table, and whose statement, are no UTF-8.
    let mut psql = cluster.tool("psql");
    psql.args(["-XqAt", "-d", "bytes"]).stdin(std::process::Stdio::piped());
    let mut psql = spawn(&mut psql);
    std::io::Write::write_all(
        &mut psql.stdin.take().unwrap(),
        b"ALTER TABLE t\xe9 ALTER one DROP DEFAULT;\n",
    )
    .unwrap();
    let ran = running.end(1);
    let failure = ran.failed("bytes", DISK, Class::Lock);
    assert!(failure.what.contains("ALTER TABLE t"), "{failure}");
    assert!(psql.wait().unwrap().success());

    fake.release();
    run_job(&home, "nightly", 0);
    let ran = run_job(&home, "tidy", 0);
    let told: Vec<&str> = ran.report.findings.iter().map(|it| it.what.as_str()).collect();
    assert!(told.iter().any(|it| it.contains("1 not named in UTF-8")), "{told:?}");
    eventually("a vacuum of the other table", PATIENCE, || {
        let sql = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'big'";
        (cluster.psql("bytes", sql) == "1").then_some(())
    });
}
