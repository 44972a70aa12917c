use std::{io::Write, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::{
    codec::{
        archive::{
            ArchiveProof,
            synth::{Synth, rows, table},
        },
        index,
    },
    sys::clock::SystemClock,
};

pub(super) const PART: usize = 64 << 10;
pub(super) const ENCODE: Encode =
    Encode { level: 1, workers: 2, part_bytes: PART, volume_parts: u32::MAX };
/// Longer than anything here takes; only so that a defect ends as a failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// An archive of tables with rows that compress somewhat, as long as asked for.
pub(super) fn archive(tables: u32, rows_each: u32) -> Vec<u8> {
    let names: Vec<_> = (0..tables).map(|n| format!("t{n}")).collect();
    let entries: Vec<_> = (1i64..).zip(&names).map(|(id, name)| table(id, name)).collect();
    let mut archive = Synth::new(16, &entries);
    let mut seed = 1u64;
    for id in 1..=i64::from(tables) {
        let lines: Vec<_> = (0..rows_each)
            .map(|row| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                format!("{row}\tcustomer {}\t{:016x}\n", seed >> 48, seed).into_bytes()
            })
            .collect();
        let lines: Vec<_> = lines.iter().map(Vec::as_slice).collect();
        archive.data(id, rows(&lines));
    }
    archive.bytes
}

/// A pipe that gets the bytes from a thread of its own.
pub(super) fn piped(bytes: Vec<u8>) -> io::PipeReader {
    let (reader, mut writer) = io::pipe().unwrap();
    thread::spawn(move || writer.write_all(&bytes).ok());
    reader
}

pub(super) fn task() -> Task {
    Task::new(SystemClock::new())
}

/// The form that is not encrypted.
pub(super) fn plain(sinks: Vec<Sender<Sealed>>) -> Seal {
    Seal { recipients: Recipients::default(), sinks }
}

fn begin(
    source: impl Into<OwnedFd>,
    encode: Encode,
    sinks: Vec<Sender<Sealed>>,
    task: &Task,
) -> oneshot::Receiver<Result<Streamed, StreamError>> {
    start(
        source,
        Box::new(ArchiveProof::new(std::env::temp_dir())),
        encode,
        vec![plain(sinks)],
        task,
    )
}

pub(super) async fn outcome(
    receiver: oneshot::Receiver<Result<Streamed, StreamError>>,
) -> Result<Streamed, StreamError> {
    tokio::time::timeout(PATIENCE, receiver).await.expect("it ends").expect("it answers")
}

/// What a sink got: volumes with their parts, and what was said of each at its end.
#[derive(Debug, Default)]
pub(super) struct Got {
    volumes: Vec<Vec<Bytes>>,
    /// Bytes and digest of each volume.
    pub(super) ends: Vec<(u64, String)>,
}

impl Got {
    pub(super) async fn all(mut sink: Receiver<Sealed>) -> Self {
        let mut got = Self::default();
        while let Some(message) = sink.recv().await {
            got.add(message);
        }
        got
    }

    fn add(&mut self, message: Sealed) {
        match message {
            Sealed::Part { volume, number, bytes } => {
                if number == 1 {
                    assert_eq!(self.ends.len(), self.volumes.len(), "the volume before has ended");
                    self.volumes.push(Vec::new());
                }
                assert_eq!(volume as usize, self.volumes.len());
                let parts = self.volumes.last_mut().unwrap();
                parts.push(bytes);
                assert_eq!(number as usize, parts.len());
            }
            Sealed::VolumeEnd { volume, bytes, sha256 } => {
                self.ends.push((bytes, sha256));
                assert_eq!(volume as usize, self.ends.len());
            }
        }
    }

    pub(super) fn stream(&self) -> Vec<u8> {
        self.volumes.concat().concat()
    }

