//! A server made again on an empty one, with the lines of the manifests and nothing else.

use std::{collections::BTreeMap, fs};

use pgkeep::domain::{failure::Class, finding::Severity};

use super::{Copy, DISK, disk, listed, run_job, shell};
use crate::harness::{
    compare::Fingerprint,
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Builder, Cluster, HOSTILE},
    process::run,
};

/// Everything of a cluster that is not in one of its databases, in lines.
const CLUSTER_SQL: &str = r"
SELECT 'role', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
  rolbypassrls, rolconnlimit, rolpassword, shobj_description(oid, 'pg_authid')
FROM pg_authid WHERE oid >= 16384 ORDER BY 2;
SELECT 'member', roleid::regrole::text, member::regrole::text, admin_option FROM pg_auth_members WHERE member >= 16384 ORDER BY 2, 3;
SELECT 'database', datname, datdba::regrole, pg_encoding_to_char(encoding), datcollate, datctype, datistemplate,
  datconnlimit, (SELECT array_agg(x::text ORDER BY x::text) FROM unnest(datacl) AS x), shobj_description(oid, 'pg_database')
FROM pg_database WHERE datname <> 'template0' ORDER BY 2;
SELECT 'setting', datname, CASE setrole WHEN 0 THEN '' ELSE setrole::regrole::text END, setconfig
FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase ORDER BY 2, 3";

/// What a database cluster has that only `databases.sql` brings.
fn furnish(cluster: &Cluster) {
    cluster.psql(
        "postgres",
        r#"
CREATE ROLE app_reader LOGIN CONNECTION LIMIT 3 IN ROLE reporting;
GRANT shop_owner TO app_reader WITH ADMIN OPTION;
ALTER ROLE app_reader SET search_path = 'a b', "$user", public;
ALTER DATABASE app SET work_mem = '8MB';
ALTER DATABASE app SET search_path = 'x''y', "we""ird", public;
ALTER DATABASE app SET default_transaction_read_only = on;
ALTER ROLE limited IN DATABASE app SET statement_timeout = '5s';
ALTER DATABASE app CONNECTION LIMIT 7;
REVOKE CONNECT ON DATABASE app FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE app TO "Ops & ""Support""";
GRANT CONNECT ON DATABASE app TO pgkeep;
COMMENT ON DATABASE app IS E'two\nlines -- and ''quotes''';
ALTER DATABASE "we""ird/.. 🐘" OWNER TO limited;
CREATE DATABASE mould IS_TEMPLATE true;
ALTER DATABASE postgres SET lock_timeout = '1min';
GRANT CREATE ON DATABASE template1 TO reporting;
CREATE DATABASE closed ALLOW_CONNECTIONS false"#,
    );
}

fn globals(copies: &[Copy]) -> &Copy {
    copies.iter().find(|copy| copy.subject() == "@globals").unwrap()
}

/// A file beside the globals, as `zstd` unpacks it.
#[track_caller]
fn unpacked(cluster: &Cluster, copy: &Copy, name: &str) -> Vec<u8> {
    let mut sh = shell(cluster, "zstd -dc -- \"$1\"");
    sh.arg(name).current_dir(&copy.folder);
    run(&mut sh, "").expect_code(0).stdout
}

