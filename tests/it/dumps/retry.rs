//! Second attempts: only what failed, and never the same database read twice for one backup.

use std::collections::BTreeSet;

use pgkeep::domain::{failure::Class, report::Verdict};

use super::{
    Bucket, DISK, OFFSITE, Running, assert_listed, bin_dir, disk, last_run_failed, run_job, status,
    stop_after_failures, volumes::noisy,
};
use crate::harness::{
    chaos::Fault,
    fakes::{Fake, FakeBin, fake_bin_dir},
    pgkeep::{Daemon, Pgkeep},
    postgres::{APP, Cluster, HOSTILE},
    s3::{ACCESS_KEY, BUCKET, SECRET_KEY},
};

/// Tried again soon.
pub(super) const SOON: &str = "attempts = 3\nretry_backoff = \"1s\"\nglobals = false\nworkers = 1";

/// The real pg_dump, but counted.
pub(super) fn counted(cluster: &Cluster) -> FakeBin {
    let fake = fake_bin_dir(Fake::Gated, cluster.bin_dir());
    fake.release();
    fake
}

#[test]
fn dump_tries_again_only_what_failed() {
    let cluster = Cluster::start();
    let fake = fake_bin_dir(Fake::FailsOnce, cluster.bin_dir());
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path())).local(DISK).dump(
        "nightly",
        "main",
        &[APP, HOSTILE],
        &[DISK],
        SOON,
    );
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "nightly", 0);
    assert_eq!(ran.verdict, Verdict::Succeeded);
    // app, which failed; the hostile one; app again.
    assert_eq!(fake.starts(), 3);
    let last = status(&home, "nightly").last.unwrap();
    assert_eq!((last.attempts, last.verdict), (2, Verdict::Succeeded));
    let metrics = daemon.metrics();
    let of = |name: &str| metrics.value(name, &[("job_name", "nightly")]);
    assert_eq!(of("pgkeep_job_retries_total"), Some(1.0));
    assert!(!last_run_failed(&metrics, "nightly"));
    let succeeded = [("job_name", "nightly"), ("state", "succeeded")];
    assert_eq!(metrics.value("pgkeep_job_last_targets", &succeeded), Some(2.0));
    let expected = [format!("{APP} -> {DISK}"), format!("{HOSTILE} -> {DISK}")];
    assert_listed(&home, &cluster, &disk(&home), &expected.each_ref().map(|name| &**name));
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_gives_up_after_its_attempts() {
    let cluster = Cluster::start();
    let fake = fake_bin_dir(Fake::FailsAtOnce, cluster.bin_dir());
    let lines = "attempts = 2\nretry_backoff = \"1s\"\nglobals = false";
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path())).local(DISK).dump(
        "nightly",
        "main",
        &[APP],
        &[DISK],
        lines,
    );
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "nightly", 1);
    ran.failed(APP, DISK, Class::Connection);
    assert_eq!(fake.starts(), 2);
    assert_eq!(status(&home, "nightly").last.unwrap().attempts, 2);
    assert_listed(&home, &cluster, &disk(&home), &[]);
    stop_after_failures(&mut daemon);
}

/// One dump, two repositories, one of which failed until `heal` was called after the first
/// attempt.
fn is_healed_by_copying(break_it: impl Fn(&Bucket)) {
    let cluster = Cluster::start();
    let bucket = Bucket::start();
    let fake = counted(&cluster);
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path())).local(DISK);
    let home = bucket.configure(home, "");
    let home = home.dump("nightly", "main", &[APP], &[DISK, OFFSITE], SOON);
    let mut daemon = home.ready_daemon();
    break_it(&bucket);
    let running = Running::start(&home, "nightly");
    let line = daemon.wait_log("failed: ");
    assert!(line.contains("class=repository-unavailable"), "{line}");
    bucket.calm();
    let ran = running.end(0);
    assert_healed(&ran, &fake);
    assert!(status(&home, "nightly").last.unwrap().attempts >= 2);
    let roots = [(DISK, home.repository_dir(DISK)), (OFFSITE, bucket.root())];
    let copies = assert_listed(&home, &cluster, &roots, &["app -> disk", "app -> offsite"]);
    let ids: BTreeSet<_> = copies.iter().map(|copy| &copy.manifest.id).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(copies[0].manifest.plain, copies[1].manifest.plain);
    end(&bucket, &mut daemon);
}

fn assert_healed(ran: &super::Ran, fake: &FakeBin) {
    ran.assert_succeeded(APP, DISK);
    ran.assert_succeeded(APP, OFFSITE);
    assert_eq!(fake.starts(), 1, "the database was read again");
}