    /// Volumes and parts are as they were announced.
    pub(super) fn check(&self, encode: Encode) {
        assert_eq!(self.volumes.len(), self.ends.len());
        for (at, (parts, (length, sha256))) in self.volumes.iter().zip(&self.ends).enumerate() {
            let bytes = parts.concat();
            assert!(!bytes.is_empty() && bytes.len() as u64 == *length);
            assert!(parts.len() <= encode.volume_parts as usize);
            assert_eq!(&crate::codec::hex(&Sha256::digest(&bytes)), sha256);
            let (last, full) = parts.split_last().unwrap();
            assert!(full.iter().all(|part| part.len() == encode.part_bytes));
            assert!(!last.is_empty());
            if at + 1 < self.volumes.len() {
                assert_eq!(last.len(), encode.part_bytes, "only the last volume may end unevenly");
            }
        }
    }
}

async fn stream(plain: Vec<u8>, encode: Encode) -> (Streamed, Got) {
    let (sink, receiver) = channel(1);
    let answer = begin(piped(plain), encode, vec![sink], &task());
    let got = Got::all(receiver).await;
    let streamed = outcome(answer).await.unwrap();
    got.check(encode);
    (streamed, got)
}

#[tokio::test]
async fn the_stream_decompresses_to_what_came() {
    let plain = archive(5, 40_000);
    for workers in [1, 3] {
        let (streamed, got) = stream(plain.clone(), Encode { workers, ..ENCODE }).await;
        assert!(zstd::decode_all(&*got.stream()).unwrap() == plain);
        assert_eq!(streamed.plain.bytes, plain.len() as u64);
        assert_eq!(streamed.plain.sha256, crate::codec::hex(&Sha256::digest(&plain)));
        assert_eq!(streamed.plain.format, "custom 1.16");
        assert_eq!(streamed.structure.totals.rows, 200_000);
        assert_eq!(got.ends.len(), 1);
    }
}

#[tokio::test]
async fn volumes_end_at_whole_parts_and_join_to_one_stream() {
    let plain = archive(3, 20_000);
    let (whole, once) = stream(plain.clone(), ENCODE).await;
    for volume_parts in [1, 3] {
        let encode = Encode { volume_parts, ..ENCODE };
        let (streamed, got) = stream(plain.clone(), encode).await;
        assert!(got.ends.len() > 2);
        assert!(got.stream() == once.stream(), "volumes change where it is cut, not what it is");
        assert_eq!(streamed.plain, whole.plain);
    }
    // A stream that ends exactly with a part and a volume has no empty one behind it.
    let length = once.stream().len();
    for divisor in [1, 2, 3, 5, 7] {
        if length % divisor == 0 {
            let part_bytes = length / divisor;
            let encode = Encode { part_bytes, volume_parts: 1, ..ENCODE };
            let (_, got) = stream(plain.clone(), encode).await;
            assert_eq!(got.ends.len(), divisor);
        }
    }
}

#[tokio::test]
async fn the_index_finds_each_table_in_its_frames() {
    let plain = archive(40, 2_000);
    let (streamed, got) = stream(plain.clone(), ENCODE).await;
    let stored = got.stream();
    let encoded = index::encode(&streamed.structure, &streamed.frames).unwrap().to_vec().unwrap();
    let index = index::decode(&encoded).unwrap();
    assert_eq!(index.entries.len(), 40);
    assert_eq!((index.plain_bytes, index.totals.rows), (plain.len() as u64, 80_000));
    let size = |bytes: u64| usize::try_from(bytes).unwrap();
    let mut parts: Vec<_> = index.entries.iter().map(|entry| entry.data.clone()).collect();
    parts.push(index.toc);
    for part in parts {
        let from = size(part.stored.offset);
        let frames = &stored[from..from + size(part.stored.bytes)];
        let within = zstd::decode_all(frames).unwrap();
        let start = size(part.plain.offset - part.stored.plain_offset);
        let at = size(part.plain.offset);
        let length = size(part.plain.bytes);
        let found = &within[start..start + length];
        assert!(found == &plain[at..at + length]);
        assert_eq!(part.blake3.as_deref(), Some(&*blake3::hash(found).to_hex()));
    }
    // Frames begin at data blocks where enough is pending: more than their size asks for.
    assert!(u64::from(streamed.frames.count()) > plain.len() as u64 >> 20);
    let other = Frames::default();
    assert!(matches!(
        index::encode(&streamed.structure, &other),
        Err(index::IndexError::Outside { .. })
    ));
}

