//! What other sessions do with a table, or with its database, comes first.

use std::process::Stdio;

use pgkeep::domain::{failure::Class, report::Verdict};

use super::{
    DB, Holder, as_superuser, broken, home, indexes, job, run, shop, shop_of, wait_blocked,
};
use crate::harness::{
    client::Client,
    fakes::{Fake, fake_bin_dir},
    pgkeep::{Pgkeep, quote},
    postgres::Cluster,
    process::spawn,
    wait::{PATIENCE, eventually},
};

const NAMED: &str = "indexes = [\"public.items_id\", \"public.orders_pkey\"]";

#[test]
fn reindex_of_a_locked_table_fails_and_the_others_go_on() {
    let cluster = shop();
    let home = home(&cluster, &format!("lock_timeout = \"300ms\"\n{NAMED}"))
        .toml(&job("locking", &format!("concurrently = false\nlock_timeout = \"300ms\"\n{NAMED}")));
    for job in ["rx", "locking"] {
        let holder = Holder::of(&cluster, DB, "BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE");
        let ran = run(&home, job, 4);
        let failure = ran.failed("public.items_id", Class::Lock);
        assert!(failure.hint.as_ref().unwrap().contains("it waited for process"), "{failure:?}");
        ran.assert_done("public.orders_pkey");
        assert_eq!(broken(&cluster), [""; 0]);
        holder.release();
    }
}

#[test]
fn reindex_waits_for_another_day_while_pg_dump_runs() {
    let cluster = shop();
    let home = home(&cluster, NAMED);
    // It waits for a lock in its transaction, with its snapshot.
    let holder = Holder::of(&cluster, DB, "BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE");
    let mut pg_dump = cluster.tool("pg_dump");
    pg_dump.args(["-d", DB]).stdout(Stdio::null());
    let mut pg_dump = spawn(&mut pg_dump);
    wait_blocked(&cluster, "LOCK TABLE");
    let before = indexes(&cluster, DB);
    let ran = run(&home, "rx", 1);
    assert_eq!(ran.verdict, Verdict::Failed, "nothing was done");
    for index in ["public.items_id", "public.orders_pkey"] {
        let why = ran.skipped(index);
        assert!(why.starts_with("deferred:") && why.contains("dumps the database"), "{why}");
    }
    assert_eq!(indexes(&cluster, DB), before);
    holder.release();
    assert!(pg_dump.wait().unwrap().success());
    run(&home, "rx", 0);
}

#[test]
fn reindex_waits_for_a_dump_of_our_own_and_not_for_ever() {
    let cluster = shop();
    let fake = fake_bin_dir(Fake::Midway, cluster.bin_dir());
    let bin_dir = format!("bin_dir = {}", quote(fake.path().to_string_lossy()));
    let home = Pgkeep::new()
        .server_with("main", &cluster, &bin_dir)
        .local("disk")
        .dump("nightly", "main", &[DB], &["disk"], "globals = false")
        .toml(&job("rx", &format!("lock_timeout = \"300ms\"\n{NAMED}")));
    cluster.psql(
        DB,
        "CREATE TABLE big AS SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 20000) AS i",
    );
    let mut daemon = home.ready_daemon();
    let dump = Client::start(&home, &["run", "nightly"]);
    fake.wait_stopped();
    let ran = run(&home, "rx", 1);
    assert!(ran.skipped("public.items_id").contains("another job of pgkeep"), "{ran:?}");
    // The dump of another host is seen by the session that holds its snapshot.
    let other = Pgkeep::new().server("main", &cluster).toml(&job("rx", NAMED));
    let ran = run(&other, "rx", 1);
    assert!(ran.skipped("public.items_id").contains("dumps the database"), "{ran:?}");
    fake.release();
    dump.end().expect_code(0);
    run(&home, "rx", 0);
    daemon.stop();
    daemon.assert_log_clean(&[" ended "]);
}