#[test]
fn a_server_is_made_again_by_the_lines_of_the_manifests() {
    let cluster = Cluster::start();
    furnish(&cluster);
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &[APP, HOSTILE], &[DISK], "attempts = 1");
    let ran = run_job(&home, "nightly", 0);
    let copies = listed(&home, &disk(&home));
    let globals = globals(&copies);
    assert_eq!(globals.manifest.format_version, 3);
    // The one that nobody can connect to cannot be described, and is named.
    let [left_out] = &globals.manifest.left_out[..] else {
        panic!("{:?}", globals.manifest.left_out)
    };
    assert!(left_out.what.contains("closed") && left_out.reason.contains("datallowconn"));
    let [finding] = &ran.report.findings[..] else { panic!("{:?}", ran.report.findings) };
    assert_eq!((finding.check.as_str(), finding.severity), ("globals-unread", Severity::Info));
    cluster.psql("postgres", "DROP DATABASE closed");

    let other = Cluster::builder().empty().start();
    let script = globals.manifest.restore.join("\n");
    run(shell(&other, &script).current_dir(&globals.folder), "").expect_code(0);
    for copy in copies.iter().filter(|copy| copy.manifest.database.is_some()) {
        let lines = &copy.manifest.restore;
        let at = lines
            .iter()
            .position(|line| line.contains("that databases.sql of @globals makes"))
            .unwrap();
        let line = lines[at + 1].strip_prefix("#    ").unwrap();
        run(shell(&other, line).current_dir(&copy.folder), "").expect_code(0);
        let name = copy.subject();
        let differences =
            Fingerprint::of(&cluster, &name).differences(&Fingerprint::of(&other, &name));
        assert!(differences.is_empty(), "{name}: {differences:#?}");
    }
    let (here, there) =
        (cluster.psql("postgres", CLUSTER_SQL), other.psql("postgres", CLUSTER_SQL));
    assert!(here.contains("setting|app|limited|") && here.contains("SCRAM-SHA-256"), "{here}");
    similar(&here, &there);
}

#[track_caller]
fn similar(here: &str, there: &str) {
    for (a, b) in here.lines().zip(there.lines()) {
        assert_eq!(a, b);
    }
    assert_eq!(here, there);
}

#[test]
fn globals_have_the_configuration_of_the_server() {
    configuration_is_kept(Cluster::builder());
}

/// It has a file more.
#[test]
fn globals_have_the_configuration_of_a_server_19() {
    let Some(builder) = Cluster::of(19) else { return };
    configuration_is_kept(builder);
}

fn configuration_is_kept(builder: Builder) {
    let cluster = builder.setting("work_mem", "7MB").empty().start();
    let included = cluster.data_dir().join("extra.conf");
    fs::write(&included, "log_line_prefix = 'it''s %p '\n").unwrap();
    let main = cluster.data_dir().join("postgresql.conf");
    let text = fs::read_to_string(&main).unwrap();
    fs::write(&main, format!("{text}\ninclude 'extra.conf'\n")).unwrap();
    cluster.psql("postgres", "ALTER SYSTEM SET deadlock_timeout = '3s'");
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local(DISK)
        .dump("nightly", "main", &["postgres"], &[DISK], "attempts = 1")
        .dump("without", "main", &["postgres"], &[DISK], "attempts = 1\nserver_files = false");
    assert!(run_job(&home, "nightly", 0).report.findings.is_empty());
    let copies = listed(&home, &disk(&home));
    let copy = globals(&copies);
    let files: BTreeMap<&str, &_> =
        copy.manifest.files.iter().map(|file| (file.object.name.as_str(), file)).collect();
    let names: Vec<&str> = files.keys().copied().collect();
    let mut expected = vec![
        "databases.sql.zst",
        "included-01-extra.conf.zst",
        "pg_hba.conf.zst",
        "pg_ident.conf.zst",
        "postgresql.auto.conf.zst",
        "postgresql.conf.zst",
        "settings.txt.zst",
    ];
    if cluster.major() >= 19 {
        expected.insert(3, "pg_hosts.conf.zst");
    }
    assert_eq!(names, expected);
    for (name, file) in &files {
        let plain = unpacked(&cluster, copy, name);
        assert_eq!(plain.len() as u64, file.plain_bytes);
        if let Some(path) = &file.path {
            assert!(fs::read(path).unwrap() == plain, "{name} is not {path}");
        }
    }
    let settings = String::from_utf8(unpacked(&cluster, copy, "settings.txt.zst")).unwrap();
    assert!(settings.contains("\nwork_mem = '7168'  # kB, command line\n"), "{settings}");
    assert!(settings.contains("\nlog_line_prefix = 'it''s %p '  # "), "{settings}");
    assert!(settings.contains("\ndeadlock_timeout = '3000'  # ms, "), "{settings}");
    let shown = home.run(&["show", copy.manifest.id.as_str()]).expect_code(0).text();
    assert!(shown.contains("file          pg_hba.conf.zst: /"), "{shown}");

    // One of them is lost: `show` says so, as of an archive.
    fs::remove_file(copy.folder.join("pg_hba.conf.zst")).unwrap();
    let shown = home.run(&["show", copy.manifest.id.as_str()]).expect_code(1).text();
    assert!(shown.contains("pg_hba.conf.zst is missing"), "{shown}");

    let id = run_job(&home, "without", 0).target("@globals", DISK).figures.backup.clone().unwrap();
    let copies = listed(&home, &disk(&home));
    let copy = copies.iter().find(|copy| copy.manifest.id == id).unwrap();
    assert_eq!(copy.manifest.files.len(), 1, "how databases are made is always there");
}

