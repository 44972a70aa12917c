//! The bench itself: a comparison that finds nothing, or a fake that does nothing, would make
//! every other test worthless.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    compare::{assert_same, compare_databases},
    fakes::{Fake, fake_bin_dir},
    pgkeep::Pgkeep,
    postgres::{APP, Cluster, HOSTILE, PASSWORD, SUPERUSER, conninfo},
    process::{command, must, run, run_within, spawn, wait_for},
    versions::MAJORS,
    wait::PATIENCE,
};

/// Copies a database as a person would: pg_dump and pg_restore.
fn copy_by_hand(cluster: &Cluster, from: &str, to: &str) {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    must(cluster.tool("pg_dump").args(["-Fc", "-d", &conninfo(from), "-f"]).arg(&archive));
    cluster.create_like(to, from);
    must(cluster.tool("pg_restore").args(["-e", "-d", &conninfo(to)]).arg(&archive));
}

#[test]
fn two_clusters_run_side_by_side() {
    let (a, b) = std::thread::scope(|scope| {
        let a = scope.spawn(Cluster::start);
        let b = scope.spawn(Cluster::start);
        (a.join().unwrap(), b.join().unwrap())
    });
    for cluster in [&a, &b] {
        assert_eq!(cluster.psql(APP, "SELECT count(*) FROM shop.orders"), "6000");
        assert_eq!(cluster.psql(APP, "SELECT count(*) FROM pg_largeobject_metadata"), "11");
        assert_eq!(cluster.psql(HOSTILE, "SELECT count(*) FROM \"select\""), "40");
    }
    a.psql(APP, "TRUNCATE shop.orders CASCADE");
    assert_eq!(b.psql(APP, "SELECT count(*) FROM shop.orders"), "6000");
}

