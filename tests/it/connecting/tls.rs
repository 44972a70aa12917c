//! A server that has a certificate for each name (PostgreSQL 19, `ssl_sni`).

use std::fs;

use crate::harness::{
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster, PASSWORD, SUPERUSER},
    process::{command, must},
    template::Account,
};

/// Has it choose a certificate for `localhost` by that name, and for nothing else.
fn choose_by_name(cluster: &mut Cluster) {
    let data = cluster.data_dir();
    let (key, certificate) = (data.join("tls.key"), data.join("tls.crt"));
    must(
        command("openssl")
            .args(["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    fs::write(data.join("pg_hosts.conf"), "localhost tls.crt tls.key\n").unwrap();
    if let Some(account) = Account::for_server() {
        account.own(&key);
        account.own(&certificate);
        account.own(&data.join("pg_hosts.conf"));
    }
    cluster.psql("postgres", "ALTER SYSTEM SET ssl = on");
    cluster.psql("postgres", "ALTER SYSTEM SET ssl_sni = on");
    cluster.restart();
}

#[test]
fn an_address_has_no_certificate_where_the_server_chooses_by_name_long() {
    let Some(builder) = Cluster::of(19) else { return };
    let mut cluster = builder.tcp().start();
    choose_by_name(&mut cluster);
    let port = cluster.tcp_port().unwrap();
    for (host, exit) in [("127.0.0.1", 7), ("localhost", 0)] {
        let home = Pgkeep::new().env("MAIN_PASSWORD", PASSWORD).toml(&format!(
            "[server.main]\nhost = \"{host}\"\nport = {port}\nuser = \"{SUPERUSER}\"\n\
             password = \"${{MAIN_PASSWORD}}\"\nsslmode = \"require\"\nbin_dir = {}",
            quote(cluster.bin_dir().to_string_lossy())
        ));
        let others = "exclude = [\"postgres\", \"we*\"]";
        let home = home.local("disk").dump("nightly", "main", &[APP], &["disk"], others);
        let said = home.run(&["doctor", "--server", "main", "--json"]).expect_code(exit).json();
        let items = said["items"].as_array().unwrap();
        let is = |item: &&serde_json::Value| item["label"].as_str() == Some("connection");
        let connection = items.iter().find(is).unwrap_or_else(|| panic!("{said:#}"));
        if exit == 0 {
            assert_eq!(connection["state"], "ok", "{connection:#}");
            home.run(&["run", "nightly"]).expect_code(0);
            continue;
        }
        let finding = &connection["findings"][0];
        assert_eq!(finding["check"], "connection", "{connection:#}");
        let hint = finding["hint"].as_str().unwrap();
        assert!(hint.contains("pg_hosts.conf") && hint.contains("by a name"), "{connection:#}");
    }
}