/// Whatever keeps it from being known how a database is made, or how the server is configured, fails the
/// globals: only a right that is lacking, or that the job does not mean the database, is a reason to go without.
#[test]
fn globals_that_would_lack_something_for_no_want_of_a_right_fail() {
    let cluster = Cluster::builder().setting("work_mem", "7MB").start();
    let included = cluster.data_dir().join("extra.conf");
    fs::write(&included, "deadlock_timeout = '3s'\n").unwrap();
    let main = cluster.data_dir().join("postgresql.conf");
    let text = fs::read_to_string(&main).unwrap();
    fs::write(&main, format!("{text}\ninclude 'extra.conf'\n")).unwrap();
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &["postgres"], &[DISK], "attempts = 1");
    let home = home.dump("both", "main", &["postgres", "app"], &[DISK], "attempts = 1");
    assert!(run_job(&home, "nightly", 0).report.findings.is_empty());

    cluster.psql("postgres", "ALTER DATABASE app CONNECTION LIMIT 0");
    // A job that does not mean the database goes without it.
    let ran = run_job(&home, "nightly", 0);
    let [finding] = &ran.report.findings[..] else { panic!("{:?}", ran.report.findings) };
    assert_eq!((finding.check.as_str(), finding.severity), ("globals-unread", Severity::Info));
    assert!(finding.what.contains("database app"), "{finding:?}");
    let ran = run_job(&home, "both", 4);
    let failure = ran.failed("@globals", DISK, Class::Connection);
    assert!(
        failure.doing.contains("database app") && failure.what.contains("too many"),
        "{failure}"
    );
    ran.assert_succeeded("postgres", DISK);
    cluster.psql("postgres", "ALTER DATABASE app CONNECTION LIMIT -1");

    fs::remove_file(&included).unwrap();
    std::os::unix::fs::symlink("extra.conf", &included).unwrap();
    let failure = run_job(&home, "nightly", 4);
    let failure = failure.failed("@globals", DISK, Class::State);
    assert!(failure.what.contains("extra.conf"), "{failure}");
    fs::remove_file(&included).unwrap();
    run_job(&home, "nightly", 0);

    cluster.psql("postgres", "REVOKE CONNECT ON DATABASE app FROM PUBLIC, pgkeep");
    let ran = run_job(&home, "nightly", 0);
    let [finding] = &ran.report.findings[..] else { panic!("{:?}", ran.report.findings) };
    assert_eq!((finding.check.as_str(), finding.severity), ("globals-unread", Severity::Info));
}

