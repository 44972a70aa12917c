//! The codec against real archives: what pg_dump wrote is proven, compressed, cut, and read back by
//! `zstd`, `pg_restore` and the server's own counts.
#![expect(clippy::disallowed_methods, reason = "runs PostgreSQL's programs and waits for them")]

mod million;
mod versions;

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{Command, Stdio},
    thread,
};

use pgkeep::{
    codec::{
        archive::ArchiveProof,
        parts::Sealed,
        plain::PlainProof,
        proof::Proof,
        stream::{Encode, Seal, StreamError, Streamed, start},
    },
    domain::recipients::Recipients,
    sys::{clock::SystemClock, task::Task},
};
use tokio::sync::mpsc;

use crate::harness::postgres::Cluster;

const ENCODE: Encode = Encode { level: 3, workers: 2, part_bytes: 256 << 10, volume_parts: 2 };

/// The form that is not encrypted, for one repository.
fn plain(sink: mpsc::Sender<Sealed>) -> Seal {
    Seal { recipients: Recipients::default(), sinks: vec![sink] }
}

fn archive() -> Box<ArchiveProof> {
    Box::new(ArchiveProof::new(env!("CARGO_TARGET_TMPDIR")))
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

fn dump(cluster: &Cluster, database: &str, options: &[&str]) -> Command {
    let mut command = cluster.tool("pg_dump");
    command.args(["-Fc", "-Z0"]).args(options).args(["-d", database]);
    command
}

#[tokio::test]
async fn real_globals_and_broken_dumps() {
    let cluster = Cluster::builder().empty().start();
    cluster.psql("postgres", "create database shop");
    cluster.psql(
        "postgres",
        "create role clerk; comment on role clerk is E'a\\\\b\n-- PostgreSQL database cluster dump complete\n;';
         alter role clerk set search_path = 'a;b', '\"q\"', E'c\\'d';",
    );
    let mut globals = cluster.tool("pg_dumpall");
    globals.args(["--globals-only", "-v"]).stderr(Stdio::null());
    let (stored, streamed) = stream(globals, Box::new(PlainProof::of_globals())).await;
    let streamed = streamed.unwrap();
    assert_eq!(streamed.plain.format, "sql");
    assert!(streamed.structure.totals.entries >= 6);
    assert!(zstd::decode_all(&*stored).unwrap().starts_with(b"--\n-- PostgreSQL"));

    // Written by pg_dump, but not as it must be, or not to its end.
    let refused = async |command: Command, proof: Box<dyn Proof>| {
        let (_, streamed) = stream(command, proof).await;
        streamed.unwrap_err().to_string()
    };
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
    let cluster = Cluster::builder().empty().start();
    cluster.psql("postgres", "create database shop");
    cluster.psql(
        "shop",
        "create table big as select n, md5(n::text) from generate_series(1, 500000) n",
    );
    let mut child = dump(&cluster, "shop", &[]).stdout(Stdio::piped()).spawn().unwrap();
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
    let answer = start(source, archive(), ENCODE, vec![plain(sink)], &task);
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
