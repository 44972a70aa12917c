//! Bytes that are written once from front to back and read later: in memory while they are few,
//! else in a file without a name. So what is remembered of a stream does not grow the process.
//!
//! What can still go wrong: the folder's filesystem is full. The writer learns of it; what had been
//! written is gone with it.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read, Write},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::sys::files;

/// What is held in memory: the end that is not in the file yet, or all of it where it is no longer.
pub const MEMORY: usize = 64 << 10;

/// A spool that is being written.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    limit: u64,
    written: u64,
    pending: Vec<u8>,
    file: Option<File>,
}

impl Spool {
    /// An empty spool, whose file is made in `folder` once one is needed. It takes `limit` bytes.
    pub fn new(folder: &Path, limit: u64) -> Self {
        Self { folder: folder.to_owned(), limit, written: 0, pending: Vec::new(), file: None }
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the writing.
    ///
    /// # Errors
    /// When the last bytes cannot be written.
    pub fn finish(mut self) -> io::Result<Spooled> {
        if self.file.is_some() {
            self.write_pending()?;
        }
        let bytes = self.len();
        self.pending.shrink_to_fit();
        let held = match self.file {
            Some(file) => Medium::File(file),
            None => Medium::Memory(self.pending),
        };
        Ok(Spooled { held: Arc::new(held), bytes, folder: self.folder })
    }

    fn write_pending(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let made = files::create_unnamed(&self.folder);
                none.insert(made.map_err(|error| io::Error::new(error.source.kind(), error))?)
            }
        };
        file.write_all(&self.pending)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.len() + bytes.len() as u64 > self.limit {
            let what = format!("it would be larger than {} bytes", self.limit);
            return Err(io::Error::new(ErrorKind::FileTooLarge, what));
        }
        // Never more than MEMORY: a vector that grows on its own account doubles.
        let taken = bytes.len().min(MEMORY - self.pending.len());
        let needed = self.pending.len() + taken;
        if needed > self.pending.capacity() {
            let capacity = needed.max(2 * self.pending.capacity()).min(MEMORY);
            self.pending.reserve_exact(capacity - self.pending.len());
        }
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == MEMORY {
            self.write_pending()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A spool that was written. Clones share it.
#[derive(Debug, Clone)]
pub struct Spooled {
    held: Arc<Medium>,
    bytes: u64,
    folder: PathBuf,
}

#[derive(Debug)]
enum Medium {
    Memory(Vec<u8>),
    File(File),
}

impl Default for Spooled {
    fn default() -> Self {
        Self { held: Arc::new(Medium::Memory(Vec::new())), bytes: 0, folder: PathBuf::new() }
    }
}

impl Spooled {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Where its file is, if it has one.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads it from its beginning, [`MEMORY`] bytes at a time.
    pub fn reader(&self) -> BufReader<SpoolReader> {
        BufReader::with_capacity(MEMORY, SpoolReader { spooled: self.clone(), at: 0 })
    }

    /// Reads up to `into.len()` bytes from `at` on; fewer only at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let count = left.min(into.len());
        let into = &mut into[..count];
        match (&*self.held, usize::try_from(at)) {
            (Medium::File(file), _) => file.read_exact_at(into, at)?,
            (Medium::Memory(bytes), Ok(at)) if count > 0 => {
                into.copy_from_slice(&bytes[at..at + count]);
            }
            (Medium::Memory(_), _) => {}
        }
        Ok(count)
    }

    /// All of it, for what is known to be small.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn to_vec(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.reader().read_to_end(&mut all)?;
        Ok(all)
    }
}

/// Reads a spool from front to back.
#[derive(Debug)]
pub struct SpoolReader {
    spooled: Spooled,
    at: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.spooled.read_at(into, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spooled(pieces: &[usize], folder: &Path) -> (Vec<u8>, Spooled) {
        let mut spool = Spool::new(folder, u64::MAX);
        let mut all = Vec::new();
        for (piece, byte) in pieces.iter().zip(1..) {
            all.resize(all.len() + piece, byte);
            spool.write_all(&all[all.len() - piece..]).unwrap();
            assert!(spool.pending.capacity() <= MEMORY, "{}", spool.pending.capacity());
        }
        assert_eq!(spool.len(), all.len() as u64);
        (all, spool.finish().unwrap())
    }

    #[test]
    fn what_was_written_is_read_back_from_memory_and_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        for pieces in [&[][..], &[10, 20], &[MEMORY], &[MEMORY - 1, 1, 1], &[MEMORY * 3 + 7, 5]] {
            let (all, spooled) = spooled(pieces, folder.path());
            assert_eq!(spooled.to_vec().unwrap(), all);
            assert_eq!(matches!(*spooled.held, Medium::File(_)), all.len() >= MEMORY);
            let mut end = [0; 4];
            let at = all.len().saturating_sub(2);
            let count = spooled.clone().read_at(&mut end, at as u64).unwrap();
            assert_eq!(end[..count], all[at..]);
            assert_eq!(spooled.read_at(&mut end, u64::MAX).unwrap(), 0);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_too_much_or_has_no_room_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path(), 10);
        spool.write_all(&[0; 10]).unwrap();
        assert_eq!(spool.write_all(&[0]).unwrap_err().kind(), ErrorKind::FileTooLarge);
        let mut lost = Spool::new(&folder.path().join("missing"), u64::MAX);
        lost.write_all(&[0; 10]).unwrap();
        assert_eq!(lost.write_all(&vec![0; MEMORY]).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