/// A role that may read data and nothing else: the globals are made all the same, and it is said what
/// to grant.
#[test]
fn what_the_role_may_not_read_is_named_with_the_grant() {
    let cluster = Cluster::builder().tcp().start();
    cluster
        .psql("postgres", "CREATE ROLE \"kee\"\"per\" LOGIN PASSWORD 'k' IN ROLE pg_read_all_data");
    cluster.psql("postgres", "GRANT EXECUTE ON FUNCTION pg_control_system() TO \"kee\"\"per\"");
    // Through TCP, so that this machine may as well be another one.
    let server = format!(
        "[server.main]\nhost = \"127.0.0.1\"\nport = {}\nuser = {}\npassword = \"k\"\n{}",
        cluster.tcp_port().unwrap(),
        quote("kee\"per"),
        super::bin_dir(cluster.bin_dir())
    );
    let home = Pgkeep::new().toml(&server).local(DISK);
    let lines = "attempts = 1\nrole_passwords = false";
    let home = home.dump("nightly", "main", &["postgres"], &[DISK], lines);
    let ran = run_job(&home, "nightly", 0);
    let [finding] = &ran.report.findings[..] else { panic!("{:?}", ran.report.findings) };
    assert_eq!((finding.check.as_str(), finding.severity), ("globals-unread", Severity::Info));
    let hint = finding.hint.clone().unwrap();
    let copies = listed(&home, &disk(&home));
    let manifest = &globals(&copies).manifest;
    let names: Vec<&str> = manifest.files.iter().map(|file| file.object.name.as_str()).collect();
    assert_eq!(names, ["databases.sql.zst", "settings.txt.zst"]);
    assert!(
        manifest.left_out.iter().any(|it| it.what.contains("configuration files")),
        "{:?}",
        manifest.left_out
    );
    let sql = unpacked(&cluster, globals(&copies), "databases.sql.zst");
    let sql = String::from_utf8(sql).unwrap();
    assert!(
        sql.contains("\nCREATE DATABASE app ") && sql.contains("\n-- CREATE DATABASE postgres "),
        "{sql}"
    );

    // What the hint says, word for word.
    let (_, grants) = hint.split_once("in database postgres: ").unwrap();
    let (grants, _) = grants.split_once("; (").unwrap();
    cluster.psql("postgres", grants);
    let ran = run_job(&home, "nightly", 0);
    assert!(ran.report.findings.is_empty(), "{:?}", ran.report.findings);
    let id = ran.target("@globals", DISK).figures.backup.clone().unwrap();
    let copies = listed(&home, &disk(&home));
    let copy = copies.iter().find(|copy| copy.manifest.id == id).unwrap();
    let hba = unpacked(&cluster, copy, "pg_hba.conf.zst");
    assert!(fs::read(cluster.data_dir().join("pg_hba.conf")).unwrap() == hba);
}

/// Nobody granted the right to read files, but the service runs on the same machine as a user who can.
#[test]
fn files_of_a_server_on_this_machine_are_read_where_they_lie() {
    let cluster = Cluster::start();
    cluster.psql(
        "postgres",
        "CREATE ROLE keeper LOGIN IN ROLE pg_read_all_data, pg_read_all_settings",
    );
    cluster.psql("postgres", "GRANT EXECUTE ON FUNCTION pg_control_system() TO keeper");
    let server = format!(
        "[server.main]\nhost = {}\nport = {}\nuser = \"keeper\"\n{}",
        quote(cluster.socket_dir().to_string_lossy()),
        cluster.port(),
        super::bin_dir(cluster.bin_dir())
    );
    let home = Pgkeep::new().toml(&server).local(DISK);
    let lines = "attempts = 1\nrole_passwords = false";
    let home = home.dump("nightly", "main", &["postgres"], &[DISK], lines);
    let readable = fs::read(cluster.data_dir().join("pg_hba.conf"));
    let Ok(hba) = readable else {
        eprintln!("skipped: the user of the tests cannot read the server's folder");
        return;
    };
    assert!(run_job(&home, "nightly", 0).report.findings.is_empty());
    let copies = listed(&home, &disk(&home));
    assert!(unpacked(&cluster, globals(&copies), "pg_hba.conf.zst") == hba);
}
