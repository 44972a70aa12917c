//! What a dump does to others: who waits behind its locks is seen, told and, by policy, let through.

use std::process::{Child, Command, Stdio};

use jiff::tz::TimeZone;
use pgkeep::{
    domain::{failure::Class, finding::Finding, report::Verdict},
    sys::clock::{Clock as _, SystemClock},
};

use super::{
    DISK, ONCE, Ran, Running, assert_gone, assert_listed, bin_dir, disk, failures, status,
    stop_after_failures, whole_status,
};
use crate::harness::{
    fakes::{Fake, FakeBin, fake_bin_dir},
    pgkeep::Pgkeep,
    postgres::{APP, Cluster, SUPERUSER},
    process::{spawn, wait_for},
    wait::{PATIENCE, eventually},
};

/// More than the pipes and sockets between the server and pgkeep hold.
const BIG_SQL: &str = "CREATE TABLE big AS SELECT i, repeat(md5(i::text), 30) AS text \
    FROM generate_series(1, 20000) AS i";
/// Takes ACCESS EXCLUSIVE and changes nothing.
const ALTER: &str = "ALTER TABLE big ALTER i DROP DEFAULT /* 'secret' */";

/// A psql under way; killed when dropped.
struct Psql(Child);

impl Psql {
    fn start(cluster: &Cluster, sql: &str) -> Self {
        let mut psql: Command = cluster.tool("psql");
        psql.args(["-XqAt", "-d", APP, "-c", sql]).env("PGAPPNAME", "deploy");
        psql.stdin(Stdio::null()).stdout(Stdio::null());
        Self(spawn(&mut psql))
    }

    fn wait(&mut self) {
        assert!(wait_for(&mut self.0, "the end of a psql", PATIENCE).success());
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A dump that is held in the middle of its work.
fn midway(lines: &str) -> (Cluster, FakeBin, Pgkeep) {
    let cluster = Cluster::start();
    cluster.psql(APP, BIG_SQL);
    let fake = fake_bin_dir(Fake::Midway, cluster.bin_dir());
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path())).local(DISK).dump(
        "nightly",
        "main",
        &[APP],
        &[DISK],
        lines,
    );
    (cluster, fake, home)
}

/// Waits until `status` says so of the run under way.
fn wait_stage(home: &Pgkeep, text: &str) -> String {
    eventually(&format!("a stage with {text:?}"), PATIENCE, || {
        let running = whole_status(home).running;
        running.into_iter().map(|run| run.stage).find(|stage| stage.contains(text))
    })
}

fn finding<'a>(ran: &'a Ran, check: &str) -> Option<&'a Finding> {
    ran.report.findings.iter().find(|finding| finding.check == check)
}

fn wait_for_lock(cluster: &Cluster, count: u32) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'deploy' \
               AND wait_event_type = 'Lock'";
    eventually("sessions that wait for a lock", PATIENCE, || {
        (cluster.psql("postgres", sql) == count.to_string()).then_some(())
    });
}

