//! What interrupted builds leave behind: ours goes, everybody else's is told.

use pgkeep::domain::failure::Class;

use super::{
    DB, Holder, Ran, broken, home, indexes, job, rebuild_in_vain, records, run, shop, wait_blocked,
};
use crate::harness::client::Client;

#[test]
fn reindex_tells_of_foreign_debris_and_drops_it_only_when_told_to() {
    let cluster = shop();
    cluster.psql(DB, "CREATE INDEX items_item ON items (item)");
    let reader = Holder::reader(&cluster, "orders");
    rebuild_in_vain(&cluster, "orders_pkey");
    reader.release();
    let writer = Holder::writer(&cluster, "items");
    rebuild_in_vain(&cluster, "items_id");
    rebuild_in_vain(&cluster, "items_item");
    writer.release();
    // The same name, another definition; and a whole index that is called so.
    cluster.psql(
        DB,
        "DROP INDEX items_item; CREATE INDEX items_item ON items (item, id);
         CREATE INDEX orders_who_ccnew ON orders (who)",
    );
    assert_eq!(broken(&cluster), ["items_id_ccnew", "items_item_ccnew", "orders_pkey_ccold"]);
    let before = indexes(&cluster, DB);
    let home = home(&cluster, "invalid = true")
        .toml(&job("all", "invalid = true\ndrop_debris = \"matching\""))
        .toml(&job("none", "invalid = true\ndrop_debris = \"none\""));
    for job in ["rx", "none"] {
        let ran = run(&home, job, 0);
        assert_eq!(ran.targets(), [""; 0]);
        assert_eq!(
            ran.findings(),
            [
                "index-debris public.items_id_ccnew",
                "index-debris public.items_item_ccnew",
                "index-debris public.orders_pkey_ccold"
            ]
        );
        assert!(ran.report.findings[0].hint.as_ref().unwrap().contains("DROP INDEX CONCURRENTLY"));
        assert_eq!(indexes(&cluster, DB), before, "nothing is touched");
    }
    let ran = run(&home, "all", 0);
    assert_eq!(
        ran.targets(),
        ["succeeded public.items_id_ccnew", "succeeded public.orders_pkey_ccold"]
    );
    assert_eq!(ran.findings(), ["index-debris public.items_item_ccnew"]);
    assert_eq!(broken(&cluster), ["items_item_ccnew"]);
    assert!(indexes(&cluster, DB)["orders_who_ccnew"].1);
}

#[test]
fn reindex_that_waits_too_long_for_writers_cleans_up_the_next_time() {
    let cluster = shop();
    let home = home(
        &cluster,
        "lock_timeout = \"500ms\"\nindexes = [\"public.items_id\", \"public.orders_pkey\"]",
    );
    let writer = Holder::writer(&cluster, "items");
    let ran = run(&home, "rx", 4);
    let failure = ran.failed("public.items_id", Class::Lock);
    let hint = failure.hint.as_ref().unwrap();
    assert!(hint.contains("psql") && hint.contains("lock_timeout"), "{failure:?}");
    let output = &ran.target("public.items_id").output;
    assert!(output.iter().any(|line| line.contains("it will be tried again")), "{output:?}");
    ran.assert_done("public.orders_pkey");
    // The writer stands in the way of the drop as well.
    assert_eq!(broken(&cluster), ["items_id_ccnew"]);
    assert_eq!(records(&home), 1, "of what is clean nothing is kept");
    writer.release();
    let ran = run(&home, "rx", 0);
    let output = &ran.assert_done("public.items_id").output;
    assert!(output[0].contains("dropped public.items_id_ccnew"), "{output:?}");
    assert_eq!(broken(&cluster), [""; 0]);
    assert_eq!(records(&home), 0);
}

#[test]
fn reindex_that_waits_too_long_for_a_snapshot_leaves_nothing_behind() {
    let cluster = shop();
    cluster.psql("postgres", "CREATE DATABASE other TEMPLATE shop");
    let home = home(
        &cluster,
        "databases = [\"shop\", \"other\"]\nlock_timeout = \"500ms\"\nindexes = [\"public.items_id\"]",
    );
    let snapshot = Holder::snapshot(&cluster);
    let ran = run(&home, "rx", 4);
    ran.failed("public.items_id", Class::Lock);
    let output = &ran.target("public.items_id").output;
    assert!(output.iter().any(|line| line.contains("dropped public.items_id_ccnew")), "{output:?}");
    assert_eq!(ran.target_in("other", "public.items_id").outcome.state(), "succeeded");
    assert_eq!(broken(&cluster), [""; 0]);
    assert_eq!(records(&home), 0);
    snapshot.release();
}

#[test]
fn reindex_that_cannot_drop_the_old_copy_has_rebuilt_the_index() {
    let cluster = shop();
    let home = home(&cluster, "lock_timeout = \"500ms\"\nindexes = [\"public.items_id\"]")
        .toml(&job("rest", "invalid = true"));
    let before = indexes(&cluster, DB);
    let reader = Holder::reader(&cluster, "items");
    let ran = run(&home, "rx", 0);
    let output = &ran.assert_done("public.items_id").output;
    assert!(output.iter().any(|line| line.contains("only its old copy")), "{output:?}");
    assert_eq!(ran.findings(), ["index-debris public.items_id_ccold"]);
    let after = indexes(&cluster, DB);
    assert_ne!(after["items_id"].0, before["items_id"].0);
    assert_eq!(after["items_id_ccold"], (before["items_id"].0, false));
    reader.release();
    let ran = run(&home, "rest", 0);
    assert_eq!(ran.targets(), ["succeeded public.items_id_ccold"]);
    assert_eq!(broken(&cluster), [""; 0]);
    assert_eq!(records(&home), 0);
}

#[test]
fn reindex_drops_its_debris_as_soon_as_what_it_waited_for_has_ended() {
    let cluster = shop();
    let home = home(&cluster, "lock_timeout = \"2s\"\nindexes = [\"public.items_id\"]");
    let writer = Holder::writer(&cluster, "items");
    let running = Client::start(&home, &["run", "rx", "--json"]);
    wait_blocked(&cluster, "DROP INDEX");
    writer.release();
    let ran = Ran::of(running.end(), 1);
    ran.failed("public.items_id", Class::Lock);
    assert_eq!(broken(&cluster), [""; 0]);
    assert_eq!(records(&home), 0);
}
