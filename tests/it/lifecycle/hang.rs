//! Filesystems that hang: the other repositories get their backups, and the daemon ends.

use std::time::{Duration, Instant};

use crate::harness::{
    client::Client,
    hang::Hang,
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    process::{spawn, wait_for},
    wait::{PATIENCE, eventually},
};

const ALL: &str = "open,stat,mkdir,unlink";
const GRACE: &str = "grace = \"1s\"";

fn home(cluster: &Cluster) -> Pgkeep {
    Pgkeep::with_daemon(GRACE)
        .hasty()
        .server("main", cluster)
        .local_with("disk", "min_free = \"1MiB\"\nanswer_timeout = \"4s\"")
        .local("other")
        .dump("nightly", "main", &[APP], &["disk", "other"], "globals = false\nattempts = 1")
}

#[expect(clippy::disallowed_methods, reason = "the limits run by the machine's clock")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

fn wait_stage(home: &Pgkeep, text: &str) {
    eventually(&format!("{text:?} in the status"), PATIENCE, || {
        let status = home.run(&["status", "--json"]).json();
        let stage = status["running"].get(0)?["stage"].as_str()?.to_owned();
        stage.contains(text).then_some(())
    });
}

#[test]
fn a_repository_that_hangs_holds_up_neither_the_other_nor_the_end() {
    let cluster = Cluster::start();
    let home = home(&cluster);
    let below = home.repository_dir("disk");
    let (hang, home) = Hang::prepare(home, &below, ALL);
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(0);
    hang.begin();
    let (run, took) = timed(|| home.run(&["run", "nightly", "--json"]).expect_code(4).json());
    assert!(took < Duration::from_secs(20), "{took:?}");
    let targets = run["report"]["targets"].as_array().unwrap();
    let of = |name: &str| targets.iter().find(|it| it["target"]["repository"] == name).unwrap();
    assert_eq!(of("other")["outcome"]["state"], "succeeded", "{run}");
    let failure = &of("disk")["outcome"]["detail"];
    assert_eq!(failure["class"], "repository-unavailable", "{run}");
    let listed = home.run(&["list"]).expect_code(4);
    assert_eq!(listed.text().matches(" other ").count(), 2, "{}", listed.text());

    let run = Client::start(&home, &["run", "nightly"]);
    wait_stage(&home, "waits for repository disk");
    let (code, took) = timed(|| {
        daemon.sigterm();
        daemon.wait_exit()
    });
    assert_eq!(code, 0, "{}", daemon.log());
    assert!(took < Duration::from_secs(10), "{took:?}");
    run.end().expect_code(130);
}

/// A backup is being removed.
#[test]
fn a_removal_that_hangs_is_left_and_done_later() {
    let cluster = Cluster::start();
    let home = home(&cluster)
        .toml("[retention.one]\nkeep_last = 1")
        .toml("[job.tidy]\nkind = \"prune\"\nrepositories = [\"disk\"]\nretention = \"one\"\nattempts = 1");
    let below = home.repository_dir("disk");
    let (hang, home) = Hang::prepare(home, &below, "unlink");
    for _ in 0..2 {
        home.run(&["run", "nightly"]).expect_code(0);
    }
    let mut daemon = home.ready_daemon();
    hang.begin();
    let run = Client::start(&home, &["run", "tidy"]);
    hang.wait_hung();
    let (code, took) = timed(|| {
        daemon.sigterm();
        daemon.wait_exit()
    });
    assert_eq!(code, 0, "{}", daemon.log());
    assert!(took < Duration::from_secs(10), "{took:?}");
    run.end().expect_code(130);
    hang.end();
    let mut daemon = home.ready_daemon();
    home.run(&["run", "tidy"]).expect_code(0);
    daemon.stop();
}

/// The daemon's own loop hangs, and can be told nothing.
#[test]
fn a_state_directory_that_hangs_does_not_keep_the_daemon_alive() {
    let cluster = Cluster::start();
    let home = home(&cluster);
    // Where the loop alone writes: looks at repositories read beside it.
    let below = home.state_dir().join("runs");
    let (hang, home) = Hang::prepare(home, &below, ALL);
    let mut daemon = home.ready_daemon();
    hang.begin();
    let mut client = spawn(home.command(&["run", "nightly"]).env_remove("LD_PRELOAD"));
    hang.wait_hung();
    let (code, took) = timed(|| {
        daemon.sigterm();
        daemon.wait_exit()
    });
    assert_eq!(code, 143, "{}", daemon.log());
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(daemon.log().contains("something hangs"), "{}", daemon.log());
    wait_for(&mut client, "the end of a command whose daemon is gone", PATIENCE);
}

/// The grace is that of the last reload, also where nobody can end the daemon in order.
#[test]
fn the_end_of_a_daemon_that_hangs_comes_by_the_grace_of_the_last_reload() {
    let cluster = Cluster::start();
    let home = Pgkeep::with_daemon("grace = \"1h\"")
        .hasty()
        .server("main", &cluster)
        .local("disk")
        .dump("nightly", "main", &[APP], &["disk"], "globals = false\nattempts = 1");
    // Where the loop alone writes: looks at repositories read beside it.
    let below = home.state_dir().join("runs");
    let (hang, home) = Hang::prepare(home, &below, ALL);
    let mut daemon = home.ready_daemon();
    home.rewrite(&home.config().replace("grace = \"1h\"", GRACE));
    home.run(&["reload"]).expect_code(0);
    hang.begin();
    let mut client = spawn(home.command(&["run", "nightly"]).env_remove("LD_PRELOAD"));
    hang.wait_hung();
    let (code, took) = timed(|| {
        daemon.sigterm();
        daemon.wait_exit()
    });
    assert_eq!(code, 143, "{}", daemon.log());
    assert!(took < Duration::from_secs(20), "{took:?}");
    wait_for(&mut client, "the end of a command whose daemon is gone", PATIENCE);
}
