//! S3 that refuses: no bucket, the wrong secret; and where secrets may not turn up.

use std::{fs, path::Path};

use super::{Bench, CLOUD, DISK, JOB, PARTIAL_LOG, PATIENT, PREFIX, Setup, bin_dir, files};
use crate::harness::{
    chaos::Chaos,
    fakes::{Fake, FakeBin, fake_bin_dir},
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster, PASSWORD, SUPERUSER},
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
};

const PROBE_LOG: [&str; 2] = ["cannot list the repository", "cannot sweep the repository"];

/// Not the secret of the server's key.
const WRONG: &str = "hunter2-is-no-secret-of-anybody";

#[track_caller]
fn assert_no_secret(bytes: &[u8], place: &str) {
    let text = String::from_utf8_lossy(bytes);
    for secret in [WRONG, PASSWORD] {
        assert!(!text.contains(secret), "{place} shows a secret");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_named() {
    let bench = Setup { bucket: "no-such-bucket", ..Setup::default() }.start().await;
    let mut daemon = bench.home.ready_daemon();
    let trouble = bench.run_partial(&daemon, CLOUD);
    trouble.expect("repository-refused", "NoSuchBucket", "`bucket`");
    let listed = bench.home.run(&["list"]).expect_code(4);
    assert!(listed.stderr.contains("NoSuchBucket"), "{}", listed.stderr);
    bench.assert_all_restore(DISK, 1);
    daemon.stop();
    daemon.assert_log_clean(&[&PARTIAL_LOG[..], &PROBE_LOG].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_told_and_no_secret_is_ever_shown() {
    let server = S3Server::start().await;
    let chaos = Chaos::start(server.address(), 7).await;
    let cluster = Cluster::builder().tcp().start();
    let fake = fake_bin_dir(Fake::Gated, cluster.bin_dir());
    // The password is asked for on TCP only.
    let home = Pgkeep::with_daemon("log_level = \"trace\"");
    let password = home.home().join("main.password");
    write_private(&password, PASSWORD);
    let port = cluster.tcp_port().unwrap();
    let home = home
        .toml(&format!(
            "[server.main]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"{SUPERUSER}\"\n\
             password_file = {}\n{}",
            quote(password.to_string_lossy()),
            bin_dir(&fake.path())
        ))
        .local(DISK)
        .s3_with(CLOUD, &chaos.url(), BUCKET, (ACCESS_KEY, WRONG), PATIENT)
        .dump(JOB, "main", &[APP], &[DISK, CLOUD], "globals = false\nattempts = 1");
    fs::create_dir_all(home.repository_dir(DISK)).unwrap();
    let bench = Bench { home, cluster, server, chaos, fake: Some(fake), database: APP };

    let mut daemon = bench.home.ready_daemon();
    let trouble = std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run_partial(&daemon, CLOUD));
        bench.fake().wait_stopped();
        let pids = bench.fake().pids();
        assert_eq!(pids.len(), 1);
        for pid in pids.iter().map(ToString::to_string).chain([daemon.pid().to_string()]) {
            let page = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap();
            assert_no_secret(&page("cmdline"), "a command line");
            assert_no_secret(&page("environ"), "an environment");
        }
        let tree = bench.home.run(&["status", "--json"]).expect_code(0);
        assert_no_secret(&tree.stdout, "status");
        bench.fake().release();
        run.join().unwrap()
    });
    trouble.expect("repository-refused", "SignatureDoesNotMatch", "secret");
    assert_no_secret(format!("{trouble:?}").as_bytes(), "the report");
    for args in [&["list"][..], &["status", "--json"], &["check-config"]] {
        let output = bench.home.run(args);
        assert_no_secret(&output.stdout, "standard output");
        assert_no_secret(output.stderr.as_bytes(), "standard error");
    }
    let (log, metrics) = (daemon.log(), daemon.metrics().text);
    assert!(log.contains("SignatureDoesNotMatch"), "the log tells what was refused");
    assert_no_secret(log.as_bytes(), "the log");
    assert_no_secret(metrics.as_bytes(), "the metrics");
    for folder in [bench.home.state_dir(), bench.home.runtime_dir(), bench.root(DISK)] {
        let found = files(&folder);
        assert!(!found.is_empty(), "{}", folder.display());
        for path in found.keys().map(|path| folder.join(path)).filter(|path| path.is_file()) {
            assert_no_secret(&fs::read(&path).unwrap(), &path.to_string_lossy());
        }
    }
    bench.assert_all_restore(DISK, 1);
    daemon.stop();
    assert_no_secret(daemon.log().as_bytes(), "the log");
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Keys that the daemon finds in its environment are for the bucket, not for pg_dump.
#[tokio::test(flavor = "multi_thread")]
async fn keys_in_the_environment_do_not_reach_pg_dump() {
    let server = S3Server::start().await;
    let chaos = Chaos::start(server.address(), 7).await;
    let cluster = Cluster::start();
    let fake = fake_bin_dir(Fake::Gated, cluster.bin_dir());
    let home = Pgkeep::new()
        .server_with("main", &cluster, &bin_dir(&fake.path()))
        .local(DISK)
        .toml(&format!(
            "[repository.{CLOUD}]\nkind = \"s3\"\nendpoint = \"{}\"\nbucket = \"{BUCKET}\"\n\
             prefix = \"{PREFIX}\"\n{PATIENT}",
            chaos.url()
        ))
        .dump(JOB, "main", &[APP], &[DISK, CLOUD], "globals = false\nattempts = 1")
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    fs::create_dir_all(home.repository_dir(DISK)).unwrap();
    let bench = Bench { home, cluster, server, chaos, fake: Some(fake), database: APP };
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run());
        bench.fake().wait_stopped();
        let environ = FakeBin::pids(bench.fake())
            .iter()
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/environ")).unwrap())
            .collect::<String>();
        assert!(environ.contains("PGAPPNAME="), "not the environment of pg_dump: {environ:?}");
        assert!(!environ.contains("AWS_") && !environ.contains(SECRET_KEY), "{environ:?}");
        bench.fake().release();
        run.join().unwrap().expect_code(0);
    });
    bench.assert_all_restore(CLOUD, 1);
}
