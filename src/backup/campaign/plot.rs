//! What a story is about, and how its repositories are: drawn from its seed.

use crate::{
    domain::{
        manifest::MANIFEST_NAME,
        suspicion::{ACKNOWLEDGED_NAME, MARK_NAME},
    },
    repository::lying::{LIES, Lie, Lies},
};

/// SplitMix64.
#[derive(Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn one_of(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    /// One of them; there has to be one.
    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()].clone()
    }
}

/// What happens in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Dump,
    Copy,
    Prune,
    Sweep,
    Acknowledge,
    Lose,
    Wait,
}

/// What a story is about. One that is about all finds little: what a check holds off takes some steps that
/// follow each other.
#[derive(Debug)]
pub(super) struct Theme {
    pub(super) name: &'static str,
    /// How often each comes.
    often: &'static [(Act, usize)],
    /// How many processes of ten are killed.
    pub(super) killed: u64,
    /// What no listing ever shows, in some of them.
    hidden: &'static [&'static str],
    /// How listings lie. Where a listing shows by itself that it cannot be true, it is refused, and nothing
    /// more is found.
    kinds: &'static [Lie],
    /// One repository of so many has requests that fail.
    faulty: u64,
}

/// In a third of all stories, a repository never lists its manifests.
const THEMES: [Theme; 4] = [
    Theme {
        name: "all",
        often: &[
            (Act::Dump, 5),
            (Act::Copy, 3),
            (Act::Prune, 2),
            (Act::Sweep, 2),
            (Act::Acknowledge, 1),
            (Act::Lose, 2),
            (Act::Wait, 1),
        ],
        killed: 3,
        hidden: &[MANIFEST_NAME, MANIFEST_NAME, ".zst", ""],
        kinds: &LIES,
        faulty: 4,
    },
    Theme {
        name: "prunes",
        often: &[(Act::Dump, 6), (Act::Prune, 2), (Act::Acknowledge, 2), (Act::Lose, 3)],
        killed: 1,
        hidden: &[MARK_NAME, ACKNOWLEDGED_NAME, ACKNOWLEDGED_NAME, ""],
        kinds: &[Lie::Omit, Lie::Gap, Lie::Stale, Lie::Stale],
        faulty: 8,
    },
    Theme {
        name: "copies",
        often: &[(Act::Dump, 2), (Act::Copy, 6), (Act::Lose, 1), (Act::Wait, 1)],
        killed: 4,
        hidden: &[MANIFEST_NAME, MANIFEST_NAME, ".zst", ""],
        kinds: &[Lie::Omit, Lie::Cut, Lie::Gap, Lie::Stale],
        faulty: 2,
    },
    Theme {
        name: "dumps",
        often: &[(Act::Dump, 6), (Act::Sweep, 2), (Act::Wait, 1)],
        killed: 2,
        hidden: &[MANIFEST_NAME, ""],
        kinds: &LIES,
        faulty: 1,
    },
];

impl Theme {
    /// What is told in turn.
    pub(super) fn of(seed: u64) -> &'static Self {
        let [all, prunes, copies, dumps] = const { &THEMES };
        [all, prunes, copies, dumps, prunes, copies][usize::try_from(seed % 6).unwrap()]
    }

    pub(super) fn act(&self, rng: &mut Rng) -> Act {
        let acts = self.often.iter().flat_map(|(act, often)| std::iter::repeat_n(*act, *often));
        rng.pick(&acts.collect::<Vec<_>>())
    }
}

/// How one repository of a story is.
#[derive(Debug, Clone, Default)]
pub(super) struct Plot {
    pub(super) lies: Lies,
    /// Share of the requests that fail.
    pub(super) faults: f64,
    /// Whether hosts note what they begin.
    pub(super) notes: bool,
}

impl Plot {
    /// Many lie in one way alone: of many at once, those that are refused hide the others.
    pub(super) fn new(theme: &Theme, rng: &mut Rng) -> Self {
        let kind = rng.pick(theme.kinds);
        let kinds = if rng.one_of(2) { vec![kind] } else { theme.kinds.to_vec() };
        let hidden = rng.pick(theme.hidden);
        let hidden = Vec::from_iter((!hidden.is_empty()).then(|| hidden.to_owned()));
        let rate = rng.below(11) as f64 / 10.0;
        let lies = Lies { seed: rng.next(), rate, kinds, hidden, ..Lies::default() };
        let faults = if rng.one_of(theme.faulty) { rng.below(12) as f64 / 100.0 } else { 0.0 };
        Self { lies, faults, notes: rng.one_of(5) }
    }
}
