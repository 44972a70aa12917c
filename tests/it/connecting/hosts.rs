//! `target_session_attrs` over a primary and its standby, beside libpq itself.

use pgkeep::{
    domain::failure::Class,
    postgres::{ConnSpec, Session, params::Params, service::Environment},
    sys::{clock::SystemClock, task::Task},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{
    pgkeep::Pgkeep,
    postgres::{Cluster, SUPERUSER},
    process::{command, run},
    wait::{PATIENCE, eventually},
};

const VALUES: [&str; 6] =
    ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"];

fn conninfo(hosts: &[&Cluster], value: &str) -> String {
    let list = |of: &dyn Fn(&Cluster) -> String| {
        hosts.iter().map(|host| of(host)).collect::<Vec<_>>().join(",")
    };
    format!(
        "host={} port={} user={SUPERUSER} dbname=postgres target_session_attrs={value}",
        list(&|host| host.socket_dir().display().to_string()),
        list(&|host| host.port().to_string()),
    )
}

/// Which one psql takes: whether it is in recovery; none where it takes none.
fn by_psql(cluster: &Cluster, conninfo: &str) -> Option<bool> {
    let mut psql = command(cluster.bin_dir().join("psql"));
    let output = run(psql.args(["-XAtwc", "SELECT pg_is_in_recovery()", conninfo]), "");
    (output.code == 0).then(|| output.text().trim() == "t")
}

async fn by_pgkeep(conninfo: &str) -> Result<bool, (Class, String)> {
    let params = Params::parse(conninfo).unwrap();
    let spec = ConnSpec::resolve(params, true, &Environment::default()).unwrap();
    let (cancel, task) = (CancellationToken::new(), Task::new(SystemClock::new()));
    let session = Session::connect(&spec, "postgres", "hosts", &task)
        .await
        .map_err(|error| (error.class(), error.to_string()))?;
    let row = session.query_one("SELECT pg_is_in_recovery()", &[], &cancel).await.unwrap();
    session.close().await;
    Ok(row.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_the_one_that_libpq_takes() {
    let primary = Cluster::builder().empty().start();
    let standby = primary.standby(&[]);
    let mut gone = Cluster::builder().empty().start();
    gone.stop();
    let compare = async |read_only: bool| {
        let mut taken = Vec::new();
        for value in VALUES {
            for hosts in [
                &[&primary, &standby][..],
                &[&standby, &primary],
                &[&gone, &primary, &standby],
                &[&primary],
                &[&standby],
                &[&primary, &gone],
            ] {
                let conninfo = conninfo(hosts, value);
                let (libpq, ours) = (by_psql(&primary, &conninfo), by_pgkeep(&conninfo).await);
                let what = format!("{value}, {} hosts, {read_only}: {ours:?}", hosts.len());
                assert_eq!(ours.as_ref().ok().copied(), libpq, "{what}");
                if let Err((class, text)) = ours {
                    assert_eq!(class, Class::Connection, "{what}");
                    assert!(
                        text.contains("target_session_attrs") || text.contains(".s.PGSQL."),
                        "{text}"
                    );
                }
                taken.push(libpq);
            }
        }
        taken
    };
    // As the manual has it: for each value, the hosts in the order above; true is the standby.
    let (p, s) = (Some(false), Some(true));
    let expected = [
        [p, s, p, p, s, p],
        [p, p, p, p, None, p],
        [s, s, s, None, s, None],
        [p, p, p, p, None, p],
        [s, s, s, None, s, None],
        [s, s, s, p, s, p],
    ];
    assert_eq!(compare(false).await, expected.concat());
    primary.psql("postgres", "ALTER SYSTEM SET default_transaction_read_only = on");
    primary.psql("postgres", "SELECT pg_reload_conf()");
    eventually("the setting", PATIENCE, || {
        (primary.psql("postgres", "SHOW default_transaction_read_only") == "on").then_some(())
    });
    let read_only = compare(true).await;
    assert_eq!(read_only[6..12], [None; 6], "nothing takes writes");
    assert_eq!(read_only[12..18], [p, s, p, p, s, p]);
    assert_eq!(read_only[18..24], expected[3]);
}

#[test]
fn a_dump_prefers_the_standby_and_a_wrong_value_lists_the_right_ones() {
    let primary = Cluster::start();
    let standby = primary.standby(&[]);
    let home = |value: &str| {
        let conninfo = conninfo(&[&primary, &standby], value);
        let bin_dir = primary.bin_dir().display();
        Pgkeep::new()
            .toml(&format!("[server.main]\nconninfo = \"{conninfo}\"\nbin_dir = \"{bin_dir}\"\n"))
            .local("disk")
            .dump("nightly", "main", &["app"], &["disk"], "globals = false\nattempts = 1")
    };
    for (value, standby) in [("prefer-standby", true), ("primary", false)] {
        let home = home(value);
        home.run(&["run", "nightly"]).expect_code(0);
        let id = home.run(&["list", "--json"]).json()[0]["id"].as_str().unwrap().to_owned();
        let shown = home.run(&["show", &id, "--json"]).expect_code(0).json();
        assert_eq!(shown[0]["manifest"]["snapshot"]["standby"], standby, "{value}");
    }
    let refused = home("master").run(&["check-config"]).expect_code(3).stderr;
    assert!(refused.contains("read-only, primary, standby, prefer-standby"), "{refused}");
}
