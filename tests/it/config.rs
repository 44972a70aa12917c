//! Configuration: what is wrong is refused with its place and a hint, what is documented parses.

#![expect(clippy::unwrap_used, reason = "these are tests, and what they share")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pgkeep::{
    config::{self, Config, Diagnostics, JobCommon, Located, LogFormat},
    daemon::table::{self, Ground, Loaded},
    domain::{name::RepositoryName, units::ByteSize},
    postgres::{ConnSpec, Server, service::Environment},
    sys::clock::SystemClock,
};
use proptest::prelude::*;
use secrecy::ExposeSecret;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The check that fixtures and examples have to fail or pass: everything is built, as the daemon
/// does it.
fn check(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Loaded {
    let clock = SystemClock::new();
    let ground = Ground {
        now: "2026-11-21T02:15:00Z".parse().unwrap(),
        clock,
        gate: Arc::default(),
        toolbox: Arc::default(),
        environment: Environment::new(
            env("PGSERVICEFILE").map(|path| ("PGSERVICEFILE".to_owned(), path)),
            Some("pgkeep".to_owned()),
        ),
    };
    table::load(path, env, &ground)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Copies a fixture to where its permissions are ours to set; the answer is its main file.
/// `.mode-644` in a name is what it says.
fn place(fixture: &Path, folder: &Path) -> PathBuf {
    let name = fixture.file_name().unwrap().to_str().unwrap();
    if fixture.is_file() {
        let copy = folder.join(name);
        fs::copy(fixture, &copy).unwrap();
        let open = name.contains(".mode-644.") || name == "app.env";
        chmod(&copy, if open { 0o644 } else { 0o600 });
        return copy;
    }
    for entry in fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap().path();
        let mut inner = folder.to_owned();
        if entry.is_dir() {
            inner.push(entry.file_name().unwrap());
            fs::create_dir(&inner).unwrap();
            chmod(&inner, 0o700);
            for file in fs::read_dir(&entry).unwrap() {
                place(&file.unwrap().path(), &inner);
            }
        } else {
            place(&entry, &inner);
        }
    }
    folder.join("pgkeep.toml")
}

fn fixtures(under: &str) -> Vec<PathBuf> {
    let folder = Path::new(ROOT).join(under);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn what_is_wrong_is_refused_with_its_place_and_a_hint() {
    let cases = fixtures("tests/fixtures/config/invalid");
    assert!(cases.len() >= 20, "only {} cases", cases.len());
    for fixture in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = place(&fixture, folder.path());
        let here = folder.path().to_str().unwrap().to_owned();
        let env = |name: &str| match name {
            "FIXTURE" => Some(here.clone()),
            "FROM_ENVIRONMENT" => Some("hunter2".to_owned()),
            _ => None,
        };
        let Loaded { table, diagnostics: d, .. } = check(&path, &env);
        let name = fixture.file_name().unwrap().to_str().unwrap();
        assert!(d.has_errors() && table.is_none(), "{name} was taken");
        let text = d.render(false).replace(&format!("{here}/"), "").replace(&here, "FIXTURE");
        assert!(!text.contains("hunter2"), "{name} shows a secret:\n{text}");
        assert!(!d.to_json().to_string().contains("hunter2"), "{name} shows a secret in JSON");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            let name = name.trim_end_matches(".toml").replace(".mode-644", "");
            insta::assert_snapshot!(format!("config-{name}"), text);
        });
    }
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn what_is_documented_parses() {
    let mut paths = fixtures("config/examples");
    assert!(paths.len() >= 8, "only {} examples", paths.len());
    paths.push(Path::new(ROOT).join("config/pgkeep.toml"));
    for example in paths {
        let folder = tempfile::tempdir().unwrap();
        let variables = folder.path().join("environment");
        fs::write(
            &variables,
            "POSTGRES_USER=shop\nPOSTGRES_PASSWORD='s e'\nPOSTGRES_DB=shop\nPOSTGRES_PORT=5433\n\
             S3_ACCESS_KEY_ID=a\nS3_SECRET_ACCESS_KEY=b\n\
             BACKUP_RECIPIENT=age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n\
             OTHER_RECIPIENT=age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg\n",
        )
        .unwrap();
        chmod(&variables, 0o600);
        let variables = variables.to_str().unwrap();
        let text = fs::read_to_string(&example).unwrap().replace("/srv/shop/.env", variables);
        let path = folder.path().join("pgkeep.toml");
        fs::write(&path, text).unwrap();
        chmod(&path, 0o600);
        let services = folder.path().join("pg_service.conf");
        fs::write(&services, "[main]\nhost=/var/run/postgresql\n").unwrap();
        let env = |name: &str| match name {
            "PGKEEP_ENV_FILE" => Some(variables.to_owned()),
            "PGSERVICEFILE" => Some(services.to_str().unwrap().to_owned()),
            _ => None,
        };
        let loaded = check(&path, &env);
        let said = loaded.render();
        assert!(loaded.diagnostics.is_empty(), "{}:\n{said}", example.display());
        let table = loaded.table.unwrap();
        // A table for one database belongs to its job.
        let is_own = |line: &&str| !line.contains(".database.");
        let text = text_of(&path);
        let sections = |kind: &str| {
            let start = format!("[{kind}.");
            text.lines().filter(is_own).filter(|line| line.starts_with(&start)).count()
        };
        assert_eq!(table.jobs.len(), sections("job"), "{}", example.display());
        assert_eq!(table.repositories.len(), sections("repository"), "{}", example.display());
    }
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil); 6] = [
        ("the file by its group", |folder| chmod(&folder.join("pgkeep.toml"), 0o660)),
        ("the file by all", |folder| chmod(&folder.join("pgkeep.toml"), 0o602)),
        ("the folder", |folder| chmod(folder, 0o770)),
        ("conf.d", |folder| chmod(&folder.join("conf.d"), 0o777)),
        ("a file of conf.d", |folder| chmod(&folder.join("conf.d/a.toml"), 0o666)),
        ("the folder above", |folder| chmod(folder.parent().unwrap(), 0o777)),
    ];
    for (what, spoil) in cases {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("etc");
        fs::create_dir_all(folder.join("conf.d")).unwrap();
        fs::write(folder.join("pgkeep.toml"), "[daemon]\n").unwrap();
        fs::write(folder.join("conf.d/a.toml"), "[server.a]\n").unwrap();
        for inner in ["pgkeep.toml", "conf.d/a.toml"] {
            chmod(&folder.join(inner), 0o644);
        }
        for inner in ["", "conf.d"] {
            chmod(&folder.join(inner), 0o755);
        }
        let load = || {
            let mut d = Diagnostics::new();
            config::load(&folder.join("pgkeep.toml"), &|_| None, &mut d);
            d.to_json()
        };
        assert_eq!(load(), serde_json::json!([]), "{what}, before");
        spoil(&folder);
        let after = load();
        assert_eq!(after[0]["class"], "permissions", "{what}: {after}");
        assert!(after[0]["hint"].as_str().unwrap().contains("chmod"), "{what}: {after}");
        chmod(root.path(), 0o700);
    }
}