#[tokio::test]
async fn an_index_of_many_tables_is_made_outside_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let plain = archive(20_000, 1);
    let (sink, receiver) = channel(1);
    let proof = Box::new(ArchiveProof::new(folder.path()));
    let answer =
        start(piped(plain.clone()), proof, ENCODE, vec![super::tests::plain(vec![sink])], &task());
    Got::all(receiver).await;
    let streamed = outcome(answer).await.unwrap();
    let index = index::encode(&streamed.structure, &streamed.frames).unwrap();
    assert!(index.len() > 10 * crate::codec::spool::MEMORY as u64, "{}", index.len());
    let index = index::decode(&index.to_vec().unwrap()).unwrap();
    assert_eq!(index.entries.len(), 20_000);
    let mut end = index.toc.plain.bytes;
    for (number, entry) in (0..).zip(&index.entries) {
        assert_eq!((entry.name.clone(), entry.rows), (format!("t{number}"), Some(1)));
        assert_eq!(entry.data.plain.offset, end);
        end += entry.data.plain.bytes;
    }
    assert_eq!(end, plain.len() as u64);
    // Its files have no names.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_seek_table_and_zstd_agree() {
    let (streamed, got) = stream(archive(8, 30_000), ENCODE).await;
    let stored = got.stream();
    let mut reader = zeekstd::BytesWrapper::new(&stored);
    let table = zeekstd::SeekTable::from_seekable(&mut reader).unwrap();
    assert_eq!(table.num_frames(), streamed.frames.count());
    assert_eq!(table.size_decomp(), streamed.plain.bytes);
    assert_eq!(table.size_comp(), streamed.frames.stored_bytes());
    assert!(table.max_frame_size_decomp() <= 1 << 20);
}

