//! Independent zstd frames with a seek table at the end (the zstd seekable format).
//!
//! Each frame holds at most 1 MiB of plain bytes and a check sum of its own, so that frames can be
//! compressed on several cores, and read one by one later. `zstd -d` reads the whole as one file;
//! the seek table is a skippable frame to it.

use std::{io, ops::Range, sync::mpsc};

use zeekstd::SeekTable;
use zstd::{bulk::Compressor, zstd_safe::CParameter};

/// Most plain bytes of a frame. Measured: frames of 1 MiB cost nothing in size against one stream.
pub const FRAME_BYTES: usize = 1 << 20;
/// A frame may end at a data block once it holds this much.
pub const CUT_BYTES: usize = 256 << 10;

/// The frames of a compressed stream: which plain bytes lie where. 16 bytes per frame are held.
#[derive(Debug, Clone, Default)]
pub struct Frames {
    table: SeekTable,
}

/// Where in the compressed stream a range of plain bytes is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Position of the first frame in the compressed stream.
    pub offset: u64,
    /// Length of the frames, in compressed bytes.
    pub bytes: u64,
    /// Position in the plain stream at which the first frame begins.
    pub plain_offset: u64,
}

impl Frames {
    /// Adds the next frame.
    ///
    /// # Errors
    /// There are more frames than a seek table can hold (128 TiB of plain bytes).
    pub fn push(&mut self, compressed: usize, plain: usize) -> io::Result<()> {
        let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
        self.table.log_frame(size(compressed)?, size(plain)?).map_err(io::Error::other)
    }

    /// Number of frames.
    pub fn count(&self) -> u32 {
        self.table.num_frames()
    }

    /// Length of all plain bytes.
    pub fn plain_bytes(&self) -> u64 {
        self.table.size_decomp()
    }

    /// Length of all frames, without the seek table.
    pub fn stored_bytes(&self) -> u64 {
        self.table.size_comp()
    }

    /// The frames that hold a range of plain bytes; none if the range is empty or not in them.
    pub fn locate(&self, plain: Range<u64>) -> Option<Located> {
        if plain.is_empty() || plain.end > self.plain_bytes() {
            return None;
        }
        let first = self.table.frame_index_decomp(plain.start);
        let last = self.table.frame_index_decomp(plain.end - 1);
        let offset = self.table.frame_start_comp(first).ok()?;
        let bytes = self.table.frame_end_comp(last).ok()? - offset;
        Some(Located { offset, bytes, plain_offset: self.table.frame_start_decomp(first).ok()? })
    }

    /// The seek table, as it is written behind the last frame.
    pub fn seek_table(&self) -> impl io::Read + use<> {
        self.table.clone().into_serializer()
    }
}

/// A frame on its way: its plain bytes, then also its compressed ones. The buffers are used again.
#[derive(Debug)]
pub(super) struct Frame {
    plain: Vec<u8>,
    filled: usize,
    packed: Vec<u8>,
}

impl Frame {
    /// Memory of a frame whose two buffers are full.
    pub(super) const BYTES: u64 = 2 * FRAME_BYTES as u64 + (16 << 10);

    fn new() -> Self {
        // Both are touched only as far as they are filled; a small dump costs little memory.
        Self { plain: vec![0; FRAME_BYTES], filled: 0, packed: Vec::new() }
    }

    /// Plain bytes so far.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Whether no more fits.
    pub(super) fn is_full(&self) -> bool {
        self.filled == FRAME_BYTES
    }

    /// The part that can be read into.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.plain[self.filled..]
    }

    /// Says that the first `count` bytes of the room were filled, and shows them.
    pub(super) fn grow(&mut self, count: usize) -> &[u8] {
        let start = self.filled;
        self.filled = (start + count).min(FRAME_BYTES);
        &self.plain[start..self.filled]
    }

    /// Moves what stands behind `at` into an empty frame.
    pub(super) fn split_into(&mut self, at: usize, next: &mut Self) {
        let tail = &self.plain[at..self.filled];
        next.plain[..tail.len()].copy_from_slice(tail);
        next.filled = tail.len();
        self.filled = at;
    }

    /// The plain bytes.
    pub(super) fn plain(&self) -> &[u8] {
        &self.plain[..self.filled]
    }

    /// The compressed bytes, once [`Packer::pack`] has made them.
    pub(super) fn packed(&self) -> &[u8] {
        &self.packed
    }
}

/// Compresses frames; one for each thread.
pub(super) struct Packer {
    compressor: Compressor<'static>,
}

