//! Stopped in the middle: in order, or not at all.

use pgkeep::domain::report::Verdict;
use rustix::process::Signal;

use super::{Holder, Ran, broken, home, records, run, shop, wait_blocked, wait_ended};
use crate::harness::client::Client;

const NAMED: &str = "indexes = [\"public.items_id\", \"public.orders_pkey\"]";

#[test]
fn reindex_that_is_stopped_leaves_nothing_behind() {
    let cluster = shop();
    let home = home(&cluster, NAMED);
    let snapshot = Holder::snapshot(&cluster);
    let mut daemon = home.ready_daemon();
    let running = Client::start(&home, &["run", "rx", "--json"]);
    wait_blocked(&cluster, "REINDEX");
    assert_eq!((broken(&cluster).len(), records(&home)), (1, 1));
    daemon.stop();
    drop(running);
    wait_ended(&cluster, "REINDEX");
    assert_eq!(broken(&cluster), [""; 0]);
    daemon.assert_log_clean(&["cancelled"]);
    snapshot.release();
    run(&home, "rx", 0);
    assert_eq!(records(&home), 0);
}

#[test]
fn reindex_that_is_interrupted_says_what_it_did() {
    let cluster = shop();
    let home = home(&cluster, NAMED);
    let snapshot = Holder::snapshot(&cluster);
    let running = Client::start(&home, &["run", "rx", "--json"]);
    wait_blocked(&cluster, "REINDEX");
    running.signal(Signal::INT);
    let output = running.end();
    let code = output.code;
    let ran = Ran::of(output, code);
    assert_eq!((ran.verdict, code), (Verdict::Cancelled, 130));
    let output = &ran.target("public.items_id").output;
    assert!(output.iter().any(|line| line.contains("dropped public.items_id_ccnew")), "{ran:?}");
    assert_eq!(broken(&cluster), [""; 0]);
    snapshot.release();
}

#[test]
fn reindex_that_was_killed_is_cleaned_up_by_the_next_run() {
    let cluster = shop();
    let home = home(&cluster, "indexes = [\"public.items_id\"]");
    let snapshot = Holder::snapshot(&cluster);
    let mut daemon = home.ready_daemon();
    let running = Client::start(&home, &["run", "rx", "--json"]);
    let pid = wait_blocked(&cluster, "REINDEX");
    daemon.kill9();
    drop(running);
    // Its backend does not know that it is alone.
    let ran = run(&home, "rx", 1);
    assert!(ran.skipped("public.items_id").contains(&format!("process {pid}")), "{ran:?}");
    assert_eq!(records(&home), 1);
    cluster.psql("postgres", &format!("SELECT pg_cancel_backend({pid})"));
    wait_ended(&cluster, "REINDEX");
    assert_eq!(broken(&cluster), ["items_id_ccnew"]);
    snapshot.release();
    let ran = run(&home, "rx", 0);
    let output = &ran.assert_done("public.items_id").output;
    assert!(output[0].contains("dropped public.items_id_ccnew"), "{output:?}");
    assert_eq!(broken(&cluster), [""; 0]);
    assert_eq!(records(&home), 0);
}
