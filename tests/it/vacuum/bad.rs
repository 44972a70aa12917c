//! Bad days: locks, rights, databases and servers that are not to be had. The others go on.

use super::*;
use crate::harness::{pgbouncer::PgBouncer, postgres::SUPERUSER};

#[test]
fn vacuum_skips_a_locked_table_and_does_the_others() {
    let cluster = cluster("");
    let home = home(&cluster, "lock_timeout = \"100ms\"");
    let holder = Holder::of(&cluster, "LOCK TABLE w.big IN SHARE MODE");
    let ran = run_job(&home, 0);
    assert_eq!((ran.count("tables_vacuumed"), ran.count("tables_skipped")), (2, 1));
    let why = ran.skipped("w.big");
    assert!(why.contains("locked") && why.contains("has ShareLock"), "{why}");
    assert!(ran.finding("tables-skipped").unwrap().contains("1 locked"), "{ran:#?}");
    assert_eq!((dead(&cluster, "w.small"), dead(&cluster, "w.big")), ("0".into(), "2000".into()));
    drop(holder);
    assert_eq!(run_job(&home, 0).finding("tables-skipped"), None);
}

#[test]
fn vacuum_that_skips_every_table_has_failed() {
    let cluster = cluster("");
    let what = "databases = [\"app\"]\ntables = [\"w.big\", \"w.small\"]";
    let home = home_for(&cluster, what, "lock_timeout = \"100ms\"\nattempts = 1");
    let _holder = Holder::of(&cluster, "LOCK TABLE w.big, w.small IN SHARE MODE");
    let ran = run_job(&home, 1);
    assert_eq!(ran.verdict, Verdict::Failed);
    let failure = failure(ran.database(APP), Class::Lock);
    assert!(failure.what.contains("2 locked") && failure.hint.is_some(), "{failure:?}");
}

#[test]
fn vacuum_says_which_tables_the_role_may_not_vacuum() {
    let cluster = cluster("CREATE TABLE w.theirs (i int);");
    let mut ran = run_job(&home(&cluster, ""), 0);
    assert_eq!((ran.count("tables_vacuumed"), ran.count("tables_skipped")), (3, 1));
    assert!(ran.skipped("w.theirs").starts_with("not permitted"), "{ran:#?}");
    assert!(ran.finding("tables-skipped").unwrap().contains("1 not permitted"));
    assert_eq!(vacuums(&cluster, "w.theirs"), "0");

    // The owner of the database may vacuum them, where it may name them.
    cluster.psql(APP, "ALTER DATABASE app OWNER TO keeper; REVOKE ALL ON SCHEMA shop FROM PUBLIC");
    let what = "databases = [\"app\"]\ntables = [\"shop.orders\", \"w.theirs\"]";
    ran = run_job(&home_for(&cluster, what, ""), 0);
    assert_eq!(vacuums(&cluster, "w.theirs"), "1");
    assert!(ran.skipped("shop.orders").contains("no USAGE on schema shop"), "{ran:#?}");
    cluster.psql(APP, "ALTER DATABASE app OWNER TO postgres");

    // Nothing but such tables: a failure, and nothing that trying again would change.
    let what = "databases = [\"app\"]\ntables = [\"shop.*\"]";
    ran = run_job(&home_for(&cluster, what, ""), 1);
    let failure = failure(ran.database(APP), Class::Privilege);
    assert!(failure.hint.as_ref().unwrap().contains("pg_maintain"), "{failure:?}");
}

