//! Who may start now: attempts at once, per server, and memory.
//!
//! First come, first served. A run that fits may overtake those ahead of it that do not, but only
//! if it delays none of them: each of them must still fit beside the run in question and all others
//! that have overtaken it, once what was ahead of it has ended. So a small job does not wait for a
//! large one without need, and a stream of small jobs never keeps a large one out.

use std::fmt;

use jiff::Timestamp;

use super::spec::Limits;
use crate::domain::name::ServerName;

/// What a queued run waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wait {
    Running,
    Server(ServerName),
    Memory,
    Turn,
    /// Its blackout, which ends then.
    Blackout(Timestamp),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("as many runs as are allowed are under way"),
            Self::Server(server) => {
                write!(f, "as many runs as are allowed use the server {server}")
            }
            Self::Memory => f.write_str("the memory budget is taken"),
            Self::Turn => f.write_str("it would delay a run that was queued earlier"),
            Self::Blackout(until) => write!(f, "its blackout lasts until {until}"),
        }
    }
}

/// What an attempt takes while it is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) servers: Vec<ServerName>,
    /// Bytes.
    pub(super) memory: u64,
}

/// A claim with its place in the queue (kept while it is under way).
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed<'a> {
    pub(super) place: u64,
    pub(super) claim: &'a Claim,
}

impl Limits {
    /// What keeps `claim` from starting beside `held`.
    fn obstacle(&self, held: &[&Claim], claim: &Claim) -> Option<Wait> {
        if held.len() >= self.running.max(1) {
            return Some(Wait::Running);
        }
        let full = claim.servers.iter().find(|server| {
            let users = held.iter().filter(|other| other.servers.contains(server)).count();
            users >= self.per_server.max(1)
        });
        if let Some(server) = full {
            return Some(Wait::Server(server.clone()));
        }
        let taken = held.iter().fold(0_u64, |sum, other| sum.saturating_add(other.memory));
        let fits = claim.memory == 0
            || taken == 0
            || taken.checked_add(claim.memory).is_some_and(|sum| sum <= self.memory);
        (!fits).then_some(Wait::Memory)
    }

    /// What keeps `new` from starting, with `running` under way and `ahead` still waiting at
    /// earlier places.
    pub(super) fn refusal(
        &self,
        running: &[Placed<'_>],
        ahead: &[Placed<'_>],
        new: &Claim,
    ) -> Option<Wait> {
        let held: Vec<&Claim> = running.iter().map(|other| other.claim).collect();
        self.obstacle(&held, new).or_else(|| {
            let delays = |waiting: &Placed<'_>| {
                let overtook = running.iter().filter(|other| other.place > waiting.place);
                let mut beside: Vec<&Claim> = overtook.map(|other| other.claim).collect();
                beside.push(new);
                self.obstacle(&beside, waiting.claim).is_some()
            };
            ahead.iter().any(delays).then_some(Wait::Turn)
        })
    }
}
