#!/bin/sh
# tokio-cron-scheduler keeps the offset of the first day for a job in a time zone.
#
# Guess:    a job at 04:30 in Europe/Berlin runs at 04:30 there, summer and winter.
# Seen:     the first run is computed in the zone. For all that follow the crate keeps the offset that the zone
#           had when the job was made. In the night in which summer time ends the job's next run is 03:30, and
#           so it stays until the process makes the job anew.
# Version:  tokio-cron-scheduler 0.15.1, chrono-tz 0.10.4; the clock comes from libfaketime (Debian).
# Output:   first 2026-10-24 04:30:00 +02:00, ran, next 2026-10-25 03:30:00 +01:00
# Matters:  a nightly backup moves by an hour twice a year, out of its maintenance window, and only in daemons that
#           run long; a restart cures it, so that nobody finds it. Compute the next run in the zone each time.
# Source:   own runs; mvniekerk/tokio-cron-scheduler#87 and #107, and its open pull request #100.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"

need cargo apt-get dpkg-deb
# Of this system's release: it is loaded into a program that was built here.
(cd "$work" && apt-get -q download libfaketime >/dev/null 2>&1) || skip "libfaketime is not to be had"
dpkg-deb -x "$work"/libfaketime_*.deb "$work/faketime"
library=$(find "$work/faketime" -name libfaketimeMT.so.1)

cargo_project "$work/job" 'tokio-cron-scheduler = "=0.15.1"
tokio = { version = "=1.54.1", features = ["rt-multi-thread", "macros", "time"] }
chrono = "=0.4.45"
chrono-tz = "=0.10.4"' <<'RUST'
use chrono_tz::Europe::Berlin;
use std::time::Duration;
use tokio_cron_scheduler::{Job, JobScheduler};

#[tokio::main]
async fn main() {
    let mut scheduler = JobScheduler::new().await.unwrap();
    let (ran, mut runs) = tokio::sync::mpsc::unbounded_channel();
    let job = Job::new_async_tz("0 30 4 * * *", Berlin, move |_, _| {
        let ran = ran.clone();
        Box::pin(async move { ran.send(()).unwrap() })
    })
    .unwrap();
    let id = scheduler.add(job).await.unwrap();
    let first = scheduler.next_tick_for_job(id).await.unwrap().unwrap();
    println!("first {}", first.with_timezone(&Berlin).format("%F %T %:z"));
    scheduler.start().await.unwrap();
    runs.recv().await.unwrap();
    let mut next = first;
    while next == first {
        tokio::time::sleep(Duration::from_millis(100)).await;
        next = scheduler.next_tick_for_job(id).await.unwrap().unwrap();
    }
    println!("next {}", next.with_timezone(&Berlin).format("%F %T %:z"));
}
RUST

# Two seconds before the run, in the last night of summer time.
LD_PRELOAD=$library FAKETIME='@2026-10-24 02:29:58' FAKETIME_DONT_FAKE_MONOTONIC=1 TZ=UTC \
    timeout 60 "$work/job/main" >"$work/output" || broken "the job did not run"
cat "$work/output"
grep -q '^first 2026-10-24 04:30:00 +02:00$' "$work/output" || broken "the first run is at another time"
grep -q '^next 2026-10-25 03:30:00 +01:00$' "$work/output" || changed "the next run is not at 03:30"