#[test]
fn a_copy_is_the_same_until_one_byte_changes() {
    let cluster = Cluster::start();
    for (number, database) in [APP, HOSTILE].into_iter().enumerate() {
        let copy = format!("copy {number}");
        copy_by_hand(&cluster, database, &copy);
        assert_same(&cluster, database, &copy);
    }

    // Each change is found, and undone before the next.
    let changes = [
        (
            "UPDATE shop.pictures SET pixels = set_byte(pixels, 2000, 1 - get_byte(pixels, 2000) % 2) WHERE id = 39",
            "shop.pictures",
        ),
        ("UPDATE shop.orders SET note = '' WHERE note IS NULL AND id = 9", "shop.orders"),
        ("DELETE FROM shop.sessions WHERE customer = 1", "shop.sessions"),
        ("INSERT INTO shop.returns VALUES (1, 'too late')", "shop.returns"),
        ("SELECT nextval('shop.invoice_number')", "shop.invoice_number"),
        (
            "SELECT lo_put(content, 100, '\\x00') FROM shop.manuals WHERE product = 'manual 3'",
            "large object",
        ),
        (
            "SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE length(lo_get(oid)) = 0",
            "large object",
        ),
        ("REVOKE SELECT ON shop.orders FROM reporting", "GRANT"),
        ("DROP INDEX shop.orders_open", "orders_open"),
    ];
    for (change, named) in changes {
        copy_by_hand(&cluster, APP, "changed");
        cluster.psql("changed", change);
        let found = compare_databases(&cluster, APP, "changed");
        assert!(found.iter().any(|line| line.contains(named)), "{change}: {found:#?}");
        cluster.psql("postgres", "DROP DATABASE changed");
    }

    cluster
        .psql("postgres", "CREATE DATABASE other ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    cluster.psql("postgres", "CREATE DATABASE utf8 ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0");
    assert!(!compare_databases(&cluster, "other", "utf8").is_empty());
}

#[test]
fn other_versions_hold_the_same_seed() {
    for major in MAJORS {
        let Some(builder) = Cluster::of(major) else { continue };
        let cluster = builder.start();
        assert_eq!(cluster.major(), major);
        for (number, database) in [APP, HOSTILE].into_iter().enumerate() {
            let copy = format!("copy {number}");
            copy_by_hand(&cluster, database, &copy);
            assert_same(&cluster, database, &copy);
        }
    }
}

#[test]
fn a_cluster_stops_crashes_and_starts_again() {
    let mut cluster = Cluster::builder().setting("archive_mode", "on").start();
    assert_eq!(cluster.psql(APP, "SHOW archive_mode"), "on");
    cluster.psql(APP, "CREATE TABLE kept AS SELECT 1 AS one; CHECKPOINT");
    cluster.restart();
    cluster.stop_immediate();
    assert_ne!(cluster.try_psql(APP, "SELECT 1").code, 0);
    cluster.start_again();
    assert_eq!(cluster.psql(APP, "SELECT one FROM kept"), "1");
    assert!(cluster.log().contains("not properly shut down"), "{}", cluster.log());
}

#[test]
fn tcp_asks_for_the_password() {
    let cluster = Cluster::builder().empty().tcp().start();
    let connect = |password: &str| {
        let mut psql = command(cluster.bin_dir().join("psql"));
        psql.args([
            "-XqAtw",
            "-h",
            "127.0.0.1",
            "-U",
            SUPERUSER,
            "-d",
            "postgres",
            "-c",
            "SELECT 1",
        ]);
        psql.args(["-p", &cluster.tcp_port().unwrap().to_string()]).env("PGPASSWORD", password);
        run(&mut psql, "")
    };
    assert_eq!(connect(PASSWORD).expect_code(0).text(), "1\n");
    assert!(connect("wrong").expect_code(2).stderr.contains("password authentication failed"));
}

#[test]
fn every_fake_misbehaves_as_it_says() {
    let cluster = Cluster::start();
    let dump = |kind: Fake| {
        let fake = fake_bin_dir(kind, cluster.bin_dir());
        let output = run(&mut dump_with(&cluster, fake.path().join("pg_dump")), "");
        (output, fake)
    };
    let real = run(&mut dump_with(&cluster, cluster.bin_dir().join("pg_dump")), "");
    let whole = real.expect_code(0).stdout.len();
    let version = must(command(cluster.bin_dir().join("pg_dump")).arg("--version"));

    for (kind, code, bytes) in [
        (Fake::Silent, 0, 0),
        (Fake::Truncated, 0, whole / 2),
        (Fake::FailsAfterAll, 1, whole),
        (Fake::FailsAtOnce, 1, 0),
        (Fake::FailsOnce, 1, 0),
        (Fake::Killed, 128 + 9, whole / 2),
        (Fake::FloodsStderr, 0, whole),
        (Fake::TooOld, 1, 0),
    ] {
        let (output, fake) = dump(kind);
        assert_eq!((output.code, output.stdout.len()), (code, bytes), "{kind:?}");
        assert_eq!(output.stderr.len() > 10_000_000, kind == Fake::FloodsStderr, "{kind:?}");
        let said = must(command(fake.path().join("pg_dump")).arg("--version"));
        assert_eq!(said == version, kind != Fake::TooOld, "{said}");
        must(command(fake.path().join("pg_restore")).arg("--version"));
        if kind == Fake::FailsOnce {
            let again = run(&mut dump_with(&cluster, fake.path().join("pg_dump")), "");
            assert_eq!((again.code, again.stdout.len(), fake.starts()), (0, whole, 2));
        }
    }
    assert!(!fake_bin_dir(Fake::Missing, cluster.bin_dir()).path().join("pg_dump").exists());
}

#[test]
fn a_dump_can_be_stopped_in_the_middle() {
    let cluster = Cluster::start();
    let start = |fake: &crate::harness::fakes::FakeBin, output: &std::path::Path| {
        let mut dump = dump_with(&cluster, fake.path().join("pg_dump"));
        spawn(dump.stdin(Stdio::null()).stdout(fs::File::create(output).unwrap()))
    };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");

    let fake = fake_bin_dir(Fake::Gated, cluster.bin_dir());
    let mut dump = start(&fake, &output);
    fake.wait_stopped();
    assert_eq!(fake.pids(), [i32::try_from(dump.id()).unwrap()]);
    let half = fs::metadata(&output).unwrap().len();
    assert!(half > 0);
    fake.release();
    assert!(wait_for(&mut dump, "the released dump", PATIENCE).success());
    assert!(fs::metadata(&output).unwrap().len().abs_diff(2 * half) <= 1);
    let list = must(cluster.tool("pg_restore").arg("--list").arg(&output));
    assert!(list.contains("TABLE DATA shop orders"), "{list}");

    // One that hears TERM, and one that does not.
    let fake = fake_bin_dir(Fake::Gated, cluster.bin_dir());
    let mut dump = start(&fake, &output);
    fake.wait_stopped();
    kill_process(Pid::from_child(&dump), Signal::TERM).unwrap();
    assert_eq!(super::harness::process::code_of(wait_for(&mut dump, "TERM", PATIENCE)), 128 + 15);
    let fake = fake_bin_dir(Fake::Deaf, cluster.bin_dir());
    let mut dump = start(&fake, &output);
    fake.wait_stopped();
    kill_process(Pid::from_child(&dump), Signal::TERM).unwrap();
    fake.release();
    assert!(wait_for(&mut dump, "the deaf dump", PATIENCE).success());
}

fn dump_with(cluster: &Cluster, program: std::path::PathBuf) -> Command {
    let mut dump = command(program);
    dump.env("PGHOST", cluster.socket_dir())
        .env("PGPORT", cluster.port().to_string())
        .env("PGUSER", SUPERUSER)
        .args(["-Fc", "-Z0", "-d", APP]);
    dump
}

#[test]
fn a_home_holds_a_private_configuration_that_parses() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::builder().empty().start();
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local("disk")
        .s3_with("offsite", "http://127.0.0.1:1", "bucket", ("key", "secret"), "prefix = \"p\"")
        .dump("nightly", "main", &["*", HOSTILE], &["disk", "offsite"], "");
    let text = fs::read_to_string(home.config_path()).unwrap();
    let parsed: toml::Table = text.parse().unwrap();
    assert_eq!(parsed["job"]["nightly"]["databases"][1].as_str(), Some(HOSTILE));
    assert!(!text.contains("\"secret\""), "{text}");
    for file in [home.config_path(), home.home().join("offsite.secret")] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
#[should_panic(expected = "waited 50ms in vain: the end of")]
fn nothing_is_waited_for_without_a_limit() {
    run_within(command("sleep").arg("60"), "", Duration::from_millis(50));
}
