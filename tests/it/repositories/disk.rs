//! The local repository's filesystem: full, about to be, read-only, missing, not mounted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{CLOUD, DISK, EMPTY, OnDrop, PARTIAL_LOG, Setup};
use crate::harness::process::{command, must, run};

/// A filesystem in memory; gone when dropped.
#[derive(Debug)]
struct Mounted(PathBuf);

impl Mounted {
    /// Mounts one of so many MiB. None, and it says so, where that may not be done here.
    fn new(path: &Path, mebibytes: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root may mount the small filesystem that this test fills");
            return None;
        }
        let size = format!("size={mebibytes}m,mode=0700");
        let mut mount = command("mount");
        let output = run(mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path), "");
        if output.code != 0 {
            eprintln!("SKIPPED: no filesystem can be mounted here: {}", output.stderr);
            return None;
        }
        Some(Self(path.to_owned()))
    }

    fn remount(&self, option: &str) {
        must(command("mount").args(["-o", &format!("remount,{option}")]).arg(&self.0));
    }

    /// Bytes that are free.
    fn free(&self) -> u64 {
        let facts = rustix::fs::statvfs(&self.0).unwrap();
        facts.f_bavail * facts.f_frsize
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(command("umount").arg("--lazy").arg(&self.0), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_only_its_own_repository() {
    let setup = Setup { disk: "min_free = \"0B\"", megabytes: 24, ..Setup::default() };
    let bench = setup.start().await;
    let Some(disk) = Mounted::new(&bench.root(DISK), 12) else { return };
    let mut daemon = bench.home.ready_daemon();
    let trouble = bench.run_partial(&daemon, DISK);
    trouble.expect("space", "No space left on device", "Free space");
    assert_eq!(bench.files(DISK), EMPTY, "what was written is removed");
    assert!(disk.free() > 11 << 20);
    bench.assert_all_restore(CLOUD, 1);
    daemon.stop();
    daemon.assert_log_clean(&PARTIAL_LOG);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filesystem_that_would_fall_under_min_free_is_left_alone_in_time() {
    const MIN_FREE: u64 = 30 << 20;
    let setup = Setup { disk: "min_free = \"30MiB\"", megabytes: 36, ..Setup::default() };
    let bench = setup.start().await;
    let Some(disk) = Mounted::new(&bench.root(DISK), 52) else { return };
    let mut daemon = bench.home.ready_daemon();
    let (over, mut least) = (AtomicBool::new(false), u64::MAX);
    let trouble = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                least = least.min(disk.free());
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let _ends = OnDrop(|| over.store(true, Ordering::Relaxed));
        bench.run_partial(&daemon, DISK)
    });
    trouble.expect("space", "less than min_free", "lower min_free");
    assert!(least >= MIN_FREE, "{least} bytes were left");
    assert!(least < 45 << 20, "something was written before it stopped: {least}");
    assert_eq!(bench.files(DISK), EMPTY);
    bench.assert_all_restore(CLOUD, 1);
    daemon.stop();
    daemon.assert_log_clean(&PARTIAL_LOG);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_repository_is_refused_and_what_it_holds_is_still_listed() {
    let bench = Setup::default().start().await;
    let Some(disk) = Mounted::new(&bench.root(DISK), 64) else { return };
    let mut daemon = bench.home.ready_daemon();
    bench.run().expect_code(0);
    disk.remount("ro");
    let trouble = bench.run_partial(&daemon, DISK);
    trouble.expect("repository-refused", "Read-only", "writable");
    bench.assert_all_restore(DISK, 1);
    bench.assert_all_restore(CLOUD, 2);
    disk.remount("rw");
    bench.run().expect_code(0);
    daemon.stop();
    daemon.assert_log_clean(&PARTIAL_LOG);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_folder_is_refused_and_not_made() {
    let bench = Setup::default().start().await;
    let folder = bench.root(DISK);
    fs::remove_dir(&folder).unwrap();
    let mut daemon = bench.home.ready_daemon();
    let trouble = bench.run_partial(&daemon, DISK);
    trouble.expect("repository-refused", "is not there", "make the folder");
    assert!(!folder.exists());
    let listed = bench.home.run(&["list"]).expect_code(4);
    assert!(listed.stderr.contains("[repository-refused]"), "{}", listed.stderr);
    let metrics = daemon.metrics();
    let probe = |name: &str, repository| metrics.value(name, &[("repository", repository)]);
    let success = "pgkeep_repository_last_probe_success_timestamp_seconds";
    assert_eq!(probe(success, DISK), Some(0.0));
    assert_eq!(probe("pgkeep_backup_stored", DISK), None, "what was not measured has no sample");
    bench.assert_all_restore(CLOUD, 1);
    fs::create_dir(&folder).unwrap();
    bench.run().expect_code(0);
    bench.assert_all_restore(DISK, 1);
    daemon.stop();
    let swept = ["cannot list the repository", "cannot sweep the repository"];
    daemon.assert_log_clean(&[&PARTIAL_LOG[..], &swept].concat());
}

/// A filesystem that is not mounted: the folder is there, and empty. The daemon has used the
/// repository before, then knows it only from its state directory.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a rename stands in for a mount")]
async fn a_repository_that_is_not_mounted_is_not_begun_anew() {
    let bench = Setup::default().start().await;
    let folder = bench.root(DISK);
    let away = folder.with_extension("away");
    let mut daemon = bench.home.ready_daemon();
    bench.run().expect_code(0);
    fs::rename(&folder, &away).unwrap();
    fs::create_dir(&folder).unwrap();
    let told = "it was here before and is gone";
    bench.run_partial(&daemon, DISK).expect("repository-refused", told, "mounted");
    assert!(bench.files(DISK).is_empty(), "nothing is written below the mount point");
    daemon.stop();
    let swept = ["cannot list the repository", "cannot sweep the repository"];
    daemon.assert_log_clean(&[&PARTIAL_LOG[..], &swept].concat());

    let mut daemon = bench.home.ready_daemon();
    bench.run_partial(&daemon, DISK).expect("repository-refused", told, "mounted");
    assert!(bench.files(DISK).is_empty());
    fs::remove_dir(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    bench.run().expect_code(0);
    bench.assert_all_restore(DISK, 2);
    bench.assert_all_restore(CLOUD, 4);
    daemon.stop();
}