#[test]
fn dump_tells_who_waits_behind_its_locks() {
    let (cluster, fake, home) = midway(ONCE);
    let mut daemon = home.ready_daemon();
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    let mut alter = Psql::start(&cluster, ALTER);
    wait_for_lock(&cluster, 1);
    // Behind the ALTER TABLE, and so behind the dump.
    let mut select = Psql::start(&cluster, "SELECT 'secret', count(*) FROM big");
    wait_for_lock(&cluster, 2);
    let stage = wait_stage(&home, "2 sessions wait behind it");
    assert!(stage.starts_with("dump app ("), "{stage}");
    fake.release();
    let ran = running.end(0);
    alter.wait();
    select.wait();
    let found = &finding(&ran, "sessions-blocked").expect("a finding").what;
    for text in [
        "2 sessions waited",
        "ALTER TABLE big ALTER (process",
        &format!("role {SUPERUSER}, deploy"),
        "AccessExclusiveLock on public.big",
        "SELECT (process",
    ] {
        assert!(found.contains(text), "{text}: {found}");
    }
    assert!(!found.contains("secret"), "{found}");
    let metrics = daemon.metrics();
    let value = |name: &str| metrics.value(name, &[("server", "main"), ("datname", APP)]);
    assert_eq!(value("pgkeep_backup_last_blocked_sessions"), Some(2.0));
    assert!(value("pgkeep_backup_last_blocked_seconds").unwrap() > 0.0);
    assert!(value("pgkeep_backup_last_snapshot_seconds").unwrap() > 0.0);
    assert_listed(&home, &cluster, &disk(&home), &["app -> disk"]);

    // The next one is in nobody's way.
    super::run_job(&home, "nightly", 0);
    let metrics = daemon.metrics();
    let labels = [("server", "main"), ("datname", APP)];
    assert_eq!(metrics.value("pgkeep_backup_last_blocked_sessions", &labels), Some(0.0));
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn dump_gives_way_and_is_tried_again() {
    let lines = "when_blocking = \"cancel-after 1s\"\nattempts = 2\nretry_backoff = \"1s\"\n\
                 globals = false\nworkers = 1";
    let (cluster, fake, home) = midway(lines);
    let mut daemon = home.ready_daemon();
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    let mut alter = Psql::start(&cluster, ALTER);
    // It gets through while the dump has never been let go on.
    alter.wait();
    assert_gone(fake.pids()[0]);
    let line = daemon.wait_log("failed: ");
    assert!(line.contains("class=lock") && line.contains("it gave way"), "{line}");
    assert!(line.contains("ALTER TABLE big ALTER") && !line.contains("secret"), "{line}");
    fake.release();
    let ran = running.end(0);
    assert_eq!(ran.verdict, Verdict::Succeeded);
    assert_eq!(status(&home, "nightly").last.unwrap().attempts, 2);
    let metrics = daemon.metrics();
    let labels = [("server", "main"), ("datname", APP)];
    let blocked = metrics.value("pgkeep_backup_last_blocked_seconds", &labels);
    assert!(blocked.unwrap() >= 1.0, "the longest wait of the run, not of its last attempt");
    assert_eq!(failures(&metrics, "nightly", Class::Lock), None, "it succeeded after all");
    assert_listed(&home, &cluster, &disk(&home), &["app -> disk"]);
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_that_gave_way_leaves_nothing_and_says_who_waited() {
    let lines = format!("when_blocking = \"cancel-after 1s\"\n{ONCE}");
    let (cluster, fake, home) = midway(&lines);
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    let mut alter = Psql::start(&cluster, ALTER);
    let ran = running.end(1);
    alter.wait();
    let failure = ran.failed(APP, DISK, Class::Lock);
    assert!(failure.what.contains("on public.big") && failure.hint.is_some(), "{failure:?}");
    assert!(finding(&ran, "sessions-blocked").is_some());
    assert_listed(&home, &cluster, &disk(&home), &[]);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgkeep%'";
    eventually("a server without our sessions", PATIENCE, || {
        (cluster.psql("postgres", sql) == "0").then_some(())
    });
}

#[test]
fn dump_tells_how_much_of_the_horizon_it_holds_back() {
    let (cluster, fake, home) = midway(&format!("max_xmin_age = 20\n{ONCE}"));
    let mut daemon = home.ready_daemon();
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    cluster.psql(APP, &"SELECT txid_current();\n".repeat(30));
    wait_stage(&home, "xmin 3");
    fake.release();
    let ran = running.end(0);
    let found = &finding(&ran, "xmin-age").expect("a finding").what;
    assert!(found.contains("more than 20"), "{found}");
    let labels = [("server", "main"), ("datname", APP)];
    let age = daemon.metrics().value("pgkeep_backup_last_xmin_age_transactions", &labels);
    assert!((30.0..40.0).contains(&age.unwrap()), "{age:?}");
    daemon.stop();
    daemon.assert_log_clean(&["xmin-age"]);
}

#[test]
fn dump_that_gets_no_lock_says_who_has_it() {
    let cluster = Cluster::start();
    let lines = format!("lock_wait_timeout = \"3s\"\n{ONCE}");
    let home = Pgkeep::new().server("main", &cluster).local(DISK).dump(
        "nightly",
        "main",
        &[APP],
        &[DISK],
        &lines,
    );
    let _holder = Psql::start(&cluster, "LOCK TABLE shop.orders; SELECT pg_sleep(600), 'secret'");
    wait_for_sleep(&cluster);
    let ran = super::run_job(&home, "nightly", 1);
    let failure = ran.failed(APP, DISK, Class::Lock);
    for text in
        ["the lock on shop.orders was held", "role postgres, deploy", "LOCK TABLE shop.orders"]
    {
        assert!(failure.what.contains(text), "{text}: {failure:?}");
    }
    assert!(!failure.what.contains("secret"), "{failure:?}");
    assert!(failure.hint.as_ref().unwrap().contains("lock_wait_timeout"), "{failure:?}");
}

/// Every limit that a role can have, far too short, and the worst defaults for transactions.
const HASTY: &str = "CREATE ROLE hasty SUPERUSER LOGIN;
    ALTER ROLE hasty SET statement_timeout = '1ms';
    ALTER ROLE hasty SET lock_timeout = '1ms';
    ALTER ROLE hasty SET idle_in_transaction_session_timeout = '1ms';
    ALTER ROLE hasty SET default_transaction_isolation = 'serializable';
    ALTER ROLE hasty SET default_transaction_deferrable = on;
    ALTER ROLE hasty SET default_transaction_read_only = on;
    SELECT format('ALTER ROLE hasty SET %I = %L', name, '1ms') FROM pg_settings
      WHERE name IN ('idle_session_timeout', 'transaction_timeout') \\gexec";

#[test]
fn dump_is_not_ended_by_the_limits_of_its_role() {
    let cluster = Cluster::start();
    cluster.psql(APP, BIG_SQL);
    cluster.psql("postgres", HASTY);
    // Serializable transactions that write, so that a deferrable one would wait.
    let _busy = Psql::start(&cluster, SERIALIZABLE);
    wait_for_sleep(&cluster);
    let fake = fake_bin_dir(Fake::Midway, cluster.bin_dir());
    let host = crate::harness::pgkeep::quote(cluster.socket_dir().to_string_lossy());
    let server = format!(
        "[server.main]\nhost = {host}\nport = {}\nuser = \"hasty\"\noptions = \"-c work_mem=5MB\"\n{}",
        cluster.port(),
        bin_dir(fake.path())
    );
    let home = Pgkeep::new().toml(&server).local(DISK).dump(
        "nightly",
        "main",
        &[APP],
        &[DISK],
        "attempts = 1\nlock_wait_timeout = \"10s\"",
    );
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    // Both sessions outlive their limits a thousand times, and have what is configured.
    let old = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgkeep%' \
               AND datname = 'app' AND xact_start < clock_timestamp() - interval '1 s'";
    eventually("old transactions", PATIENCE, || {
        (cluster.psql("postgres", old) == "2").then_some(())
    });
    fake.release();
    running.end(0);
    assert_listed(&home, &cluster, &disk(&home), &["@globals -> disk", "app -> disk"]);
}

const SERIALIZABLE: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM shop.orders; \
                            SELECT pg_sleep(600)";

fn wait_for_sleep(cluster: &Cluster) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually("a session that sleeps", PATIENCE, || {
        (cluster.psql("postgres", sql) == "1").then_some(())
    });
}

#[test]
fn dump_waits_for_a_safe_snapshot_and_says_why_there_is_none() {
    let cluster = Cluster::start();
    let lines = format!("deferrable = true\ndeferrable_timeout = \"1s\"\n{ONCE}");
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local(DISK)
        .dump("hasty", "main", &[APP], &[DISK], &lines)
        .dump("patient", "main", &[APP], &[DISK], &format!("deferrable = true\n{ONCE}"));
    let mut daemon = home.ready_daemon();
    let busy = Psql::start(&cluster, SERIALIZABLE);
    wait_for_sleep(&cluster);
    let ran = super::run_job(&home, "hasty", 1);
    let failure = ran.failed(APP, DISK, Class::Lock);
    assert!(failure.what.contains("no safe snapshot within 1s"), "{failure:?}");
    assert!(failure.hint.as_ref().unwrap().contains("deferrable_timeout"), "{failure:?}");
    assert_listed(&home, &cluster, &disk(&home), &[]);

    let running = Running::start(&home, "patient");
    wait_stage(&home, "waits for a safe snapshot");
    cluster.psql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                              WHERE wait_event = 'PgSleep'",
    );
    running.end(0);
    drop(busy);
    assert_listed(&home, &cluster, &disk(&home), &["app -> disk"]);
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_in_a_blackout_starts_only_by_hand() {
    let cluster = Cluster::start();
    // Every day but the one after tomorrow.
    let free = SystemClock::new().now().wall.to_zoned(TimeZone::UTC).date();
    let free = free.tomorrow().unwrap().tomorrow().unwrap().strftime("%a").to_string();
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let dark: Vec<&str> = days.into_iter().filter(|day| !day.eq_ignore_ascii_case(&free)).collect();
    let job = format!(
        "[job.nightly]\nkind = \"dump\"\nserver = \"main\"\ndatabases = [\"app\"]\n\
         repositories = [\"disk\"]\nschedule = \"* * * * *\"\ntimezone = \"UTC\"\n\
         blackout = [\"{} 00:00-24:00\"]\n{ONCE}",
        dark.join(",")
    );
    let home = Pgkeep::new().server("main", &cluster).local(DISK).toml(&job);
    let runs =
        home.run(&["schedule", "next", "nightly", "-n", "2", "--json"]).expect_code(0).json();
    assert_eq!(
        (&runs[0]["blackout"], &runs[1]["blackout"]),
        (&true.into(), &serde_json::Value::Null)
    );
    let at = runs[0]["at"].as_str().unwrap();
    assert!(at.ends_with("T00:00:00Z"), "{runs:#}");
    assert!(home.run(&["schedule", "next"]).text().contains("(after its blackout)"));

    let mut daemon = home.ready_daemon();
    let line = status(&home, "nightly");
    assert_eq!(line.detail, Some(format!("blackout until {at}")));
    assert_eq!(line.next.unwrap().to_string(), at);
    // The default: a minute, the stretch of six days, and a quarter.
    let max_age = daemon.metrics().value("pgkeep_job_max_age_seconds", &[("job_name", "nightly")]);
    assert!(max_age.unwrap() > 6.0 * 86_400.0, "{max_age:?}");
    super::run_job(&home, "nightly", 0).assert_succeeded(APP, DISK);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn options_of_courtesy_are_refused_with_what_to_write() {
    let cluster = Cluster::builder().empty().start();
    for (lines, texts) in [
        ("when_blocking = \"cancel-after 30\"", ["needs a unit", "30s"]),
        ("when_blocking = \"cancel\"", ["not known", "cancel-after 30s"]),
        ("max_xmin_age = 0", ["max_xmin_age", "1"]),
        ("only_on = \"replica\"", ["only_on", "standby"]),
        ("max_replay_lag = 5", ["max_replay_lag", "5s"]),
        (
            "blackout = [\"mon-fri 08:00-18:00\", \"8:00-9:00\"]",
            ["\"8:00\" is not a time", "08:00"],
        ),
        ("blackout = [\"00:00-24:00\"]", ["whole week", "enabled = false"]),
        ("blackout = \"08:00-18:00\"", ["must be a list", "brackets"]),
        ("deferrable_timeout = \"1m\"\nx = 1", ["deferrable = true", "x"]),
    ] {
        let home = Pgkeep::new().server("main", &cluster).local(DISK);
        let home = home.dump("nightly", "main", &[APP], &[DISK], lines);
        let output = home.run(&["check-config"]).expect_code(3);
        let said = format!("{}{}", output.text(), output.stderr);
        assert!(texts.iter().all(|text| said.contains(text)), "{lines}: {said}");
    }
    let slow = |rate: &str| format!("min_free = \"1MiB\"\nmax_upload_rate = \"{rate}\"");
    let home = Pgkeep::new().local_with(DISK, &slow("20MiB"));
    let output = home.run(&["check-config"]).expect_code(3);
    let said = format!("{}{}", output.text(), output.stderr);
    assert!(said.contains("per second") && said.contains("20MiB/s"), "{said}");
}

#[test]
fn dump_goes_no_faster_than_its_repository_may() {
    let cluster = super::volumes::noisy();
    let slow = "min_free = \"1MiB\"\nmax_upload_rate = \"6MiB/s\"";
    // A part takes longer than the stall limit.
    let lines = format!("stall_timeout = \"1s\"\n{ONCE}");
    let home = Pgkeep::new().server("main", &cluster).local_with(DISK, slow);
    let home = home.dump("nightly", "main", &["noisy"], &[DISK], &lines);
    let ran = super::run_job(&home, "nightly", 0);
    let counts = &ran.target("noisy", DISK).figures.counts;
    // The first part goes at once.
    let least = (counts["stored_bytes"] - (8 << 20)) * 1000 / (6 << 20);
    let took = counts["milliseconds"];
    assert!(took >= least, "{took} ms for what may go in {least} ms");
    assert_listed(&home, &cluster, &disk(&home), &["noisy -> disk"]);
}

#[test]
fn dump_names_the_prepared_transaction_that_it_waits_for() {
    let cluster = Cluster::builder().setting("max_prepared_transactions", "2").start();
    cluster.psql(APP, "BEGIN; LOCK TABLE shop.orders; PREPARE TRANSACTION 'left over'");
    let lines = format!("lock_wait_timeout = \"3s\"\n{ONCE}");
    let home = Pgkeep::new().server("main", &cluster).local(DISK).dump(
        "nightly",
        "main",
        &[APP],
        &[DISK],
        &lines,
    );
    let ran = super::run_job(&home, "nightly", 1);
    let failure = ran.failed(APP, DISK, Class::Lock);
    let named = "the lock on shop.orders was held or asked for before by a prepared transaction \
                 (role postgres, left over), its transaction open since";
    assert!(failure.what.contains(named), "{failure:?}");
}
