//! Processes of the server that stand still (SIGSTOP): one backend, or the postmaster and all of them.

use std::time::Duration;

use pgkeep::domain::{failure::Class, report::Verdict};
use rustix::process::{Pid, Signal, kill_process};

use super::{Ran, timed};
use crate::harness::{
    client::Client,
    fakes::{Fake, fake_bin_dir},
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster, HOSTILE},
    wait::{PATIENCE, eventually},
};

/// What a cancelled run may take: the grace of its children (1 s), a statement that is not ended (6 s), the end of
/// a connection (3 s), all but the first in haste, on a machine that is busy.
const CANCELLED: Duration = Duration::from_secs(15);

/// Processes that stand still until this is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn stop(pids: &[i32]) -> Self {
        let pids: Vec<Pid> = pids.iter().map(|pid| Pid::from_raw(*pid).unwrap()).collect();
        for pid in &pids {
            kill_process(*pid, Signal::STOP).unwrap();
        }
        Self(pids)
    }

    /// The postmaster, and all of its children.
    fn server(cluster: &Cluster) -> Self {
        let file = std::fs::read_to_string(cluster.data_dir().join("postmaster.pid")).unwrap();
        let postmaster: i32 = file.lines().next().unwrap().parse().unwrap();
        let children = format!("/proc/{postmaster}/task/{postmaster}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let mut pids = vec![postmaster];
        pids.extend(children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
        Self::stop(&pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            kill_process(*pid, Signal::CONT).ok();
        }
    }
}

/// Backends of pgkeep's, by what they do.
fn backends(cluster: &Cluster, condition: &str) -> Vec<i32> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgkeep%' AND {condition}"
    );
    eventually(condition, PATIENCE, || {
        let pids: Vec<i32> =
            cluster.psql("postgres", &sql).lines().map(|pid| pid.parse().unwrap()).collect();
        (!pids.is_empty()).then_some(pids)
    })
}

fn server(name: &str, cluster: &Cluster, bin_dir: &std::path::Path) -> String {
    format!(
        "[server.{name}]\nhost = {}\nport = {}\nuser = \"pgkeep\"\nmaintenance_user = \"postgres\"\n\
         bin_dir = {}\nconnect_timeout = \"2s\"\nanswer_timeout = \"1s\"",
        quote(cluster.socket_dir().to_string_lossy()),
        cluster.port(),
        quote(bin_dir.to_string_lossy())
    )
}

/// A dump that stands in the middle on one server, beside another server that works.
fn dumping(kind: Fake) -> (Cluster, Cluster, Pgkeep, crate::harness::fakes::FakeBin) {
    let (bad, good) = (Cluster::start(), Cluster::start());
    let fake = fake_bin_dir(kind, bad.bin_dir());
    let once = "attempts = 1\nglobals = false\nworkers = 1";
    let home = Pgkeep::with_daemon("grace = \"1s\"")
        .hasty()
        .toml(&server("bad", &bad, &fake.path()))
        .toml(&server("good", &good, good.bin_dir()))
        .local("disk")
        .dump("nightly", "bad", &[APP], &["disk"], once)
        .dump("other", "good", &[HOSTILE], &["disk"], once);
    (bad, good, home, fake)
}

fn within<T>(limit: Duration, what: &str, act: impl FnOnce() -> T) -> T {
    let (result, took) = timed(act);
    eprintln!("{what}: {took:?}");
    assert!(took < limit, "{what} took {took:?}, more than {limit:?}");
    result
}

