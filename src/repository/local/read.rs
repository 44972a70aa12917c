//! Reading an object of a local store.

use std::{fs::File, io, num::NonZeroU64, ops::Range, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::files::{Root, blocking, forget_pages, open_to_read};
use crate::repository::store::{StoreError, StoreErrorKind};

/// Bytes that are read at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Opens an object and streams it, or the given bytes of it. A range that ends behind the object
/// is cut; one that starts there is an error.
pub(super) fn open(
    root: &Arc<Root>,
    doing: String,
    key: &str,
    range: Option<Range<u64>>,
) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
    let path = root.path_of(key)?;
    let file = open_to_read(&path).map_err(|error| root.error(&error))?;
    let facts = file.metadata().map_err(|error| root.error(&error))?;
    if !facts.is_file() {
        let what = "there is no object of that name";
        return Err(StoreError::bare(StoreErrorKind::NotFound, what));
    }
    let length = facts.len();
    let range = range.unwrap_or(0..length);
    if range.start > length || (range.start == length && range.end > length) {
        let what = format!("it has {length} bytes; asked for were those from {}", range.start);
        return Err(StoreError::bare(StoreErrorKind::Damaged, what));
    }
    let reader = Reader {
        root: Arc::clone(root),
        doing,
        file: Arc::new(file),
        at: range.start,
        end: range.end.min(length),
    };
    Ok(stream::try_unfold(reader, Reader::next).boxed())
}

#[derive(Debug)]
struct Reader {
    root: Arc<Root>,
    doing: String,
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Reader {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let (root, doing) = (Arc::clone(&self.root), self.doing.clone());
        blocking(&root, &doing, move || {
            let bytes = self.read_chunk()?;
            Ok(Some((bytes, self)))
        })
        .await
    }

    fn read_chunk(&mut self) -> Result<Bytes, StoreError> {
        let length = (self.end - self.at).min(CHUNK_BYTES);
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        match self.file.read_exact_at(&mut buffer, self.at) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let what = format!("it became shorter than {} bytes while it was read", self.end);
                return Err(StoreError::bare(StoreErrorKind::Damaged, what));
            }
            Err(error) => return Err(self.root.error(&error)),
        }
        forget_pages(&self.file, self.at, NonZeroU64::new(length));
        self.at += length;
        Ok(buffer.into())
    }
}
