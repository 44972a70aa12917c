//! A million entries and a million large objects, through the real daemon, within its budget.

use std::{
    fs,
    io::{BufWriter, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use pgkeep::{codec::index, domain::manifest::Manifest};

use crate::harness::{
    long_tests,
    pgkeep::{Daemon, Pgkeep, quote},
    postgres::Cluster,
    process::{command, run_within},
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
};

const MILLION: u64 = 1_000_000;
const BUDGET_KIB: u64 = 128 << 10;
const LIMIT: std::time::Duration = std::time::Duration::from_mins(30);

/// The most memory that the daemon ever had, in KiB.
fn peak(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Dumps the database into a folder and a bucket; the folder of the local backup, and the peak.
async fn dumped(cluster: &Cluster, bin_dir: &Path, database: &str) -> (PathBuf, Pgkeep, u64) {
    let server = S3Server::start().await;
    let home = Pgkeep::with_daemon("memory_budget = \"128MiB\"")
        .server_with("main", cluster, &format!("bin_dir = {}", quote(bin_dir.to_string_lossy())))
        .local("disk")
        .s3_with("cloud", &server.url(), BUCKET, (ACCESS_KEY, SECRET_KEY), "")
        .dump("nightly", "main", &[database], &["disk", "cloud"], "globals = false\nattempts = 1");
    let mut daemon = home.ready_daemon();
    let before = peak(&daemon);
    let run = run_within(&mut home.command(&["run", "nightly", "--json"]), "", LIMIT);
    run.expect_code(0);
    let peak = peak(&daemon);
    eprintln!("{database}: peak of the daemon {} MiB, {} before", peak >> 10, before >> 10);
    daemon.stop();
    daemon.assert_log_clean(&[]);
    let listed = home.run(&["list", "--json"]).json();
    let rows: Vec<_> =
        listed.as_array().unwrap().iter().filter(|it| it["complete"] == true).collect();
    assert_eq!(rows.len(), 2, "{listed}");
    let row = rows.iter().find(|row| row["repository"] == "disk").unwrap();
    let text = |key: &str| row[key].as_str().unwrap();
    let folder = ["server", "system_id", "subject", "contents", "id"].map(text);
    let folder = folder.iter().fold(home.repository_dir("disk"), |path, part| path.join(part));
    (folder, home, peak)
}

fn manifest(folder: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_large_objects_go_through_within_the_memory_budget() {
    if !long_tests() {
        return;
    }
    let cluster = Cluster::builder().empty().setting("max_locks_per_transaction", "64").start();
    cluster.psql("postgres", "create database objects");
    // A transaction each: every object that is written takes a lock until its end.
    let some = "select count(lo_from_bytea(0, 'object')) from generate_series(1, 1000);\n";
    let sql = some.repeat(usize::try_from(MILLION / 1000).unwrap());
    let mut psql = cluster.tool("psql");
    let psql = psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "objects"]);
    run_within(psql, &sql, LIMIT).expect_code(0);
    let (folder, _home, peak) = dumped(&cluster, cluster.bin_dir(), "objects").await;
    assert!(peak < BUDGET_KIB, "{peak} KiB");
    let manifest = manifest(&folder);
    let totals = &manifest.totals;
    assert_eq!((totals.large_objects, totals.large_object_bytes), (MILLION, 6 * MILLION));
    // Before 17 each is an entry of its own.
    assert!(cluster.major() >= 17 || totals.entries > MILLION, "{totals:?}");
    let archive = folder.join("unpacked");
    let mut sh = command("sh");
    sh.arg("-c").arg("zstd -dc \"$1\" >\"$2\" && \"$3\"/pg_restore -f - \"$2\" | grep -c lo_close");
    sh.arg("sh").arg(folder.join(&manifest.objects[0].name)).arg(&archive).arg(cluster.bin_dir());
    assert_eq!(run_within(&mut sh, "", LIMIT).text().trim(), MILLION.to_string());
}

/// An archive of version 1.14 with a million tables, as pg_dump would write it.
fn write_archive(path: &Path) {
    let int = |out: &mut Vec<u8>, value: u32| {
        out.push(0);
        out.extend(value.to_le_bytes());
    };
    let text = |out: &mut Vec<u8>, text: Option<&str>| match text {
        None => out.extend([1, 1, 0, 0, 0]),
        Some(text) => {
            int(out, u32::try_from(text.len()).unwrap());
            out.extend(text.as_bytes());
        }
    };
    let million = u32::try_from(MILLION).unwrap();
    let mut file = BufWriter::new(fs::File::create(path).unwrap());
    let mut out = b"PGDMP\x01\x0e\x00\x04\x08\x01".to_vec();
    // No compression; the date.
    for value in [0, 0, 0, 0, 1, 0, 100, 0] {
        int(&mut out, value);
    }
    for it in ["many", "15.18", "15.18"] {
        text(&mut out, Some(it));
    }
    int(&mut out, million);
    for id in 1..=million {
        let name = format!("a_table_with_a_name_of_usual_length_{id}");
        let copy = format!("COPY public.{name} (id) FROM stdin;\n");
        int(&mut out, id);
        int(&mut out, 1);
        for it in ["0", "16384", &name, "TABLE DATA"] {
            text(&mut out, Some(it));
        }
        int(&mut out, 3);
        let rest = ["", "", &copy, "public"].map(Some);
        for it in rest.into_iter().chain([None, None, Some("postgres"), Some("false"), None]) {
            text(&mut out, it);
        }
        out.extend([1, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.write_all(&out).unwrap();
        out.clear();
    }
    for id in 1..=million {
        out.push(1);
        int(&mut out, id);
        text(&mut out, Some(&format!("{id}\n")));
        text(&mut out, Some("\\.\n\n\n"));
        int(&mut out, 0);
        file.write_all(&out).unwrap();
        out.clear();
    }
    file.flush().unwrap();
}

/// A folder of programs whose pg_dump writes what is in the file.
fn programs(real: &Path, archive: &Path, folder: &Path) {
    for entry in fs::read_dir(real).unwrap().flatten() {
        if entry.file_name() != "pg_dump" {
            symlink(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" --version \"*) exec {}/pg_dump --version ;; esac\nexec cat {}\n",
        real.display(),
        archive.display()
    );
    fs::write(folder.join("pg_dump"), script).unwrap();
    fs::set_permissions(folder.join("pg_dump"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_tables_go_through_within_the_memory_budget() {
    if !long_tests() {
        return;
    }
    let cluster = Cluster::builder().empty().start();
    cluster.psql("postgres", "create database many");
    let folder = tempfile::Builder::new().prefix("pgk-many.").tempdir().unwrap();
    let (archive, bin) = (folder.path().join("archive"), folder.path().join("bin"));
    fs::create_dir(&bin).unwrap();
    write_archive(&archive);
    programs(cluster.bin_dir(), &archive, &bin);
    let (backup, home, peak) = dumped(&cluster, &bin, "many").await;
    assert!(peak < BUDGET_KIB, "{peak} KiB");
    let manifest = manifest(&backup);
    let totals = &manifest.totals;
    assert_eq!((totals.tables, totals.rows), (MILLION, MILLION));
    let stored = fs::read(backup.join(&manifest.index.as_ref().unwrap().name)).unwrap();
    eprintln!("an index of a million entries: {} MiB", stored.len() >> 20);
    let index = index::decode(&stored).unwrap();
    assert_eq!(index.entries.len() as u64, MILLION);
    let archive = fs::read(&archive).unwrap();
    for entry in index.entries.iter().step_by(99_991) {
        let at = usize::try_from(entry.data.plain.offset).unwrap();
        let block = &archive[at..at + usize::try_from(entry.data.plain.bytes).unwrap()];
        assert_eq!(entry.data.blake3.as_deref(), Some(&*blake3::hash(block).to_hex()));
        assert_eq!(entry.rows, Some(1));
    }
    // Nothing of it is left.
    let scratch = fs::read_dir(home.state_dir().join("scratch"));
    assert_eq!(scratch.into_iter().flatten().count(), 0);
}
