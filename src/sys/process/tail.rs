//! The beginning and the end of what a program wrote, in bounded memory.
//!
//! The first lines name the cause, the last ones the consequence; a flood between them is counted
//! and left out.

use std::{
    collections::VecDeque,
    io::Read,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

/// Bytes that are read at once.
const CHUNK: usize = 8 * 1024;
/// How long output that is already written is waited for after the group is dead. Only a process
/// that left its group can keep the pipe open longer.
const LINGER: Duration = Duration::from_secs(2);

/// Keeps the first `head` and the last `tail` bytes.
#[derive(Debug)]
pub(super) struct Kept {
    head_max: usize,
    tail_max: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl Kept {
    /// Keeps at most `limit` bytes: a quarter from the beginning, the rest from the end.
    pub(super) fn with_limit(limit: usize) -> Self {
        let head_max = limit / 4;
        let (head, tail) = (Vec::new(), VecDeque::new());
        Self { head_max, tail_max: limit - head_max, head, tail, left_out: 0 }
    }

    /// Keeps the first `limit` bytes only.
    pub(super) fn first(limit: usize) -> Self {
        let (head, tail) = (Vec::new(), VecDeque::new());
        Self { head_max: limit, tail_max: 0, head, tail, left_out: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = self.head_max - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.tail_max);
        self.tail.drain(..excess);
        self.left_out += u64::try_from(excess).unwrap_or(u64::MAX);
    }

    /// What was kept, and how many bytes were left out between its two parts.
    pub(super) fn take(&mut self) -> (Vec<u8>, Vec<u8>, u64) {
        let tail = std::mem::take(&mut self.tail).into();
        (std::mem::take(&mut self.head), tail, self.left_out)
    }

    /// What was kept as text, with a line that says how much was left out.
    pub(super) fn take_text(&mut self) -> (String, u64) {
        let (head, tail, left_out) = self.take();
        if left_out == 0 {
            let whole = [head, tail].concat();
            return (String::from_utf8_lossy(&whole).into_owned(), 0);
        }
        let (head, tail) = (String::from_utf8_lossy(&head), String::from_utf8_lossy(&tail));
        (format!("{head}\n[… {left_out} bytes left out …]\n{tail}"), left_out)
    }
}

/// A pipe that is being emptied by a thread of its own.
#[derive(Debug)]
pub(super) struct Drain {
    kept: Arc<Mutex<Kept>>,
    ended: mpsc::Receiver<()>,
}

impl Drain {
    /// Starts to empty `source` into `kept`.
    pub(super) fn start(
        source: impl Read + Send + 'static,
        kept: Kept,
        name: &str,
    ) -> std::io::Result<Self> {
        let kept = Arc::new(Mutex::new(kept));
        let (alive, ended) = mpsc::channel();
        let sink = Arc::clone(&kept);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            empty(source, &sink);
            drop(alive);
        })?;
        Ok(Self { kept, ended })
    }

    /// Waits for the end of the pipe, for a limited time, and gives what was kept.
    pub(super) fn finish<T>(self, take: impl FnOnce(&mut Kept) -> T) -> T {
        // Either the thread has ended (disconnected) or the time is up: both are fine.
        self.ended.recv_timeout(LINGER).ok();
        take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn empty(mut source: impl Read, sink: &Mutex<Kept>) {
    let mut chunk = [0; CHUNK];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(&chunk[..count]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fits_is_whole() {
        let mut tail = Kept::with_limit(8);
        tail.push(b"abcd");
        tail.push(b"efgh");
        assert_eq!(tail.take_text(), ("abcdefgh".to_owned(), 0));
    }

    #[test]
    fn a_flood_leaves_both_ends() {
        let mut tail = Kept::with_limit(8);
        tail.push(b"first");
        for _ in 0..1000 {
            tail.push(b"noise");
        }
        tail.push(b"last!!");
        let (text, left_out) = tail.take_text();
        assert_eq!(text, format!("fi\n[… {left_out} bytes left out …]\nlast!!"));
        assert_eq!(left_out, 5 + 5000 + 6 - 8);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_uncounted(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            limit in 0usize..100,
        ) {
            let mut tail = Kept::with_limit(limit);
            for part in &parts {
                tail.push(part);
            }
            let all = parts.concat();
            let (head, end, left_out) = tail.take();
            prop_assert!(head.len() + end.len() <= limit);
            prop_assert_eq!(head.len() + end.len() + usize::try_from(left_out).unwrap(), all.len());
            prop_assert!(all.starts_with(&head) && all.ends_with(&end));
        }
    }
}
