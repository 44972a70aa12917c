//! Who holds back dead rows, as the server tells it: slots, read and not.

use pgkeep::{
    domain::vacuum::{self as rules, HolderSort, Horizon},
    postgres::{ConnParts, ConnSpec, Session, service::Environment, vacuum},
    sys::{clock::SystemClock, task::Task},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::harness::postgres::SUPERUSER;

fn horizon(cluster: &Cluster) -> Horizon {
    let spec = ConnSpec::resolve(
        &ConnParts {
            host: Some(cluster.socket_dir().to_str().unwrap().to_owned()),
            port: Some(cluster.port()),
            user: Some(SUPERUSER.to_owned()),
            ..ConnParts::default()
        },
        &Environment::default(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (spec, task) = (spec.unwrap(), Task::new(SystemClock::new()));
        let session = Session::connect(&spec, APP, "test", &task).await.unwrap();
        let horizon = vacuum::horizon(&session, &CancellationToken::new()).await.unwrap();
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
