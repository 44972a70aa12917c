//! What the proof of an archive costs while it streams by, and what the digests have in it.
//!
//! `cargo bench --features test-util --bench proof` prints nanoseconds of CPU per byte for an archive of
//! rows of usual length: of the proof, of BLAKE3 alone over the same chunks, and of what else is
//! done to each byte (SHA-256, zstd). It fails where the digests take more than 3 % of a dump's CPU.

use std::{fs, hint::black_box, process::ExitCode, time::Duration};

use pgkeep::codec::{archive::ArchiveProof, proof::Proof as _};
use sha2::{Digest as _, Sha256};

const MEGABYTES: usize = 256;
/// What a read from a pipe of pg_dump gives at least where pgkeep keeps up with it, and where it
/// does not.
const CHUNKS: [usize; 3] = [8 << 10, 64 << 10, 512 << 10];
const ROUNDS: u32 = 5;
const PROMISE: f64 = 0.03;
/// What pg_dump (2.0) and the server (5.0) take, in nanoseconds of CPU per byte of such rows:
/// measured with PostgreSQL 15 on the machine on which the figures in docs/TESTING.md were.
const OTHERS: f64 = 7.0;

fn main() -> ExitCode {
    let archive = archive();
    let best = |work: &mut dyn FnMut()| {
        let timed = (0..ROUNDS).map(|_| {
            let begun = cpu_time();
            work();
            cpu_time().saturating_sub(begun)
        });
        per_byte(timed.min().unwrap_or_default(), archive.len())
    };
    let sha256 = best(&mut || {
        black_box(Sha256::digest(&archive));
    });
    let zstd = best(&mut || {
        for frame in archive.chunks(1 << 20) {
            drop(black_box(zstd::bulk::compress(frame, 3)));
        }
    });
    println!("SHA-256 {sha256:.3} ns/byte, zstd at level 3 {zstd:.3} ns/byte");
    let mut kept = true;
    for size in CHUNKS {
        let proof = best(&mut || prove(&archive, size));
        let blake3 = best(&mut || {
            let mut hash = blake3::Hasher::new();
            for chunk in archive.chunks(size) {
                hash.update(black_box(chunk));
            }
            black_box(hash.finalize());
        });
        let share = blake3 / (proof + sha256 + zstd + OTHERS);
        println!(
            "chunks of {:>3} KiB: proof {proof:.3} ns/byte, of it BLAKE3 {blake3:.3}: {:.1} % of the dump",
            size >> 10,
            share * 100.0
        );
        kept &= share <= PROMISE;
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What this thread had of a CPU; what others do on the machine counts less so.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn per_byte(time: Duration, bytes: usize) -> f64 {
    time.as_secs_f64() * 1e9 / bytes as f64
}

fn prove(archive: &[u8], size: usize) {
    let mut proof = Box::new(ArchiveProof::new(std::env::temp_dir()));
    let mut cuts = Vec::new();
    for chunk in archive.chunks(size) {
        if let Err(error) = proof.feed(chunk, &mut cuts) {
            eprintln!("{error}");
        }
    }
    match proof.finish() {
        Ok(structure) => drop(black_box(structure)),
        Err(error) => eprintln!("{error}"),
    }
}

/// An archive of version 1.14 with one table: a row is a chunk, as pg_dump before 19 writes it.
fn archive() -> Vec<u8> {
    let int = |out: &mut Vec<u8>, value: usize| {
        out.push(0);
        out.extend(u32::try_from(value).unwrap_or(0).to_le_bytes());
    };
    let text = |out: &mut Vec<u8>, text: &str| {
        int(out, text.len());
        out.extend(text.as_bytes());
    };
    let null = [1, 1, 0, 0, 0];
    let mut out = b"PGDMP\x01\x0e\x00\x04\x08\x01".to_vec();
    for _ in 0..8 {
        int(&mut out, 0);
    }
    for it in ["app", "15.18", "15.18"] {
        text(&mut out, it);
    }
    int(&mut out, 1);
    int(&mut out, 7);
    int(&mut out, 1);
    for it in ["0", "16384", "t", "TABLE DATA"] {
        text(&mut out, it);
    }
    int(&mut out, 3);
    for it in ["", "", "COPY s.t (a) FROM stdin;\n", "s"] {
        text(&mut out, it);
    }
    out.extend([null, null].concat());
    for it in ["postgres", "false"] {
        text(&mut out, it);
    }
    out.extend(null);
    out.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    int(&mut out, 7);
    let mut seed = 1u64;
    for row in 0.. {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let name = seed >> 52;
        text(
            &mut out,
            &format!(
                "{row}\t2026-11-21 12:{:02}:00+00\tcustomer {name}\t{seed:016x}\topen\t\\N\n",
                row % 60
            ),
        );
        if out.len() > MEGABYTES << 20 {
            break;
        }
    }
    text(&mut out, "\\.\n\n\n");
    int(&mut out, 0);
    out
}
