//! What refuses a dump: each trouble on a real server, and that the hint mends it.

use pgkeep::domain::failure::Class;

use super::{DB, ROLE, cluster, home_as, lacks, refused, run, statements};
use crate::harness::{
    pgbouncer::PgBouncer,
    pgkeep::{Pgkeep, quote},
    postgres::{Cluster, KEEPER, SUPERUSER},
};

#[test]
fn all_tables_and_sequences_that_cannot_be_read_are_named_and_the_hint_mends_it() {
    let cluster = cluster();
    cluster.psql(
        DB,
        "CREATE SCHEMA \"Closed off\"; CREATE TABLE \"Closed off\".\"My table\" (i int);
         CREATE TABLE open (i int); GRANT SELECT ON open TO reader;
         CREATE TABLE secret (id int GENERATED ALWAYS AS IDENTITY);
         CREATE TABLE parts (at int) PARTITION BY RANGE (at);
         CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (1) TO (2);
         GRANT SELECT ON parts TO reader;
         CREATE TABLE columns (a int, b int); GRANT SELECT (a, b) ON columns TO reader;
         CREATE SEQUENCE numbers;
         CREATE VIEW looks AS SELECT * FROM secret;
         CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM secret",
    );
    let home = home_as(&cluster, ROLE, "");
    let failure = lacks(&home);
    assert!(failure.what.contains("4 tables and 2 sequences of database shop"), "{failure:#?}");
    for name in ["\"Closed off\".\"My table\"", "secret", "part_1", "columns", "secret_id_seq"] {
        assert!(failure.what.contains(name), "{name}: {failure:#?}");
    }
    for name in ["open", "looks", "seen", "parts"] {
        assert!(!failure.what.contains(&format!("public.{name}")), "{name}: {failure:#?}");
    }
    let hint = failure.hint.unwrap();
    assert!(hint.contains("GRANT pg_read_all_data TO reader"), "{hint}");
    cluster.psql(DB, &statements(&hint));
    run(&home, 0);
}

#[test]
fn a_role_that_may_read_everything_at_once_is_mended_by_one_statement() {
    let cluster = cluster();
    let tables: Vec<_> = (0..40).map(|n| format!("CREATE TABLE t{n} (i int)")).collect();
    cluster.psql(DB, &tables.join(";"));
    let home = home_as(&cluster, ROLE, "");
    let failure = lacks(&home);
    assert!(failure.what.contains("40 tables") && failure.what.contains("and 20 more"));
    let hint = failure.hint.unwrap();
    assert!(hint.contains("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"), "{hint}");
    cluster.psql(DB, &statements(&hint));
    run(&home, 0);
}

/// More schemas than a message lists, with names that no line holds: psql finds them itself.
#[test]
fn many_closed_schemas_with_names_of_any_sort_are_mended_by_the_hint() {
    let cluster = cluster();
    cluster.psql(
        DB,
        "SELECT format('CREATE SCHEMA %1$I CREATE TABLE %2$I (id int GENERATED ALWAYS AS IDENTITY)',
             E'it''s\\n\"%s\" ' || n, E't\\\\;\\t' || n) FROM generate_series(1, 25) n \\gexec",
    );
    cluster.psql("postgres", "ALTER ROLE reader RENAME TO \"100% 'read\"");
    let home = home_as(&cluster, "100% 'read", "");
    let hint = lacks(&home).hint.unwrap();
    assert!(!hint.contains('\n') && !hint.contains('…') && !hint.contains(" more "), "{hint}");
    cluster.psql(DB, &statements(&hint));
    run(&home, 0);
}

#[test]
fn row_security_refuses_also_the_owner_on_whom_it_is_forced() {
    let cluster = cluster();
    cluster.psql(
        DB,
        "GRANT pg_read_all_data TO reader;
         CREATE TABLE diary (i int); ALTER TABLE diary ENABLE ROW LEVEL SECURITY;
         CREATE TABLE own (i int); ALTER TABLE own OWNER TO reader;
         ALTER TABLE own ENABLE ROW LEVEL SECURITY;
         CREATE TABLE forced (i int); ALTER TABLE forced OWNER TO reader;
         ALTER TABLE forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE TABLE parts (i int) PARTITION BY RANGE (i);
         ALTER TABLE parts ENABLE ROW LEVEL SECURITY",
    );
    let home = home_as(&cluster, ROLE, "");
    let failure = lacks(&home);
    assert!(failure.what.contains("2 tables of database shop"), "{failure:#?}");
    for name in ["public.diary", "public.forced"] {
        assert!(failure.what.contains(name), "{failure:#?}");
    }
    let hint = failure.hint.unwrap();
    assert!(hint.contains("ALTER TABLE public.forced NO FORCE ROW LEVEL SECURITY;"), "{hint}");
    let (_, statement) = hint.split_once("as a superuser: ").unwrap();
    cluster.psql(DB, statement.split(';').next().unwrap());
    run(&home, 0);
}

