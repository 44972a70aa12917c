//! Bad days at the server: down, refusing, taken away in the middle.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use pgkeep::domain::{failure::Class, report::Verdict};

use super::{
    DISK, ONCE, Running, assert_listed, bin_dir, disk, failures, last_run_failed, run_job, status,
    stop_after_failures,
};
use crate::harness::{
    fakes::{Fake, fake_bin_dir},
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster, HOSTILE, PASSWORD, SUPERUSER},
    process::spawn,
};

/// More than the pipes and sockets between the server and pgkeep hold.
const BIG_SQL: &str = "CREATE TABLE big AS SELECT i, repeat(md5(i::text), 30) AS text \
    FROM generate_series(1, 20000) AS i";

#[test]
fn dump_without_a_server_fails_and_the_other_server_goes_on() {
    let mut down = Cluster::start();
    let up = Cluster::start();
    let home = Pgkeep::new()
        .server("down", &down)
        .server("up", &up)
        .local(DISK)
        .dump("a", "down", &[APP], &[DISK], ONCE)
        .dump("b", "up", &[APP], &[DISK], ONCE);
    down.stop();
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "a", 1);
    assert_eq!(ran.verdict, Verdict::Failed);
    let failure = ran.failed_at_once(Class::Connection);
    assert!(failure.hint.is_some() && failure.doing.contains("down"), "{failure:?}");
    run_job(&home, "b", 0);
    let metrics = daemon.metrics();
    assert_eq!(failures(&metrics, "a", Class::Connection), Some(1.0));
    assert!(last_run_failed(&metrics, "a") && !last_run_failed(&metrics, "b"));
    assert_listed(&home, &up, &disk(&home), &["app -> disk"]);

    down.start_again();
    run_job(&home, "a", 0);
    assert!(!last_run_failed(&daemon.metrics(), "a"));
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_with_a_wrong_password_is_refused_and_shows_no_password() {
    let cluster = Cluster::builder().tcp().start();
    let server = |name: &str, password: &str| {
        let port = cluster.tcp_port().unwrap();
        format!(
            "[server.{name}]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"{SUPERUSER}\"\n\
             password = {}\n{}",
            quote(password),
            bin_dir(cluster.bin_dir())
        )
    };
    let home = Pgkeep::new()
        .toml(&server("wrong", "sesame-open"))
        .toml(&server("right", PASSWORD))
        .local(DISK)
        .dump("a", "wrong", &[APP], &[DISK], ONCE)
        .dump("b", "right", &[APP], &[DISK], ONCE);
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "a", 1);
    let failure = ran.failed_at_once(Class::Authentication);
    assert!(failure.hint.is_some() && failure.what.contains("password"), "{failure:?}");
    // pg_dump gets it as well, and by no way that shows it.
    let good = run_job(&home, "b", 0);
    assert_eq!(failures(&daemon.metrics(), "a", Class::Authentication), Some(1.0));
    let copies = assert_listed(&home, &cluster, &disk(&home), &["app -> disk"]);
    let manifest = serde_json::to_string(&copies[0].manifest).unwrap();
    let (ran, good) = (ran.output.unwrap(), good.output.unwrap());
    for text in [&daemon.log(), &ran.text(), &ran.stderr, &good.text(), &good.stderr, &manifest] {
        assert!(!text.contains("sesame-open") && !text.contains(PASSWORD), "{text}");
    }
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_of_a_table_that_may_not_be_read_fails_and_names_it() {
    let cluster = Cluster::builder().empty().start();
    for name in ["private", "public"] {
        cluster.psql("postgres", &format!("CREATE DATABASE {name}"));
        cluster.psql(name, "CREATE TABLE open AS SELECT generate_series(1, 10) AS i");
    }
    cluster.psql("private", "CREATE TABLE secret AS SELECT 1 AS one");
    cluster.psql("postgres", "CREATE ROLE reader LOGIN");
    for name in ["private", "public"] {
        cluster.psql(name, "GRANT SELECT ON open TO reader");
    }
    let host = quote(cluster.socket_dir().to_string_lossy());
    let server = format!(
        "[server.main]\nhost = {host}\nport = {}\nuser = \"reader\"\n{}",
        cluster.port(),
        bin_dir(cluster.bin_dir())
    );
    let home = Pgkeep::new().toml(&server).local(DISK);
    let home = home.dump("nightly", "main", &["private", "public"], &[DISK], "attempts = 1");
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "nightly", 4);
    let failure = ran.failed("private", DISK, Class::Privilege);
    assert!(failure.what.contains("secret"), "{failure:?}");
    assert!(failure.hint.as_ref().unwrap().contains("SELECT"), "{failure:?}");
    // Password hashes of roles take more rights than a reader has.
    let failure = ran.failed("@globals", DISK, Class::Privilege);
    assert!(failure.what.contains("pg_authid"), "{failure:?}");
    ran.assert_succeeded("public", DISK);
    assert_eq!(failures(&daemon.metrics(), "nightly", Class::Privilege), Some(2.0));
    assert_listed(&home, &cluster, &disk(&home), &["public -> disk"]);

    cluster.psql("private", "GRANT SELECT ON secret TO reader");
    let ran = run_job(&home, "nightly", 4);
    ran.assert_succeeded("private", DISK);
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_under_row_security_fails_and_never_lacks_rows() {
    let cluster = Cluster::builder().empty().start();
    cluster.psql("postgres", "CREATE DATABASE notes");
    cluster.psql("postgres", "CREATE ROLE limited LOGIN IN ROLE pg_read_all_data");
    cluster.psql(
        "notes",
        "CREATE TABLE diary (who name, what text);
         INSERT INTO diary SELECT 'limited', 'mine' UNION ALL SELECT 'other', 'not mine';
         ALTER TABLE diary ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON diary USING (who = current_user)",
    );
    let host = quote(cluster.socket_dir().to_string_lossy());
    let server = format!(
        "[server.main]\nhost = {host}\nport = {}\nuser = \"limited\"\n{}",
        cluster.port(),
        bin_dir(cluster.bin_dir())
    );
    let home = Pgkeep::new().toml(&server).local(DISK);
    let home = home.dump("nightly", "main", &["notes"], &[DISK], ONCE);
    let ran = run_job(&home, "nightly", 1);
    let failure = ran.failed("notes", DISK, Class::Privilege);
    assert!(failure.what.contains("diary"), "{failure:?}");
    assert!(failure.hint.as_ref().unwrap().contains("BYPASSRLS"), "{failure:?}");
    assert_listed(&home, &cluster, &disk(&home), &[]);

    cluster.psql("postgres", "ALTER ROLE limited BYPASSRLS");
    let ran = run_job(&home, "nightly", 0);
    assert_eq!(ran.target("notes", DISK).figures.counts["rows"], 2);
    assert_listed(&home, &cluster, &disk(&home), &["notes -> disk"]);
}