fn end(bucket: &Bucket, daemon: &mut Daemon) {
    assert!(bucket.server.uploads().is_empty());
    let metrics = daemon.metrics();
    let at = |repository: &str| {
        let labels = [("datname", APP), ("repository", repository)];
        metrics.value("pgkeep_backup_last_success_timestamp_seconds", &labels).unwrap()
    };
    assert!((at(DISK) - at(OFFSITE)).abs() < 0.001, "both are of one snapshot");
    stop_after_failures(daemon);
}

#[test]
fn dump_that_s3_did_not_take_is_healed_by_copying() {
    is_healed_by_copying(|bucket| bucket.chaos.on("PUT", "app.dump", Fault::slow_down()));
}

#[test]
fn dump_that_s3_was_down_for_is_healed_by_copying() {
    is_healed_by_copying(Bucket::refuse);
}

#[test]
fn what_a_second_attempt_reads_is_compared_with_the_last_backup_wherever_that_lies() {
    let cluster = Cluster::builder().empty().start();
    cluster.psql("postgres", "CREATE DATABASE stock");
    cluster.psql("stock", "CREATE TABLE items AS SELECT generate_series(1, 5000) AS i");
    let bucket = Bucket::start();
    // What is encrypted is not copied to where it would be plain: the database is read again.
    let encrypt = format!("encrypt_to = [\"{}\"]", crate::suspicion::RECIPIENT);
    let home = Pgkeep::new().server("main", &cluster).local_with(DISK, &encrypt);
    let home = bucket.configure(home, "");
    let home = home.dump("first", "main", &["stock"], &[DISK], super::ONCE);
    let home = home.dump("nightly", "main", &["stock"], &[DISK, OFFSITE], SOON);
    let mut daemon = home.ready_daemon();
    run_job(&home, "first", 0);
    cluster.psql("stock", "DELETE FROM items WHERE i > 100");
    bucket.refuse();
    let running = Running::start(&home, "nightly");
    daemon.wait_log("failed: ");
    bucket.calm();
    running.end(0).assert_succeeded("stock", OFFSITE);
    let rows = home.run(&["list", "--json"]).json();
    let all = rows.as_array().unwrap().iter();
    let new: Vec<_> = all.filter(|row| row["repository"] == OFFSITE).collect();
    assert!(new.len() == 1 && new[0]["suspicious"] == true, "{rows:#}");
    daemon.stop();
}

#[test]
fn dump_that_no_repository_takes_says_of_each_why() {
    let cluster = noisy();
    let bucket = Bucket::start();
    let home = Pgkeep::new().server("main", &cluster);
    let home =
        bucket.configure(home.local_with(DISK, "min_free = \"900TiB\""), "parallel_parts = 1");
    let home = home.dump("nightly", "main", &["noisy"], &[DISK, OFFSITE], super::ONCE);
    let mut daemon = home.ready_daemon();
    bucket.chaos.on("PUT", "noisy.dump", Fault::slow_down());
    let ran = run_job(&home, "nightly", 1);
    assert!(ran.failed("noisy", DISK, Class::Space).hint.is_some());
    ran.failed("noisy", OFFSITE, Class::RepositoryUnavailable);
    let metrics = daemon.metrics();
    for class in [Class::Space, Class::RepositoryUnavailable] {
        assert_eq!(super::failures(&metrics, "nightly", class), Some(1.0), "{class}");
    }
    bucket.calm();
    let roots = [(DISK, home.repository_dir(DISK)), (OFFSITE, bucket.root())];
    assert_listed(&home, &cluster, &roots, &[]);
    assert!(bucket.server.uploads().is_empty());
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_that_repositories_give_up_in_the_middle_says_of_each_why() {
    let cluster = noisy();
    let bucket = Bucket::start();
    let url = bucket.chaos.url();
    let home = bucket
        .configure(Pgkeep::new().server("main", &cluster), "parallel_parts = 1\nprefix = \"yes\"");
    let home = home.s3_with("denied", &url, BUCKET, (ACCESS_KEY, SECRET_KEY), "prefix = \"no\"");
    let lines = format!("{}\ncompression_level = 1", super::ONCE);
    let home = home.dump("nightly", "main", &["noisy"], &[OFFSITE, "denied"], &lines);
    let mut daemon = home.ready_daemon();
    let denied = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
    bucket.chaos.on("PUT", "no/main", Fault::Answer(403, "", denied.to_owned()));
    bucket.chaos.on("PUT", "noisy.dump", Fault::slow_down());
    let ran = run_job(&home, "nightly", 1);
    ran.failed("noisy", "denied", Class::RepositoryRefused);
    ran.failed("noisy", OFFSITE, Class::RepositoryUnavailable);
    bucket.calm();
    let roots = [(OFFSITE, bucket.root().join("yes")), ("denied", bucket.root().join("no"))];
    assert_listed(&home, &cluster, &roots, &[]);
    stop_after_failures(&mut daemon);
}