impl Packer {
    /// The most memory that a thread's zstd takes for frames of this size, in bytes.
    pub(super) fn memory(level: i32) -> u64 {
        // Measured with `CCtx::sizeof`; a test holds it.
        if level <= 6 { 4 << 20 } else { 24 << 20 }
    }

    pub(super) fn new(level: i32) -> io::Result<Self> {
        let mut compressor = Compressor::new(level)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self { compressor })
    }

    pub(super) fn pack(&mut self, frame: &mut Frame) -> io::Result<()> {
        frame.packed.clear();
        frame.packed.reserve(zstd::zstd_safe::compress_bound(frame.filled));
        self.compressor.compress_to_buffer(&frame.plain[..frame.filled], &mut frame.packed)?;
        Ok(())
    }
}

/// The frames that may be on their way at once: the bound of the stream's memory.
#[derive(Debug)]
pub(super) struct Pool {
    free: mpsc::Receiver<Frame>,
    not_made: usize,
}

impl Pool {
    /// A pool of `count` frames, and the end that gives frames back.
    pub(super) fn new(count: usize) -> (Self, mpsc::SyncSender<Frame>) {
        let (give_back, free) = mpsc::sync_channel(count);
        (Self { free, not_made: count }, give_back)
    }

    /// An empty frame. Waits until one is given back; none when nobody can give one back any more.
    pub(super) fn take(&mut self) -> Option<Frame> {
        let mut frame = match self.free.try_recv() {
            Ok(frame) => frame,
            Err(mpsc::TryRecvError::Empty) if self.not_made > 0 => {
                self.not_made -= 1;
                Frame::new()
            }
            Err(_) => self.free.recv().ok()?,
        };
        frame.filled = 0;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_located_by_their_plain_bytes() {
        let mut frames = Frames::default();
        assert_eq!(frames.locate(0..1), None);
        for (compressed, plain) in [(10, 100), (20, 200), (30, 300)] {
            frames.push(compressed, plain).unwrap();
        }
        let at = |offset, bytes, plain_offset| Some(Located { offset, bytes, plain_offset });
        assert_eq!(frames.locate(0..1), at(0, 10, 0));
        assert_eq!(frames.locate(99..101), at(0, 30, 0));
        assert_eq!(frames.locate(100..300), at(10, 20, 100));
        assert_eq!(frames.locate(299..600), at(10, 50, 100));
        assert_eq!(frames.locate(0..601), None);
        assert_eq!(frames.locate(5..5), None);
        assert_eq!((frames.count(), frames.plain_bytes(), frames.stored_bytes()), (3, 600, 60));
    }

    #[test]
    fn a_frame_carries_its_check_sum_and_length() {
        let mut packer = Packer::new(3).unwrap();
        let mut frame = Frame::new();
        frame.room()[..11].copy_from_slice(b"hello hello");
        assert_eq!(frame.grow(11), b"hello hello");
        packer.pack(&mut frame).unwrap();
        let mut bytes = frame.packed().to_vec();
        assert_eq!(zstd::decode_all(&*bytes).unwrap(), b"hello hello");
        // Frame header: bit 2 of the descriptor is the check sum's flag (RFC 8878, 3.1.1.1.1).
        assert_eq!(bytes[4] & 4, 4);
        *bytes.last_mut().unwrap() ^= 1;
        assert!(zstd::decode_all(&*bytes).is_err());
    }

    #[test]
    fn memory_stays_within_what_is_said() {
        let mut frame = Frame::new();
        let mut seed = 1u32;
        for byte in frame.room() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = u8::try_from(seed >> 24).unwrap();
        }
        frame.grow(FRAME_BYTES);
        for level in [-5, 1, 3, 6, 9, 12, 15, 19, 22] {
            let mut packer = Packer::new(level).unwrap();
            packer.pack(&mut frame).unwrap();
            let context = packer.compressor.context_mut().sizeof() as u64;
            assert!(context <= Packer::memory(level), "level {level}: {context}");
            // Noise does not compress: the worst case of the second buffer.
            let buffers = frame.plain.capacity() + frame.packed.capacity();
            assert!(buffers as u64 <= Frame::BYTES, "{buffers}");
        }
    }

    #[test]
    fn the_pool_gives_no_more_than_it_has() {
        let (mut pool, give_back) = Pool::new(2);
        let mut first = pool.take().unwrap();
        let second = pool.take().unwrap();
        first.grow(5);
        give_back.send(first).unwrap();
        assert_eq!(pool.take().unwrap().filled(), 0);
        drop((second, give_back));
        assert!(pool.take().is_none());
    }
}
