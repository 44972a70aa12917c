//! The recipients that stored bytes are encrypted to, and what they mean for a copy.
//!
//! Only names: recipients are public, and may stand in manifests and messages. Secret keys never
//! reach pgkeep: what is encrypted it can neither read nor encrypt to somebody else.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// A set of age's recipients (`age1…`), sorted. Empty: the bytes are stored as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recipients(BTreeSet<String>);

/// What a copy does with the stored bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    AsTheyAre,
    /// They are plain, and are encrypted to the target's recipients.
    Encrypt,
}

impl Recipients {
    /// Whether there is none: nothing is encrypted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The recipients in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// How bytes that are encrypted to `self` may come to a place that demands `target`; `None`:
    /// not at all. What is encrypted goes only to the very same recipients: not to fewer or others,
    /// since that takes a secret key, and not to a place that demands none, where whoever restores
    /// would not expect to need one.
    pub fn passage(&self, target: &Self) -> Option<Passage> {
        if self == target {
            Some(Passage::AsTheyAre)
        } else if self.is_empty() {
            Some(Passage::Encrypt)
        } else {
            None
        }
    }
}

impl FromIterator<String> for Recipients {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

impl fmt::Display for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Recipients {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_becomes_plain_and_nothing_changes_hands() {
        let (plain, one, other, both) = (of(&[]), of(&["a"]), of(&["b"]), of(&["b", "a"]));
        let cases = [
            (&plain, &plain, Some(Passage::AsTheyAre)),
            (&plain, &one, Some(Passage::Encrypt)),
            (&one, &one, Some(Passage::AsTheyAre)),
            (&both, &of(&["a", "b"]), Some(Passage::AsTheyAre)),
            (&one, &plain, None),
            (&one, &other, None),
            (&one, &both, None),
            (&both, &one, None),
        ];
        for (source, target, passage) in cases {
            assert_eq!(source.passage(target), passage, "{source} to {target}");
        }
        assert_eq!(both.to_string(), "a, b");
    }
}
