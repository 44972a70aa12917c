use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::{
    config::{self, Diagnostics},
    postgres::Server,
};

fn env(pairs: &[(&str, &str)]) -> Environment {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Environment::new(pairs, Some("os".to_owned()))
}

fn conninfo(text: &str, pairs: &[(&str, &str)]) -> Result<ConnSpec, SpecError> {
    ConnSpec::resolve(Params::parse(text)?, true, &env(pairs))
}

#[test]
fn defaults_are_libpqs() {
    let spec = ConnSpec::resolve(Params::default(), false, &env(&[("PGUSER", "no")])).unwrap();
    assert_eq!((spec.user.as_str(), spec.dbname.as_str()), ("os", "os"));
    assert_eq!(spec.endpoints.len(), 1);
    assert!(spec.endpoints[0].is_socket());
    assert_eq!((spec.endpoints[0].port, spec.tls.mode), (5432, SslMode::Prefer));
}

#[test]
fn what_is_explicit_goes_before_service_before_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("services");
    fs::write(&file, "[main]\nhost=svc\nport=1\nuser=svc\n").unwrap();
    let vars = [
        ("PGSERVICEFILE", file.to_str().unwrap()),
        ("PGUSER", "env"),
        ("PGDATABASE", "env"),
        ("PGPORT", "9"),
    ];
    let spec = conninfo("service=main user=explicit", &vars).unwrap();
    assert_eq!(spec.endpoints, [Endpoint { host: "svc".into(), addr: None, port: 1 }]);
    assert_eq!((spec.user.as_str(), spec.dbname.as_str()), ("explicit", "env"));
    let spec = conninfo("", &[("PGSERVICE", "main"), vars[0]]).unwrap();
    assert_eq!(spec.user, "svc");
    let spec = conninfo("user=part", &vars).unwrap();
    assert_eq!((spec.user.as_str(), spec.endpoints[0].port), ("part", 9));
    assert!(conninfo("service=none", &vars).is_err());
}

#[test]
fn several_hosts_pair_with_their_ports() {
    let spec = conninfo("host=a,10.0.0.1,/run port=1,2,", &[]).unwrap();
    let shown: Vec<String> = spec.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["a port 1", "10.0.0.1 port 2", "/run/.s.PGSQL.5432"]);
    let spec = conninfo("host=a,b port=7 hostaddr=10.0.0.1,10.0.0.2", &[]).unwrap();
    assert_eq!(spec.endpoints[1].to_string(), "b (10.0.0.2) port 7");
    assert!(conninfo("host=a,b,c port=1,2", &[]).is_err());
    assert!(conninfo("host=a port=0", &[]).is_err());
    assert!(conninfo("host=a port=65536", &[]).is_err());
    assert!(conninfo("host=a hostaddr=x", &[]).is_err());
}

#[test]
fn tls_follows_libpq_and_fails_closed() {
    assert!(conninfo("sslmode=verify-full", &[]).is_err());
    assert!(conninfo("sslrootcert=system sslmode=require", &[]).is_err());
    let spec = conninfo("sslrootcert=system", &[]).unwrap();
    assert_eq!((spec.tls.mode, spec.tls.roots), (SslMode::VerifyFull, Roots::System));
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".postgresql")).unwrap();
    fs::write(home.path().join(".postgresql/root.crt"), "").unwrap();
    let spec = conninfo("sslmode=require", &[("HOME", home.path().to_str().unwrap())]).unwrap();
    assert_eq!(spec.tls.roots, Roots::File(home.path().join(".postgresql/root.crt")));
    assert!(conninfo("sslcert=/x", &[]).is_err());
    assert!(conninfo("gssencmode=require", &[]).is_err());
    assert_eq!(
        conninfo("ssl_min_protocol_version=TLSv1.3", &[]).unwrap().tls.versions,
        (false, true)
    );
    let none = "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2";
    assert!(conninfo(none, &[]).is_err());
}

#[test]
fn a_password_never_reaches_debug_or_the_environment_of_a_child() {
    let spec = conninfo("host=h user=u password=hunter2 options='-c x=y'", &[]).unwrap();
    assert!(!format!("{spec:?}").contains("hunter2"));
    let at = spec.endpoints[0].clone();
    let env = spec.child_env(&at, "app", "pgkeep").unwrap();
    assert!(!format!("{env:?}").contains("hunter2"));
    let get = |name: &str| {
        let found = env.vars.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.to_str().unwrap().to_owned())
    };
    assert_eq!(get("PGHOST").as_deref(), Some("h"));
    assert_eq!(get("PGDATABASE").as_deref(), Some("app"));
    assert!(get("PGOPTIONS").unwrap().ends_with(" -c x=y"));
    assert_eq!(get("PGPASSWORD"), None);
    assert_eq!(get("PGPASSFILE").as_deref(), Some("/proc/self/fd/0"));
    let child = env.of(Spec::new("/bin/true"));
    assert!(!format!("{child:?}").contains("hunter2"));
    assert_eq!(child.stdin.expose_secret(), b"*:*:*:*:hunter2\n");
}