#[test]
fn reindex_leaves_alone_what_somebody_else_is_building() {
    let cluster = shop();
    let lines = "invalid = true\nindexes = [\"public.items_id\"]";
    let home = home(&cluster, lines);
    let snapshot = Holder::snapshot(&cluster);
    let mut psql = cluster.tool("psql");
    psql.args(["-XqAt", "-d", DB, "-c", "CREATE INDEX CONCURRENTLY items_new ON items (item)"]);
    let mut psql = spawn(&mut psql);
    wait_blocked(&cluster, "CREATE INDEX");
    assert_eq!(broken(&cluster), ["items_new"]);
    snapshot.release();
    assert!(psql.wait().unwrap().success());

    // As a role that does not see what others do, in the middle of a REINDEX.
    cluster.psql("postgres", "CREATE ROLE keeper LOGIN");
    cluster.psql(DB, "ALTER TABLE items OWNER TO keeper");
    let limited = Pgkeep::new()
        .toml(&super::server_as(&cluster, "user = \"keeper\""))
        .toml(&job("rx", lines));
    let snapshot = Holder::snapshot(&cluster);
    for statement in [
        "REINDEX INDEX CONCURRENTLY items_id",
        "CREATE INDEX CONCURRENTLY items_too ON items (item)",
    ] {
        let mut psql = cluster.tool("psql");
        psql.args(["-XqAt", "-d", DB, "-c", statement]);
        let mut psql = spawn(&mut psql);
        let pid = wait_blocked(&cluster, &statement[..12]);
        for home in [&home, &limited] {
            let ran = run(home, "rx", 1);
            let why = ran.skipped("public.items_id");
            assert!(why.contains(&format!("process {pid} builds")), "{why}");
            assert!(!ran.findings().iter().any(|it| it.contains("items_")), "{ran:?}");
        }
        cluster.psql("postgres", &format!("SELECT pg_cancel_backend({pid})"));
        assert!(!psql.wait().unwrap().success());
        cluster.psql(DB, "DROP INDEX IF EXISTS items_id_ccnew; DROP INDEX IF EXISTS items_too");
    }
    snapshot.release();
}

#[test]
fn reindex_gives_way_to_a_vacuum_against_wraparound() {
    let builder = Cluster::builder()
        .setting("autovacuum", "on")
        .setting("autovacuum_naptime", "1s")
        .setting("autovacuum_max_workers", "1")
        .setting("autovacuum_vacuum_cost_delay", "0")
        .setting("autovacuum_freeze_max_age", "100000");
    let cluster = shop_of(builder);
    cluster.psql("postgres", "CREATE ROLE keeper LOGIN");
    cluster.psql(DB, "ALTER TABLE items OWNER TO keeper");
    // So slow that it does not end by itself; the toast table and the other tables are let alone.
    cluster.psql(
        DB,
        "ALTER TABLE items SET (autovacuum_enabled = false, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
         INSERT INTO items SELECT i, repeat('x', 200) FROM generate_series(1, 20000) AS i",
    );
    // A statement of its own, or it could not COMMIT.
    let age = "DO $$BEGIN FOR i IN 1..110000 LOOP PERFORM txid_current(); COMMIT; END LOOP; END$$";
    cluster.psql(DB, age);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE
        'autovacuum: VACUUM%public.items (to prevent wraparound)'";
    eventually("a vacuum against wraparound", PATIENCE, || {
        (cluster.psql(DB, sql) == "1").then_some(())
    });
    let home = Pgkeep::new().toml(&as_superuser(&cluster)).toml(&job("rx", NAMED));
    let ran = run(&home, "rx", 0);
    assert!(ran.skipped("public.items_id").contains("wraparound"), "{ran:?}");
    ran.assert_done("public.orders_pkey");
    // As a role that does not see what it is.
    let limited = Pgkeep::new()
        .toml(&super::server_as(&cluster, "user = \"keeper\""))
        .toml(&job("rx", "indexes = [\"public.items_id\"]"));
    let ran = run(&limited, "rx", 1);
    assert!(ran.skipped("public.items_id").contains("wraparound"), "{ran:?}");
}

#[test]
fn reindex_starts_nothing_new_when_its_window_is_over() {
    let cluster = shop();
    // The window begins with the second in which the run does.
    let home = home(&cluster, &format!("window = \"3s\"\nlock_timeout = \"3200ms\"\n{NAMED}"));
    let holder = Holder::of(&cluster, DB, "BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE");
    let ran = run(&home, "rx", 1);
    ran.failed("public.items_id", Class::Lock);
    assert!(ran.skipped("public.orders_pkey").contains("window"), "{ran:?}");
    holder.release();
}
