//! The memory budget, whatever the size of the database.

use std::fs;

use super::{CLOUD, DISK, Setup};
use crate::harness::long_tests;

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_goes_through_within_the_memory_budget() {
    const BUDGET_KIB: u64 = 128 << 10;
    if !long_tests() {
        return;
    }
    let setup = Setup { daemon: "memory_budget = \"128MiB\"", megabytes: 800, ..Setup::default() };
    let bench = setup.start().await;
    // To S3 alone, then to both.
    let only = bench.home.config().replace("[\"disk\", \"cloud\"]", "[\"cloud\"]");
    assert_ne!(only, bench.home.config());
    bench.home.rewrite(&only);
    let mut daemon = bench.home.ready_daemon();
    let report = bench.run().expect_code(0).json();
    let plain = &super::target(&report, CLOUD)["figures"]["counts"]["plain_bytes"];
    assert!(plain.as_u64().unwrap() > 1_000_000_000, "{plain}");
    let peak = |daemon: &crate::harness::pgkeep::Daemon| {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let alone = peak(&daemon);
    eprintln!("peak with S3 alone: {} MiB", alone >> 10);
    assert!(alone < BUDGET_KIB, "{alone} KiB");
    bench.assert_all_restore(CLOUD, 1);
    bench.home.rewrite(bench.home.config());
    bench.home.run(&["reload"]).expect_code(0);
    bench.run().expect_code(0);
    let both = peak(&daemon);
    eprintln!("peak with both: {} MiB", both >> 10);
    assert!(both < BUDGET_KIB, "{both} KiB");
    assert_eq!(bench.listed(DISK).len(), 1);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}
