//! What a store's trouble means to an operation.

use super::store::{StoreError, StoreErrorKind};
use crate::domain::failure::{Class, Failure, IntoFailure};

impl StoreErrorKind {
    /// The class of failure that this kind becomes. An object that is missing or taken where the
    /// manifest says otherwise is a damaged repository.
    pub const fn class(self) -> Class {
        match self {
            Self::Space => Class::Space,
            Self::Slow => Class::RepositorySlow,
            Self::Refused | Self::Spared => Class::RepositoryRefused,
            Self::Encryption => Class::Encryption,
            Self::Unavailable => Class::RepositoryUnavailable,
            Self::NotFound | Self::Damaged | Self::Exists => Class::RepositoryDamaged,
        }
    }
}

impl IntoFailure for StoreError {
    /// The failure of an operation that was doing `doing`: `copy backup … to offsite`. What both
    /// were doing is said once.
    fn into_failure(self, doing: impl Into<String>) -> Failure {
        let doing = doing.into();
        let what = if self.doing == doing { self.what } else { self.to_string() };
        let failure = Failure::new(self.kind.class(), doing, what);
        match self.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_error_keeps_its_text_and_hint() {
        let error =
            StoreError::new(StoreErrorKind::Space, "write a/b", "no room").hint("Free some.");
        let failure = error.into_failure("dump database app");
        assert_eq!(failure.to_string(), "dump database app: write a/b: no room");
        assert_eq!(failure.class, Class::Space);
        assert_eq!(failure.hint.as_deref(), Some("Free some."));
        let error = StoreError::new(StoreErrorKind::Refused, "open repository a", "it is gone");
        let failure = error.into_failure("open repository a");
        assert_eq!(failure.to_string(), "open repository a: it is gone");
    }
}
