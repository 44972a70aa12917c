//! Looking through an archive, wherever it lies.

use std::{io::Read, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{bucket, directory};
use crate::{
    domain::{
        failure::Failure,
        wal::{History, Inventory, SegmentName, Timeline},
    },
    repository::{
        handle::{Handle, Place},
        store::Store,
    },
    sys::task::Task,
};

/// A history is a line per promotion; a file that is longer is none.
pub(super) const HISTORY_MAX: u64 = 1 << 20;

/// Memory that a file compressed with zstd may ask for, as a power of two: as levels to 19 do, 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Where an archive lies.
#[derive(Debug, Clone)]
pub enum Archive {
    /// A folder, with all folders in it.
    Folder(PathBuf),
    /// A prefix of a bucket, at the service of a repository.
    Bucket(Arc<Handle>, Place),
}

/// From where a listing that comes later can go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The key of a segment: everything up to it was seen.
    pub key: String,
    pub segment: SegmentName,
}

/// Why an archive was not listed.
#[derive(Debug)]
pub enum ListError {
    /// The user that pgkeep runs as may not read it, or it is not there: a finding.
    Unreadable {
        what: String,
        hint: String,
    },
    Failed(Failure),
}

/// What a listing brought.
#[derive(Debug)]
pub struct Listed {
    /// What was seen, this time and before.
    pub seen: Inventory,
    /// From where the next one can go on.
    pub resume: Option<Resume>,
}

impl Archive {
    /// Its place for messages.
    pub fn place(&self) -> String {
        match self {
            Self::Folder(path) => path.display().to_string(),
            Self::Bucket(handle, Place { bucket: Some(bucket), prefix }) => {
                format!("{bucket}/{prefix} (at the service of repository {})", handle.name())
            }
            Self::Bucket(handle, Place { bucket: None, prefix }) => {
                format!("{prefix} (in the bucket of repository {})", handle.name())
            }
        }
    }

    /// Looks through all of it, or goes on from `resume`: what `seen` has behind it is seen anew.
    /// The next can go on in `head`, the server's timeline.
    ///
    /// # Errors
    /// See [`ListError`]; nothing is known of the archive then.
    pub async fn list(
        &self,
        seen: Inventory,
        resume: Option<&Resume>,
        head: Timeline,
        task: &Task,
    ) -> Result<Listed, ListError> {
        match self {
            Self::Folder(path) => directory::list(path, seen, task).await,
            Self::Bucket(..) => {
                bucket::list(self.store(task).await?, seen, resume, head, task).await
            }
        }
    }

    /// Whether a segment is there now. Cheap where `resume` says from where on.
    ///
    /// # Errors
    /// As [`Archive::list`].
    pub async fn holds(
        &self,
        segment: SegmentName,
        resume: Option<&Resume>,
        task: &Task,
    ) -> Result<bool, ListError> {
        match self {
            Self::Folder(path) => directory::holds(path, segment, task).await,
            Self::Bucket(..) => bucket::holds(self.store(task).await?, segment, resume, task).await,
        }
    }

    async fn store(&self, task: &Task) -> Result<Arc<dyn Store>, ListError> {
        match self {
            Self::Folder(_) => Err(bucket::failed("no bucket")),
            Self::Bucket(handle, place) => bucket::cancellable(handle.elsewhere(place), task).await,
        }
    }
}

/// What a history file says; none where it cannot be read as one. Its first bytes tell how it is compressed:
/// Barman compresses without an ending, pg_receivewal and WAL-G with one.
pub(super) fn read_history(bytes: &[u8]) -> Option<History> {
    let plain: Box<dyn Read + '_> = match bytes {
        [0x1F, 0x8B, ..] => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        // A frame, or the one to be skipped with which pzstd begins.
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => {
            let mut decoder = zstd::Decoder::new(bytes).ok()?;
            decoder.window_log_max(WINDOW_LOG_MAX).ok()?;
            Box::new(decoder)
        }
        [0x04, 0x22, 0x4D, 0x18, ..] => Box::new(lz4_flex::frame::FrameDecoder::new(bytes)),
        _ => Box::new(bytes),
    };
    let mut text = String::new();
    // One byte more than a history may have: a file that is cut off here is none.
    plain.take(HISTORY_MAX + 1).read_to_string(&mut text).ok()?;
    let whole = u64::try_from(text.len()).is_ok_and(|length| length <= HISTORY_MAX);
    whole.then(|| History::parse(&text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const TEXT: &str = "1\t0/3000148\tno recovery target specified\n";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_history_is_read_by_its_first_bytes() {
        let plain = History::parse(TEXT).unwrap();
        let zstd = zstd::bulk::compress(TEXT.as_bytes(), 3).unwrap();
        let skipped = [&[0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4], zstd.as_slice()].concat();
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(TEXT.as_bytes()).unwrap();
        let lz4 = lz4.finish().unwrap();
        assert_eq!(read_history(TEXT.as_bytes()).as_ref(), Some(&plain));
        for bytes in [&gzip(TEXT.as_bytes()), &zstd, &skipped, &lz4] {
            assert_eq!(read_history(bytes).as_ref(), Some(&plain), "{bytes:?}");
            assert_eq!(read_history(&bytes[..bytes.len() / 2]), None, "cut off: {bytes:?}");
        }
        assert_eq!(read_history(b""), None);
        assert_eq!(read_history(b"Salted__0123456789"), None);
    }

    #[test]
    fn what_is_small_and_becomes_large_is_no_history() {
        let long = [TEXT.as_bytes(), &vec![b'\n'; 8 << 20]].concat();
        assert_eq!(read_history(&gzip(&long)), None);
        assert_eq!(read_history(&zstd::bulk::compress(&long, 3).unwrap()), None);
        assert!(read_history(&long[..1000]).is_some());
    }
}
