//! Encrypted dumps, read back with the programs of the distribution: `age`, `zstd`, `pg_restore`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pgkeep::{codec::index, domain::report::Outcome};

use super::{
    Bucket, Copy, DISK, OFFSITE, Running, assert_restores, bin_dir, listed,
    retry::{SOON, counted},
    run_job, shell, stop_after_failures,
    volumes::{SMALL, noisy},
    walk,
};
use crate::harness::{
    compare::assert_same,
    fakes::FakeBin,
    pgkeep::{Daemon, Pgkeep},
    postgres::{APP, Cluster},
    process::{command, must, run},
};

/// A text of the data, and another of the definitions.
const KNOWN: [&str; 2] = ["known-text-of-the-data", "known_name_of_a_table"];
const KNOWN_SQL: &str = "CREATE TABLE known_name_of_a_table (t text);
    INSERT INTO known_name_of_a_table VALUES ('known-text-of-the-data')";

/// A secret key in a file, made by `age-keygen`.
struct Key {
    folder: tempfile::TempDir,
    recipient: String,
}

impl Key {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        must(command("age-keygen").arg("-o").arg(&file));
        let recipient = must(command("age-keygen").arg("-y").arg(&file)).trim().to_owned();
        assert!(recipient.starts_with("age1"), "{recipient}");
        Self { folder, recipient }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    /// The option of a repository that is encrypted to these keys.
    fn option(keys: &[&Self]) -> String {
        let names: Vec<&String> = keys.iter().map(|key| &key.recipient).collect();
        format!("encrypt_to = {names:?}")
    }
}

/// Runs the lines of the manifest, with a key put in, and compares.
#[track_caller]
fn assert_decrypts(cluster: &Cluster, copy: &Copy, key: &Key) {
    let script = copy.manifest.restore.join("\n");
    assert!(script.contains("| age -d -i KEYFILE | zstd -dc | pg_restore "), "{script}");
    let script = script.replace("KEYFILE", key.file().to_str().unwrap());
    run(shell(cluster, &script).current_dir(&copy.folder), "").expect_code(0);
    assert_same(cluster, &copy.subject(), "restored");
    cluster.psql("postgres", "DROP DATABASE restored");
}

/// What `age -d` makes of an object.
fn opened(cluster: &Cluster, copy: &Copy, key: &Key, name: &str, then: &str) -> Vec<u8> {
    let mut sh = shell(cluster, &format!("age -d -i \"$1\" -- \"$2\" {then}"));
    sh.arg(key.file()).arg(name).current_dir(&copy.folder);
    run(&mut sh, "").expect_code(0).stdout
}

/// Nothing in these folders but the manifests says anything of `secrets`.
#[track_caller]
fn assert_hides(root: &Path, secrets: &[&[u8]]) {
    let mut files = Vec::new();
    walk(root, &mut files);
    files.retain(|file| file.to_string_lossy().contains(".age"));
    assert!(!files.is_empty());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let volume = file.extension().is_some_and(|extension| extension != "age");
        assert!(volume || bytes.starts_with(b"age-encryption.org/v1\n"), "{}", file.display());
        for secret in secrets {
            assert!(secret.len() >= 8);
            let found = bytes.windows(secret.len()).any(|window| window == *secret);
            assert!(!found, "{} holds {:?}", file.display(), String::from_utf8_lossy(secret));
        }
    }
}

/// The copy of a subject in a repository.
#[track_caller]
fn of<'a>(copies: &'a [Copy], subject: &str, repository: &str) -> &'a Copy {
    let is = |copy: &&Copy| copy.subject() == subject && copy.repository == repository;
    copies.iter().find(is).unwrap_or_else(|| panic!("no {subject} in {repository}"))
}