#[test]
fn vacuum_retries_the_table_that_failed_and_no_other() {
    // An index whose expression fails as soon as there is a flag: ANALYZE meets it, VACUUM does not.
    let boom = "SET ROLE keeper; CREATE TABLE w.flag (i int);
        CREATE FUNCTION w.boom(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
          IF EXISTS (SELECT FROM w.flag) THEN RAISE EXCEPTION 'boom'; END IF; RETURN $1; END $$;
        CREATE INDEX ON w.small (w.boom(i)); INSERT INTO w.flag VALUES (1);";
    let cluster = cluster(boom);
    let home = home(&cluster, "attempts = 2\nretry_backoff = \"1s\"");
    let ran = run_job(&home, 4);
    assert_eq!(ran.verdict, Verdict::Partial);
    let failure = failure(ran.table("w.small"), Class::Sql);
    assert!(failure.what.contains("boom"), "{failure:?}");
    assert_eq!(ran.database(APP).outcome, Outcome::Succeeded);
    assert_eq!((ran.count("tables_vacuumed"), ran.count("tables_failed")), (3, 1), "{ran:#?}");
    let counts = ["w.big", "w.clean", "w.small"].map(|table| vacuums(&cluster, table));
    assert_eq!(counts, ["1", "1", "2"], "VACUUM's own part commits before ANALYZE fails");
    // What made it fail is gone: the table is done, and with it the run.
    cluster.psql(APP, "TRUNCATE w.flag");
    assert_eq!(run_job(&home, 0).verdict, Verdict::Succeeded);
}

#[test]
fn vacuum_leaves_out_what_takes_no_connections_unless_it_is_named() {
    let cluster = cluster(
        "CREATE DATABASE closed; ALTER DATABASE closed ALLOW_CONNECTIONS false; \
         ALTER DATABASE app OWNER TO keeper",
    );
    let what = "databases = [\"a*\", \"clos*\"]\ntables = [\"w.*\"]";
    let ran = run_job(&home_for(&cluster, what, ""), 0);
    assert!(ran.find("closed", None).is_none());
    let left = ran.report.plan.iter().find(|step| step.action == "leave").unwrap();
    assert_eq!(left.target.subject.as_ref().unwrap().to_string(), "closed");
    assert!(left.reason.contains("does not allow connections"), "{left:?}");

    let what = "databases = [\"app\", \"closed\", \"gone\"]\ntables = [\"w.*\"]";
    let ran = run_job(&home_for(&cluster, what, ""), 4);
    failure(ran.database("closed"), Class::Configuration);
    failure(ran.database("gone"), Class::DatabaseGone);
    assert_eq!(ran.database(APP).outcome, Outcome::Succeeded);
}

#[test]
fn vacuum_without_a_server_or_with_tables_that_are_nowhere_fails() {
    let mut cluster = cluster("");
    let what = "databases = [\"app\"]\ntables = [\"w.big\", \"w.bigg\"]";
    let ran = run_job(&home_for(&cluster, what, ""), 4);
    let nowhere = ran.report.targets.iter().find(|it| it.target.subject.is_none()).unwrap();
    assert!(failure(nowhere, Class::Configuration).what.contains("w.bigg"));
    let what = "databases = [\"app\"]\ntables = [\"v.*\"]";
    let ran = run_job(&home_for(&cluster, what, ""), 1);
    assert_eq!(ran.report.failure.unwrap().class, Class::Configuration);

    cluster.stop();
    let home = home(&cluster, "attempts = 1");
    let ran = run_job(&home, 1);
    let failure = ran.report.failure.unwrap();
    assert_eq!(failure.class, Class::Connection);
    assert!(failure.hint.unwrap().contains("is PostgreSQL running"));
}

#[test]
fn vacuum_names_who_holds_back_the_horizon() {
    // Since when others have been there is not for everybody to see.
    let cluster = cluster("GRANT pg_monitor TO keeper");
    let home = home(&cluster, "xmin_held_for = \"0s\"");
    let held = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) > 0 FROM w.big \\g /dev/null\n";
    let holder = Holder::of(&cluster, held);
    cluster.psql(APP, "DELETE FROM w.clean");
    let ran = run_job(&home, 0);
    let found = ran.finding("xmin-horizon").unwrap();
    assert!(found.contains("role postgres in database app"), "{found}");
    let age = ran.report.samples.iter().find(|it| it.metric == "vacuum_held_back_xmin_age");
    assert!(age.unwrap().value >= 1.0);
    drop(holder);
    assert_eq!(run_job(&home, 0).finding("xmin-horizon"), None);
}

/// Whoever owns a database may set a search_path for it, and put functions of theirs before those of
/// the server: none of them may run with our rights.
#[test]
fn vacuum_runs_no_function_of_a_database_s_owner() {
    let cluster = Cluster::start();
    let trap = "CREATE SCHEMA evil AUTHORIZATION mallory; SET ROLE mallory;
        CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS
            'BEGIN ALTER ROLE mallory SUPERUSER; RETURN $2; END';
        CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN ALTER ROLE mallory SUPERUSER; RETURN true; END';
        CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
        CREATE TABLE public.t (i int);
        ALTER DATABASE victim SET search_path = evil, pg_catalog;";
    cluster.psql("postgres", "CREATE ROLE mallory LOGIN");
    cluster.psql("postgres", "CREATE DATABASE victim OWNER mallory");
    cluster.psql("victim", trap);
    let job = job("databases = [\"victim\"]\ntables = [\"public.*\"]", "attempts = 1");
    let home = Pgkeep::new().server("main", &cluster).toml(&job);
    run_job(&home, 0);
    let sql = "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'";
    assert_eq!(cluster.psql("postgres", sql), "f");
    // The trap is one: it would have closed for somebody who walks into it.
    cluster.psql("victim", "SELECT evil.set_config('a', 'b', false)");
    assert_eq!(cluster.psql("postgres", sql), "t");
}

/// DROP DATABASE was interrupted: nobody can vacuum what is left, and the server does not count it.
#[test]
fn vacuum_leaves_a_half_dropped_database_out_of_the_ages() {
    let cluster = cluster("CREATE DATABASE half");
    let home = home(&cluster, "");
    let has_age = |ran: &Ran| {
        let of = |it: &&Sample| it.metric == "vacuum_oldest_xid_age";
        ran.report.samples.iter().filter(of).any(|it| it.labels.contains(&"half".to_owned()))
    };
    assert!(has_age(&run_job(&home, 0)));
    cluster.psql(APP, "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'");
    assert!(!has_age(&run_job(&home, 0)));
}

