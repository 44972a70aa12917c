//! Why a backup stays. A decision about a million backups holds a million of these: bits, not text.

use std::fmt;

use super::{KEEP_WITHIN, RULES};

/// One reason for which a backup stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It is the newest whole one. A floor.
    Newest,
    /// It is the newest of which every byte was read back. A floor.
    NewestVerified,
    /// It is the newest that was restored. A floor.
    NewestDrilled,
    /// Newer ones are suspicious, and nobody has acknowledged them. A floor.
    BeforeSuspicious,
    Held,
    /// Its time lies in the future: a clock was wrong, and nobody knows which.
    Future,
    /// It is damaged; what is left of it may still be of use.
    Damaged,
    /// It is not a backup: the sweep's, or under way.
    Incomplete,
    /// The rule of that key keeps it.
    Rule(&'static str),
    /// The rule of that key is not satisfied, and this is the oldest.
    OldestOf(&'static str),
}

impl Reason {
    /// Whether a backup that stays for it may stand in the place of another, which goes. What
    /// `keep_within` keeps stands beside all others.
    pub fn pushes_out(self) -> bool {
        match self {
            Self::Rule(key) | Self::OldestOf(key) => key != KEEP_WITHIN,
            Self::Newest | Self::NewestVerified | Self::NewestDrilled | Self::BeforeSuspicious => {
                true
            }
            Self::Held | Self::Future | Self::Damaged | Self::Incomplete => false,
        }
    }
}

/// Those that come before the rules.
const APART: [Reason; 8] = [
    Reason::Incomplete,
    Reason::Damaged,
    Reason::Future,
    Reason::Held,
    Reason::Newest,
    Reason::NewestVerified,
    Reason::NewestDrilled,
    Reason::BeforeSuspicious,
];

/// Every reason, each at its bit.
fn all() -> impl Iterator<Item = Reason> {
    let rules = RULES.iter().flat_map(|(key, ..)| [Reason::Rule(key), Reason::OldestOf(key)]);
    APART.into_iter().chain(rules)
}

/// All reasons for which a backup stays; none: it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reasons(u32);

// Each has a bit.
const _: () = assert!(APART.len() + 2 * RULES.len() <= u32::BITS as usize);

impl Reasons {
    /// Adds one.
    pub fn add(&mut self, reason: Reason) {
        if let Some(bit) = all().position(|known| known == reason) {
            self.0 |= 1 << bit;
        }
    }

    /// Whether there is none: the backup goes.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this is among them.
    pub fn contains(self, reason: Reason) -> bool {
        self.iter().any(|known| known == reason)
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Reason> {
        all().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, it)| it)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("the newest whole backup"),
            Self::NewestVerified => f.write_str("the newest verified backup"),
            Self::NewestDrilled => f.write_str("the newest drilled backup"),
            Self::BeforeSuspicious => {
                f.write_str("the last one before suspicious backups that nobody has acknowledged")
            }
            Self::Held => f.write_str("pinned"),
            Self::Future => f.write_str("from the future, not counted"),
            Self::Damaged => f.write_str("damaged, not counted"),
            Self::Incomplete => f.write_str("no manifest, not a backup"),
            Self::Rule(key) => f.write_str(key),
            Self::OldestOf(key) => write!(f, "{key} (the oldest)"),
        }
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no rule keeps it");
        }
        for (number, reason) in self.iter().enumerate() {
            let comma = if number == 0 { "" } else { "; " };
            write!(f, "{comma}{reason}")?;
        }
        Ok(())
    }
}
