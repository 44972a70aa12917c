//! Repositories that are in some trouble, and stores that lie.

use std::{fs, path::PathBuf, time::Duration};

use super::{files, found, item, json};
use crate::harness::{
    chaos::{Chaos, Fault},
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    process::{command, must},
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
};

const XML: &str = "content-type: application/xml\r\n";

/// An S3 server behind a proxy.
struct Bucket {
    runtime: tokio::runtime::Runtime,
    server: S3Server,
    chaos: Chaos,
}

impl Bucket {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = runtime.block_on(S3Server::start());
        let chaos = runtime.block_on(Chaos::start(server.address(), 5));
        Self { runtime, server, chaos }
    }

    fn home(&self, secret: &str) -> Pgkeep {
        let url = self.chaos.url();
        let lines = "prefix = \"db1\"\nrequest_timeout = \"5s\"";
        Pgkeep::new().s3_with("offsite", &url, BUCKET, (ACCESS_KEY, secret), lines)
    }
}

#[test]
fn a_bucket_is_looked_at_closely_and_nothing_stays_there() {
    let bucket = Bucket::start();
    let home = bucket.home(SECRET_KEY);
    let whole = json(&home, &["--fail-on", "critical"], 0);
    for label in ["reach", "writing", "removing", "clock"] {
        assert_eq!(item(&whole, "repository offsite", label)["state"], "ok", "{whole:#}");
    }
    for label in ["overwriting", "parts"] {
        assert_eq!(item(&whole, "repository offsite", label)["state"], "ok", "{whole:#}");
    }
    // What this server does: it checks an object that comes whole, and no part of one.
    let digests = &item(&whole, "repository offsite", "digests")["findings"][0];
    assert_eq!(digests["severity"], "warning", "{whole:#}");
    assert!(digests["what"].as_str().unwrap().contains("takes parts whose digest is wrong"));
    assert_eq!(files(&bucket.server.object_path("")), Vec::<PathBuf>::new());
    let seen = bucket.chaos.seen("PUT", "pgkeep-doctor");
    let conditional = seen.iter().filter(|it| it.header("if-none-match").is_some()).count();
    assert!(conditional >= 2, "the condition itself was tried: {seen:#?}");
    assert_eq!((bucket.server.parts(), bucket.server.uploads().len()), (0, 0));
    let parts = bucket.chaos.seen("PUT", "partNumber=");
    let lengths: Vec<_> = parts.iter().filter_map(|it| it.header("content-length")).collect();
    assert_eq!(lengths, ["8388608", "1000", "1000"], "a whole part, the last, and a wrong one");
    drop(bucket.runtime);
}

#[test]
fn a_bucket_in_which_no_dump_can_be_stored_is_no_good_one() {
    let bucket = Bucket::start();
    let home = bucket.home(SECRET_KEY);
    let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    let large = "<html>Request Entity Too Large</html>";
    let unknown = "<Error><Code>NotImplemented</Code><Message>no</Message></Error>";
    for (method, target, fault, hint) in [
        ("POST", "uploads", Fault::Answer(403, "", denied.to_owned()), "s3:PutObject"),
        ("POST", "uploads", Fault::Answer(501, "", unknown.to_owned()), "does not support"),
        ("PUT", "partNumber=1", Fault::Answer(413, "", large.to_owned()), "part_size"),
        ("POST", "uploadId=", Fault::Answer(403, "", denied.to_owned()), "s3:PutObject"),
        ("GET", "-parts", Fault::CutAnswer(100), "the store's own log"),
    ] {
        bucket.chaos.on(method, target, fault);
        let whole = json(&home, &["--fail-on", "critical"], 7);
        bucket.runtime.block_on(bucket.chaos.calm());
        let parts = &item(&whole, "repository offsite", "parts")["findings"][0];
        assert_eq!(parts["check"], "repository-parts", "{method} {target}: {whole:#}");
        assert_eq!(parts["severity"], "critical");
        assert!(parts["hint"].as_str().unwrap().contains(hint), "{method} {target}: {parts:#}");
        assert_eq!(item(&whole, "repository offsite", "writing")["state"], "ok");
        // What was begun is given up, and nothing stays.
        assert_eq!((bucket.server.parts(), bucket.server.uploads().len()), (0, 0), "{target}");
        assert_eq!(files(&bucket.server.object_path("")), Vec::<PathBuf>::new());
    }
}