#[test]
fn dump_goes_plain_to_the_disk_and_encrypted_to_s3_in_one_pass() {
    let (cluster, bucket) = (Cluster::start(), Bucket::start());
    cluster.psql(APP, KNOWN_SQL);
    let fake = counted(&cluster);
    let (one, two, stranger) = (Key::new(), Key::new(), Key::new());
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path())).local(DISK);
    let home = bucket.configure(home, &Key::option(&[&one, &two]));
    let home = home.dump("nightly", "main", &[APP], &[DISK, OFFSITE], "workers = 1");
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "nightly", 0);
    assert_eq!(fake.starts(), 1, "one pass over the database");
    let roots = [(DISK, home.repository_dir(DISK)), (OFFSITE, bucket.root())];
    let copies = listed(&home, &roots);
    assert_eq!(copies.len(), 4);
    let (plain, secret) = (of(&copies, APP, DISK), of(&copies, APP, OFFSITE));
    assert_restores(&cluster, plain);
    for key in [&one, &two] {
        assert_decrypts(&cluster, secret, key);
    }
    assert_says(&home, secret, &[&one, &two]);
    assert_eq!(
        (&plain.manifest.id, &plain.manifest.plain),
        (&secret.manifest.id, &secret.manifest.plain)
    );
    assert_eq!((plain.manifest.format_version, plain.manifest.codec.len()), (1, 1));
    let stored = ran.target(APP, OFFSITE).figures.counts["stored_bytes"];
    assert_eq!(stored, secret.manifest.stored_bytes());
    assert_parts_decrypt(&cluster, &copies, &one);

    // Somebody else's key opens nothing, and nothing lies there as it was.
    let name = &secret.manifest.objects[0].name;
    let mut age = command("age");
    age.arg("-d").arg("-i").arg(stranger.file()).arg(secret.folder.join(name));
    assert_ne!(run(&mut age, "").code, 0);
    let packed = fs::read(plain.folder.join(&plain.manifest.objects[0].name)).unwrap();
    assert_eq!(packed[..4], [0x28, 0xb5, 0x2f, 0xfd], "zstd's magic");
    let middle = packed.len() / 2;
    let known = KNOWN.map(str::as_bytes);
    let pieces = [&packed[..32], &packed[middle..middle + 32], known[0], known[1]];
    assert_hides(&bucket.root(), &pieces);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

/// The manifest, `show` and its JSON say whom it is encrypted to.
#[track_caller]
fn assert_says(home: &Pgkeep, secret: &Copy, keys: &[&Key]) {
    let manifest = &secret.manifest;
    let mut names: Vec<&str> = keys.iter().map(|key| &*key.recipient).collect();
    names.sort_unstable();
    assert_eq!(manifest.recipients.iter().collect::<Vec<_>>(), names);
    assert_eq!((manifest.format_version, manifest.codec.join(" ")), (2, "zstd age".to_owned()));
    assert_eq!(manifest.objects[0].name, "app.dump.zst.age");
    assert_eq!(manifest.index.as_ref().unwrap().name, "index.json.zst.age");
    let id = manifest.id.to_string();
    let shown = home.run(&["show", &id]).expect_code(0).text();
    for name in &names {
        assert!(shown.contains(&format!("encrypted to  {name}")), "{shown}");
    }
    let json = home.run(&["show", &id, "--json"]).expect_code(0).json();
    let copies = json.as_array().unwrap();
    let of = |name: &str| copies.iter().find(|copy| copy["repository"] == name).unwrap();
    assert_eq!(of(OFFSITE)["manifest"]["recipients"], serde_json::json!(names));
    assert!(of(DISK)["manifest"].get("recipients").is_none());
}

/// Index and globals decrypt to what lies in the plain repository.
#[track_caller]
fn assert_parts_decrypt(cluster: &Cluster, copies: &[Copy], key: &Key) {
    let (plain, secret) = (of(copies, APP, DISK), of(copies, APP, OFFSITE));
    let found = opened(cluster, secret, key, "index.json.zst.age", "");
    assert!(found == fs::read(plain.folder.join("index.json.zst")).unwrap());
    assert_eq!(index::decode(&found).unwrap().totals, secret.manifest.totals);
    let (plain, secret) = (of(copies, "@globals", DISK), of(copies, "@globals", OFFSITE));
    let found = opened(cluster, secret, key, "globals.sql.zst.age", "");
    assert!(found == fs::read(plain.folder.join("globals.sql.zst")).unwrap());
    let sql = opened(cluster, secret, key, "globals.sql.zst.age", "| zstd -dc");
    assert!(String::from_utf8(sql).unwrap().contains("CREATE ROLE"));
    let lines = secret.manifest.restore.join("\n");
    assert!(lines.contains("globals.sql.zst.age | age -d -i KEYFILE | zstd -dc | psql"), "{lines}");
}

