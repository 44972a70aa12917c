//! Servers and roles that are in some trouble.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{found, item, json, said};
use crate::harness::{
    pgbouncer::PgBouncer,
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster, KEEPER},
};

/// A home whose job dumps as a role that has little.
fn home_as(cluster: &Cluster, role: &str, databases: &[&str], lines: &str) -> Pgkeep {
    let server = format!(
        "[server.main]\nhost = {}\nport = {}\nuser = {}\nbin_dir = {}",
        quote(cluster.socket_dir().to_string_lossy()),
        cluster.port(),
        quote(role),
        quote(cluster.bin_dir().to_string_lossy()),
    );
    Pgkeep::new().toml(&server).local("disk").dump("nightly", "main", databases, &["disk"], lines)
}

#[test]
fn a_role_that_lacks_rights_is_told_what_to_run_and_where() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE ROLE newcomer LOGIN");
    let home = home_as(&cluster, "newcomer", &[APP], "");
    let text = said(&home, &[], 7);
    for part in [
        "  critical  globals, job nightly: roles with their passwords\n            critical [role-passwords]: role newcomer may not read the passwords of roles (pg_authid): ",
        "hint: as a superuser, in database postgres: GRANT SELECT ON pg_authid TO newcomer; or set role_passwords = false",
        "  critical  database app, job nightly: a dump of it is refused\n",
        "critical [unreadable-tables]: role newcomer may not read 12 tables and 2 sequences of database app: shop.customer_notes, ",
        "hint: as a superuser, in database app: GRANT USAGE ON SCHEMA shop TO newcomer; GRANT SELECT ON TABLE shop.customer_notes, ",
        "Or, for all that there is and will be: GRANT pg_read_all_data TO newcomer;",
        "critical [row-security]: row-level security hides rows of 1 table of database app from role newcomer: shop.customer_notes\n",
        "critical [large-objects]: role newcomer may not read 11 large objects of database app: ",
    ] {
        assert!(text.contains(part), "{part}\n--- is not in\n{text}");
    }
    // What the script grants is all that is needed.
    let grant = include_str!("../../../packaging/sql/role.sql");
    cluster.psql("postgres", &format!("\\set role newcomer\n{grant}"));
    let whole = json(&home, &["--job", "nightly"], 7);
    // There is another database, without a job.
    assert_eq!(found(&whole), ["server main: warning databases-unprotected"]);
}

#[test]
fn what_is_left_out_by_leave_is_told_and_is_no_trouble() {
    let cluster = Cluster::builder().empty().start();
    cluster.psql(
        "postgres",
        "CREATE FOREIGN DATA WRAPPER wire; CREATE SERVER far FOREIGN DATA WRAPPER wire;
         CREATE USER MAPPING FOR postgres SERVER far OPTIONS (password 'sesame')",
    );
    let refused = said(&home_as(&cluster, KEEPER, &["postgres"], ""), &["--job", "nightly"], 7);
    assert!(refused.contains("accept = [\"user-mapping-options\"] in the job"), "{refused}");
    let accepts = "accept = [\"user-mapping-options\"]";
    let home = home_as(&cluster, KEEPER, &["postgres"], accepts);
    let whole = json(&home, &["--job", "nightly"], 0);
    let database = item(&whole, "server main", "database postgres");
    assert_eq!(database["state"], "info");
    let text = database["text"].as_str().unwrap();
    assert!(text.contains("accepted in [job.nightly]"), "{text}");
}

#[test]
fn poolers_and_servers_that_are_away_are_found() {
    let mut cluster = Cluster::start();
    if PgBouncer::is_installed() {
        let pooler = PgBouncer::start(&cluster, "pool_mode = transaction");
        let home = Pgkeep::new().toml(&pooler.server_as(KEEPER)).local("disk");
        let home = home.dump("nightly", "main", &[APP], &["disk"], "");
        let whole = json(&home, &["--job", "nightly"], 7);
        let database = item(&whole, "server main", "connection");
        assert_eq!(database["findings"][0]["check"], "configuration");
        let what = database["findings"][0]["what"].as_str().unwrap();
        assert!(what.contains("pooler"), "{what}");
        assert!(database["findings"][0]["hint"].as_str().unwrap().contains("the server itself"));
    }
    let home = home_as(&cluster, "who", &[APP], "");
    let whole = json(&home, &[], 7);
    let connection = item(&whole, "server main", "connection");
    assert_eq!(connection["findings"][0]["check"], "authentication");
    assert!(connection["findings"][0]["hint"].as_str().unwrap().contains("\"who\" exists"));

    cluster.stop();
    let whole = json(&home_as(&cluster, KEEPER, &[APP], ""), &[], 7);
    let connection = item(&whole, "server main", "connection");
    assert_eq!(connection["findings"][0]["check"], "connection");
    // The rest is looked at all the same.
    assert_eq!(item(&whole, "repository disk", "writing")["state"], "ok");
}