/// What was found of the bucket, as `severity check`.
fn of_the_bucket(said: &serde_json::Value) -> Vec<String> {
    let of = |it: String| it.strip_prefix("repository offsite: ").map(str::to_owned);
    found(said).into_iter().filter_map(of).collect()
}

#[test]
fn what_a_store_ignores_refuses_and_removes_by_itself_is_told() {
    let bucket = Bucket::start();
    let home = bucket.home(SECRET_KEY);
    // The object itself passes; to the write over it, and to the one with a wrong digest, it says yes.
    bucket.chaos.next(1, "PUT", "pgkeep-doctor", Fault::Delay(Duration::ZERO));
    bucket.chaos.next(2, "PUT", "pgkeep-doctor", Fault::Answer(200, "", String::new()));
    let whole = json(&home, &[], 7);
    let expected = ["warning repository-overwrite", "warning repository-digest"];
    assert_eq!(of_the_bucket(&whole), expected);
    // And that it cannot.
    let unknown = "<Error><Code>NotImplemented</Code><Message>no</Message></Error>".to_owned();
    bucket.chaos.next(1, "PUT", "pgkeep-doctor", Fault::Delay(Duration::ZERO));
    bucket.chaos.next(2, "PUT", "pgkeep-doctor", Fault::Answer(501, "", unknown));
    let whole = json(&home, &[], 7);
    let expected = ["info repository-overwrite", "warning repository-digest"];
    assert_eq!(of_the_bucket(&whole), expected);

    let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>".to_owned();
    // Of the object in parts, of the upload with a wrong digest, and of the other object.
    bucket.chaos.next(3, "DELETE", "pgkeep-doctor", Fault::Answer(403, "", denied));
    let rules = "<LifecycleConfiguration><Rule><ID>tidy</ID><Filter><Prefix></Prefix></Filter>\
                 <Status>Enabled</Status><Expiration><Days>30</Days></Expiration></Rule>\
                 </LifecycleConfiguration>";
    bucket.chaos.next(1, "GET", "lifecycle", Fault::Answer(200, XML, rules.to_owned()));
    let versions =
        "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>".to_owned();
    bucket.chaos.next(1, "GET", "versioning", Fault::Answer(200, XML, versions));
    let whole = json(&home, &["--fail-on", "critical"], 0);
    let of = |label| &item(&whole, "repository offsite", label)["findings"][0];
    assert_eq!(of("removing")["check"], "repository-delete", "{whole:#}");
    assert!(of("removing")["what"].as_str().unwrap().contains("AccessDenied"), "{whole:#}");
    assert!(of("rules")["what"].as_str().unwrap().contains("tidy removes objects after 30 days"));
    assert_eq!(of("versions")["severity"], "info");
}

#[test]
fn a_bucket_that_cannot_be_had_says_why() {
    let bucket = Bucket::start();
    let whole = json(&bucket.home("wrong"), &[], 7);
    let reach = &item(&whole, "repository offsite", "reach")["findings"][0];
    assert_eq!(reach["check"], "repository-refused");
    assert!(reach["hint"].as_str().unwrap().contains("secret"), "{reach:#}");

    // It does not wait for the patience that a dump has.
    bucket.runtime.block_on(bucket.chaos.refuse());
    let whole = json(&bucket.home(SECRET_KEY), &[], 7);
    let reach = &item(&whole, "repository offsite", "reach")["findings"][0];
    assert_eq!(reach["check"], "repository-unavailable");
}

#[test]
fn a_filesystem_that_is_not_mounted_is_not_written_to() {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local("disk").dump(
        "nightly",
        "main",
        &[APP],
        &["disk"],
        "globals = false",
    );
    home.run(&["run", "nightly"]).expect_code(0);
    assert_eq!(
        item(
            &json(&home, &["--job", "nightly", "--fail-on", "critical"], 0),
            "repository disk",
            "reach"
        )["state"],
        "ok"
    );
    let folder = home.repository_dir("disk");
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    let whole = json(&home, &["--job", "nightly", "--fail-on", "critical"], 7);
    let reach = &item(&whole, "repository disk", "reach")["findings"][0];
    assert!(reach["hint"].as_str().unwrap().contains("mounted"), "{reach:#}");
    assert_eq!(files(&folder), Vec::<PathBuf>::new());
}

