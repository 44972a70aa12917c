//! age, the last thing that is done to bytes before they are stored.
//!
//! The format is that of <https://age-encryption.org/v1>: a random key per file, wrapped for each
//! X25519 recipient, then chunks of 64 KiB under ChaCha20-Poly1305, the last of which says that it
//! is the last. So what was cut off or changed does not decrypt. Whoever has one of the secret keys
//! reads it with `age -d`; pgkeep itself never has one.
//!
//! What can still go wrong: a recipient whose secret key is lost looks like any other. That shows
//! only when somebody decrypts a backup with it.

use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
};

use age::{Decryptor, Encryptor, stream::StreamWriter, x25519};

use crate::domain::{
    failure::{Class, Failure, IntoFailure},
    recipients::Recipients,
};

/// How each encrypted file begins (C2SP age specification, "Version line").
pub const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// Most bytes that are encrypted in one step: the payload chunk of the format.
pub const PIECE_BYTES: usize = 64 << 10;
/// More than a probe needs to have more than one chunk.
const PROBE_BYTES: usize = PIECE_BYTES + 1;

/// Why text is not taken as a recipient. Never holds the text: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotARecipient {
    #[error("this is a secret key")]
    SecretKey,
    /// An SSH key, a plugin's or a post-quantum recipient.
    #[error("this is not an X25519 recipient of age")]
    OtherKind,
    #[error("this is not a recipient of age")]
    Malformed,
    /// A point of small order: everybody can work out the key.
    #[error("what is encrypted to this recipient, everybody can read")]
    Weak,
}

impl NotARecipient {
    /// What to do.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::SecretKey => {
                "make a new key, since this one lay here, and write its recipient: `age-keygen -y` prints it"
            }
            Self::OtherKind => {
                "make a key with `age-keygen`; its recipient begins with \"age1\" and has 62 characters"
            }
            Self::Malformed => {
                "copy it anew: it begins with \"age1\" and has 62 characters, and `age-keygen -y` prints it"
            }
            Self::Weak => "make a key with `age-keygen`",
        }
    }
}

/// Why something could not be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum EncryptError {
    #[error("recipient {0} cannot be used")]
    Recipient(String, #[source] NotARecipient),
    #[error("nothing can be encrypted to these recipients")]
    Header(#[source] age::EncryptError),
    #[error("the bytes cannot be encrypted")]
    Payload(#[source] io::Error),
    #[error("what was encrypted on trial did not decrypt to what it was")]
    Probe,
}

impl IntoFailure for EncryptError {
    fn into_failure(self, doing: impl Into<String>) -> Failure {
        Failure::from_error(Class::Encryption, doing, &self)
    }
}

/// Points of small order as recipients, with either value of the bit that X25519 ignores. Whatever
/// the sender's key, the shared secret is 0. Source: libsodium,
/// `crypto_scalarmult/curve25519/ref10/x25519_ref10.c`, `has_small_order`.
const WEAK: [&str; 14] = [
    "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z",
    "age1qyqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqj7vrya",
    "age1ur4h5lpmgxu2u9jku0a0r87ydtdqnr0tnsetrlvxvgz3vh6fhqqqzyt4v9",
    "age1t7wft09r2zxzfvwsk92eeql0tvzyghxytqwgapkcyf8dm5ylz9ts6wm9s8",
    "age1anlllllllllllllllllllllllllllllllllllllllllllllllals4n2t7m",
    "age1ahlllllllllllllllllllllllllllllllllllllllllllllllalsn46ayy",
    "age1amlllllllllllllllllllllllllllllllllllllllllllllllalselrwrv",
    "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqzqqsuwj9m",
    "age1qyqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqzqqk67yly",
    "age1ur4h5lpmgxu2u9jku0a0r87ydtdqnr0tnsetrlvxvgz3vh6fhzqqxqejhu",
    "age1t7wft09r2zxzfvwsk92eeql0tvzyghxytqwgapkcyf8dm5ylz8ts72fzt7",
    "age1anllllllllllllllllllllllllllllllllllllllllllllllllls3hcv9z",
    "age1ahlllllllllllllllllllllllllllllllllllllllllllllllllsh3g6la",
    "age1amlllllllllllllllllllllllllllllllllllllllllllllllllsam3fc4",
];

/// Reads a recipient; the answer is its one way to be written.
///
/// # Errors
/// See [`NotARecipient`].
pub fn recipient(text: &str) -> Result<String, NotARecipient> {
    read(text).map(|recipient| recipient.to_string())
}

fn read(text: &str) -> Result<x25519::Recipient, NotARecipient> {
    let lower = text.trim().to_ascii_lowercase();
    if lower.contains("age-secret-key") {
        return Err(NotARecipient::SecretKey);
    }
    // The last "1" of a Bech32 string ends the name of the kind: `age1pq1…`, `age1yubikey1…`.
    let is_plugin = lower.starts_with("age1") && lower.rfind('1') > Some(3);
    if is_plugin || lower.starts_with("ssh-") || lower.starts_with("github:") {
        return Err(NotARecipient::OtherKind);
    }
    let recipient: x25519::Recipient = text.parse().map_err(|_| NotARecipient::Malformed)?;
    if WEAK.contains(&recipient.to_string().as_str()) {
        return Err(NotARecipient::Weak);
    }
    Ok(recipient)
}

/// Encrypts a stream, piece by piece.
pub struct Encrypt {
    writer: StreamWriter<Shared>,
    ready: Shared,
}

impl std::fmt::Debug for Encrypt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encrypt").finish_non_exhaustive()
    }
}

