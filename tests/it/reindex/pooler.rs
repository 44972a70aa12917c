//! Through a connection pooler nothing is rebuilt.

use pgkeep::domain::failure::Class;

use super::{DB, Pgkeep, indexes, job, run, shop};
use crate::harness::{pgbouncer::PgBouncer, postgres::SUPERUSER};

#[test]
fn reindex_refuses_a_connection_pooler() {
    if !PgBouncer::is_installed() {
        return;
    }
    let cluster = shop();
    let before = indexes(&cluster, DB);
    let pools = [
        "pool_mode = transaction",
        "pool_mode = transaction\ndefault_pool_size = 1",
        "pool_mode = transaction\nmin_pool_size = 5\nserver_round_robin = 1",
        "pool_mode = statement",
    ];
    for pool in pools {
        eprintln!("{pool}");
        let pooler = PgBouncer::start(&cluster, pool);
        let home = Pgkeep::new()
            .toml(&pooler.server_as(SUPERUSER))
            .toml(&job("rx", "indexes = [\"public.items_id\"]"));
        let ran = run(&home, "rx", 1);
        let failures: Vec<_> = ran.report.failures().collect();
        let [failure] = failures.as_slice() else { panic!("{pool}: {ran:#?}") };
        assert_eq!(failure.class, Class::Configuration, "{pool}: {failure:?}");
        let hint = failure.hint.as_ref().unwrap();
        assert!(format!("{} {hint}", failure.what).contains("pooler"), "{pool}: {failure:?}");
        assert!(hint.contains("the server itself"), "{pool}: {failure:?}");
    }
    assert_eq!(indexes(&cluster, DB), before);
}
