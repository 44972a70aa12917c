//! The control socket: how the command line speaks to the daemon.
//!
//! A Unix socket with the mode 0600; the peer must be the daemon's user or root. One connection
//! carries one call: the client writes one line of JSON, the server answers with lines of JSON, the
//! last of which says the outcome. A client that goes away never stops a run.

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use super::journal::RunKey;
use crate::{
    backup::acknowledge::Acknowledged,
    domain::{
        failure::Failure,
        name::{JobName, NotifyName, RepositoryName},
        report::{Report, Verdict},
    },
};

pub use self::{
    client::{CallError, ConnectError, ControlClient, Replies},
    server::{ControlServer, ServeError},
};

/// The version of the protocol. A server takes calls up to its own.
pub const VERSION: u32 = 1;
/// The socket's name in the runtime directory.
pub const SOCKET_NAME: &str = "control.sock";
/// Longest call, in bytes.
pub const CALL_MAX: usize = 1 << 20;
/// Longest reply, in bytes.
pub const REPLY_MAX: usize = 16 << 20;
/// Replies that wait for a client to read them.
const REPLIES_WAITING: usize = 64;
/// Places of those that progress leaves free for replies that matter.
const REPLIES_RESERVED: usize = 8;

/// One line from a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Call {
    version: u32,
    request: Value,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run a job now, and follow it.
    Run {
        job: JobName,
    },
    /// Stop the run of a job that is under way.
    Cancel {
        job: JobName,
    },
    /// Write down that suspicious backups are as they should be.
    Acknowledge {
        /// Which: ids or their beginnings, and series.
        words: Vec<String>,
        /// In this repository; none: in all.
        #[serde(default)]
        repository: Option<RepositoryName>,
    },
    /// Send a test to a receiver of notifications, from where the daemon runs.
    Notify {
        name: NotifyName,
    },
    Status,
    Reload,
}

/// One line from the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Accepted {
        run: RunKey,
    },
    Progress {
        stage: String,
        bytes: u64,
    },
    Ended {
        run: RunKey,
        verdict: Verdict,
        report: Box<Report>,
    },
    /// How everything is; its shape is that of `daemon::status`.
    Status(Value),
    Acknowledged(Acknowledged),
    /// Done; the text says what.
    Done(String),
    /// Refused: already running, locked, draining, no such job, not allowed.
    Refused {
        reason: String,
    },
    Failed(Failure),
}

impl Reply {
    /// Whether nothing comes after it.
    pub const fn is_last(&self) -> bool {
        !matches!(self, Self::Accepted { .. } | Self::Progress { .. })
    }
}

/// A request, as it reaches the daemon's loop.
#[derive(Debug)]
pub struct ControlRequest {
    pub request: Request,
    pub uid: u32,
    pub reply: ReplySender,
}

/// Takes the answers to one request. No method waits: the daemon's loop never depends on a client.
/// Dropping it ends the connection.
#[derive(Debug, Clone)]
pub struct ReplySender(mpsc::Sender<Reply>);

impl ReplySender {
    /// A sender with its receiver.
    pub fn channel() -> (Self, mpsc::Receiver<Reply>) {
        let (sender, receiver) = mpsc::channel(REPLIES_WAITING);
        (Self(sender), receiver)
    }

    /// Sends a reply; one that is progress is dropped while the client is slow to read. Returns
    /// whether it was taken.
    pub fn send(&self, reply: Reply) -> bool {
        if matches!(reply, Reply::Progress { .. }) && self.0.capacity() <= REPLIES_RESERVED {
            return false;
        }
        self.0.try_send(reply).is_ok()
    }

    /// Whether the client has gone.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_takes_the_place_of_the_end() {
        let (sender, mut receiver) = ReplySender::channel();
        let progress = || Reply::Progress { stage: String::new(), bytes: 0 };
        let taken = (0..1000).filter(|_| sender.send(progress())).count();
        assert_eq!(taken, REPLIES_WAITING - REPLIES_RESERVED);
        assert!(sender.send(Reply::Done("end".to_owned())));
        receiver.close();
        assert!(sender.is_closed());
    }

    #[test]
    fn the_shape_of_the_lines_is_stable() {
        let request = Request::Run { job: "nightly".parse().unwrap() };
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(json, r#"{"run":{"job":"nightly"}}"#);
        assert_eq!(serde_json::to_string(&Request::Status).unwrap(), r#""status""#);
        let reply = Reply::Refused { reason: "no".to_owned() };
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"refused":{"reason":"no"}}"#);
    }
}
