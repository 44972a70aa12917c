//! What webpki does not give of a certificate: whether there is a subjectAltName, the subject's common
//! name, and all that it takes to check a version 1 certificate.
//!
//! OpenSSL's `x509 -req` without extensions (as the PostgreSQL manual shows it) makes version 1
//! certificates, which webpki refuses to parse, and self-signed ones often have a common name
//! only. Whatever x509-cert does not read gives `None`.

use std::time::Duration;

use rustls::pki_types::AlgorithmIdentifier;
use x509_cert::{
    certificate::{CertificateInner, Raw, TbsCertificateInner},
    der::{
        Decode as _, EncodeValue as _, Reader as _, SliceReader,
        oid::db::{rfc4519::CN, rfc5280::ID_CE_SUBJECT_ALT_NAME},
    },
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
};

/// A certificate, whatever its serial number is.
pub(super) struct Certificate<'a> {
    pub(super) body: TbsCertificateInner<Raw>,
    /// The bytes that are signed, as they were sent.
    pub(super) signed: &'a [u8],
    pub(super) signature_algorithm: AlgorithmIdentifierOwned,
    pub(super) signature: Vec<u8>,
}

/// Longest certificate that is read, in bytes: x509-cert sorts the attributes of a name one by one into
/// their place, and a stranger's certificate may have thousands of them.
const BYTES_MAX: usize = 16 << 10;

/// Reads a certificate.
pub(super) fn read(der: &[u8]) -> Option<Certificate<'_>> {
    if der.len() > BYTES_MAX {
        return None;
    }
    let whole = CertificateInner::<Raw>::from_der(der).ok()?;
    let mut reader = SliceReader::new(der).ok()?;
    let signed = reader.sequence(|whole| {
        let signed = whole.tlv_bytes()?;
        whole.read_slice(whole.remaining_len())?;
        Ok(signed)
    });
    Some(Certificate {
        signed: signed.ok()?,
        signature: whole.signature.as_bytes()?.to_owned(),
        signature_algorithm: whole.signature_algorithm,
        body: whole.tbs_certificate,
    })
}

/// Reads a `SubjectPublicKeyInfo`.
pub(super) fn public_key(der: &[u8]) -> Option<SubjectPublicKeyInfoOwned> {
    SubjectPublicKeyInfoOwned::from_der(der).ok()
}

/// Whether rustls and a certificate mean the same algorithm.
pub(super) fn is_same(known: AlgorithmIdentifier, named: &AlgorithmIdentifierOwned) -> bool {
    // rustls has it without its outer tag.
    let mut value = Vec::new();
    named.encode_value(&mut value).is_ok() && known.as_ref() == value
}

impl Certificate<'_> {
    /// Whether it is its own issuer.
    pub(super) fn is_self_issued(&self) -> bool {
        self.body.issuer == self.body.subject
    }

    /// The last common name of the subject.
    pub(super) fn common_name(&self) -> Option<&str> {
        let mut names = self.body.subject.0.iter().flat_map(|names| names.0.iter());
        let last = names.rfind(|name| name.oid == CN)?;
        std::str::from_utf8(last.value.value()).ok()
    }

    /// Whether it has a subjectAltName.
    pub(super) fn has_alt_names(&self) -> bool {
        let mut extensions = self.body.extensions.iter().flatten();
        extensions.any(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME)
    }

    pub(super) fn key_algorithm(&self) -> &AlgorithmIdentifierOwned {
        &self.body.subject_public_key_info.algorithm
    }

    pub(super) fn key(&self) -> &[u8] {
        self.body.subject_public_key_info.subject_public_key.as_bytes().unwrap_or_default()
    }

    /// Times since 1970 between which it is valid, both included.
    pub(super) fn valid(&self) -> (Duration, Duration) {
        let valid = self.body.validity;
        (valid.not_before.to_unix_duration(), valid.not_after.to_unix_duration())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use x509_cert::time::Time;

    #[test]
    fn times_are_read() {
        let time = |der: &[u8]| Some(Time::from_der(der).ok()?.to_unix_duration().as_secs());
        assert_eq!(time(b"\x17\x0d491231235959Z"), Some(2_524_607_999));
        assert_eq!(time(b"\x17\x0d700101000000Z"), Some(0));
        assert_eq!(time(b"\x18\x0f20500101000000Z"), Some(2_524_608_000));
        // "No well-defined expiration" (RFC 5280, 4.1.2.5).
        assert_eq!(time(b"\x18\x0f99991231235959Z"), Some(253_402_300_799));
        assert_eq!(time(b"\x17\x0b4912312359Z"), None);
        assert_eq!(time(b"\x31\x0d491231235959Z"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let read = read(&bytes);
            prop_assert!(read.is_none_or(|read| read.key().len() < bytes.len()));
        }
    }
}