#[test]
fn a_dump_from_a_server_that_stands_still_is_cancelled_and_ended() {
    let (bad, _good, home, fake) = dumping(Fake::Midway);
    let mut daemon = home.ready_daemon();
    // By `cancel`, while another server's dump goes on.
    let running = Client::start(&home, &["run", "nightly", "--json"]);
    fake.wait_stopped();
    let stopped = Stopped::server(&bad);
    home.run(&["run", "other"]).expect_code(0);
    let ended = within(CANCELLED, "cancel", || {
        home.run(&["cancel", "nightly"]).expect_code(0);
        running.end()
    });
    assert_eq!(Ran::of(&ended).verdict, Verdict::Cancelled);
    drop(stopped);
    // By SIGTERM.
    let running = Client::start(&home, &["run", "nightly", "--json"]);
    backends(&bad, "datname = 'app' AND state = 'idle in transaction'");
    let _stopped = Stopped::server(&bad);
    within(CANCELLED, "SIGTERM", || {
        daemon.sigterm();
        assert_eq!(daemon.wait_exit(), 0);
    });
    drop(running);
    let listed = home.run(&["list", "--json"]).expect_code(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed:#}");
    assert_eq!(listed[0]["server"], "good");
    daemon.assert_log_clean(&["verdict=cancelled", "a statement cannot be cancelled"]);
}

#[test]
fn a_dump_whose_snapshot_falls_silent_before_the_first_byte_fails_by_itself() {
    let (bad, _good, home, fake) = dumping(Fake::Late);
    let running = Client::start(&home, &["run", "nightly", "--json"]);
    fake.wait_stopped();
    let _stopped =
        Stopped::stop(&backends(&bad, "datname = 'app' AND state = 'idle in transaction'"));
    let ran = Ran::of(&running.end().expect_code(1));
    let failure = ran.failed(Class::Connection);
    assert!(failure.what.contains("has not answered"), "{failure:#?}");
    assert!(failure.hint.as_ref().unwrap().contains("answer_timeout"), "{failure:#?}");
    home.run(&["list", "--json"]).expect_code(5);
}

/// The server answers all the time, and what lies between it and pg_dump does not pass it on.
#[test]
fn pg_dump_that_never_hears_its_server_is_stalled() {
    use crate::harness::freeze::{Framing, Freeze, Harm, Place};

    let cluster = Cluster::start();
    let name = format!(".s.PGSQL.{}", cluster.port());
    let place = || Place::Unix(cluster.socket_dir().join(&name));
    // As far as pg_dump's first question behind its login.
    let proxy = Freeze::unix(&name, place(), Framing::Postgres, 6, Harm::One);
    let bin = fake_bin_dir(Fake::Silent, cluster.bin_dir());
    let real = cluster.bin_dir().join("pg_dump");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) exec {real} --version ;; esac\n\
         PGHOST={folder} exec {real} \"$@\"\n",
        real = real.display(),
        folder = proxy.folder().display()
    );
    std::fs::write(bin.path().join("pg_dump"), script).unwrap();
    let home = Pgkeep::new()
        .hasty()
        .toml(&server("main", &cluster, &bin.path()))
        .local("disk")
        .dump("nightly", "main", &[APP], &["disk"], "attempts = 1\nglobals = false");
    let ran = Ran::of(&home.run(&["run", "nightly", "--json"]).expect_code(1));
    let failure = ran.failed(Class::Stalled);
    assert!(failure.what.contains("the server has waited for pg_dump"), "{failure:#?}");
    assert!(proxy.is_frozen());
    home.run(&["list", "--json"]).expect_code(5);
}

#[test]
fn vacuum_on_a_server_that_stands_still_ends_by_itself_and_when_it_is_cancelled() {
    stands_still("vacuum", "tables = [\"shop.orders\"]\nmode = \"full\"", "VACUUM");
}

#[test]
fn reindex_on_a_server_that_stands_still_ends_by_itself_and_when_it_is_cancelled() {
    stands_still("reindex", "indexes = [\"shop.orders_pkey\"]\nconcurrently = false", "REINDEX");
}

/// They may take their time, but not longer than the server is there.
fn stands_still(kind: &str, lines: &str, statement: &str) {
    let cluster = Cluster::start();
    let home = Pgkeep::with_daemon("grace = \"1s\"")
        .hasty()
        .toml(&server("main", &cluster, cluster.bin_dir()))
        .toml(&format!(
            "[job.tidy]\nkind = \"{kind}\"\nserver = \"main\"\nattempts = 1\n\
             databases = [\"app\"]\nlock_timeout = \"5m\"\n{lines}"
        ));
    for cancels in [true, false] {
        let mut holder = cluster.tool("psql");
        let holds = "BEGIN; LOCK TABLE shop.orders IN ROW EXCLUSIVE MODE; SELECT pg_sleep(600)";
        holder.args(["-Xqc", holds, "-d", APP]);
        let mut holder = crate::harness::process::spawn(&mut holder);
        let held = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        eventually("a lock", PATIENCE, || (cluster.psql("postgres", held) == "1").then_some(()));
        let running = Client::start(&home, &["run", "tidy", "--json"]);
        let ours = format!("query LIKE '{statement}%' AND wait_event_type = 'Lock'");
        backends(&cluster, &ours);
        let stopped = Stopped::server(&cluster);
        if cancels {
            let ended = within(CANCELLED, kind, || {
                running.signal(Signal::INT);
                running.end()
            });
            assert_eq!(Ran::of(&ended.expect_code(130)).verdict, Verdict::Cancelled);
        } else {
            let ran = Ran::of(&running.end().expect_code(1));
            ran.failed(Class::Connection);
        }
        drop(stopped);
        holder.kill().unwrap();
        holder.wait().unwrap();
        let gone = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                    OR application_name LIKE 'pgkeep%'";
        cluster.psql(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'app'",
        );
        eventually("a free server", PATIENCE, || {
            (cluster.psql("postgres", gone) == "0").then_some(())
        });
    }
}
