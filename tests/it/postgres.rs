//! Sessions, TLS, passwords, snapshots and the client programs against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "clippy exempts only functions marked as tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pgkeep::{
    domain::{
        failure::{Class, IntoFailure},
        name::DatabaseName,
        pattern::{DatabasePatterns, Reason},
        scope::{Contents, Scope},
    },
    postgres::{
        ConnSpec, PgError, Session, catalog,
        command::{Dump, Globals},
        notice::Level,
        params::{Params, quote},
        scope::Form,
        service::Environment,
        session::Limits,
        snapshot::export_snapshot,
        tools::{Toolbox, choose},
    },
    sys::{
        clock::SystemClock,
        process::{Child, Exit, Spec, Stdout, run_captured},
        task::Task,
    },
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const SOON: Duration = Duration::from_mins(1);
const GRACE: Duration = Duration::from_secs(10);

async fn run(program: impl Into<PathBuf>, args: &[&str]) -> Arc<Exit> {
    let spec = Spec::new(program).args(args.iter().copied());
    run_captured(spec, 1 << 20, SOON, &CancellationToken::new()).await.unwrap()
}

async fn run_ok(program: impl Into<PathBuf>, args: &[&str]) -> String {
    let exit = run(program, args).await;
    assert!(exit.success(), "{args:?} {}: {}", exit.end, exit.stderr);
    String::from_utf8(exit.stdout.clone()).unwrap()
}

