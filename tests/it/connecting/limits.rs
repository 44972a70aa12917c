//! `CONNECTION LIMIT` of a role and of a database, which our own sessions and pg_dump's share.

use std::process::Stdio;

use crate::harness::{
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster, KEEPER},
    process::spawn,
    wait::{PATIENCE, eventually},
};

fn home(cluster: &Cluster) -> Pgkeep {
    let server = format!(
        "[server.main]\nhost = {}\nport = {}\nuser = {}\nbin_dir = {}",
        quote(cluster.socket_dir().to_string_lossy()),
        cluster.port(),
        quote(KEEPER),
        quote(cluster.bin_dir().to_string_lossy()),
    );
    let lines = "attempts = 1\nglobals = false\nworkers = 1";
    Pgkeep::new().toml(&server).local("disk").dump("nightly", "main", &[APP], &["disk"], lines)
}

#[test]
fn a_limit_below_what_a_dump_takes_is_named_and_one_above_is_enough() {
    let cluster = Cluster::start();
    let home = home(&cluster);
    for alter in [format!("ALTER ROLE {KEEPER}"), format!("ALTER DATABASE {APP}")] {
        cluster.psql("postgres", &format!("{alter} CONNECTION LIMIT 1"));
        let ran = home.run(&["run", "nightly"]).expect_code(1);
        let said = ran.stderr.clone() + &ran.text();
        assert!(
            said.contains("[configuration]") && said.contains("is 1, and a dump takes 2"),
            "{said}"
        );
        assert!(said.contains(&format!("{alter} CONNECTION LIMIT 9")), "{said}");
        // One is left, at most, for the session that watches: it does not take pg_dump's.
        for limit in [2, 3] {
            cluster.psql("postgres", &format!("{alter} CONNECTION LIMIT {limit}"));
            home.run(&["run", "nightly"]).expect_code(0);
        }
        cluster.psql("postgres", &format!("{alter} CONNECTION LIMIT -1"));
    }
}

#[test]
fn a_limit_that_others_use_up_is_worth_another_attempt() {
    let cluster = Cluster::start();
    let home = home(&cluster);
    cluster.psql("postgres", &format!("ALTER ROLE {KEEPER} CONNECTION LIMIT 3"));
    let mut psql = cluster.tool("psql");
    psql.env("PGUSER", KEEPER).args(["-XqAt", APP]);
    psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut other = spawn(&mut psql);
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{KEEPER}'");
    eventually("the other session", PATIENCE, || {
        (cluster.psql("postgres", &there) == "1").then_some(())
    });
    let ran = home.run(&["run", "nightly"]).expect_code(1);
    let said = ran.stderr.clone() + &ran.text();
    assert!(
        said.contains("[connection]") && said.contains("too many connections for role"),
        "{said}"
    );
    assert!(said.contains("CONNECTION LIMIT") && !said.contains("is the server running"), "{said}");
    drop(other.stdin.take());
    other.wait().unwrap();
    eventually("its end", PATIENCE, || (cluster.psql("postgres", &there) == "0").then_some(()));
    home.run(&["run", "nightly"]).expect_code(0);
}
