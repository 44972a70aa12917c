//! Signals, as one stream of what they ask for.
//!
//! TERM and INT ask for an orderly end; a second one ends the process at once, from the signal
//! handler itself, so that it works even where the async workers are stuck. Signals coalesce: what
//! comes twice while nobody looks is seen once, so each is to be taken as a level. Create the stream
//! before announcing readiness: until then HUP and the USR signals kill the process.

use std::{
    fmt,
    io::{self, Read as _},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use futures_util::StreamExt as _;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    flag, low_level,
};
use signal_hook_tokio::Signals;

use crate::domain::failure::{Class, Failure};

/// How long the log has to take that the process is ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Exit status after INT: 128 + 2, as shells write it.
pub const EXIT_INT: i32 = 130;
/// Exit status after TERM: 128 + 15.
pub const EXIT_TERM: i32 = 143;

/// See [`end_within`]; a reload may change it. In milliseconds.
static END_WITHIN: AtomicU64 = AtomicU64::new(0);

/// From now on the process has so long to end.
pub fn set_end(limit: Duration) {
    END_WITHIN.store(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Ends the process so long after the first TERM or INT, whatever hangs by then. A thread of its own waits for
/// that: a filesystem that does not answer may hold every other one, and the log as well.
pub fn end_within(limit: Duration) -> io::Result<()> {
    set_end(limit);
    let (mut heard, said) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        low_level::pipe::register(signal, said.try_clone()?)?;
    }
    let ends = move || {
        if heard.read_exact(&mut [0]).is_err() {
            return;
        }
        let limit = Duration::from_millis(END_WITHIN.load(Ordering::Relaxed));
        thread::sleep(limit);
        let last_words = move || {
            tracing::error!(
                "pgkeep did not end within {limit:?}, something hangs: it is ended now"
            );
        };
        // Not waited for longer than a moment.
        drop(thread::Builder::new().spawn(last_words));
        thread::sleep(LAST_WORDS);
        low_level::exit(EXIT_TERM);
    };
    thread::Builder::new().name("end".to_owned()).spawn(ends).map(drop)
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// HUP: load the configuration again.
    Reload,
    /// TERM: end in an orderly way.
    Terminate,
    /// INT: end in an orderly way.
    Interrupt,
    /// USR1: write the state to the log.
    Dump,
    /// USR2: switch debug on or off.
    ToggleDebug,
}

impl Signal {
    /// The exit status of a process that ends because of it; `None` if it does not ask for an end.
    pub const fn exit_status(self) -> Option<i32> {
        match self {
            Self::Terminate => Some(EXIT_TERM),
            Self::Interrupt => Some(EXIT_INT),
            Self::Reload | Self::Dump | Self::ToggleDebug => None,
        }
    }
}

/// The stream of signals of this process. There is to be one at a time.
pub struct SignalStream {
    signals: Signals,
}

impl fmt::Debug for SignalStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalStream").finish_non_exhaustive()
    }
}

impl SignalStream {
    /// Takes over the signals. Needs a runtime with I/O.
    pub fn new() -> Result<Self, Failure> {
        Self::take().map_err(|error| Failure::from_error(Class::State, "take signals", &error))
    }

    fn take() -> io::Result<Self> {
        let ending = Arc::new(AtomicBool::new(false));
        for (signal, status) in [(SIGTERM, EXIT_TERM), (SIGINT, EXIT_INT)] {
            // In this order: the first signal finds the flag down, and raises it for the second.
            flag::register_conditional_shutdown(signal, status, Arc::clone(&ending))?;
            flag::register(signal, Arc::clone(&ending))?;
        }
        let signals = Signals::new([SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGUSR2])?;
        Ok(Self { signals })
    }

    /// The next signal. Safe to be dropped and called again. `None` when the stream has ended,
    /// which it does not by itself.
    pub async fn next(&mut self) -> Option<Signal> {
        loop {
            let signal = match self.signals.next().await? {
                SIGHUP => Signal::Reload,
                SIGTERM => Signal::Terminate,
                SIGINT => Signal::Interrupt,
                SIGUSR1 => Signal::Dump,
                SIGUSR2 => Signal::ToggleDebug,
                _ => continue,
            };
            return Some(signal);
        }
    }
}