fn task() -> Task {
    Task::new(SystemClock::new())
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

/// A cluster of its own; not root's, since PostgreSQL refuses to run as root.
struct Cluster {
    dir: TempDir,
    port: u16,
    server: Option<Child>,
}

impl Cluster {
    async fn start(hba: &str, settings: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        if as_root() {
            run_ok("/bin/chown", &["postgres", &path]).await;
        }
        let data = format!("{path}/data");
        let initdb = format!("{BIN}/initdb");
        let args = ["-D", &data, "-U", "admin", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"];
        unprivileged(&initdb, &args).await;
        make_certificates(dir.path()).await;
        fs::write(format!("{data}/pg_hba.conf"), hba).unwrap();
        // A free port: the kernel's choice, free again a moment before the server takes it.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut cluster = Self { dir, port, server: None };
        cluster.boot(settings).await;
        cluster
    }

    async fn boot(&mut self, settings: &[&str]) {
        let path = self.path().to_str().unwrap().to_owned();
        let port = self.port.to_string();
        let postgres = format!("{BIN}/postgres");
        let (data, log) = (format!("{path}/data"), format!("{path}/log"));
        let sockets = format!("unix_socket_directories={path}");
        let mut args = vec!["-D", &data, "-p", &port, "-c", &sockets, "-c", "fsync=off"];
        args.extend(["-c", "listen_addresses=127.0.0.1", "-c", "logging_collector=off"]);
        for setting in settings {
            args.extend(["-c", setting]);
        }
        let (program, prefix) = unprivileged_prefix(&postgres);
        let spec = Spec::new(program).args(prefix).args(args);
        let mut server = Child::spawn(spec, Stdout::Null).await.unwrap();
        let waiting = async {
            loop {
                let args = ["-q", "-h", &path, "-p", &port, "-d", "postgres"];
                if run(format!("{BIN}/pg_isready"), &args).await.success() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            exit = server.wait() => panic!("the server ended: {}", exit.stderr),
            () = waiting => {}
            () = tokio::time::sleep(SOON) => panic!("the server does not start, see {log}"),
        }
        self.server = Some(server);
    }

    async fn stop(&mut self) {
        let data = self.path().join("data");
        let args = ["stop", "-m", "fast", "-D", data.to_str().unwrap()];
        unprivileged(&format!("{BIN}/pg_ctl"), &args).await;
        self.server.take().unwrap().wait().await;
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn spec_with(&self, conninfo: &str) -> ConnSpec {
        let mut params = Params::parse(conninfo).unwrap();
        params.set("port", self.port.to_string()).unwrap();
        ConnSpec::resolve(params, false, &Environment::default()).unwrap()
    }

    fn spec(&self) -> ConnSpec {
        self.spec_with(&format!("host={} user=admin dbname=postgres", self.path().display()))
    }

    async fn session(&self, dbname: &str) -> Session {
        Session::connect(&self.spec(), dbname, "pgkeep test", &task()).await.unwrap()
    }
}

fn as_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn unprivileged_prefix(program: &str) -> (&str, Vec<&str>) {
    if as_root() {
        let args = vec!["--reuid=postgres", "--regid=postgres", "--init-groups", program];
        return ("/usr/bin/setpriv", args);
    }
    (program, Vec::new())
}

async fn unprivileged(program: &str, args: &[&str]) {
    let (program, mut all) = unprivileged_prefix(program);
    all.extend(args);
    run_ok(program, &all).await;
}

/// A self-signed certificate with a name, as the manual makes it (`server`), a CA with a version 1
/// certificate below it (`old`), one with extensions (`signed`), and a client's.
async fn make_certificates(dir: &Path) {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let openssl = async |args: &[&str]| run_ok("/usr/bin/openssl", args).await;
    for (name, cn) in [("server", "localhost"), ("ca", "Test CA")] {
        let (key, crt, subject) =
            (at(&format!("{name}.key")), at(&format!("{name}.crt")), format!("/CN={cn}"));
        openssl(&[
            "req", "-new", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-subj",
            &subject, "-keyout", &key, "-out", &crt,
        ])
        .await;
    }
    fs::write(at("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    let (ca, ca_key) = (at("ca.crt"), at("ca.key"));
    for (name, cn, extensions) in [
        ("old", "localhost", false),
        ("signed", "x", true),
        ("client", "carol", true),
        ("client1", "carol", false),
    ] {
        let (key, csr, crt) = (at(&format!("{name}.key")), at("csr"), at(&format!("{name}.crt")));
        let subject = format!("/CN={cn}");
        openssl(&[
            "req", "-new", "-nodes", "-newkey", "rsa:2048", "-subj", &subject, "-keyout", &key,
            "-out", &csr,
        ])
        .await;
        let ext = at("ext");
        let mut args = vec![
            "x509",
            "-req",
            "-in",
            &csr,
            "-days",
            "2",
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-out",
            &crt,
        ];
        if extensions {
            args.extend(["-extfile", &ext]);
        }
        openssl(&args).await;
    }
    for name in ["server", "old", "signed"] {
        let key = at(&format!("{name}.key"));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        if as_root() {
            run_ok("/bin/chown", &["postgres", &key]).await;
        }
    }
    for key in ["client.key", "client1.key"] {
        fs::set_permissions(at(key), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

const TRUST: &str = "local all all trust\nhost all all all trust\n";

async fn until(what: &str, session: &Session, sql: &str) {
    for _ in 0..500 {
        let row = session.query_one(sql, &[], &never()).await.unwrap();
        if row.get::<_, bool>(0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn sessions_cancel_bound_and_explain() {
    let mut cluster = Cluster::start(TRUST, &[]).await;
    let watcher = cluster.session("postgres").await;

    // A cancelled statement leaves no backend behind, and the session goes on.
    let session = Arc::new(cluster.session("postgres").await);
    let cancel = CancellationToken::new();
    let sleeping = tokio::spawn({
        let (session, cancel) = (Arc::clone(&session), cancel.clone());
        async move { session.query("SELECT pg_sleep(600)", &[], &cancel).await.map(|rows| rows.len()) }
    });
    let active = "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%sleep(600)%' AND \
     state = 'active' AND pid <> pg_backend_pid()";
    let idle = active.replace("= 1 FROM", "= 0 FROM");
    until("it sleeps", &watcher, active).await;
    cancel.cancel();
    let ended = tokio::time::timeout(GRACE, sleeping).await.unwrap().unwrap();
    assert_eq!(ended, Err(PgError::Cancelled));
    until("it is idle", &watcher, &idle).await;
    assert_eq!(session.query("SELECT 1", &[], &never()).await.unwrap().len(), 1);
    // A cancelled token stops before anything is sent.
    assert_eq!(session.execute("SELECT 1", &cancel).await, Err(PgError::Cancelled));

    // A future that is dropped cancels its statement too.
    let no = never();
    let query = session.query("SELECT pg_sleep(600)", &[], &no);
    assert!(tokio::time::timeout(Duration::from_millis(200), query).await.is_err());
    until("the dropped one is idle", &watcher, &idle).await;

    // The server's own limits hold, whatever the role says, once the session has set them: the
    // statement that does so is under the role's.
    session.execute("ALTER ROLE admin SET statement_timeout = '500ms'", &never()).await.unwrap();
    let fresh = cluster.session("postgres").await;
    fresh.query("SELECT pg_sleep(0.7)", &[], &never()).await.unwrap();
    let short = Limits { statement: Duration::from_millis(50), ..Limits::default() };
    fresh.set_limits(short, &never()).await.unwrap();
    let error = fresh.query("SELECT pg_sleep(600)", &[], &never()).await.unwrap_err();
    assert_eq!((error.class(), error.sqlstate()), (Class::Sql, Some("57014")));
    session.execute("ALTER ROLE admin RESET ALL", &never()).await.unwrap();

    // Locks and classes.
    session.execute("CREATE TABLE t (id int)", &never()).await.unwrap_err();
    session.execute("CREATE TABLE public.t (id int)", &never()).await.unwrap();
    session.execute("BEGIN; LOCK TABLE public.t", &never()).await.unwrap();
    let limits = Limits { lock: Duration::from_millis(50), ..Limits::default() };
    fresh.set_limits(limits, &never()).await.unwrap();
    let error = fresh.execute("BEGIN; LOCK TABLE public.t", &never()).await.unwrap_err();
    assert_eq!(error.class(), Class::Lock);
    let error = Session::connect(&cluster.spec(), "none", "x", &task()).await.unwrap_err();
    assert_eq!(error.class(), Class::DatabaseGone);

    // The server goes away: the session says why, the next one has a hint.
    cluster.stop().await;
    let error = session.query("SELECT 1", &[], &never()).await.unwrap_err();
    assert_eq!(error.class(), Class::Connection, "{error}");
    assert!(session.is_closed());
    let failure = Session::connect(&cluster.spec(), "postgres", "x", &task())
        .await
        .unwrap_err()
        .into_failure("connect");
    assert_eq!(failure.class, Class::Connection);
    assert!(failure.hint.unwrap().contains("no server listens"), "{}", failure.what);
}

#[tokio::test]
async fn what_the_server_says_is_heard_whatever_the_role_sets() {
    let cluster = Cluster::start(TRUST, &[]).await;
    let admin = cluster.session("postgres").await;
    let setup = [
        "CREATE TABLE public.theirs (id int)",
        "CREATE ROLE keeper LOGIN",
        "ALTER ROLE keeper SET client_min_messages = 'error'",
        "ALTER ROLE keeper SET statement_timeout = '500ms'",
    ];
    for sql in setup {
        admin.execute(sql, &never()).await.unwrap();
    }
    let spec = cluster.spec().as_role("keeper", None);
    let session = Session::connect(&spec, "postgres", "pgkeep test", &task()).await.unwrap();
    assert!(!catalog::version_and_role(session.queries(&never())).await.unwrap().1);
    session.execute("VACUUM (VERBOSE) public.theirs", &never()).await.unwrap();
    let (heard, lost) = session.take_notices();
    let codes: Vec<_> = heard.iter().map(|n| (n.severity, n.sqlstate.as_str())).collect();
    assert_eq!((codes, lost), (vec![(Level::Warning, "01000")], 0), "{heard:?}");
    admin.execute("VACUUM (VERBOSE) public.theirs", &never()).await.unwrap();
    let (heard, _) = admin.take_notices();
    assert!(heard.iter().all(|notice| notice.severity == Level::Info) && !heard.is_empty());
    assert_eq!(admin.take_notices().0, []);
    // No limit of the role's stops what takes long.
    let none = Limits { statement: Duration::ZERO, lock: Duration::from_millis(50) };
    session.set_limits(none, &never()).await.unwrap();
    session.execute("SELECT pg_sleep(0.7)", &never()).await.unwrap();
    let pid = session.backend_pid(&never()).await.unwrap();
    let count = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    let row = admin.query_one(count, &[&pid], &never()).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_silent_host_is_given_up_and_cancelled() {
    // Accepts, and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let params = Params::parse(&format!("host=127.0.0.1 port={port} user=x")).unwrap();
    let mut spec = ConnSpec::resolve(params, false, &Environment::default()).unwrap();
    spec.connect_timeout = Duration::from_millis(200);
    let error = Session::connect(&spec, "x", "x", &task()).await.unwrap_err();
    assert_eq!(error.class(), Class::Connection);
    spec.connect_timeout = SOON;
    let task = task();
    task.cancel.cancel();
    assert!(Session::connect(&spec, "x", "x", &task).await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn sslmodes_mean_what_they_mean_to_libpq() {
    let hba = "local all all trust\nhostssl all plain all reject\nhostssl all carol all \
     cert\nhostssl all all all trust\nhostnossl all plain all trust\n";
    let mut cluster = Cluster::start(hba, &[]).await;
    let admin = cluster.session("postgres").await;
    admin.execute("CREATE ROLE carol LOGIN", &never()).await.unwrap();
    admin.execute("CREATE ROLE plain LOGIN", &never()).await.unwrap();
    drop(admin);
    cluster.stop().await;
    let files = cluster.path().to_owned();
    let at = |name: &str| files.join(name).to_str().unwrap().to_owned();
    let (server, ca, old) = (at("server.crt"), at("ca.crt"), at("old.crt"));
    // (certificate of the server, host, sslmode, root, connects)
    let cases: [(&str, &str, &str, Option<&str>, bool); 24] = [
        ("server", "127.0.0.1", "disable", None, false),
        ("server", "127.0.0.1", "allow", None, true),
        ("server", "127.0.0.1", "prefer", None, true),
        ("server", "127.0.0.1", "require", None, true),
        ("server", "localhost", "verify-ca", Some(&server), true),
        ("server", "127.0.0.1", "verify-ca", Some(&server), true),
        ("server", "localhost", "verify-full", Some(&server), true),
        ("server", "127.0.0.1", "verify-full", Some(&server), false),
        ("server", "127.0.0.1", "require", Some(&server), true),
        ("server", "127.0.0.1", "require", Some(&ca), false),
        ("server", "localhost", "verify-ca", Some(&ca), false),
        ("server", "localhost", "verify-full", Some("system"), false),
        ("signed", "127.0.0.1", "require", None, true),
        ("signed", "127.0.0.1", "require", Some(&ca), true),
        ("signed", "127.0.0.1", "verify-ca", Some(&ca), true),
        ("signed", "127.0.0.1", "verify-full", Some(&ca), false),
        ("signed", "localhost", "verify-full", Some(&ca), true),
        ("signed", "localhost", "verify-full", Some(&server), false),
        ("old", "127.0.0.1", "require", None, true),
        ("old", "127.0.0.1", "prefer", None, true),
        ("old", "localhost", "verify-full", Some(&ca), true),
        ("old", "127.0.0.1", "verify-full", Some(&ca), false),
        ("old", "localhost", "verify-ca", Some(&server), false),
        ("old", "localhost", "verify-ca", Some(&old), false),
    ];
    for certificate in ["server", "signed", "old"] {
        let (crt, key) = (at(&format!("{certificate}.crt")), at(&format!("{certificate}.key")));
        let settings = [
            format!("ssl_cert_file={crt}"),
            format!("ssl_key_file={key}"),
            format!("ssl_ca_file={ca}"),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let mut all = vec!["ssl=on"];
        all.extend(settings);
        cluster.boot(&all).await;
        for (_, host, mode, root, connects) in cases.iter().filter(|case| case.0 == certificate) {
            let spec = cluster.spec_with(&tls_params(host, mode, *root));
            let result = Session::connect(&spec, "postgres", "x", &task()).await;
            let what = format!("{certificate} {host} {mode} {root:?}: {result:?}");
            assert_eq!(result.is_ok(), *connects, "{what}");
            if let Ok(session) = result {
                let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                let row = session.query_one(sql, &[], &never()).await.unwrap();
                assert!(row.get::<_, bool>(0), "{what}");
                // libpq agrees.
                assert!(psql(&spec, &session, "SELECT 1").await.success(), "{what}");
            }
        }
        if certificate == "signed" {
            Box::pin(roles_and_cancelling_over_tls(&cluster, &at)).await;
        }
        cluster.stop().await;
    }
}

fn tls_params(host: &str, mode: &str, root: Option<&str>) -> String {
    let root = root.map_or_else(String::new, |root| format!("sslrootcert={}", quote(root)));
    format!("host={host} user=admin sslmode={mode} {root}")
}

async fn roles_and_cancelling_over_tls(cluster: &Cluster, at: &impl Fn(&str) -> String) {
    let ca = at("ca.crt");
    let (client, client_key) = (at("client.crt"), at("client.key"));
    // A cancel request goes over TLS, too.
    let spec = cluster.spec_with(&tls_params("localhost", "verify-full", Some(&ca)));
    let session = Session::connect(&spec, "postgres", "x", &task()).await.unwrap();
    let cancel = CancellationToken::new();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    };
    let sleeping = session.query("SELECT pg_sleep(600)", &[], &cancel);
    let both = async { tokio::join!(sleeping, stop) };
    let (ended, ()) = tokio::time::timeout(GRACE, both).await.unwrap();
    assert!(ended.unwrap_err().is_cancelled());
    // The role logs in by certificate, and only with it.
    let carol = |cert: Option<(&str, &str)>| {
        let cert = cert.map_or_else(String::new, |(cert, key)| {
            format!("sslcert={} sslkey={}", quote(cert), quote(key))
        });
        let params = tls_params("localhost", "require", Some(&ca));
        cluster.spec_with(&format!("{params} user=carol {cert}"))
    };
    let with = carol(Some((&client, &client_key)));
    let session = Session::connect(&with, "postgres", "x", &task()).await.unwrap();
    assert!(psql(&with, &session, "SELECT 1").await.success());
    // A certificate of version 1, which webpki does not read, is the server's to judge.
    let text =
        run_ok("/usr/bin/openssl", &["x509", "-in", &at("client1.crt"), "-noout", "-text"]).await;
    assert!(text.contains("Version: 1 "), "{text}");
    let first = carol(Some((&at("client1.crt"), &at("client1.key"))));
    let session = Session::connect(&first, "postgres", "x", &task()).await.unwrap();
    assert!(psql(&first, &session, "SELECT 1").await.success());
    for wrong in [(at("client1.crt"), at("client.key")), (at("client.crt"), at("client1.key"))] {
        let wrong = carol(Some((&wrong.0, &wrong.1)));
        let error = Session::connect(&wrong, "postgres", "x", &task()).await.unwrap_err();
        assert!(error.to_string().contains("they do not belong together"), "{error}");
    }
    let error = Session::connect(&carol(None), "postgres", "x", &task()).await.unwrap_err();
    assert_eq!(error.class(), Class::Authentication, "{error}");
    // Refused with TLS, let in without: prefer finds it, require does not.
    let plain =
        |mode| cluster.spec_with(&format!("{} user=plain", tls_params("127.0.0.1", mode, None)));
    assert!(Session::connect(&plain("prefer"), "postgres", "x", &task()).await.is_ok());
    assert!(Session::connect(&plain("require"), "postgres", "x", &task()).await.is_err());
    // Sockets have no TLS, and want none.
    let socket = cluster.path().to_str().unwrap().to_owned();
    let spec = cluster.spec_with(&tls_params(&socket, "verify-full", Some(&ca)));
    assert!(Session::connect(&spec, "postgres", "x", &task()).await.is_ok());
}

async fn psql(spec: &ConnSpec, session: &Session, sql: &str) -> Arc<Exit> {
    let env = spec.child_env(session.endpoint(), session.dbname(), "pgkeep psql").unwrap();
    let spec = Spec::new(format!("{BIN}/psql")).args(["-X", "-w", "-At", "-c", sql]);
    run_captured(env.of(spec), 4096, SOON, &never()).await.unwrap()
}

#[tokio::test]
async fn passwords_come_from_files_and_reach_children_through_files() {
    let hba =
        "local all admin trust\nlocal all all scram-sha-256\nhost all all all scram-sha-256\n";
    let cluster = Cluster::start(hba, &[]).await;
    let admin = cluster.session("postgres").await;
    admin.execute(r"CREATE ROLE bob LOGIN PASSWORD 'p:w\ ''x'", &never()).await.unwrap();
    let passfile = cluster.path().join("pgpass");
    fs::write(&passfile, format!("127.0.0.1:{}:*:bob:p\\:w\\\\ 'x\n", cluster.port)).unwrap();
    let bob = "host=127.0.0.1 user=bob dbname=postgres";
    let spec = cluster.spec_with(&format!("{bob} passfile={}", quote(passfile.to_str().unwrap())));
    let connect = async |spec: &ConnSpec| Session::connect(spec, "postgres", "x", &task()).await;

    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o644)).unwrap();
    let error = connect(&spec).await.unwrap_err();
    assert_eq!(error.class(), Class::Configuration);
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    let session = connect(&spec).await.unwrap();
    let exit =
        psql(&spec, &session, "SELECT current_user, current_setting('application_name')").await;
    assert_eq!(String::from_utf8_lossy(&exit.stdout), "bob|pgkeep psql\n", "{}", exit.stderr);

    let wrong = cluster.spec_with(&format!("{bob} password='wrong hunter2'"));
    let error = connect(&wrong).await.unwrap_err();
    assert_eq!((error.class(), error.sqlstate()), (Class::Authentication, Some("28P01")));
    assert!(!format!("{error:?} {wrong:?}").contains("hunter2"));
    let none = cluster.spec_with(bob);
    let failure = connect(&none).await.unwrap_err().into_failure("connect");
    assert_eq!(failure.class, Class::Authentication);
    assert!(failure.hint.unwrap().contains("asks for a password"), "{}", failure.what);
    assert_eq!(
        fs::read_dir(cluster.path())
            .unwrap()
            .flatten()
            .filter(|entry| { entry.file_name().to_string_lossy().starts_with("pgpass-") })
            .count(),
        0
    );

    // An ordinary role may ask which cluster this is, and gets the sizes that it may know.
    admin.execute("CREATE DATABASE closed", &never()).await.unwrap();
    admin.execute("REVOKE CONNECT ON DATABASE closed FROM public", &never()).await.unwrap();
    let facts = catalog::server_facts(session.queries(&never())).await.unwrap();
    assert_eq!(
        facts,
        catalog::ServerFacts {
            at: facts.at,
            ..catalog::server_facts(admin.queries(&never())).await.unwrap()
        }
    );
    assert!(facts.major() == 15 && facts.system_id != 0 && !facts.in_recovery);
    let asked = catalog::system_id(session.queries(&never())).await.unwrap();
    assert_eq!(asked, Some(facts.system_id));
    let databases = catalog::databases(session.queries(&never()), true).await.unwrap();
    let size =
        |name: &str| databases.iter().find(|db| db.name.as_str() == name).unwrap().size_bytes;
    assert!(size("postgres").unwrap() > 1_000_000);
    assert_eq!(size("closed"), None);
    admin
        .execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public", &never())
        .await
        .unwrap();
    assert_eq!(catalog::system_id(session.queries(&never())).await.unwrap(), None);
    let failure =
        catalog::server_facts(session.queries(&never())).await.unwrap_err().into_failure("look");
    assert_eq!(failure.class, Class::Privilege);
    assert!(failure.hint.unwrap().contains("GRANT EXECUTE"));
}

const HOSTILE: [&str; 9] =
    ["a/b", "\"q\"", "it's", "host=evil", "postgres://evil/x", "..", "-h", "🐘 é", r"back\slash"];

#[tokio::test]
async fn hostile_names_are_listed_dumped_and_restored_from_one_snapshot() {
    let cluster = Cluster::start(TRUST, &["max_prepared_transactions=0"]).await;
    let admin = cluster.session("postgres").await;
    for name in HOSTILE {
        let quoted = name.replace('"', "\"\"");
        admin.execute(&format!("CREATE DATABASE \"{quoted}\""), &never()).await.unwrap();
    }
    let databases = catalog::databases(admin.queries(&never()), false).await.unwrap();
    let candidates: Vec<_> = databases.iter().map(catalog::Database::candidate).collect();
    let include = vec!["*".parse().unwrap()];
    let selection = DatabasePatterns { include, exclude: vec!["postgres".parse().unwrap()] };
    let selection = selection.select(&candidates);
    let mut chosen: Vec<&str> = selection.chosen.iter().map(DatabaseName::as_str).collect();
    let mut expected = HOSTILE.to_vec();
    chosen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(chosen, expected);
    assert!(selection.left_out.iter().any(|(_, reason)| *reason == Reason::Template));

    let path = std::env::var_os("PATH");
    let inventory = Toolbox::default().look(None, path.as_deref(), &never()).await.unwrap();
    let tool = choose(&inventory, 15).unwrap();
    assert_eq!(tool.dir, Path::new(BIN), "not Debian's wrapper: {inventory:?}");
    let spec = cluster.spec();
    for name in HOSTILE {
        let session = cluster.session(name).await;
        session.execute("CREATE TABLE public.t AS SELECT 1 AS id", &never()).await.unwrap();
        let writer = cluster.session(name).await;
        let snapshot = export_snapshot(session, None, &never()).await.unwrap();
        assert!(snapshot.facts.lsn_before <= snapshot.facts.lsn_after && !snapshot.facts.standby);
        writer.execute("INSERT INTO public.t VALUES (2)", &never()).await.unwrap();

        let dump = Dump {
            database: name,
            snapshot: Some(&snapshot.id),
            lock_wait: Duration::from_secs(10),
            scope: &Scope::default(),
            form: Form::default(),
            keepalives: spec.keepalives,
        };
        let line = dump.command(&tool.program("pg_dump").unwrap(), tool.version.major);
        let env = spec.child_env(writer.endpoint(), name, "pgkeep").unwrap();
        let child = env.of(Spec::new(&line[0]).args(&line[1..]));
        let exit = run_captured(child, 1 << 20, SOON, &never()).await.unwrap();
        assert!(exit.success(), "{line:?}: {}", exit.stderr);
        assert!(!snapshot.is_lost());
        let count =
            snapshot.session().query_one("SELECT count(*) FROM public.t", &[], &never()).await;
        assert_eq!(count.unwrap().get::<_, i64>(0), 1);
        snapshot.close().await;

        let file = cluster.path().join("dump");
        fs::write(&file, &exit.stdout).unwrap();
        let text = run_ok(format!("{BIN}/pg_restore"), &["-f", "-", file.to_str().unwrap()]).await;
        let copied = text.split("COPY public.t (id) FROM stdin;\n").nth(1).unwrap();
        assert!(copied.starts_with("1\n\\.\n"), "{copied}");

        let facts = catalog::database_facts(writer.queries(&never())).await.unwrap();
        assert_eq!((facts.name.as_str(), facts.encoding.as_str()), (name, "UTF8"));
        assert_eq!((facts.owner.as_str(), facts.extensions[0].name.as_str()), ("admin", "plpgsql"));
    }
    let globals = Globals {
        database: "host=evil",
        without_passwords: true,
        lock_wait: GRACE,
        keepalives: spec.keepalives,
    };
    let line = globals.command(&tool.program("pg_dumpall").unwrap(), tool.version.major);
    let env = spec.child_env(admin.endpoint(), "host=evil", "pgkeep").unwrap();
    let child = env.of(Spec::new(&line[0]).args(&line[1..]));
    let exit = run_captured(child, 1 << 20, SOON, &never()).await.unwrap();
    assert!(exit.success(), "{line:?}: {}", exit.stderr);
    assert!(String::from_utf8_lossy(&exit.stdout).contains("CREATE ROLE admin;"));
}

#[tokio::test]
async fn a_terminated_pg_dump_leaves_no_backend() {
    let cluster = Cluster::start(TRUST, &[]).await;
    let blocker = cluster.session("postgres").await;
    let watcher = cluster.session("postgres").await;
    blocker.execute("CREATE TABLE public.t (id int)", &never()).await.unwrap();
    blocker.execute("BEGIN; LOCK TABLE public.t", &never()).await.unwrap();
    let spec = cluster.spec();
    let dump = Dump {
        database: "postgres",
        snapshot: None,
        lock_wait: SOON,
        scope: &Scope::default(),
        form: Form::default(),
        keepalives: spec.keepalives,
    };
    let line = dump.command(&Path::new(BIN).join("pg_dump"), 15);
    let env = spec.child_env(watcher.endpoint(), "postgres", "dumping").unwrap();
    let child = env.of(Spec::new(&line[0]).args(&line[1..]));
    let mut child = Child::spawn(child, Stdout::Null).await.unwrap();
    let there = "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'dumping' \
     AND wait_event_type = 'Lock'";
    until("pg_dump waits for the lock", &watcher, there).await;
    let exit = child.terminate(GRACE).await;
    assert!(!exit.success());
    let gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'dumping'";
    until("its backend is gone", &watcher, gone).await;
}

#[tokio::test]
async fn a_standby_exports_snapshots_too() {
    let primary = Cluster::start("local all all trust\nlocal replication all trust\n", &[]).await;
    let on_primary = primary.session("postgres").await;
    on_primary.execute("CREATE TABLE public.t AS SELECT 1 AS id", &never()).await.unwrap();
    let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    if as_root() {
        run_ok("/bin/chown", &["postgres", &path]).await;
    }
    let (data, port) = (format!("{path}/data"), primary.port.to_string());
    let host = primary.path().to_str().unwrap();
    let args =
        ["-D", &data, "-h", host, "-p", &port, "-U", "admin", "-R", "-X", "stream", "-c", "fast"];
    unprivileged(&format!("{BIN}/pg_basebackup"), &args).await;
    let mut standby = Cluster { dir, port: primary.port, server: None };
    // The port is the socket's name only: another folder, another socket.
    standby.boot(&["listen_addresses="]).await;
    let session = standby.session("postgres").await;
    let (here, there) = (
        catalog::server_facts(session.queries(&never())).await.unwrap(),
        catalog::server_facts(on_primary.queries(&never())).await.unwrap(),
    );
    assert!(here.in_recovery && !there.in_recovery);
    assert_eq!(here.system_id, there.system_id);
    let snapshot = export_snapshot(session, None, &never()).await.unwrap();
    assert!(snapshot.facts.standby && snapshot.facts.lsn_before != "0/0", "{:?}", snapshot.facts);
    let spec = standby.spec();
    let dump = Dump {
        database: "postgres",
        snapshot: Some(&snapshot.id),
        lock_wait: GRACE,
        scope: &Scope { contents: Contents::Data, ..Scope::default() },
        form: Form::default(),
        keepalives: spec.keepalives,
    };
    let line = dump.command(&Path::new(BIN).join("pg_dump"), 15);
    let endpoint = snapshot.session().endpoint().clone();
    let env = spec.child_env(&endpoint, "postgres", "pgkeep").unwrap();
    let child = env.of(Spec::new(&line[0]).args(&line[1..]));
    let exit = run_captured(child, 1 << 20, SOON, &never()).await.unwrap();
    assert!(exit.success() && exit.stdout.starts_with(b"PGDMP"), "{}", exit.stderr);
    // The server's end is the snapshot's end, and is seen.
    standby.stop().await;
    for _ in 0..500 {
        if snapshot.is_lost() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the loss of the snapshot is not seen");
}