#[test]
fn dump_of_a_database_that_is_dropped_meanwhile_fails_alone() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE doomed");
    cluster.psql("doomed", BIG_SQL);
    let fake = fake_bin_dir(Fake::Midway, cluster.bin_dir());
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path())).local(DISK).dump(
        "nightly",
        "main",
        &["doomed", HOSTILE],
        &[DISK],
        ONCE,
    );
    let mut daemon = home.ready_daemon();
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    cluster.psql("postgres", "DROP DATABASE doomed WITH (FORCE)");
    fake.release();
    let ran = running.end(4);
    let failure = ran.failed("doomed", DISK, Class::Connection);
    assert!(failure.hint.is_some() && failure.doing.contains("doomed"), "{failure:?}");
    ran.assert_succeeded(HOSTILE, DISK);
    assert_eq!(failures(&daemon.metrics(), "nightly", Class::Connection), Some(1.0));
    let survivor = format!("{HOSTILE} -> {DISK}");
    assert_listed(&home, &cluster, &disk(&home), &[&survivor]);

    // Named, and now it is not there.
    let ran = run_job(&home, "nightly", 4);
    ran.failed("doomed", DISK, Class::DatabaseGone);
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_survives_a_restart_of_postgres_by_its_second_attempt() {
    let mut cluster = Cluster::start();
    cluster.psql(APP, BIG_SQL);
    let fake = fake_bin_dir(Fake::Midway, cluster.bin_dir());
    let lines = "attempts = 3\nretry_backoff = \"1s\"\nglobals = false\nworkers = 1";
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path())).local(DISK).dump(
        "nightly",
        "main",
        &[APP],
        &[DISK],
        lines,
    );
    let mut daemon = home.ready_daemon();
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    cluster.stop();
    fake.release();
    let line = daemon.wait_log("failed: ");
    assert!(line.contains("class=connection"), "{line}");
    cluster.start_again();
    let ran = running.end(0);
    ran.assert_succeeded(APP, DISK);
    let last = status(&home, "nightly").last.unwrap();
    assert!(last.attempts >= 2, "{last:?}");
    assert_eq!(last.verdict, Verdict::Succeeded);
    let metrics = daemon.metrics();
    assert!(!last_run_failed(&metrics, "nightly"));
    let retries = metrics.value("pgkeep_job_retries_total", &[("job_name", "nightly")]);
    assert_eq!(retries, Some(f64::from(last.attempts - 1)));
    assert_listed(&home, &cluster, &disk(&home), &["app -> disk"]);
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_that_waits_too_long_for_a_lock_fails_alone() {
    let cluster = Cluster::start();
    let lines = format!("lock_wait_timeout = \"1s\"\n{ONCE}");
    let home = Pgkeep::new().server("main", &cluster).local(DISK).dump(
        "nightly",
        "main",
        &[APP, HOSTILE],
        &[DISK],
        &lines,
    );
    let mut daemon = home.ready_daemon();
    let mut psql = cluster.tool("psql");
    psql.args(["-XqAt", "-d", APP]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = spawn(&mut psql);
    let mut stdin = holder.stdin.take().unwrap();
    let sql = "BEGIN; LOCK TABLE shop.orders IN ACCESS EXCLUSIVE MODE;\n\\echo held\n";
    stdin.write_all(sql.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");

    let ran = run_job(&home, "nightly", 4);
    let failure = ran.failed(APP, DISK, Class::Lock);
    assert!(failure.what.contains("orders"), "{failure:?}");
    assert!(failure.hint.as_ref().unwrap().contains("lock_wait_timeout"), "{failure:?}");
    ran.assert_succeeded(HOSTILE, DISK);
    assert_eq!(failures(&daemon.metrics(), "nightly", Class::Lock), Some(1.0));
    drop(stdin);
    holder.wait().unwrap();
    let survivor = format!("{HOSTILE} -> {DISK}");
    assert_listed(&home, &cluster, &disk(&home), &[&survivor]);
    run_job(&home, "nightly", 0);
    stop_after_failures(&mut daemon);
}
