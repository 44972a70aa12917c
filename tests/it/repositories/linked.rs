//! Folders of a local repository that are symbolic links.

use std::os::unix::fs::symlink;

use super::{DISK, Setup};
use crate::harness::process::must;

fn shift(from: &std::path::Path, to: &std::path::Path) {
    must(std::process::Command::new("mv").arg("--no-target-directory").arg(from).arg(to));
}

/// A dump that was stored behind it would be listed, pruned and counted by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_series_folder_that_is_a_link_takes_no_backup_until_it_is_back() {
    let bench = Setup::default().start().await;
    let mut daemon = bench.home.ready_daemon();
    bench.run().expect_code(0);
    let backup = bench.folder(&bench.listed(DISK)[0]);
    let series = backup.parent().unwrap();
    let moved = bench.home.home().join("moved");
    shift(series, &moved);
    symlink(&moved, series).unwrap();
    let trouble = bench.run_partial(&daemon, DISK);
    trouble.expect("repository-refused", "is a symbolic link", "mount --bind");
    daemon.wait_log("a symbolic link is not followed");
    std::fs::remove_file(series).unwrap();
    shift(&moved, series);
    bench.run().expect_code(0);
    bench.assert_all_restore(DISK, 2);
    daemon.stop();
}
