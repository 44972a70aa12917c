//! Who holds back dead rows, as the server tells it: slots, read and not.

use pgkeep::{
    domain::vacuum::{self as rules, HolderSort, Horizon},
    maintenance::vacuum,
    postgres::{ConnSpec, Session, params::Params, service::Environment},
    sys::{clock::SystemClock, task::Task},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::harness::{
    postgres::{Builder, SUPERUSER},
    versions::MAJORS,
};

fn horizon(cluster: &Cluster) -> Horizon {
    let (host, port) = (cluster.socket_dir().display(), cluster.port());
    let params = Params::parse(&format!("host={host} port={port} user={SUPERUSER}")).unwrap();
    let spec = ConnSpec::resolve(params, false, &Environment::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (spec, task) = (spec.unwrap(), Task::new(SystemClock::new()));
        let session = Session::connect(&spec, APP, "test", &task).await.unwrap();
        let horizon = vacuum::horizon(session.queries(&CancellationToken::new())).await.unwrap();
        session.close().await;
        horizon
    })
}

fn assert_slot(holder: Option<&rules::Holder>, sort: HolderSort, who: &str) {
    let holder = holder.expect("a holder");
    assert_eq!((holder.sort, holder.who.as_str(), holder.held_for), (sort, who, None));
    assert!(holder.age > 0, "{holder:?}");
}

#[test]
fn a_slot_with_the_feedback_of_a_standby_stands_for_the_standby_as_long_as_it_is_read() {
    let cluster = Cluster::start();
    assert_eq!(horizon(&cluster), Horizon::default());
    cluster.psql(APP, "SELECT pg_create_physical_replication_slot('two')");
    let settings = [
        ("hot_standby_feedback", "on"),
        ("primary_slot_name", "two"),
        ("wal_receiver_status_interval", "1s"),
    ];
    let mut standby = cluster.standby(&settings);
    let fed = "SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE active";
    eventually("the feedback of the standby", PATIENCE, || {
        (cluster.psql(APP, fed) == "t").then_some(())
    });
    let reader = Holder::of(
        &standby,
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1 \\g /dev/null\n",
    );
    cluster.psql(APP, "SELECT pg_current_xact_id()");
    let old = "SELECT age(xmin) > 0 FROM pg_replication_slots";
    eventually("a horizon that is held", PATIENCE, || {
        (cluster.psql(APP, old) == "t").then_some(())
    });
    let seen = horizon(&cluster);
    assert_slot(seen.rows.as_ref(), HolderSort::Standby, "physical replication slot two (active)");
    assert_eq!(seen.catalogue, None);

    standby.stop_immediate();
    drop(reader);
    eventually("a slot that nobody reads", PATIENCE, || {
        (cluster.psql(APP, "SELECT active FROM pg_replication_slots") == "f").then_some(())
    });
    let seen = horizon(&cluster);
    assert_slot(seen.rows.as_ref(), HolderSort::Slot, "physical replication slot two (inactive)");
}

#[test]
fn a_logical_slot_holds_the_catalogue_and_nothing_else() {
    let cluster = Cluster::builder().setting("wal_level", "logical").start();
    cluster.psql(APP, "SELECT pg_create_logical_replication_slot('later', 'pgoutput')");
    cluster.psql(APP, "SELECT pg_current_xact_id()");
    let seen = horizon(&cluster);
    assert_eq!(seen.rows, None);
    let who = "logical replication slot later (inactive)";
    assert_slot(seen.catalogue.as_ref(), HolderSort::Slot, who);
}

/// From PostgreSQL 19 on subscriptions with `retain_dead_tuples` hold rows by a slot of the server's own.
#[test]
fn the_slot_of_conflict_detection_is_the_subscriptions() {
    let Some(builder) = Cluster::of(19) else { return };
    let cluster = builder.setting("track_commit_timestamp", "on").start();
    cluster.psql(
        APP,
        "CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p \
         WITH (connect = false, retain_dead_tuples = true)",
    );
    eventually("the slot's xmin", PATIENCE, || {
        cluster.psql(APP, "SELECT pg_current_xact_id()");
        let held = "SELECT age(xmin) > 1 FROM pg_replication_slots";
        (cluster.psql(APP, held) == "t").then_some(())
    });
    let seen = horizon(&cluster);
    assert_eq!(
        seen.rows.as_ref().map(|holder| holder.sort),
        Some(HolderSort::Conflicts),
        "{seen:?}"
    );
    let who = &seen.rows.unwrap().who;
    assert!(who.contains("pg_conflict_detection"), "{who}");
}

/// A logical slot that is lost shows its catalog_xmin for ever.
fn lose_a_slot(builder: Builder) {
    let cluster =
        builder.setting("wal_level", "logical").setting("max_slot_wal_keep_size", "1MB").start();
    cluster.psql(APP, "SELECT pg_create_logical_replication_slot('later', 'pgoutput')");
    cluster.psql(APP, "SELECT pg_create_physical_replication_slot('held', true)");
    eventually("a slot that is lost", PATIENCE, || {
        cluster.psql(APP, "SELECT pg_logical_emit_message(true, 'x', 'x')");
        cluster.psql(APP, "SELECT pg_switch_wal()");
        cluster.psql(APP, "CHECKPOINT");
        let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'later'";
        (cluster.psql(APP, status) == "lost").then_some(())
    });
    let shown = "SELECT age(catalog_xmin) > 0 FROM pg_replication_slots WHERE slot_name = 'later'";
    assert_eq!(cluster.psql(APP, shown), "t", "it still shows what it held");
    assert_eq!(horizon(&cluster), Horizon::default());
}

#[test]
fn a_slot_that_is_lost_holds_nothing() {
    lose_a_slot(Cluster::builder());
}

#[test]
fn a_slot_that_is_lost_holds_nothing_in_any_version() {
    for major in MAJORS {
        let Some(builder) = Cluster::of(major) else { continue };
        lose_a_slot(builder);
    }
}