#[test]
fn a_link_to_a_folder_that_others_may_write_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (etc, open) = (root.path().join("etc"), root.path().join("open"));
    fs::create_dir(&etc).unwrap();
    fs::create_dir(&open).unwrap();
    chmod(&etc, 0o755);
    chmod(&open, 0o777);
    fs::write(open.join("real.toml"), "[daemon]\n").unwrap();
    chmod(&open.join("real.toml"), 0o644);
    std::os::unix::fs::symlink(open.join("real.toml"), etc.join("pgkeep.toml")).unwrap();
    let mut d = Diagnostics::new();
    config::load(&etc.join("pgkeep.toml"), &|_| None, &mut d);
    assert!(d.has_errors());
}

#[test]
fn too_large_and_missing_files_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("pgkeep.toml");
    let mut d = Diagnostics::new();
    assert!(config::load(&path, &|_| None, &mut d).is_none());
    assert_eq!(d.to_json()[0]["class"], "file");
    fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
    let mut d = Diagnostics::new();
    assert!(config::load(&path, &|_| None, &mut d).is_none());
    assert!(d.render(false).contains("larger than"), "{}", d.render(false));
}

/// Loads text that has to be right.
fn loaded(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Config {
    let mut d = Diagnostics::new();
    let config = config::load_text(text, env, &mut d);
    assert!(d.is_empty(), "{}", d.render(false));
    config.unwrap()
}

/// What is made of a section, and what is said of it.
fn read_server(config: &Config, name: &str, env: &Environment) -> (Option<Server>, Diagnostics) {
    let (name, section) = config.servers.get_key_value(name).unwrap();
    let mut d = Diagnostics::new();
    let server = Server::read(name, section, env, Arc::default(), &mut d);
    (server, d)
}

fn server(config: &Config, name: &str) -> Server {
    let (server, d) = read_server(config, name, &Environment::default());
    assert!(d.is_empty(), "{}", d.render(false));
    server.unwrap()
}

fn password(spec: &ConnSpec) -> String {
    let password = spec.password(&spec.endpoints[0], &spec.dbname).unwrap();
    password.unwrap().expose_secret().to_owned()
}

fn job(config: &Config, name: &str) -> JobCommon {
    let (name, section) = config.jobs.get_key_value(name).unwrap();
    let mut d = Diagnostics::new();
    let mut options = section.options();
    let job = JobCommon::read(name, &mut options, config, &mut d);
    options.finish(&mut d);
    assert!(d.is_empty(), "{}", d.render(false));
    job.unwrap()
}

#[test]
fn the_daemon_has_the_documented_defaults() {
    let daemon = loaded("", &|_| None).daemon;
    assert_eq!(daemon.state_dir, Path::new("/var/lib/pgkeep"));
    assert_eq!(daemon.runtime_dir, Path::new("/run/pgkeep"));
    assert_eq!(daemon.listen, Some("127.0.0.1:9479".parse().unwrap()));
    assert_eq!(daemon.memory_budget, ByteSize::mib(256));
    assert_eq!((daemon.max_running, daemon.max_running_per_server), (4, 2));
    assert_eq!(daemon.grace, Duration::from_secs(30));
    assert_eq!((daemon.nice, daemon.history), (10, 100));
    assert_eq!((daemon.log_format, daemon.log_level), (LogFormat::Text, tracing::Level::INFO));
}

/// A first copy of years of backups takes days: with what is the default, the dump of the night and the
/// WAL check start all the same.
#[test]
fn a_copy_leaves_room_for_a_dump_and_a_check() {
    let root = tempfile::tempdir().unwrap();
    let text = "
        [server.main]
        [repository.disk]
        kind = \"local\"
        path = \"/var/backups/pgkeep\"
        [repository.cloud]
        kind = \"s3\"
        bucket = \"acme\"
        region = \"eu-central-1\"
        [job.nightly]
        kind = \"dump\"
        server = \"main\"
        repositories = [\"disk\", \"cloud\"]
        schedule = \"15 2 * * *\"
        workers = 4
        [job.upload]
        kind = \"copy\"
        from = \"disk\"
        to = [\"cloud\"]
        schedule = \"15 3 * * *\"
        [job.wal]
        kind = \"wal-check\"
        server = \"main\"
        schedule = \"*/5 * * * *\"
        archive = \"/var/lib/postgresql/wal\"
        [job.tables]
        kind = \"vacuum\"
        server = \"main\"
        schedule = \"15 4 * * *\"";
    let path = root.path().join("pgkeep.toml");
    fs::write(&path, text).unwrap();
    chmod(&path, 0o600);
    let loaded = check(&path, &|_| None);
    let table = loaded.table.as_ref().unwrap_or_else(|| panic!("{}", loaded.render()));
    let claims: Vec<u64> = table.specs().iter().map(|spec| spec.memory).collect();
    assert_eq!(claims.len(), 4);
    assert!(claims.iter().sum::<u64>() <= table.limits().memory, "{claims:?}");
}

#[test]
fn what_the_daemon_is_told_is_taken() {
    let text = "[daemon]\nlisten = \"off\"\ntimezone = \"Europe/Zurich\"\nmemory_budget = \"1 GiB\"\n\
                log_format = \"json\"\nlog_level = \"debug\"\ngrace = \"1m 30s\"\n";
    let daemon = loaded(text, &|_| None).daemon;
    assert_eq!(daemon.listen, None);
    assert_eq!(daemon.timezone.iana_name(), Some("Europe/Zurich"));
    assert_eq!(daemon.memory_budget, ByteSize::gib(1));
    assert_eq!((daemon.log_format, daemon.log_level), (LogFormat::Json, tracing::Level::DEBUG));
    assert_eq!(daemon.grace, Duration::from_secs(90));
}

#[test]
fn an_applications_own_variables_make_a_server() {
    let text = "[server.a]\nhost = \"${POSTGRES_HOST:-/run/postgresql}\"\n\
                port = \"${POSTGRES_PORT}\"\nuser = \"${POSTGRES_USER}\"\n\
                password = \"${POSTGRES_PASSWORD}\"\n";
    let env = |name: &str| match name {
        "POSTGRES_PORT" => Some("5433".to_owned()),
        "POSTGRES_USER" => Some("shop".to_owned()),
        "POSTGRES_PASSWORD" => Some("hunter2".to_owned()),
        _ => None,
    };
    let config = loaded(text, &env);
    let server = server(&config, "a");
    let spec = server.spec();
    assert_eq!(spec.endpoints[0].host, "/run/postgresql");
    assert_eq!((spec.endpoints[0].port, spec.user.as_str()), (5433, "shop"));
    assert_eq!(password(spec), "hunter2");
    assert_eq!(spec.dbname, "postgres");
    assert_eq!(spec.connect_timeout, Duration::from_secs(10));
    for debug in [format!("{server:?}"), format!("{config:?}")] {
        assert!(!debug.contains("hunter2"), "{debug}");
    }
}

#[test]
fn a_connection_string_leaves_the_database_to_libpq() {
    let config = loaded("[server.a]\nconninfo = \"service=main\"\n", &|_| None);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services");
    fs::write(&file, "[main]\nhost=theirs\nuser=u\ndbname=shop\n").unwrap();
    let file = ("PGSERVICEFILE".to_owned(), file.to_str().unwrap().to_owned());
    let (server, d) = read_server(&config, "a", &Environment::new([file], None));
    assert!(d.is_empty(), "{}", d.render(false));
    let server = server.unwrap();
    assert_eq!(server.spec().endpoints[0].host, "theirs");
    assert_eq!(server.maintenance_database(), "shop");
}

#[test]
fn secrets_come_from_files_and_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main");
    fs::write(&path, "hunter2\n").unwrap();
    chmod(&path, 0o600);
    let here = folder.path().to_str().unwrap();
    let text = format!(
        "[server.a]\nuser = \"u\"\npassword_file = \"{here}/main\"\n[server.b]\nuser = \"u\"\npassword_credential = \"main\"\n"
    );
    let env = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| here.to_owned());
    let config = loaded(&text, &env);
    for name in ["a", "b"] {
        assert_eq!(password(server(&config, name).spec()), "hunter2");
    }
    for (mode, contents) in [(0o604, "hunter2\n"), (0o600, "\n"), (0o600, "a\nb\n")] {
        fs::write(&path, contents).unwrap();
        chmod(&path, mode);
        let (server, d) = read_server(&config, "a", &Environment::default());
        assert!(server.is_none(), "{mode:o} {contents:?}");
        assert!(d.has_errors() && !d.render(true).contains("hunter2"));
    }
}

#[test]
fn a_role_for_maintenance_has_its_own_password() {
    let text = "[server.a]\nuser = \"u\"\npassword = \"hunter2\"\nmaintenance_user = \"keeper\"\n\
                maintenance_password = \"${KEEPER}\"\n";
    let config = loaded(text, &|name| (name == "KEEPER").then(|| "theirs".to_owned()));
    let server = server(&config, "a");
    assert_eq!(server.maintenance_role(), "keeper");
    assert_eq!(password(server.maintenance_spec()), "theirs");
    assert_eq!((server.spec().user.as_str(), password(server.spec()).as_str()), ("u", "hunter2"));

    let config = loaded("[server.a]\nmaintenance_password_file = \"/x\"\n", &|_| None);
    let (server, d) = read_server(&config, "a", &Environment::default());
    assert!(server.is_none());
    assert!(d.render(false).contains("needs `maintenance_user` beside it"), "{}", d.render(false));
}

#[test]
fn the_environment_file_yields_to_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("env");
    fs::write(&path, "A=file\nB=file\n").unwrap();
    chmod(&path, 0o600);
    let text = format!(
        "[daemon]\nenv_file = \"{}\"\n[server.a]\nuser = \"${{A}}\"\nhost = \"${{B}}\"\n",
        path.display()
    );
    let config = loaded(&text, &|name| (name == "A").then(|| "process".to_owned()));
    let server = server(&config, "a");
    let spec = server.spec();
    assert_eq!((spec.user.as_str(), spec.endpoints[0].host.as_str()), ("process", "file"));
}