impl Encrypt {
    /// The most memory that it takes, in bytes, where it is given pieces of [`PIECE_BYTES`]: the
    /// open chunk, its encrypted form, that form on its way out, and the caller's buffer.
    pub const BYTES: u64 = 4 * (PIECE_BYTES as u64 + (16 << 10));

    /// Begins a file. A key of its own is made for it.
    ///
    /// # Errors
    /// When there is no recipient, or one cannot be used.
    pub fn new(recipients: &Recipients) -> Result<Self, EncryptError> {
        let keys = recipients.iter().map(|text| {
            read(text).map_err(|problem| EncryptError::Recipient(text.to_owned(), problem))
        });
        Self::to(&keys.collect::<Result<Vec<_>, _>>()?)
    }

    fn to(keys: &[x25519::Recipient]) -> Result<Self, EncryptError> {
        let keys = keys.iter().map(|key| key as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(keys).map_err(EncryptError::Header)?;
        let ready = Shared::default();
        let writer = encryptor.wrap_output(ready.clone()).map_err(EncryptError::Payload)?;
        Ok(Self { writer, ready })
    }

    /// Takes the next plain bytes and puts into `out`, in place of what is in there, the encrypted
    /// ones that are ready.
    ///
    /// # Errors
    /// Never in practice: memory takes what is written to it.
    pub fn push(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), EncryptError> {
        self.writer.write_all(plain).map_err(EncryptError::Payload)?;
        self.ready.swap(out);
        Ok(())
    }

    /// Ends the file and puts its last bytes into `out`. Without them it does not decrypt.
    ///
    /// # Errors
    /// As [`Encrypt::push`].
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), EncryptError> {
        self.writer.finish().map_err(EncryptError::Payload)?;
        self.ready.swap(out);
        Ok(())
    }
}

