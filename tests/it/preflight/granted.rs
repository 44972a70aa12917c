//! What packaging/sql grants suffices, and what is no trouble is not taken for one.

use std::io::{BufRead as _, BufReader, Write as _};

use super::{DB, ROLE, cluster, home_as, lacks, run};
use crate::harness::{
    pgkeep::Pgkeep,
    postgres::{APP, Cluster, HOSTILE},
};

const ROLE_SQL: &str = include_str!("../../../packaging/sql/role.sql");
const DATABASE_SQL: &str = include_str!("../../../packaging/sql/database.sql");
/// The way of PostgreSQL 11 to 13, on a newer one, for a role of a name that has to be quoted.
const AS_BEFORE_14: &str = "\\set by_schema yes\n\\set role 'back \"up'\n";

#[test]
fn the_grants_for_versions_before_14_suffice_also_for_what_comes_later() {
    let cluster = Cluster::start();
    let role = format!("{AS_BEFORE_14}{ROLE_SQL}");
    let database = format!("{AS_BEFORE_14}{DATABASE_SQL}");
    for _ in 0..2 {
        cluster.psql("postgres", &role);
        for name in ["postgres", APP, HOSTILE] {
            cluster.psql(name, &database);
        }
    }
    let of = "SELECT string_agg(r.rolname, ',' ORDER BY 1) FROM pg_auth_members m \
              JOIN pg_roles r ON r.oid = m.roleid WHERE m.member = \
              (SELECT oid FROM pg_roles WHERE rolname = 'back \"up')";
    assert_eq!(cluster.psql("postgres", of), "pg_monitor");
    cluster.psql(
        APP,
        "SET ROLE shop_owner; CREATE SCHEMA AUTHORIZATION shop_owner;
         CREATE TABLE shop_owner.later (id serial); INSERT INTO shop_owner.later DEFAULT VALUES",
    );
    let home = Pgkeep::new().toml(&super::server_as(&cluster, "back \"up")).local("disk");
    // With globals, and the hashes of passwords in them.
    let home = home.dump("nightly", "main", &["*"], &["disk"], "attempts = 1");
    run(&home, 0);
    assert_eq!(run(&home, 0).report.targets.len(), 4);
    // Only this database's pg_authid was opened.
    let authid = "SET ROLE 'back \"up'; SELECT FROM pg_authid LIMIT 0";
    assert_eq!(cluster.try_psql("postgres", authid).code, 0);
    assert_ne!(cluster.try_psql(APP, authid).code, 0);
}

#[test]
fn switches_of_the_script_are_heeded() {
    let cluster = cluster();
    let with =
        |lines: &str| cluster.psql("postgres", &format!("\\set role {ROLE}\n{lines}\n{ROLE_SQL}"));
    let may_switch = "SELECT has_function_privilege('reader', 'pg_switch_wal()', 'EXECUTE')";
    let settings = "SELECT count(*) FROM pg_db_role_setting WHERE setrole = 'reader'::regrole \
                    AND setconfig::text LIKE '%lo_compat_privileges%'";
    with("\\set large_objects no");
    assert_eq!(cluster.psql("postgres", may_switch), "f");
    assert_eq!(cluster.psql("postgres", settings), "0");
    with("\\set switch_wal yes\n\\set maintain yes");
    assert_eq!(cluster.psql("postgres", may_switch), "t");
    // From PostgreSQL 19 on pg_read_all_data covers large objects.
    let large_objects = if cluster.major() < 19 { "1" } else { "0" };
    assert_eq!(cluster.psql("postgres", settings), large_objects);
    // A database that was closed to everybody else is opened.
    cluster.psql("postgres", &format!("REVOKE CONNECT ON DATABASE {DB} FROM PUBLIC"));
    with("");
    run(&home_as(&cluster, ROLE, ""), 0);
}