#[test]
fn dump_that_is_encrypted_is_split_into_volumes() {
    let (cluster, bucket, key) = (noisy(), Bucket::start(), Key::new());
    let home = Pgkeep::new().server("main", &cluster);
    let home = bucket.configure(home, &format!("{SMALL}\n{}", Key::option(&[&key])));
    let home = home.dump("nightly", "main", &["noisy"], &[OFFSITE], super::ONCE);
    let mut daemon = home.ready_daemon();
    run_job(&home, "nightly", 0);
    let copies = listed(&home, &[(OFFSITE, bucket.root())]);
    let [copy] = &copies[..] else { panic!("{} copies", copies.len()) };
    let names: Vec<&str> = copy.manifest.objects.iter().map(|object| &*object.name).collect();
    let expected = ["noisy.dump.zst.age", "noisy.dump.zst.age.001", "noisy.dump.zst.age.002"];
    assert_eq!(names, expected);
    assert_eq!(copy.manifest.objects[0].bytes, 16 << 20);
    assert_decrypts(&cluster, copy, &key);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

/// A dump to two repositories of which the second, in the bucket, is away at first.
struct Healed {
    daemon: Daemon,
    home: Pgkeep,
    fake: FakeBin,
    bucket: Bucket,
    cluster: Cluster,
    copies: Vec<Copy>,
}

impl Healed {
    fn after(disk: &str, offsite: &str) -> Self {
        let (cluster, bucket) = (Cluster::start(), Bucket::start());
        let fake = counted(&cluster);
        let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path()));
        let home = home.local_with(DISK, &format!("min_free = \"1MiB\"\n{disk}"));
        let home = bucket.configure(home, offsite);
        let home = home.dump("nightly", "main", &[APP], &[DISK, OFFSITE], SOON);
        let daemon = home.ready_daemon();
        bucket.refuse();
        let running = Running::start(&home, "nightly");
        daemon.wait_log("failed: ");
        bucket.calm();
        let ran = running.end(0);
        for repository in [DISK, OFFSITE] {
            assert_eq!(ran.target(APP, repository).outcome, Outcome::Succeeded);
        }
        let roots = [(DISK, home.repository_dir(DISK)), (OFFSITE, bucket.root())];
        let copies = listed(&home, &roots);
        assert_eq!(copies.len(), 2);
        Self { daemon, home, fake, bucket, cluster, copies }
    }

    fn of(&self, repository: &str) -> &Copy {
        of(&self.copies, APP, repository)
    }

    fn end(mut self) {
        assert!(self.bucket.server.uploads().is_empty());
        stop_after_failures(&mut self.daemon);
    }
}

#[test]
fn dump_that_an_encrypted_repository_lost_is_healed_from_a_plain_one() {
    let key = Key::new();
    let healed = Healed::after("", &Key::option(&[&key]));
    assert_eq!(healed.fake.starts(), 1, "the database was read again");
    let (plain, secret) = (healed.of(DISK), healed.of(OFFSITE));
    assert_eq!(plain.manifest.id, secret.manifest.id);
    assert_restores(&healed.cluster, plain);
    assert_decrypts(&healed.cluster, secret, &key);
    assert_says(&healed.home, secret, &[&key]);
    let packed = fs::read(plain.folder.join(&plain.manifest.objects[0].name)).unwrap();
    assert_hides(&healed.bucket.root(), &[&packed[..32]]);
    healed.end();
}

#[test]
fn dump_that_an_encrypted_repository_lost_is_healed_from_one_with_the_same_key() {
    let key = Key::new();
    let option = Key::option(&[&key]);
    let healed = Healed::after(&option, &option);
    assert_eq!(healed.fake.starts(), 1, "the database was read again");
    let (one, two) = (healed.of(DISK), healed.of(OFFSITE));
    assert_eq!(one.manifest.objects, two.manifest.objects, "the same bytes");
    assert_decrypts(&healed.cluster, two, &key);
    healed.end();
}

/// What is encrypted cannot be copied to a plain repository, nor to other recipients: the database
/// is dumped again.
#[test]
fn dump_that_no_copy_can_heal_is_made_again() {
    let (key, other) = (Key::new(), Key::new());
    for offsite in [String::new(), Key::option(&[&other])] {
        let healed = Healed::after(&Key::option(&[&key]), &offsite);
        assert_eq!(healed.fake.starts(), 2);
        let (disk, again) = (healed.of(DISK), healed.of(OFFSITE));
        assert_ne!(disk.manifest.id, again.manifest.id);
        assert_decrypts(&healed.cluster, disk, &key);
        if offsite.is_empty() {
            assert_restores(&healed.cluster, again);
        } else {
            assert_decrypts(&healed.cluster, again, &other);
        }
        healed.end();
    }
}
