//! What happens while a run is under way: a window that ends, a table that goes, a signal.

use pgkeep::daemon::status::Status;
use rustix::process::Signal;

use super::*;
use crate::harness::client::Client;

/// A table whose vacuum takes minutes at this pace, however fast the machine is.
const SLOW: &str =
    "cost_delay = \"100ms\"\ncost_limit = 1\nmin_dead_tuples = 1000\nmode = \"vacuum\"";

#[test]
fn vacuum_begins_nothing_once_the_window_is_over() {
    let cluster = cluster("");
    let home = home(&cluster, "lock_timeout = \"1m\"\nwindow = \"4s\"");
    // The largest goes first, and waits until the window is over.
    let holder = Holder::of(&cluster, "LOCK TABLE w.big IN SHARE MODE");
    let running = Client::start(&home, &["run", "tidy", "--json"]);
    wait_statement(&cluster, "VACUUM", true);
    let over = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'VACUUM%' \
                AND clock_timestamp() - query_start > '4 s'";
    eventually("the end of the window", PATIENCE, || {
        (cluster.psql("postgres", over) == "1").then_some(())
    });
    drop(holder);
    let ran = Ran::of(running.end(), 0);
    assert_eq!((ran.count("tables_vacuumed"), ran.count("tables_not_reached")), (1, 2));
    assert!(ran.finding("maintenance-window").unwrap().contains("2 tables"), "{ran:#?}");
    assert_eq!(
        (vacuums(&cluster, "w.big"), vacuums(&cluster, "w.small")),
        ("1".into(), "0".into())
    );
}

#[test]
fn vacuum_passes_over_a_table_that_is_dropped_meanwhile() {
    let cluster = cluster("");
    let home = home(&cluster, "lock_timeout = \"1m\"");
    let holder = Holder::of(&cluster, "LOCK TABLE w.big IN SHARE MODE");
    let running = Client::start(&home, &["run", "tidy", "--json"]);
    wait_statement(&cluster, "VACUUM", true);
    cluster.psql(APP, "DROP TABLE w.small; ALTER TABLE w.clean RENAME TO renamed");
    drop(holder);
    let ran = Ran::of(running.end(), 0);
    assert!(ran.skipped("w.small").starts_with("gone"), "{ran:#?}");
    assert_eq!(ran.finding("tables-skipped"), None, "a table that is gone needs nothing");
    assert_eq!((ran.count("tables_vacuumed"), vacuums(&cluster, "w.renamed")), (2, "1".into()));
}

#[test]
fn vacuum_shows_how_far_it_is_and_ends_on_the_server_when_cancelled() {
    // The role's own limits do not end it: both are shorter than what is waited for here.
    let cluster = cluster(
        "ALTER ROLE keeper SET statement_timeout = '700ms'; \
         ALTER ROLE keeper SET idle_session_timeout = '700ms'",
    );
    let home = home(&cluster, SLOW);
    let mut daemon = home.ready_daemon();
    let running = Client::start(&home, &["run", "tidy", "--json"]);
    wait_statement(&cluster, "VACUUM", false);
    let stage = eventually("a stage with a phase", PATIENCE, || {
        let status: Status =
            serde_json::from_value(home.run(&["status", "--json"]).json()).unwrap();
        let stage = serde_json::to_value(&status.running).unwrap().to_string();
        stage.contains("scanning heap").then_some(stage)
    });
    assert!(stage.contains("vacuum app: w.big, 1 of 1 (scanning heap"), "{stage}");
    let long = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'VACUUM%' \
                AND state = 'active' AND clock_timestamp() - query_start > '1.5 s'";
    eventually("a statement that outlives the role's limit", PATIENCE, || {
        (cluster.psql("postgres", long) == "1").then_some(())
    });
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(), 0);
    drop(running);
    wait_no_backend(&cluster);
    assert_eq!(vacuums(&cluster, "w.big"), "0");
    daemon.assert_log_clean(&["verdict=cancelled"]);
}

#[test]
fn vacuum_that_is_interrupted_is_cancelled_and_its_backend_ends() {
    let cluster = cluster("");
    let home = home(&cluster, SLOW);
    let running = Client::start(&home, &["run", "tidy", "--json"]);
    wait_statement(&cluster, "VACUUM", false);
    running.signal(Signal::INT);
    let ran = Ran::of(running.end(), 130);
    assert_eq!(ran.verdict, Verdict::Cancelled);
    assert_eq!(ran.database(APP).outcome, Outcome::Cancelled);
    wait_no_backend(&cluster);
}

#[test]
fn vacuum_that_loses_its_server_says_so() {
    let mut cluster = cluster("");
    let home = home(&cluster, &format!("{SLOW}\nattempts = 1"));
    let running = Client::start(&home, &["run", "tidy", "--json"]);
    wait_statement(&cluster, "VACUUM", false);
    cluster.stop_immediate();
    let ran = Ran::of(running.end(), 1);
    failure(ran.database(APP), Class::Connection);
    failure(ran.table("w.big"), Class::Connection);
}

#[test]
fn vacuum_leaves_a_table_to_the_autovacuum_that_prevents_wraparound() {
    // Young tables count as old, and the one that is at w.big takes its time.
    let cluster = Cluster::builder()
        .setting("autovacuum", "on")
        .setting("autovacuum_naptime", "1s")
        .setting("autovacuum_max_workers", "1")
        .setting("autovacuum_freeze_max_age", "100000")
        .start();
    let slow = "ALTER TABLE w.big SET (autovacuum_vacuum_cost_delay = 100, \
                autovacuum_vacuum_cost_limit = 1); GRANT pg_monitor TO keeper";
    cluster.psql(APP, &format!("{TABLES}\nRESET ROLE;\n{slow}"));
    let age =
        "DO $$ BEGIN FOR i IN 1..101000 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$";
    cluster.psql(APP, age);
    let at_it = "SELECT count(*) FROM pg_stat_progress_vacuum p JOIN pg_stat_activity a USING (pid) \
                 WHERE p.relid = to_regclass('w.big') AND a.query LIKE '%(to prevent wraparound)'";
    // The one worker does the tables of all other databases first.
    eventually("an anti-wraparound autovacuum at w.big", 3 * PATIENCE, || {
        (cluster.psql(APP, at_it) == "1").then_some(())
    });
    let what = "databases = [\"app\"]\ntables = [\"w.big\", \"w.clean\"]";
    let home = home_for(&cluster, what, "lock_timeout = \"1h\"");
    let ran = run_job(&home, 0);
    assert!(ran.skipped("w.big").contains("anti-wraparound autovacuum"), "{ran:#?}");
    assert_eq!(ran.count("tables_vacuumed"), 1);
}
