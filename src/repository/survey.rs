//! What a store tells of itself, beside its objects.

/// Whether a store does of itself what it is asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compliance {
    Yes,
    /// It took the request and ignored what was asked.
    Ignored,
    /// It answered that it cannot.
    Unsupported,
    /// It is not asked to, by the configuration.
    NotAsked,
}

/// What became of an object that arrived in parts, as a dump does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Why it was not stored, or did not come back, and what to do about it; none: it was whole.
    pub trouble: Option<(String, Option<String>)>,
    /// Whether a part whose digest is wrong was refused.
    pub digest: Compliance,
}

/// What only stores of one kind can tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Whether it refuses to replace an object where it is asked to; none: not known.
    pub condition: Option<Compliance>,
    /// Whether it refuses bytes whose digest is wrong; none: not known.
    pub digest: Option<Compliance>,
    /// What became of an object in parts; none: this kind of store has no parts.
    pub parts: Option<Parts>,
    /// Bytes that are free, and bytes that are to be left free.
    pub space: Option<(u64, u64)>,
    /// Whether older versions of removed objects stay; none: not known.
    pub versioned: Option<bool>,
    /// The lock that holds objects for some time, in the store's words.
    pub lock: Option<String>,
    /// Rules of the store's own that remove objects of this repository, in words; none: not known.
    pub expiry: Option<Vec<String>>,
}