#[test]
fn security_that_is_forced_in_many_tables_is_ended_by_their_owner() {
    let cluster = cluster();
    cluster.psql(
        DB,
        "GRANT CREATE ON SCHEMA public TO reader; SET ROLE reader;
         SELECT format('CREATE TABLE %1$I (i int); ALTER TABLE %1$I ENABLE ROW LEVEL SECURITY, '
             'FORCE ROW LEVEL SECURITY', 'T ' || n) FROM generate_series(1, 25) n \\gexec",
    );
    let home = home_as(&cluster, ROLE, "");
    let hint = lacks(&home).hint.unwrap();
    assert!(!hint.contains('…') && !hint.contains(" more "), "{hint}");
    cluster.psql(DB, &format!("SET ROLE reader; {}", statements(&hint)));
    run(&home, 0);
}

#[test]
fn large_objects_are_counted_and_both_ways_that_are_hinted_at_work() {
    let cluster = cluster();
    cluster.psql(
        DB,
        "SELECT lo_create(4711), lo_create(4712), lo_create(4713);
         GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC; ALTER LARGE OBJECT 4712 OWNER TO reader",
    );
    let home = home_as(&cluster, ROLE, "");
    let failure = lacks(&home);
    assert!(failure.what.contains("1 large object of database shop: 4713"), "{failure:#?}");
    cluster.psql(DB, &statements(failure.hint.as_ref().unwrap()));
    run(&home, 0);

    // An owner may be without the right, too.
    cluster.psql(
        DB,
        "REVOKE ALL ON LARGE OBJECT 4712 FROM reader;
         SELECT lo_create(0) FROM generate_series(1, 30)",
    );
    let home = home_as(&cluster, ROLE, "");
    let failure = lacks(&home);
    assert!(failure.what.contains("31 large objects of database shop: 4712, "), "{failure:#?}");
    assert!(failure.what.contains("and 11 more"), "{failure:#?}");
    let hint = failure.hint.unwrap();
    let (_, setting) = hint.split_once("will be: ").unwrap();
    cluster.psql(DB, setting);
    run(&home, 0);
    cluster.psql(DB, "ALTER ROLE reader RESET lo_compat_privileges");
    cluster.psql(DB, &statements(&hint));
    let home = home_as(&cluster, ROLE, "");
    run(&home, 0);
}

#[test]
fn a_pooler_that_shares_backends_is_refused_and_one_that_does_not_is_fine() {
    if !PgBouncer::is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let dump = |bouncer: &PgBouncer| {
        let programs = quote(cluster.bin_dir().to_string_lossy());
        let server = format!("{}\nbin_dir = {programs}", bouncer.server_as(KEEPER));
        let home = Pgkeep::new().toml(&server).local("disk");
        home.dump("nightly", "main", &["app"], &["disk"], "attempts = 1\nglobals = false")
    };
    let shares = PgBouncer::start(&cluster, "pool_mode = transaction");
    let failure = refused(&dump(&shares));
    assert_eq!(failure.class, Class::Configuration, "{failure:#?}");
    assert!(failure.what.contains("pooler"), "{failure:#?}");
    assert!(failure.hint.unwrap().contains("connect to the server itself"));
    drop(shares);
    let keeps = PgBouncer::start(&cluster, "pool_mode = session");
    run(&dump(&keeps), 0);
}

#[test]
fn one_database_that_is_refused_does_not_keep_the_others() {
    let cluster = cluster();
    cluster.psql("postgres", "CREATE DATABASE other");
    cluster.psql(DB, "CREATE TABLE secret (i int)");
    cluster.psql("other", "CREATE TABLE open (i int); GRANT SELECT ON open TO PUBLIC");
    let home = Pgkeep::new().toml(&super::server_as(&cluster, ROLE)).local("disk");
    let home =
        home.dump("nightly", "main", &[DB, "other"], &["disk"], "attempts = 1\nglobals = false");
    run(&home, 4);
    let list = home.run(&["list", "--json"]).expect_code(0).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["subject"], "other");
    // Said in the words of `run`, as a stranger would see it.
    let said = home.run(&["run", "nightly"]).expect_code(4).text();
    assert!(
        said.contains("role reader may not read 1 table of database shop: public.secret"),
        "{said}"
    );
    assert!(
        said.contains("hint: as a superuser, in database shop: GRANT SELECT ON TABLE"),
        "{said}"
    );
}

#[test]
fn a_superuser_is_asked_nothing() {
    let cluster = cluster();
    cluster.psql(
        DB,
        "CREATE TABLE secret (i int); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
         SELECT lo_create(0)",
    );
    run(&home_as(&cluster, SUPERUSER, ""), 0);
}