/// A logical slot keeps the dead rows of the system catalogue, and no others.
#[test]
fn vacuum_takes_a_logical_slot_for_no_holder_of_rows() {
    let cluster = cluster_of(Cluster::builder().setting("wal_level", "logical"), "");
    cluster.psql(APP, "SELECT pg_create_logical_replication_slot('later', 'pgoutput')");
    for _ in 0..3 {
        cluster.psql(APP, "SELECT pg_current_xact_id()");
    }
    let kept = "SELECT xmin IS NULL AND age(catalog_xmin) > 1 FROM pg_replication_slots";
    assert_eq!(cluster.psql(APP, kept), "t");
    let ran = run_job(&home(&cluster, ""), 0);
    let age = ran.report.samples.iter().find(|it| it.metric == "vacuum_held_back_xmin_age");
    assert_eq!(age.map(|it| it.value), Some(0.0));
}

#[test]
fn vacuum_names_the_prepared_transaction_that_holds_the_lock() {
    let prepared = Cluster::builder().setting("max_prepared_transactions", "2");
    let cluster = cluster_of(prepared, "");
    let sql = "BEGIN; LOCK TABLE w.big IN SHARE MODE; PREPARE TRANSACTION 'left over'";
    cluster.psql(APP, sql);
    let ran = run_job(&home(&cluster, "lock_timeout = \"100ms\""), 0);
    let why = ran.skipped("w.big");
    let named = "the prepared transaction 'left over' (role postgres) has ShareLock";
    assert!(why.contains(named), "{why}");
}

#[test]
fn vacuum_through_a_pooler_is_refused_and_leaves_no_setting_behind() {
    if !PgBouncer::is_installed() {
        return;
    }
    let cluster = cluster("");
    let pooler = PgBouncer::start(&cluster, "pool_mode = transaction\ndefault_pool_size = 2");
    let home = Pgkeep::new()
        .toml(&pooler.server_as(SUPERUSER))
        .local("disk")
        .toml(&job("databases = [\"app\"]", "lock_timeout = \"7s\"\ncost_delay = \"3ms\""))
        .toml("[job.wal]\nkind = \"wal-check\"\nserver = \"main\"\nattempts = 1")
        .toml(
            "[job.rx]\nkind = \"reindex\"\nserver = \"main\"\nattempts = 1\n\
               databases = [\"app\"]\ninvalid = true",
        )
        .dump("nightly", "main", &[APP], &["disk"], "attempts = 1");
    for name in ["tidy", "wal", "rx", "nightly"] {
        let ran = Ran::of(home.run(&["run", name, "--json"]), 1);
        let failure = ran.report.failures().next().unwrap();
        assert_eq!(failure.class, Class::Configuration, "{name}: {ran:#?}");
        assert!(failure.what.contains("pooler"), "{name}: {failure:?}");
        assert!(failure.hint.as_ref().unwrap().contains("the server itself"), "{failure:?}");
    }
    // What other clients of the pool find, in each of its sessions.
    let shown = "SELECT string_agg(name || '=' || setting, ' ') FROM pg_settings WHERE source = 'session' \
                 AND name NOT IN ('client_encoding', 'application_name')";
    for database in [APP, "postgres"] {
        for _ in 0..4 {
            assert_eq!(pooler.psql(database, shown), "", "{database}");
        }
    }
    assert_eq!(vacuums(&cluster, "w.big"), "0");
}

/// The server's own connection is well: ANALYZE of the parent asked another server for its partition.
#[test]
fn vacuum_of_a_foreign_partition_whose_server_is_away_fails_by_its_statement() {
    let away = "CREATE EXTENSION postgres_fdw;
        CREATE SERVER away FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
        CREATE USER MAPPING FOR PUBLIC SERVER away OPTIONS (user 'nobody', password 'x');
        CREATE TABLE w.parted (i int) PARTITION BY LIST (i);
        CREATE TABLE w.here PARTITION OF w.parted FOR VALUES IN (1);
        CREATE FOREIGN TABLE w.there PARTITION OF w.parted FOR VALUES IN (2) SERVER away;
        ALTER TABLE w.parted OWNER TO keeper;
        INSERT INTO w.here VALUES (1);";
    let cluster = cluster(away);
    let what = "databases = [\"app\"]\ntables = [\"w.parted\"]\nmode = \"analyze\"";
    let ran = run_job(&home_for(&cluster, what, "attempts = 1"), 1);
    let failed: Vec<_> = ran.report.failed().map(|(_, failure)| failure.class).collect();
    assert!(!failed.is_empty() && failed.iter().all(|class| *class == Class::Sql), "{ran:#?}");
}