/// It gives each session a backend of its own, so that nothing stays behind for others.
#[test]
fn a_pooler_that_gives_each_session_a_backend_is_no_trouble() {
    if !PgBouncer::is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let pooler = PgBouncer::start(&cluster, "pool_mode = session");
    let bin_dir = quote(cluster.bin_dir().to_string_lossy());
    let server = format!("{}\nbin_dir = {bin_dir}", pooler.server_as(KEEPER));
    let home = Pgkeep::new().toml(&server).local("disk");
    let others = "exclude = [\"postgres\", \"we*\"]";
    let home = home.dump("nightly", "main", &[APP], &["disk"], others);
    let whole = json(&home, &["--job", "nightly", "--fail-on", "warning"], 0);
    assert_eq!(found(&whole), [""; 0], "{whole:#}");
    let connection = item(&whole, "server main", "connection");
    assert_eq!(connection["state"], "ok", "{connection}");
    assert!(!whole.to_string().contains("pooler"), "{whole:#}");
    assert_eq!(item(&whole, "server main", "database app")["state"], "ok");
}

#[test]
fn databases_that_are_not_there_and_programs_that_do_not_fit_are_found() {
    let cluster = Cluster::start();
    let empty = tempfile::tempdir().unwrap();
    let home = Pgkeep::new()
        .server_with(
            "main",
            &cluster,
            &format!("bin_dir = {}", quote(empty.path().to_string_lossy())),
        )
        .local("disk")
        .dump("nightly", "main", &[APP, "gone"], &["disk"], "exclude = [\"w*\", \"postgres\"]");
    let whole = json(&home, &["--job", "nightly"], 7);
    let expected = ["server main: critical tool-missing", "server main: critical database-gone"];
    assert_eq!(found(&whole), expected);
    assert_eq!(item(&whole, "server main", "database app")["state"], "ok");
}

#[test]
fn a_database_that_a_service_keeps_to_itself_is_excluded_by_hint() {
    let cluster = Cluster::builder().empty().start();
    cluster.psql("postgres", "CREATE ROLE rds_superuser");
    cluster.psql("postgres", "CREATE ROLE customer LOGIN");
    cluster.psql("postgres", "CREATE DATABASE rdsadmin");
    let home = home_as(&cluster, "customer", &["*", "rdsadmin"], "");
    let text = said(&home, &["--job", "nightly"], 7);
    for part in [
        "service: Amazon RDS or Aurora\n",
        "Amazon RDS or Aurora keeps \"rdsadmin\" to itself, and a job chooses it\n",
        "hint: exclude = [\"rdsadmin\"] in the job\n",
        "hint: Amazon RDS or Aurora keeps them to itself: set role_passwords = false in the job",
    ] {
        assert!(text.contains(part), "{part}\n--- is not in\n{text}");
    }
}

/// PostgreSQL 19 warns at each connection, that of pg_dump too.
#[test]
fn a_role_that_the_server_warns_of_is_told_beforehand_and_once_a_run() {
    let Some(builder) = Cluster::of(19) else { return };
    let cluster = builder.empty().start();
    let rules = cluster.data_dir().join("pg_hba.conf");
    let old = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("local all {KEEPER} md5\n{old}")).unwrap();
    cluster.psql(
        "postgres",
        &format!(
            "SET password_encryption = 'md5';
             ALTER ROLE {KEEPER} PASSWORD 'sesame' VALID UNTIL 'tomorrow'; SELECT pg_reload_conf()"
        ),
    );
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "sesame").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let lines = format!(
        "bin_dir = {}\npassword_file = {}",
        quote(cluster.bin_dir().to_string_lossy()),
        quote(password.to_string_lossy())
    );
    let home = Pgkeep::new().server_with("main", &cluster, &lines).local("disk").dump(
        "nightly",
        "main",
        &["postgres"],
        &["disk"],
        "",
    );
    let both = ["server main: warning role-login", "server main: warning role-login"];
    assert_eq!(found(&json(&home, &["--job", "nightly"], 7)), both);
    let ran = home.run(&["run", "nightly", "--json"]).expect_code(0).json();
    let findings = ran["report"]["findings"].as_array().unwrap();
    let checks: Vec<&str> = findings.iter().map(|it| it["check"].as_str().unwrap()).collect();
    assert_eq!(checks, ["role-login", "role-login"], "{findings:#?}");
    for (finding, part) in findings.iter().zip(["VALID UNTIL", "scram-sha-256"]) {
        assert!(finding["hint"].as_str().unwrap().contains(part), "{finding:#}");
    }
}