#[test]
fn a_password_file_is_read_each_time_and_its_mode_matters() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    let set_mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    let vars = [("HOME", home.path().to_str().unwrap())];
    let spec = conninfo("host=/var/run/postgresql user=u", &vars).unwrap();
    let at = spec.endpoints[0].clone();
    let password = |spec: &ConnSpec| {
        let found = spec.password(&at, "app").unwrap();
        found.map(|password| password.expose_secret().to_owned())
    };
    assert_eq!(password(&spec), None);
    fs::write(&file, "localhost:5432:app:u:one\n").unwrap();
    set_mode(0o600);
    assert_eq!(password(&spec).as_deref(), Some("one"));
    fs::write(&file, "/var/run/postgresql:*:*:u:two\n").unwrap();
    assert_eq!(password(&spec).as_deref(), Some("two"));
    set_mode(0o644);
    assert_eq!(password(&spec), None, "libpq passes over it too");
    let text = format!("host=h user=u passfile={}", file.display());
    let explicit = conninfo(&text, &[]).unwrap();
    assert!(explicit.password(&at, "app").is_err());
}

#[test]
fn the_file_of_a_password_is_read_each_time_and_what_is_known_holds_while_it_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    let write = |text: &str| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("known\n");
    let text = format!("[server.a]\nhost = \"h\"\nuser = \"u\"\npassword_file = {file:?}\n");
    let spec = section(&text);
    let at = spec.endpoints[0].clone();
    let password = || spec.password(&at, "app").unwrap().unwrap().expose_secret().to_owned();
    assert_eq!(password(), "known");
    fs::remove_file(&file).unwrap();
    assert_eq!(password(), "known");
    write("fresh\n");
    assert_eq!(password(), "fresh");
    // In the middle of being replaced.
    write("");
    assert_eq!(password(), "known");
    write("fresh\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(password(), "known", "others may read it");
    let other = spec.as_role("other", None);
    assert!(other.password(&at, "app").unwrap().is_none());
}

#[test]
fn keys_of_a_section_mean_what_libpq_means_by_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["roots", "cert", "key", "pass"] {
        fs::write(path(name), "").unwrap();
    }
    let text = format!(
        "[server.a]\nhost = \"h\"\nuser = \"u\"\nsslmode = \"verify-ca\"\nsslrootcert = {:?}\nsslcert = {:?}\n\
         sslkey = {:?}\npassfile = {:?}\n",
        path("roots"),
        path("cert"),
        path("key"),
        path("pass"),
    );
    let spec = section(&text);
    assert_eq!(spec.tls.mode, SslMode::VerifyCa);
    assert_eq!(spec.tls.roots, Roots::File(path("roots")));
    assert_eq!(spec.tls.client, Some((path("cert"), path("key"))));
    fs::set_permissions(path("pass"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path("pass"), "*:*:*:u:secret\n").unwrap();
    let password = spec.password(&spec.endpoints[0], "app").unwrap().unwrap();
    assert_eq!(password.expose_secret(), "secret");
}

/// What connects, of a configuration with one server.
fn section(text: &str) -> ConnSpec {
    let mut d = Diagnostics::new();
    let config = config::load_text(text, &|_| None, &mut d).unwrap();
    let (name, section) = config.servers.first_key_value().unwrap();
    let server = Server::read(name, section, &env(&[]), Arc::default(), &mut d);
    server.unwrap_or_else(|| panic!("{}", d.render(false))).spec().clone()
}

#[test]
fn hints_on_sslmode_name_what_is_taken() {
    let hint = |text: &str| conninfo(text, &[]).err().unwrap().hint.unwrap();
    assert!(hint("sslmode=verify-full").contains("or to \"system\""));
    let weaker = hint("sslmode=verify-ca");
    assert!(weaker.contains("sslmode=verify-full and sslrootcert"), "{weaker}");
    assert!(conninfo("sslmode=verify-ca sslrootcert=system", &[]).is_err());
    assert!(conninfo("sslmode=verify-full sslrootcert=system", &[]).is_ok());
}

#[test]
fn another_role_never_gets_the_first_ones_password() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pass");
    fs::write(&file, "*:*:*:keeper:theirs\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!("host=h user=u password=mine passfile={}", file.display());
    let spec = conninfo(&text, &[]).unwrap();
    let at = spec.endpoints[0].clone();
    let password = |spec: &ConnSpec| {
        let found = spec.password(&at, "app").unwrap();
        found.map(|password| password.expose_secret().to_owned())
    };
    assert_eq!(password(&spec).as_deref(), Some("mine"));
    assert_eq!(password(&spec.as_role("keeper", None)).as_deref(), Some("theirs"));
    assert_eq!(password(&spec.as_role("other", None)), None);
    let given = spec.as_role("keeper", Some(Secret::from(SecretString::from("given"))));
    assert_eq!((given.user.as_str(), password(&given).as_deref()), ("keeper", Some("given")));
    assert_eq!(given.dbname, spec.dbname);
}