/// Where the writer puts what is ready, and whoever drives it takes it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn swap(&self, out: &mut Vec<u8>) {
        out.clear();
        std::mem::swap(out, &mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Encrypts a small thing whole; with no recipients it stays as it is.
///
/// # Errors
/// When a recipient cannot be used.
pub fn whole(plain: Vec<u8>, recipients: &Recipients) -> Result<Vec<u8>, EncryptError> {
    if recipients.is_empty() {
        return Ok(plain);
    }
    sealed(Encrypt::new(recipients)?, &plain)
}

fn sealed(mut encrypt: Encrypt, plain: &[u8]) -> Result<Vec<u8>, EncryptError> {
    let (mut whole, mut out) = (Vec::with_capacity(plain.len()), Vec::new());
    for piece in plain.chunks(PIECE_BYTES) {
        encrypt.push(piece, &mut out)?;
        whole.extend_from_slice(&out);
    }
    encrypt.finish(&mut out)?;
    whole.extend_from_slice(&out);
    Ok(whole)
}

/// Proves that encrypting works here: a probe is encrypted to the recipients and to a key that is
/// made for it and forgotten again, and decrypted with that.
///
/// # Errors
/// When a recipient cannot be used, or the probe does not come back.
pub fn prove(recipients: &Recipients) -> Result<(), EncryptError> {
    let identity = x25519::Identity::generate();
    let mut keys = vec![identity.to_public()];
    for text in recipients.iter() {
        let key = read(text);
        keys.push(key.map_err(|problem| EncryptError::Recipient(text.to_owned(), problem))?);
    }
    let probe: Vec<u8> = b"pgkeep probe ".iter().copied().cycle().take(PROBE_BYTES).collect();
    let stored = sealed(Encrypt::to(&keys)?, &probe)?;
    let back = decrypt(&stored, &identity).map_err(|_| EncryptError::Probe)?;
    let hides = !stored.windows(13).any(|window| window == &probe[..13]);
    if back == probe && stored.starts_with(MAGIC) && hides {
        return Ok(());
    }
    Err(EncryptError::Probe)
}

fn decrypt(stored: &[u8], identity: &x25519::Identity) -> io::Result<Vec<u8>> {
    let keys = std::iter::once(identity as &dyn age::Identity);
    let opened = Decryptor::new(stored).and_then(|it| it.decrypt(keys));
    let mut plain = Vec::new();
    opened.map_err(io::Error::other)?.read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A new secret key, and the recipients that it alone makes.
    pub(crate) fn keys() -> (x25519::Identity, Recipients) {
        let identity = x25519::Identity::generate();
        let recipients = [identity.to_public().to_string()].into_iter().collect();
        (identity, recipients)
    }

    /// What `age -d` does.
    pub(crate) fn open(stored: &[u8], identity: &x25519::Identity) -> io::Result<Vec<u8>> {
        decrypt(stored, identity)
    }

    #[test]
    fn only_what_can_be_encrypted_to_is_a_recipient() {
        let (identity, _) = keys();
        let good = identity.to_public().to_string();
        assert_eq!(recipient(&good), Ok(good.clone()));
        assert_eq!(recipient(&good.to_uppercase()), Ok(good.clone()));
        let secret = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
        let mut typo = good.clone();
        let last = if typo.ends_with('q') { "p" } else { "q" };
        typo.replace_range(61.., last);
        let cases = [
            (secret.as_str(), NotARecipient::SecretKey),
            (&secret.to_lowercase(), NotARecipient::SecretKey),
            (" # public key\nAGE-SECRET-KEY-1QQ", NotARecipient::SecretKey),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@host", NotARecipient::OtherKind),
            ("age1pq1qqqq", NotARecipient::OtherKind),
            ("age1yubikey1qqqq", NotARecipient::OtherKind),
            ("", NotARecipient::Malformed),
            ("age1", NotARecipient::Malformed),
            (&good[..61], NotARecipient::Malformed),
            (&typo, NotARecipient::Malformed),
            (WEAK[0], NotARecipient::Weak),
        ];
        for (text, problem) in cases {
            assert_eq!(recipient(text), Err(problem), "{text:?}");
            assert!(!format!("{problem}{}", problem.hint()).contains("AGE-SECRET"));
        }
    }

    /// age itself panics on them: that is how the list is known to be right.
    #[test]
    fn weak_recipients_are_those_that_make_no_secret() {
        for text in WEAK {
            let weak: x25519::Recipient = text.parse().unwrap();
            assert_eq!(weak.to_string(), text);
            assert!(std::panic::catch_unwind(|| Encrypt::to(&[weak])).is_err(), "{text}");
            let listed = [text.to_owned()].into_iter().collect();
            assert!(matches!(prove(&listed), Err(EncryptError::Recipient(..))));
        }
    }

    #[test]
    fn encrypting_is_proven_and_never_left_out() {
        let (_, recipients) = keys();
        prove(&recipients).unwrap();
        let nobody = Recipients::default();
        assert!(matches!(Encrypt::new(&nobody), Err(EncryptError::Header(_))));
        let wrong = ["age1x".to_owned()].into_iter().collect();
        assert!(matches!(whole(vec![1], &wrong), Err(EncryptError::Recipient(..))));
        assert_eq!(whole(vec![1], &nobody).unwrap(), [1]);
    }

    #[test]
    fn each_of_several_recipients_can_read_it_and_nobody_else() {
        let ((one, first), (two, second), (stranger, _)) = (keys(), keys(), keys());
        let both = first.iter().chain(second.iter()).map(str::to_owned).collect();
        let stored = whole(b"plain".to_vec(), &both).unwrap();
        assert_eq!(open(&stored, &one).unwrap(), b"plain");
        assert_eq!(open(&stored, &two).unwrap(), b"plain");
        assert!(open(&stored, &stranger).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_chunking_decrypts_to_the_same_and_a_cut_shows(
            cuts in proptest::collection::vec(1usize..200_000, 0..6),
            cut in 0usize..1 << 20,
            flip in 0usize..1 << 20,
        ) {
            let (identity, recipients) = keys();
            let length: usize = cuts.iter().sum();
            let plain: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let (mut encrypt, mut out) = (Encrypt::new(&recipients).unwrap(), Vec::new());
            let (mut stored, mut at) = (Vec::new(), 0);
            for cut in cuts {
                encrypt.push(&plain[at..at + cut], &mut out).unwrap();
                stored.extend_from_slice(&out);
                at += cut;
            }
            // Not ended, it is cut off.
            prop_assert!(open(&stored, &identity).is_err());
            encrypt.finish(&mut out).unwrap();
            stored.extend_from_slice(&out);
            prop_assert!(stored.starts_with(MAGIC));
            prop_assert!(open(&stored, &identity).unwrap() == plain);
            prop_assert!(open(&stored[..cut % stored.len()], &identity).is_err());
            let flipped = flip % stored.len();
            stored[flipped] ^= 1;
            prop_assert!(open(&stored, &identity).is_err());
        }
    }

    #[test]
    fn memory_is_a_few_pieces() {
        let (_, recipients) = keys();
        let (mut encrypt, mut out) = (Encrypt::new(&recipients).unwrap(), Vec::new());
        let plain = vec![7; PIECE_BYTES];
        for _ in 0..50 {
            encrypt.push(&plain, &mut out).unwrap();
            let held = encrypt.ready.0.lock().unwrap().capacity() + out.capacity();
            assert!(held as u64 + 2 * (PIECE_BYTES as u64 + 16) <= Encrypt::BYTES, "{held}");
        }
    }
}
