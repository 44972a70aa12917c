//! Whose a series of backups is: the rule by which a host adds to it and removes from it.
//!
//! The newest backup of a series says who wrote it. A host id alone is no proof: a machine that is
//! cloned with its disk has the same, and so has each container of one image. Three more things are
//! held against it: the host's name, what this state directory remembers of having written, and whether
//! the server was ever where that backup was taken. docs/adr/0012 has the cases and their reasons.

use std::{fmt, str::FromStr};

use super::{
    Timestamp,
    backup::BackupId,
    manifest::{Manifest, Owner, Snapshot},
    wal::{History, Lsn, Timeline},
};

/// machine-id(5): so many lower-case hexadecimal digits.
pub const MACHINE_ID_LEN: usize = 32;

/// Whether `text` can be the id of a machine: not all zeros, as systemd has it.
pub fn is_machine_id(text: &str) -> bool {
    text.len() == MACHINE_ID_LEN
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && text.bytes().any(|b| b != b'0')
}

/// An entry of `adopt`: whose backups this host has taken over.
///
/// `ID` means another host, whatever it writes. `ID until TIME` means what was written up to then, also
/// under this host's own id: should the original live on, its next backup is not covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adoption {
    /// The machine id of who wrote them.
    pub machine_id: String,
    /// The latest moment of what is meant.
    pub until: Option<Timestamp>,
}

/// Why a text is no [`Adoption`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no machine id, and no \"ID until TIME\"")]
pub struct AdoptionError;

impl FromStr for Adoption {
    type Err = AdoptionError;

    fn from_str(text: &str) -> Result<Self, AdoptionError> {
        let (id, until) = match text.split_once(" until ") {
            Some((id, time)) => (id, Some(time.parse().map_err(|_| AdoptionError)?)),
            None => (text, None),
        };
        if !is_machine_id(id) {
            return Err(AdoptionError);
        }
        Ok(Self { machine_id: id.to_owned(), until })
    }
}

impl fmt::Display for Adoption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.machine_id)?;
        self.until.map_or(Ok(()), |until| write!(f, " until {until}"))
    }
}

impl Adoption {
    /// What `written` was written by, up to `now` or to it, whichever is later: to the end of that second,
    /// as ids have their time in whole seconds.
    pub fn of(written: &Written, now: Timestamp) -> Self {
        let last = now.max(written.id.time()).as_second();
        let until = Timestamp::from_second(last).unwrap_or(Timestamp::MAX);
        Self { machine_id: written.owner.machine_id.clone(), until: Some(until) }
    }

    /// An entry that names this host's own id and no time says nothing: a configuration that is
    /// rolled out to many hosts may name all of them.
    fn covers(&self, written: &Written, own: &Owner) -> bool {
        self.machine_id == written.owner.machine_id
            && match self.until {
                Some(until) => written.id.time() <= until,
                None => self.machine_id != own.machine_id,
            }
    }
}

/// Who wrote a backup, and where its server was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub id: BackupId,
    pub owner: Owner,
    /// The moment that the data is of.
    pub snapshot: Snapshot,
}

impl From<Manifest> for Written {
    fn from(manifest: Manifest) -> Self {
        let Manifest { id, owner, snapshot, .. } = manifest;
        Self { id, owner, snapshot }
    }
}

/// Where a primary is in its WAL, and by which way it came there. A standby has no such thing: it
/// may yet come to where it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    pub timeline: Timeline,
    pub lsn: Lsn,
    /// From which timelines it comes; none on the first, or where the role may not read that.
    pub history: Option<History>,
}

impl Past {
    /// Why the server never was where a backup was taken; none where it was, or where that cannot
    /// be told.
    pub fn lacks(&self, snapshot: &Snapshot) -> Option<String> {
        let lsn: Lsn = snapshot.lsn_before.parse().ok()?;
        let here = self.timeline;
        if let Some(of) = snapshot.timeline.filter(|of| *of > here) {
            return Some(format!("it is of timeline {of}, and this server is on timeline {here}"));
        }
        let left = snapshot.timeline.filter(|of| *of < here).zip(self.history.as_ref());
        if let Some((of, history)) = left {
            let switch = history.switches.iter().find(|switch| switch.timeline == of);
            return match switch {
                None => Some(format!(
                    "it is of timeline {of}, and this server's ({here}) does not come from that"
                )),
                Some(switch) if lsn > switch.at => Some(format!(
                    "it was taken at {lsn}, and this server left timeline {of} at {}",
                    switch.at
                )),
                Some(_) => None,
            };
        }
        (lsn > self.lsn)
            .then(|| format!("it was taken at {lsn}, and this server has come to {}", self.lsn))
    }
}

/// Why a series is not this host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// Its newest backup was written by another machine.
    Machine,
    /// By one of this id and another name, and this state directory does not know of it.
    Host,
    /// By one of this id, when the server was where this one never was: see [`Past::lacks`].
    Past(String),
}

/// Whose a series is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    Own,
    /// This host's, which had another name when it wrote the newest backup.
    Renamed,
    /// Nobody may tell that it is this host's: nothing is added or removed.
    Strange(Stranger),
}

/// Whose the series is whose newest backup `newest` is. `remembered` is the newest backup that this state
/// directory knows to have written there, `past` what the server says of itself.
pub fn judge(
    newest: &Written,
    own: &Owner,
    adopted: &[Adoption],
    remembered: Option<&BackupId>,
    past: Option<&Past>,
) -> Whose {
    if adopted.iter().any(|adoption| adoption.covers(newest, own)) {
        return Whose::Own;
    }
    if newest.owner.machine_id != own.machine_id {
        return Whose::Strange(Stranger::Machine);
    }
    if let Some(why) = past.and_then(|past| past.lacks(&newest.snapshot)) {
        return Whose::Strange(Stranger::Past(why));
    }
    if newest.owner.host == own.host {
        return Whose::Own;
    }
    // Somebody else would have written after it.
    if remembered.is_some_and(|last| newest.id <= *last) {
        Whose::Renamed
    } else {
        Whose::Strange(Stranger::Host)
    }
}

#[cfg(test)]
mod tests;
