//! A password that is replaced while the daemon runs.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use crate::harness::{
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster, PASSWORD, SUPERUSER},
};

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// The password is replaced on the server, then in the file; no reload.
fn rotates(home: &Pgkeep, cluster: &Cluster, file: &Path, line: impl Fn(&str) -> String) {
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(0);
    let fresh = "an0ther: one\\";
    cluster.psql("postgres", &format!("ALTER ROLE {SUPERUSER} PASSWORD '{fresh}'"));
    let refused = home.run(&["run", "nightly"]).expect_code(1);
    let said = refused.stderr.clone() + &refused.text();
    assert!(said.contains("[authentication]"), "{said}");
    write_private(file, &line(fresh));
    home.run(&["run", "nightly"]).expect_code(0);
    daemon.stop();
    for text in [daemon.log(), said] {
        assert!(!text.contains(fresh) && !text.contains(PASSWORD), "{text}");
    }
}

fn job(home: Pgkeep) -> Pgkeep {
    home.local("disk").dump("nightly", "main", &[APP], &["disk"], "globals = false\nattempts = 1")
}

#[test]
fn a_password_file_that_is_replaced_takes_effect_by_itself() {
    let cluster = Cluster::builder().tcp().start();
    let home = Pgkeep::new();
    let file = home.home().join("main.password");
    write_private(&file, PASSWORD);
    let home = job(home.toml(&format!(
        "[server.main]\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{SUPERUSER}\"\npassword_file = {}\nbin_dir = {}",
        cluster.port(),
        quote(file.to_string_lossy()),
        quote(cluster.bin_dir().to_string_lossy()),
    )));
    rotates(&home, &cluster, &file, |password| format!("{password}\n"));
}

#[test]
fn a_password_in_a_service_file_that_is_replaced_takes_effect_by_itself() {
    let cluster = Cluster::builder().tcp().start();
    let home = Pgkeep::new();
    let file = home.home().join("pg_service.conf");
    let port = cluster.port();
    let line = move |password: &str| {
        format!("[main]\nhost=127.0.0.1\nport={port}\nuser={SUPERUSER}\npassword={password}\n")
    };
    write_private(&file, &line(PASSWORD));
    let service = file.to_string_lossy().into_owned();
    let home = job(home.env("PGSERVICEFILE", &service).toml(&format!(
        "[server.main]\nservice = \"main\"\nbin_dir = {}",
        quote(cluster.bin_dir().to_string_lossy()),
    )));
    rotates(&home, &cluster, &file, line);
}