#[test]
fn what_others_hide_from_pg_dump_is_not_asked_for() {
    let cluster = cluster();
    // Of an extension only the configuration tables are dumped.
    cluster.psql(
        DB,
        "CREATE EXTENSION citext;
         CREATE TABLE of_extension (i int); ALTER EXTENSION citext ADD TABLE of_extension;
         CREATE SEQUENCE numbers_of_it; ALTER EXTENSION citext ADD SEQUENCE numbers_of_it;
         CREATE FOREIGN DATA WRAPPER wire; CREATE SERVER far FOREIGN DATA WRAPPER wire;
         CREATE FOREIGN TABLE away (i int) SERVER far;
         CREATE TABLE ours (i int); GRANT SELECT ON ours TO reader",
    );
    // A session with a temporary table stays open meanwhile.
    let mut psql = cluster.tool("psql");
    psql.args(["-XqAt", "-d", DB]).stdin(std::process::Stdio::piped());
    psql.stdout(std::process::Stdio::piped());
    let mut other = crate::harness::process::spawn(&mut psql);
    let mut stdin = other.stdin.take().unwrap();
    stdin.write_all(b"CREATE TEMP TABLE hidden (id serial);\n\\echo made\n").unwrap();
    let mut line = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "made\n");
    run(&home_as(&cluster, ROLE, ""), 0);
    drop(stdin);
    other.wait().unwrap();

    // What pg_extension_config_dump() does in an extension's script.
    cluster.psql(
        DB,
        "UPDATE pg_extension SET extconfig = ARRAY['of_extension'::regclass::oid], \
         extcondition = ARRAY[''] WHERE extname = 'citext'",
    );
    let failure = lacks(&home_as(&cluster, ROLE, ""));
    assert!(failure.what.contains("1 table of database shop: public.of_extension"), "{failure:#?}");
}

#[test]
fn an_owners_search_path_and_names_mislead_nobody() {
    let cluster = cluster();
    // Whoever owns the database puts functions and tables of their own before the catalogue's.
    cluster.psql(
        DB,
        "CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC;
         CREATE FUNCTION trap.has_table_privilege(oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION trap.row_security_active(oid) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE TABLE trap.pg_class (oid oid, relname name); GRANT SELECT ON trap.pg_class TO PUBLIC;
         CREATE TABLE \"x); DROP TABLE y; --\" (i int);
         ALTER DATABASE shop SET search_path = trap, pg_catalog",
    );
    let failure = lacks(&home_as(&cluster, ROLE, ""));
    let what = "1 table of database shop: public.\"x); DROP TABLE y; --\"";
    assert!(failure.what.contains(what), "{failure:#?}");
    cluster.psql(DB, &super::statements(&failure.hint.unwrap()));
    run(&home_as(&cluster, ROLE, ""), 0);
}

/// Somebody hardened the server: the hint and the scripts grant what was taken.
#[test]
fn a_snapshot_function_that_was_taken_from_everybody_is_granted() {
    let cluster = cluster();
    let take = "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() FROM PUBLIC";
    cluster.psql(DB, take);
    cluster.psql("postgres", &format!("\\set role {ROLE}\n{ROLE_SQL}"));
    let failure = lacks(&home_as(&cluster, ROLE, ""));
    assert!(failure.what.contains("may not export a snapshot"), "{failure:#?}");
    cluster.psql(DB, &super::statements(&failure.hint.unwrap()));
    run(&home_as(&cluster, ROLE, ""), 0);

    cluster.psql(DB, "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() FROM reader");
    lacks(&home_as(&cluster, ROLE, ""));
    cluster.psql(DB, &format!("\\set role {ROLE}\n{DATABASE_SQL}"));
    run(&home_as(&cluster, ROLE, ""), 0);
    cluster.psql("postgres", take);
    cluster.psql("postgres", &format!("\\set role {ROLE}\n{ROLE_SQL}"));
    let may = "SELECT has_function_privilege('reader', 'pg_export_snapshot()', 'EXECUTE')";
    assert_eq!(cluster.psql("postgres", may), "t");
}

/// A role that is a member and does not inherit has nothing of it.
#[test]
fn a_member_that_does_not_inherit_gets_what_helps() {
    let cluster = cluster();
    cluster.psql(DB, "CREATE TABLE closed AS SELECT 1 AS one");
    cluster.psql("postgres", "ALTER ROLE reader NOINHERIT; GRANT pg_read_all_data TO reader");
    let failure = lacks(&home_as(&cluster, ROLE, ""));
    let hint = failure.hint.unwrap();
    let (_, statement) = hint.split_once("and does not inherit): ").expect(&hint);
    cluster.psql("postgres", statement);
    run(&home_as(&cluster, ROLE, ""), 0);
    cluster.psql("postgres", "ALTER ROLE reader NOINHERIT");
    cluster.psql("postgres", &format!("\\set role {ROLE}\n{ROLE_SQL}"));
    run(&home_as(&cluster, ROLE, ""), 0);
}