#[test]
fn a_job_has_the_documented_defaults() {
    let text = "[daemon]\ntimezone = \"Asia/Tokyo\"\n[job.a]\nkind = \"dump\"\n\
                [job.b]\nkind = \"prune\"\nafter = [\"a\"]\nenabled = false\n\
                [job.c]\nkind = \"x\"\nschedule = \"0 2 * * *\"\ntimezone = \"UTC\"\nmax_age = \"30h\"\n";
    let config = loaded(text, &|_| None);
    let a = job(&config, "a");
    assert_eq!((a.kind.value.as_str(), a.attempts, a.enabled), ("dump", 3, true));
    assert_eq!(a.timezone.iana_name(), Some("Asia/Tokyo"));
    assert_eq!((a.catch_up, a.jitter), (Duration::from_hours(24), Duration::ZERO));
    assert_eq!(a.retry_backoff, Duration::from_mins(1));
    assert_eq!(a.stall_timeout, Duration::from_mins(10));
    assert_eq!((a.max_age, a.time_limit), (None, None));
    assert!(a.schedule.is_none() && a.after.is_empty());
    let b = job(&config, "b");
    assert_eq!((b.after[0].value.as_str(), b.enabled), ("a", false));
    let c = job(&config, "c");
    assert_eq!(c.schedule.unwrap().value, "0 2 * * *");
    assert_eq!(c.timezone.iana_name(), Some("UTC"));
    assert_eq!(c.max_age, Some(Duration::from_hours(30)));
}

