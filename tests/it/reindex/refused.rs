//! What cannot be done is named, one by one, and the others go on.

use pgkeep::domain::{failure::Class, report::Outcome};

use super::{DB, Holder, Pgkeep, broken, home, indexes, job, make_invalid, run, server_as, shop};
use crate::harness::pgkeep::quote;

#[test]
fn reindex_of_what_is_still_broken_fails_and_leaves_no_debris() {
    let cluster = shop();
    make_invalid(&cluster, "items_unique");
    cluster.psql(DB, "INSERT INTO items VALUES (1, 'twice')");
    let home = home(&cluster, "indexes = [\"public.orders_pkey\"]\ninvalid = true");
    let ran = run(&home, "rx", 4);
    let failure = ran.failed("public.items_unique", Class::Sql);
    assert!(failure.what.contains("duplicated"), "{failure:?}");
    let output = &ran.target("public.items_unique").output;
    assert!(
        output.iter().any(|line| line.contains("dropped public.items_unique_ccnew")),
        "{ran:?}"
    );
    ran.assert_done("public.orders_pkey");
    assert_eq!(broken(&cluster), ["items_unique"]);
    assert_eq!(ran.findings(), [""; 0], "the failure says it");
    assert_eq!(super::records(&home), 0);
}

#[test]
fn reindex_refuses_by_name_what_the_server_would_refuse() {
    let cluster = shop();
    cluster.psql(DB, "CREATE TABLE rooms (room int, EXCLUDE USING btree (room WITH =))");
    cluster.psql("postgres", "CREATE DATABASE closed ALLOW_CONNECTIONS false");
    let lines = format!(
        "databases = [\"{DB}\", \"closed\", \"gone\"]\nindexes = [\"public.rooms_room_excl\", \
         \"pg_catalog.pg_class_oid_index\", \"public.items_id\"]"
    );
    let home = home(&cluster, &lines)
        .toml(&job("wild", "indexes = [\"*.rooms_*\", \"public.items_id\"]"))
        .toml(&job("typo", "indexes = [\"public.item_id\", \"public.items_id\"]"));
    let ran = run(&home, "rx", 4);
    for index in ["public.rooms_room_excl", "pg_catalog.pg_class_oid_index"] {
        let failure = ran.failed(index, Class::Configuration);
        assert!(failure.hint.as_ref().unwrap().contains("concurrently = false"), "{failure:?}");
    }
    ran.assert_done("public.items_id");
    let of = |name: &str| {
        let is = |it: &&pgkeep::domain::report::TargetReport| {
            it.target.subject.as_ref().is_some_and(|subject| subject.to_string() == name)
        };
        match &ran.report.targets.iter().find(is).unwrap().outcome {
            Outcome::Failed(failure) => failure.class,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((of("closed"), of("gone")), (Class::Configuration, Class::DatabaseGone));
    // A pattern only happens to match.
    let ran = run(&home, "wild", 0);
    assert!(ran.skipped("public.rooms_room_excl").contains("exclusion"));
    let ran = run(&home, "typo", 4);
    assert_eq!(ran.targets(), ["succeeded public.items_id", "failed public.item_id"]);
}

#[test]
fn reindex_names_what_the_role_may_not_touch_and_does_the_rest() {
    let cluster = shop();
    cluster.psql("postgres", "CREATE ROLE keeper LOGIN; CREATE ROLE reader LOGIN");
    cluster.psql(DB, "ALTER TABLE items OWNER TO keeper");
    let home = Pgkeep::new()
        .toml(&server_as(&cluster, "user = \"reader\"\nmaintenance_user = \"keeper\""))
        .toml(&job("rx", "indexes = [\"public.items_id\", \"public.orders_pkey\"]"));
    let ran = run(&home, "rx", 4);
    ran.assert_done("public.items_id");
    let failure = ran.failed("public.orders_pkey", Class::Privilege);
    assert!(failure.what.contains("public.orders"), "{failure:?}");
    assert!(failure.hint.as_ref().unwrap().contains("maintenance_user"), "{failure:?}");
    assert!(ran.findings()[0].starts_with("hidden-sessions"), "{:?}", ran.findings());
    cluster.psql("postgres", "GRANT pg_read_all_stats TO keeper");
    assert_eq!(run(&home, "rx", 4).findings(), [""; 0]);
}

#[test]
fn reindex_without_a_server_or_on_a_standby_fails_at_once() {
    let mut cluster = shop();
    let home = home(&cluster, "indexes = [\"public.items_id\"]");
    cluster.stop();
    let ran = run(&home, "rx", 1);
    let failure = ran.failed_at_once(Class::Connection);
    assert!(failure.doing.contains("main"), "{failure:?}");

    std::fs::write(cluster.data_dir().join("standby.signal"), "").unwrap();
    cluster.start_again();
    let ran = run(&home, "rx", 1);
    let failure = ran.failed_at_once(Class::Configuration);
    assert!(failure.what.contains("standby"), "{failure:?}");
}

#[test]
fn reindex_loses_the_server_in_the_middle_and_cleans_up_the_next_time() {
    let mut cluster = shop();
    let home = home(&cluster, "indexes = [\"public.items_id\", \"public.orders_pkey\"]");
    let holder = Holder::snapshot(&cluster);
    let running = crate::harness::client::Client::start(&home, &["run", "rx", "--json"]);
    super::wait_blocked(&cluster, "REINDEX");
    // Commits of the tests' servers do not wait for their WAL: a crash could take the index along.
    cluster.psql("postgres", "CHECKPOINT");
    cluster.stop_immediate();
    let ran = super::Ran::of(running.end(), 1);
    let failure = ran.failed("public.items_id", Class::Connection);
    assert!(failure.what.contains("the next run"), "{failure:?}");
    ran.failed("public.orders_pkey", Class::Connection);
    drop(holder);
    cluster.start_again();
    assert_eq!(broken(&cluster), ["items_id_ccnew"]);
    let ran = run(&home, "rx", 0);
    let output = &ran.assert_done("public.items_id").output;
    assert!(output[0].contains("dropped public.items_id_ccnew"), "{output:?}");
    assert_eq!(broken(&cluster), [""; 0]);
    assert_eq!(super::records(&home), 0);
}

#[test]
fn reindex_that_cannot_write_its_record_builds_nothing() {
    let cluster = shop();
    let home = home(&cluster, "indexes = [\"public.items_id\"]");
    std::fs::write(home.state_dir().join("index-builds"), "in the way").unwrap();
    let before = indexes(&cluster, DB);
    let ran = run(&home, "rx", 1);
    assert!(ran.targets().iter().all(|it| it.starts_with("failed")), "{ran:?}");
    assert_eq!(indexes(&cluster, DB), before);
}

#[test]
fn reindex_needs_something_to_rebuild() {
    let cluster = shop();
    let home = home(&cluster, "drop_debris = \"owm\"\nwindow = \"0s\"");
    let said = home.run(&["check-config"]).expect_code(3);
    let text = format!("{}{}", said.text(), said.stderr);
    for expected in ["no indexes to rebuild", "invalid = true", &quote("own"), "at least \"1s\""] {
        assert!(text.contains(expected), "{text}");
    }
}

/// REINDEX is let through where a role is read-only by its settings; the DROP INDEX of what it leaves behind is
/// another matter.
#[test]
fn reindex_of_a_role_that_is_read_only_leaves_no_debris() {
    let cluster = shop();
    make_invalid(&cluster, "items_unique");
    cluster.psql(DB, "INSERT INTO items VALUES (1, 'twice')");
    let read_only = format!("ALTER DATABASE {DB} SET default_transaction_read_only = on");
    cluster.psql("postgres", &read_only);
    let home = home(&cluster, "indexes = [\"public.orders_pkey\"]\ninvalid = true");
    let ran = run(&home, "rx", 4);
    ran.failed("public.items_unique", Class::Sql);
    ran.assert_done("public.orders_pkey");
    assert_eq!(broken(&cluster), ["items_unique"], "{ran:#?}");
    assert_eq!(super::records(&home), 0);
}

#[test]
fn reindex_names_the_prepared_transaction_and_the_lock_that_it_waits_for() {
    let prepared = crate::harness::postgres::Cluster::builder();
    let cluster = super::shop_of(prepared.setting("max_prepared_transactions", "2"));
    let lines = "lock_timeout = \"300ms\"\nconcurrently = false\nindexes = [\"public.items_id\"]";
    let home = home(&cluster, lines);
    let sql = "BEGIN; LOCK TABLE items IN ROW EXCLUSIVE MODE; PREPARE TRANSACTION 'left over'";
    cluster.psql(DB, sql);
    let ran = run(&home, "rx", 1);
    let hint = ran.failed("public.items_id", Class::Lock).hint.clone().unwrap();
    assert!(hint.contains("the prepared transaction 'left over' of role postgres"), "{hint}");
    cluster.psql(DB, "ROLLBACK PREPARED 'left over'");
    // A role that may not see since when others' transactions are open.
    cluster.psql("postgres", "CREATE ROLE keeper LOGIN");
    cluster.psql(DB, "ALTER TABLE items OWNER TO keeper");
    let home =
        Pgkeep::new().toml(&server_as(&cluster, "user = \"keeper\"")).toml(&job("rx", lines));
    let writer = Holder::writer(&cluster, "items");
    let ran = run(&home, "rx", 1);
    let hint = ran.failed("public.items_id", Class::Lock).hint.clone().unwrap();
    assert!(hint.contains("has RowExclusiveLock"), "{hint}");
    writer.release();
}