#[tokio::test]
async fn a_damaged_stream_is_never_ended() {
    let whole = archive(2, 40_000);
    let cut = whole[..whole.len() - 1].to_vec();
    let mut broken = whole.clone();
    broken.extend_from_slice(b"more");
    for (bytes, says) in [(cut, "ends early"), (broken, "bytes follow"), (Vec::new(), "is empty")] {
        let (sink, receiver) = channel(1);
        let answer = begin(piped(bytes), ENCODE, vec![sink], &task());
        let got = Got::all(receiver).await;
        let error = outcome(answer).await.unwrap_err();
        assert!(matches!(error, StreamError::Format(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(got.ends, []);
    }
}

#[tokio::test]
async fn a_sink_that_goes_away_leaves_the_others_whole() {
    let plain = archive(4, 40_000);
    let (first, mut leaves) = channel(1);
    let (second, stays) = channel(1);
    let answer = begin(piped(plain.clone()), ENCODE, vec![first, second], &task());
    let staying = tokio::spawn(Got::all(stays));
    assert!(leaves.recv().await.is_some());
    drop(leaves);
    let got = staying.await.unwrap();
    outcome(answer).await.unwrap();
    got.check(ENCODE);
    assert!(zstd::decode_all(&*got.stream()).unwrap() == plain);
}

#[tokio::test]
async fn without_any_sink_the_reading_stops() {
    let (first, mut one) = channel(1);
    let (second, other) = channel(1);
    let (source, mut writer) = io::pipe().unwrap();
    let answer = begin(source, ENCODE, vec![first, second], &task());
    let plain = archive(4, 40_000);
    // The writer never closes the pipe: it ends only because the reading end is closed.
    let writing = thread::spawn(move || {
        writer.write_all(&plain).and_then(|()| {
            loop {
                writer.write_all(&[0])?;
            }
        })
    });
    drop(other);
    assert!(one.recv().await.is_some());
    drop(one);
    assert!(matches!(outcome(answer).await, Err(StreamError::NoSinkLeft)));
    let ended: io::Result<()> =
        tokio::task::spawn_blocking(|| writing.join().unwrap()).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_silent_source_is_measured_and_can_be_cancelled() {
    let (source, mut writer) = io::pipe().unwrap();
    let (sink, receiver) = channel(1);
    let task = task();
    let answer = begin(source, ENCODE, vec![sink], &task);
    let head = archive(1, 10)[..50].to_vec();
    writer.write_all(&head).unwrap();
    let waiting = async {
        while task.progress.silence(task.clock.now().mono) < Duration::from_millis(20) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the silence shows");
    assert_eq!(task.progress.bytes(), 50);
    task.cancel.cancel();
    assert!(matches!(outcome(answer).await, Err(StreamError::Cancelled)));
    assert_eq!(Got::all(receiver).await.ends, []);
    assert_eq!(task.progress.silence(task.clock.now().mono), Duration::ZERO);
    drop(writer);
}

/// What the bound says: frames, the part being filled, and the parts in the channel.
#[tokio::test]
async fn a_slow_sink_holds_the_source_back_within_the_bound() {
    let plain = archive(4, 400_000);
    let (sink, mut receiver) = channel(2);
    let task = task();
    let answer = begin(piped(plain.clone()), ENCODE, vec![sink], &task);
    // Nothing is taken: the reading comes to a stand.
    let mut before = u64::MAX;
    let standing = async {
        while receiver.len() < 2 || before != task.progress.bytes() {
            before = task.progress.bytes();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    tokio::time::timeout(PATIENCE, standing).await.expect("it comes to a stand");
    assert_eq!(receiver.len(), 2, "the channel is full");
    assert!(before <= 6 << 20, "{before} bytes were taken in");
    assert!(before < plain.len() as u64);
    let silence = task.progress.silence(task.clock.now().mono);
    assert_eq!(silence, Duration::ZERO, "our own back-pressure is no silence of the source");
    let mut got = Got::default();
    while let Some(message) = receiver.recv().await {
        got.add(message);
    }
    outcome(answer).await.unwrap();
    got.check(ENCODE);
    assert!(zstd::decode_all(&*got.stream()).unwrap() == plain);
}

#[tokio::test]
async fn a_sink_that_never_takes_anything_does_not_hinder_a_cancellation() {
    let (sink, receiver) = channel(1);
    let task = task();
    let answer = begin(piped(archive(4, 100_000)), ENCODE, vec![sink], &task);
    let full = async {
        while receiver.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, full).await.expect("a part comes");
    task.cancel.cancel();
    assert!(matches!(outcome(answer).await, Err(StreamError::Cancelled)));
    drop(receiver);
}

#[tokio::test]
async fn a_proof_that_panics_is_an_error() {
    struct Broken;
    impl Proof for Broken {
        fn feed(&mut self, _: &[u8], _: &mut Vec<usize>) -> Result<(), FormatError> {
            panic!("on purpose");
        }
        fn finish(self: Box<Self>) -> Result<Structure, FormatError> {
            Err(FormatError::Empty)
        }
    }
    let (sink, _receiver) = channel(1);
    let answer = start(piped(vec![1]), Box::new(Broken), ENCODE, vec![plain(vec![sink])], &task());
    let error = outcome(answer).await.unwrap_err();
    assert!(matches!(error, StreamError::Panicked { thread: "pgkeep-read" }), "{error}");
}

#[tokio::test]
async fn a_source_that_cannot_be_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (sink, _receiver) = channel(1);
    let source = std::fs::File::open(folder.path()).unwrap();
    let answer = begin(source, ENCODE, vec![sink], &task());
    assert!(matches!(outcome(answer).await, Err(StreamError::Source(_))));
}
