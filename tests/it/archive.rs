//! The codec against real archives: what pg_dump wrote is proven, compressed, cut, and read back by
//! `zstd`, `pg_restore` and the server's own counts.
#![expect(clippy::disallowed_methods, reason = "runs PostgreSQL's programs and waits for them")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Seek, SeekFrom, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::chown,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use pgkeep::{
    codec::{
        archive::ArchiveProof,
        globals::GlobalsProof,
        proof::{DataEntry, Proof},
        sealed::Sealed,
        stream::{Encode, Seal, StreamError, Streamed, start},
    },
    domain::recipients::Recipients,
    sys::{clock::SystemClock, task::Task},
};
use tokio::sync::mpsc;

const ENCODE: Encode =
    Encode { level: 3, workers: 2, part_bytes: 256 << 10, volume_bytes: 1 << 20 };
/// The form that is not encrypted, for one repository.
fn plain(sink: mpsc::Sender<Sealed>) -> Seal {
    Seal { recipients: Recipients::default(), sinks: vec![sink] }
}

/// Nobody: PostgreSQL refuses to run as root.
const UNPRIVILEGED: u32 = 65534;

/// A cluster of this file's own, without TCP. To be replaced by the shared harness.
struct LocalCluster {
    bin: PathBuf,
    folder: tempfile::TempDir,
    server: Child,
}

