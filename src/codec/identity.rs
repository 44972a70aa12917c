//! Secret keys, brought by a person for a look at whether they open what is stored. The daemon has none.

use std::io::Read as _;

use age::{Decryptor, x25519};

use crate::domain::recipients::Recipients;

/// Secret keys of somebody who restores, for a look at whether they fit. Nothing prints them.
pub struct Identities(Vec<x25519::Identity>);

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identities").finish_non_exhaustive()
    }
}

impl Identities {
    /// Reads a file as `age-keygen` writes it: a key per line, and comments.
    ///
    /// # Errors
    /// The number of the first line that is no X25519 key, or 0 where there is none at all.
    pub fn read(text: &str) -> Result<Self, usize> {
        let mut keys = Vec::new();
        for (number, line) in (1_usize..).zip(text.lines().map(str::trim)) {
            if !line.is_empty() && !line.starts_with('#') {
                keys.push(line.parse().map_err(|_| number)?);
            }
        }
        if keys.is_empty() { Err(0) } else { Ok(Self(keys)) }
    }

    /// Whether one of the keys belongs to one of the recipients.
    pub fn fit(&self, recipients: &Recipients) -> bool {
        self.0.iter().any(|key| {
            let public = key.to_public().to_string();
            recipients.iter().any(|recipient| recipient == public)
        })
    }

    /// Whether one of the keys opens an encrypted file that begins so: its key is unwrapped, its header
    /// authenticated and its first chunk decrypted.
    pub fn open(&self, beginning: &[u8]) -> bool {
        let keys = || self.0.iter().map(|key| key as &dyn age::Identity);
        let opened = Decryptor::new(beginning).and_then(|it| it.decrypt(keys()));
        opened.is_ok_and(|mut plain| plain.read(&mut [0]).is_ok_and(|bytes| bytes > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encrypt::{PIECE_BYTES, tests::keys, whole};

    #[test]
    fn a_key_opens_what_is_encrypted_to_it_from_its_beginning() {
        let ((one, first), (other, _)) = (keys(), keys());
        let text = |key: &x25519::Identity| {
            use age::secrecy::ExposeSecret as _;
            format!("# created: today\n\n{}\n", key.to_string().expose_secret())
        };
        let (fits, stranger) = (Identities::read(&text(&one)), Identities::read(&text(&other)));
        let (fits, stranger) = (fits.unwrap(), stranger.unwrap());
        assert!(fits.fit(&first) && !stranger.fit(&first));
        let stored = whole(vec![7; 3 * PIECE_BYTES], &first).unwrap();
        let beginning = &stored[..2 * PIECE_BYTES];
        assert!(fits.open(beginning) && !stranger.open(beginning));
        assert!(fits.open(&whole(vec![7], &first).unwrap()), "one that is short");
        assert!(!fits.open(&stored[..100]) && !fits.open(b"PGDMP"));
        assert_eq!(Identities::read("# nothing\n").unwrap_err(), 0);
        assert_eq!(Identities::read("#\nage1qqq\n").unwrap_err(), 2);
        assert!(!format!("{fits:?}").contains("SECRET"));
    }
}