#[test]
fn a_full_filesystem_and_one_that_is_small_are_told_apart() {
    let home = Pgkeep::new().local_with("disk", "min_free = \"1000TiB\"");
    let whole = json(&home, &[], 7);
    let reach = &item(&whole, "repository disk", "reach")["findings"][0];
    // Not even a scratch object may be written below min_free.
    assert_eq!(reach["check"], "space", "{whole:#}");
    assert!(reach["what"].as_str().unwrap().contains("min_free"));
}

/// A secret key in a file, and its recipient.
fn key(home: &std::path::Path, name: &str) -> (PathBuf, String) {
    let file = home.join(name);
    must(command("age-keygen").arg("-o").arg(&file));
    let recipient = must(command("age-keygen").arg("-y").arg(&file)).trim().to_owned();
    (file, recipient)
}

#[test]
fn the_key_of_what_is_encrypted_is_tried_where_it_is_at_hand() {
    let folder = tempfile::tempdir().unwrap();
    let (right, recipient) = key(folder.path(), "right");
    let (wrong, other) = key(folder.path(), "wrong");
    let cluster = Cluster::start();
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local_with("vault", &format!("min_free = \"1MiB\"\nencrypt_to = [{recipient:?}]"))
        .dump("nightly", "main", &[APP], &["vault"], "globals = false");
    let with = |key: Option<&PathBuf>, code: i32| {
        let path = key.map(|it| it.display().to_string());
        let mut arguments = vec!["--job", "nightly", "--fail-on", "critical"];
        if let Some(path) = &path {
            arguments.extend(["--identity", path]);
        }
        item(&json(&home, &arguments, code), "repository vault", "encryption").clone()
    };
    let text = |item: &serde_json::Value| item["text"].as_str().unwrap().to_owned();
    assert!(text(&with(None, 0)).contains("--identity FILE tries it"));
    assert!(text(&with(Some(&right), 0)).contains("nothing encrypted is stored yet"));
    home.run(&["run", "nightly"]).expect_code(0);
    assert!(text(&with(Some(&right), 0)).contains("the key opens the newest backup, 2"));
    let refused = with(Some(&wrong), 7);
    assert_eq!(refused["findings"][0]["check"], "repository-keys");

    // What is there was made for one key, and what comes is for the other.
    home.rewrite(&home.config().replace(&recipient, &other));
    let refused = with(Some(&wrong), 7);
    assert!(refused["findings"][0]["what"].as_str().unwrap().contains("do not open the newest"));

    fs::write(folder.path().join("none"), "# nothing\n").unwrap();
    let path = folder.path().join("none").display().to_string();
    let output = home.run(&["doctor", "--identity", &path]).expect_code(1);
    assert!(output.stderr.contains("there is no key in it"), "{}", output.stderr);
    let secret = fs::read_to_string(&right).unwrap();
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET")).unwrap();
    let said = home.run(&["doctor", "--identity", &right.display().to_string()]);
    assert!(!said.text().contains(secret) && !said.stderr.contains(secret));
}

/// Where the unit does not let the daemon write, though whoever asks may.
#[test]
fn a_folder_that_the_unit_closes_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let bin = tempfile::tempdir().unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.path().display());
    let home = Pgkeep::new().local("disk").env("PATH", &path);
    let unit = |lines: &str| {
        let config = home.config_path();
        let script = format!(
            "#!/bin/sh\ncat <<'END'\nLoadState=loaded\nExecStart={{ path=/usr/bin/pgkeep ; \
             argv[]=/usr/bin/pgkeep daemon --config {} ; pid=0 }}\n{lines}\nEND\n",
            config.display()
        );
        let program = bin.path().join("systemctl");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    unit("ProtectSystem=strict\nProtectHome=yes\nReadWritePaths=/elsewhere");
    let whole = json(&home, &[], 7);
    let text = item(&whole, "this host", "unit")["findings"].to_string();
    let folder = home.repository_dir("disk").display().to_string();
    assert!(
        text.contains(&format!(
            "repository disk: a daemon of pgkeep.service cannot write to {folder}"
        )),
        "{text}"
    );
    assert!(text.contains(&format!("ReadWritePaths={folder} under [Service]")), "{text}");
    assert_eq!(item(&whole, "repository disk", "writing")["state"], "ok", "{whole:#}");
    unit("ProtectSystem=strict\nProtectHome=yes\nReadWritePaths=/");
    assert_eq!(item(&json(&home, &[], 0), "this host", "unit")["state"], "ok");
}
