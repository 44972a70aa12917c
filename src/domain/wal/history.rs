//! The history of a timeline: from which timelines it comes, and where it left each.

use serde::{Deserialize, Serialize};

use super::position::{Lsn, Timeline};

/// More than a history of this many timelines is no history. Each entry is one promotion.
const ENTRIES_MAX: usize = 100_000;
/// Characters of a reason that are kept.
const REASON_MAX: usize = 200;

/// Why a text is no history file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A line does not say a timeline and an LSN.
    #[error("line {line} is no entry of a history file")]
    Line { line: usize },
    #[error("line {line} goes back: timelines and positions must grow")]
    Order { line: usize },
    #[error("it has more than {ENTRIES_MAX} entries")]
    Length,
    /// It has no entry: every timeline but the first comes from another.
    #[error("it is empty")]
    Empty,
}

/// Where one timeline was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    pub timeline: Timeline,
    /// The first byte that is no longer on it.
    pub at: Lsn,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What a `.history` file says: the ancestors of a timeline, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The ancestors; at least one.
    pub switches: Vec<Switch>,
}

impl History {
    /// Reads a file as the server does (timeline.c, `readTimeLineHistory`): a timeline, an LSN and
    /// a reason in each line, separated by white space; empty lines and `#` comments are passed
    /// over.
    pub fn parse(text: &str) -> Result<Self, HistoryError> {
        let mut switches: Vec<Switch> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let (line, at) = (line.trim(), at + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let switch = entry(line).ok_or(HistoryError::Line { line: at })?;
            let grows = switches.last().is_none_or(|last: &Switch| {
                last.timeline < switch.timeline && last.at <= switch.at
            });
            if !grows {
                return Err(HistoryError::Order { line: at });
            }
            if switches.len() >= ENTRIES_MAX {
                return Err(HistoryError::Length);
            }
            switches.push(switch);
        }
        if switches.is_empty() { Err(HistoryError::Empty) } else { Ok(Self { switches }) }
    }

    /// The direct ancestor.
    pub fn parent(&self) -> Option<&Switch> {
        self.switches.last()
    }
}

fn entry(line: &str) -> Option<Switch> {
    let (timeline, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (at, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let timeline = Timeline::new(timeline.parse().ok()?)?;
    let reason = reason.trim().chars().take(REASON_MAX).collect();
    Some(Switch { timeline, at: at.parse().ok()?, reason })
}