#[test]
fn references_to_what_is_not_configured_are_reported() {
    let text = "[server.main]\n[repository.local]\n[retention.std]\n\
                [job.a]\nserver = \"mian\"\nrepositories = [\"local\", \"s3\", \"locl\"]\n\
                retention = \"std\"\n";
    let mut d = Diagnostics::new();
    let config = config::load_text(text, &|_| None, &mut d).unwrap();
    let mut o = config.jobs["a"].options();
    let name = o.require("server", &mut d).unwrap();
    assert!(config.server(&name, &mut d).is_none());
    let names: Vec<Located<RepositoryName>> = o.require("repositories", &mut d).unwrap().value;
    let found: Vec<_> = names.iter().filter_map(|n| config.repository(n, &mut d)).collect();
    assert_eq!(found.len(), 1);
    let name = o.require("retention", &mut d).unwrap();
    assert!(config.retention(&name, &mut d).is_some());
    o.finish(&mut d);
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("config-references", d.render(false));
    });
    let first = &d.to_json()[0];
    assert_eq!((&first["line"], &first["column"]), (&5.into(), &10.into()));
    assert_eq!(first["class"], "reference");
}

proptest! {
    #[test]
    fn no_text_makes_loading_panic(
        text in "((\\[|\\[\\[|\\]|\\]\\]|=|\\.|\"|'|,|\n|#|\\$|\\{|\\}|daemon|server|job|password|nice|env_file|a|1|é| ){0,40})"
    ) {
        let mut d = Diagnostics::new();
        config::load_text(&text, &|_| None, &mut d);
        let _shown = d.render(true);
        let _json = d.to_json();
    }
}