impl LocalCluster {
    /// Starts one; none where PostgreSQL is not installed.
    fn start_for_archive_tests() -> Option<Self> {
        let mut installed: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path().join("bin"))
            .filter(|bin| bin.join("initdb").exists())
            .collect();
        installed.sort();
        let Some(bin) = installed.pop() else {
            eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            chown(folder.path(), Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        }
        let data = folder.path().join("data");
        let init = unprivileged(&bin.join("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(init.status.success(), "{init:?}");
        let server = unprivileged(&bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let cluster = Self { bin, folder, server };
        let deadline = Instant::now() + Duration::from_mins(1);
        while !cluster.tool("pg_isready").output().unwrap().status.success() {
            assert!(Instant::now() < deadline, "the server does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        Some(cluster)
    }

    /// One of PostgreSQL's client programs, set up to connect.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env("PGHOST", self.folder.path()).env("PGUSER", "postgres").env("LC_ALL", "C");
        command
    }

    fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = self
            .tool("psql")
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d", database])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        psql.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = psql.wait_with_output().unwrap();
        assert!(output.status.success(), "{sql}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn number(&self, database: &str, sql: &str) -> u64 {
        self.sql(database, sql).trim().parse().unwrap()
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.server);
        // QUIT: at once; the data is thrown away.
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).ok();
        self.server.wait().ok();
    }
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    command.current_dir("/").env("LC_ALL", "C");
    command
}

/// The stored bytes of all volumes, and what the stream found.
async fn stream(
    mut command: Command,
    proof: Box<dyn Proof>,
) -> (Vec<u8>, Result<Streamed, StreamError>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let source = OwnedFd::from(child.stdout.take().unwrap());
    let (sink, mut receiver) = mpsc::channel(2);
    let answer = start(source, proof, ENCODE, vec![plain(sink)], &Task::new(SystemClock::new()));
    let mut stored = Vec::new();
    while let Some(message) = receiver.recv().await {
        if let Sealed::Part { bytes, .. } = message {
            stored.extend_from_slice(&bytes);
        }
    }
    let streamed = answer.await.unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(status.success() || streamed.is_err(), "{command:?}: {status}");
    (stored, streamed)
}

fn dump(cluster: &LocalCluster, options: &[&str]) -> Command {
    let mut command = cluster.tool("pg_dump");
    command.args(["-Fc", "-Z0"]).args(options).args(["-d", "shop"]);
    command
}

/// Names that are hard on whoever splits lines or paths.
const HOSTILE_NAMES: [&str; 6] = [
    "a/b",
    "\"\"q\"\"",
    "..",
    "🐘",
    "new\nline",
    "sixty_three_bytes_sixty_three_bytes_sixty_three_bytes_sixty_thr",
];

fn fill(cluster: &LocalCluster) {
    cluster.sql("postgres", "create database shop");
    let mut sql = String::from(
        r"create schema s;
        create table empty(a int);
        create table no_columns();
        insert into no_columns select from generate_series(1, 1234);
        create table hostile(id serial primary key, t text, b bytea);
        insert into hostile(t, b) select t, convert_to(t, 'UTF8') from unnest(array[
            '', ' ', E'\\.', E'\n\\.\n\n\n', E'\n', E'\r\n', E'\t', E'\\N', null, E'\\', E'\\\\n',
            E'\u0001\u001f\u007f', E'end\\', 'é🐘', E'COPY x FROM stdin;\n1\n\\.\n', repeat('x', 300000)
        ]) t;
        insert into hostile(t, b) select chr(n), int4send(n) from generate_series(1, 2000) n;
        create table one_text(t text);
        insert into one_text select '' from generate_series(1, 777);
        create materialized view s.mat as select * from hostile;
        create sequence s.alone start 77;
        create table parted(a int, b text) partition by range (a);
        create table parted_1 partition of parted for values from (0) to (100);
        create table parted_2 partition of parted for values from (100) to (1000);
        insert into parted select n, repeat(md5(n::text), 20) from generate_series(0, 999) n;
        create table big as select n, md5(n::text) as a, n * 1.5 as b from generate_series(1, 60000) n;
        select count(lo_from_bytea(0, decode(repeat(md5(n::text), n), 'hex'))) from generate_series(1, 400) n;
        select lo_create(4000000000), lo_create(2147483648), lo_create(2147483647);
        do $$ begin for n in 1..400 loop
            execute format('create table s.many_%s as select g from generate_series(1, %s) g', n, n % 7);
        end loop; end $$;
        ",
    );
    for name in HOSTILE_NAMES {
        use std::fmt::Write;
        writeln!(sql, "create table s.\"{name}\" as select 1 as \"{name}\";").unwrap();
    }
    cluster.sql("shop", &sql);
}

/// Rows of every table by the server's count: schema and name, rows.
fn counted(cluster: &LocalCluster) -> BTreeMap<(String, String), u64> {
    let tables = cluster.sql(
        "shop",
        "select format('select %L, %L, count(*) from %I.%I;', encode(nspname::text::bytea, 'hex'),
             encode(convert_to(relname::text, 'UTF8'), 'hex'), nspname, relname)
         from pg_class c join pg_namespace n on n.oid = relnamespace
         where relkind = 'r' and nspname in ('public', 's')",
    );
    let unhex = |text: &str| {
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        String::from_utf8((0..text.len()).step_by(2).map(byte).collect()).unwrap()
    };
    let counts = cluster.sql("shop", &tables);
    counts
        .lines()
        .map(|line| {
            let fields: Vec<_> = line.split('|').collect();
            ((unhex(fields[0]), unhex(fields[1])), fields[2].parse().unwrap())
        })
        .collect()
}

/// `pg_restore -l`: the number of entries, and the ids of those with data.
fn listed(cluster: &LocalCluster, archive: &Path) -> (u64, BTreeSet<u32>) {
    let output = cluster.tool("pg_restore").arg("-l").arg(archive).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let entries = text.lines().find_map(|line| line.strip_prefix(";     TOC Entries: ")).unwrap();
    let data = text
        .lines()
        .filter_map(|line| line.split_once("; "))
        .filter(|(_, rest)| {
            let kind = rest.splitn(3, ' ').nth(2).unwrap_or("");
            kind.starts_with("TABLE DATA ") || kind.starts_with("BLOBS ")
        })
        .map(|(id, _)| id.parse().unwrap())
        .collect();
    (entries.parse().unwrap(), data)
}

fn check_with_zstd(stored: &Path, plain: &[u8]) {
    if Command::new("zstd").arg("--version").output().is_err() {
        eprintln!("SKIPPED in part: no zstd command");
        return;
    }
    let zstd = |option: &str| {
        let output = Command::new("zstd").arg(option).arg(stored).output().unwrap();
        assert!(output.status.success(), "zstd {option}: {output:?}");
        output.stdout
    };
    zstd("-t");
    zstd("-l");
    assert!(zstd("-dc") == plain, "zstd -dc gives the archive");
}

#[tokio::test]
async fn real_archives_hold_what_the_server_and_pg_restore_count() {
    let Some(cluster) = LocalCluster::start_for_archive_tests() else { return };
    fill(&cluster);
    let counts = counted(&cluster);
    let objects = cluster.number("shop", "select count(*) from pg_largeobject_metadata");
    assert_eq!(objects, 403);
    let folder = tempfile::tempdir().unwrap();
    for options in [&[][..], &["--inserts"], &["--data-only"], &["--load-via-partition-root"]] {
        let (stored, streamed) =
            stream(dump(&cluster, options), Box::new(ArchiveProof::new())).await;
        let Streamed { plain, structure, volumes, .. } = streamed.unwrap();
        let archive = zstd::decode_all(&*stored).unwrap();
        assert_eq!(plain.bytes, archive.len() as u64);
        assert!(volumes[0].len() > 1, "{options:?}: more than one volume");
        let (packed, unpacked) = (folder.path().join("a.zst"), folder.path().join("a.dump"));
        std::fs::write(&packed, &stored).unwrap();
        std::fs::write(&unpacked, &archive).unwrap();
        check_with_zstd(&packed, &archive);

        let (entries, ids) = listed(&cluster, &unpacked);
        assert_eq!(structure.totals.entries, entries);
        assert_eq!(structure.entries.iter().map(|it| it.dump_id).collect::<BTreeSet<_>>(), ids);
        assert_eq!(structure.totals.large_objects, objects);
        assert_eq!(structure.totals.tables, counts.len() as u64);
        let found: BTreeMap<_, _> = structure
            .entries
            .iter()
            .filter(|it| &*it.kind == "TABLE DATA")
            .map(|it| ((it.schema.as_deref().unwrap().into(), it.name.to_string()), it.rows))
            .collect();
        let copies = !options.contains(&"--inserts");
        let expected: BTreeMap<_, _> =
            counts.iter().map(|(name, rows)| (name.clone(), copies.then_some(*rows))).collect();
        assert_eq!(found, expected, "{options:?}");
        check_one_table_alone(&cluster, &archive, &structure.entries, structure.toc_end);
    }
}

/// The recorded positions are right: with them written into the table of contents, pg_restore
/// finds one table in a file that holds nothing else.
fn check_one_table_alone(
    cluster: &LocalCluster,
    archive: &[u8],
    entries: &[DataEntry],
    toc_end: u64,
) {
    let size = |bytes: u64| usize::try_from(bytes).unwrap();
    let one = entries.iter().find(|it| &*it.name == "parted_2").unwrap();
    let mut toc = archive[..size(toc_end)].to_vec();
    for entry in entries {
        let field = &mut toc[size(entry.offset_field.start)..size(entry.offset_field.end)];
        assert_eq!(field.len(), 9);
        field[0] = 2;
        field[1..].copy_from_slice(&entry.offset.to_le_bytes());
    }
    let mut sparse = tempfile::NamedTempFile::new().unwrap();
    sparse.write_all(&toc).unwrap();
    sparse.seek(SeekFrom::Start(one.offset)).unwrap();
    let block = size(one.offset)..size(one.offset + one.length);
    sparse.write_all(&archive[block]).unwrap();
    sparse.as_file().set_len(archive.len() as u64).unwrap();
    let output = cluster
        .tool("pg_restore")
        .args(["--data-only", "-t", "parted_2", "-f", "-"])
        .arg(sparse.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let last = cluster.sql("shop", "select a || chr(9) || b from parted_2 where a = 999");
    assert!(one.rows.is_none() || text.contains(&last), "the last row is in it");
    let wanted = if one.rows.is_some() { "\t" } else { "INSERT INTO " };
    assert_eq!(text.lines().filter(|line| line.contains(wanted)).count(), 900);
}

#[tokio::test]
async fn real_globals_and_broken_dumps() {
    let Some(cluster) = LocalCluster::start_for_archive_tests() else { return };
    cluster.sql(
        "postgres",
        "create database shop;
         create role clerk; comment on role clerk is E'a\\\\b\n-- PostgreSQL database cluster dump complete\n;';
         alter role clerk set search_path = 'a;b', '\"q\"', E'c\\'d';",
    );
    let mut globals = cluster.tool("pg_dumpall");
    globals.args(["--globals-only", "-v"]).stderr(Stdio::null());
    let (stored, streamed) = stream(globals, Box::new(GlobalsProof::new())).await;
    let streamed = streamed.unwrap();
    assert_eq!(streamed.plain.format, "sql");
    assert!(streamed.structure.totals.entries >= 6);
    assert!(zstd::decode_all(&*stored).unwrap().starts_with(b"--\n-- PostgreSQL"));

    // Written by pg_dump, but not as it must be, or not to its end.
    let refused = async |command: Command, proof: Box<dyn Proof>| {
        let (_, streamed) = stream(command, proof).await;
        streamed.unwrap_err().to_string()
    };
    let archive = || Box::new(ArchiveProof::new());
    let mut compressed = cluster.tool("pg_dump");
    compressed.args(["-Fc", "-d", "shop"]);
    assert!(refused(compressed, archive()).await.contains("-Z0"));
    let mut plain = cluster.tool("pg_dump");
    plain.args(["-d", "shop"]);
    assert!(refused(plain, archive()).await.contains("no archive"));
    let mut absent = cluster.tool("pg_dump");
    absent.args(["-Fc", "-Z0", "-d", "absent"]).stderr(Stdio::null());
    assert_eq!(refused(absent, archive()).await, "the dump is empty");
}

#[tokio::test]
async fn a_pg_dump_that_is_killed_leaves_no_backup() {
    let Some(cluster) = LocalCluster::start_for_archive_tests() else { return };
    cluster.sql("postgres", "create database shop");
    cluster.sql(
        "shop",
        "create table big as select n, md5(n::text) from generate_series(1, 500000) n",
    );
    let mut child = dump(&cluster, &[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (source, mut writer) = std::io::pipe().unwrap();
    let copying = thread::spawn(move || {
        // Its first megabyte goes by; then it dies in the middle of the table.
        let mut piece = vec![0; 1 << 20];
        output.read_exact(&mut piece).unwrap();
        writer.write_all(&piece).unwrap();
        child.kill().unwrap();
        let status = child.wait().unwrap();
        std::io::copy(&mut output, &mut writer).unwrap();
        status.signal()
    });
    let (sink, mut receiver) = mpsc::channel(100);
    let task = Task::new(SystemClock::new());
    let answer = start(source, Box::new(ArchiveProof::new()), ENCODE, vec![plain(sink)], &task);
    let error = answer.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("ends early"), "{error}");
    assert!(error.contains("TABLE DATA public.big"), "{error}");
    assert_eq!(copying.join().unwrap(), Some(9));
    let mut last = None;
    while let Some(message) = receiver.recv().await {
        last = Some(message);
    }
    assert!(!matches!(last, Some(Sealed::VolumeEnd { .. })), "{last:?}");
}
