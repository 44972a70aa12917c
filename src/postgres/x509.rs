//! The few fields of a certificate that webpki does not give: whether there is a
//! subjectAltName, the subject's common name, and all that it takes to check a version 1
//! certificate.
//!
//! OpenSSL's `x509 -req` without extensions (as the PostgreSQL manual shows it) makes version 1
//! certificates, which webpki refuses to parse, and self-signed ones often have a common name
//! only. A walk over DER, without recursion: whatever does not fit gives `None`.

/// Tags of X.690 that occur here.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `version`, context tag 0.
const VERSION: u8 = 0xa0;
/// `extensions`, context tag 3.
const EXTENSIONS: u8 = 0xa3;
/// id-at-commonName, 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// id-ce-subjectAltName, 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What was read from a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    /// The last common name of the subject.
    pub(super) common_name: Option<&'a str>,
    /// Whether it has a subjectAltName.
    pub(super) has_alt_names: bool,
    /// The `AlgorithmIdentifier` of its key, without the outer tag.
    pub(super) key_algorithm: &'a [u8],
    /// Its key.
    pub(super) key: &'a [u8],
    /// Whether it is of version 1.
    pub(super) is_version_1: bool,
    /// Who signed it.
    pub(super) issuer: &'a [u8],
    /// Whose it is.
    pub(super) subject: &'a [u8],
    /// Seconds since 1970 between which it is valid, both included.
    pub(super) valid: (i64, i64),
    /// What is signed.
    pub(super) signed: &'a [u8],
    /// The `AlgorithmIdentifier` of the signature, without the outer tag.
    pub(super) signature_algorithm: &'a [u8],
    /// The signature.
    pub(super) signature: &'a [u8],
}

impl Fields<'_> {
    /// Whether it is its own issuer.
    pub(super) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }
}

/// A run of DER elements.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element's tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first & 0x7f);
        if first & 0x80 != 0 {
            // A certificate is shorter than 2^32 bytes.
            let (digits, after) = rest.split_at_checked(length).filter(|(d, _)| d.len() <= 4)?;
            length = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            rest = after;
        }
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, content))
    }

    /// The content of the next element, which must be a bit string of whole bytes.
    fn bits(&mut self) -> Option<&'a [u8]> {
        let (unused, bytes) = self.expect(BIT_STRING)?.0.split_first()?;
        (*unused == 0).then_some(bytes)
    }

    /// The content of the next element, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<Der<'a>> {
        let (found, content) = self.next()?;
        (found == tag).then_some(Der(content))
    }
}

/// `AlgorithmIdentifier` and key of a `SubjectPublicKeyInfo`, without their outer tags.
pub(super) fn public_key(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut info = Der(der).expect(SEQUENCE)?;
    Some((info.expect(SEQUENCE)?.0, info.bits()?))
}

/// Reads a certificate.
pub(super) fn read(der: &[u8]) -> Option<Fields<'_>> {
    let mut outer = Der(der).expect(SEQUENCE)?;
    let whole = outer.0;
    let mut body = outer.expect(SEQUENCE)?;
    let signed = &whole[..whole.len() - outer.0.len()];
    let signature_algorithm = outer.expect(SEQUENCE)?.0;
    let signature = outer.bits()?;
    let mut ahead = body;
    // Left out for version 1, which is the default.
    let is_version_1 = ahead.next()?.0 != VERSION;
    if !is_version_1 {
        body = ahead;
    }
    // serialNumber, signature
    body.next()?;
    body.next()?;
    let issuer = body.expect(SEQUENCE)?.0;
    let mut validity = body.expect(SEQUENCE)?;
    let valid = (time(validity.next()?)?, time(validity.next()?)?);
    let subject = body.expect(SEQUENCE)?;
    let mut public_key = body.expect(SEQUENCE)?;
    let key_algorithm = public_key.expect(SEQUENCE)?.0;
    let key = public_key.bits()?;
    let mut has_alt_names = false;
    while let Some((tag, content)) = body.next() {
        has_alt_names |= tag == EXTENSIONS && names_alternatives(content);
    }
    Some(Fields {
        common_name: common_name(subject),
        has_alt_names,
        key_algorithm,
        key,
        is_version_1,
        issuer,
        subject: subject.0,
        valid,
        signed,
        signature_algorithm,
        signature,
    })
}

/// RFC 5280, 4.1.2.5: always UTC with seconds; two digits of the year below 50 are after 2000.
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let century = match tag {
        UTC_TIME if text.get(..2)? < "50" => "20",
        UTC_TIME => "19",
        GENERALIZED_TIME => "",
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", format!("{century}{text}")).ok()?;
    // "No well-defined expiration" (RFC 5280, 4.1.2.5) is the last second of 9999, and a Timestamp ends a day before.
    let time = time.to_zoned(jiff::tz::TimeZone::UTC);
    Some(time.map_or(jiff::Timestamp::MAX, |time| time.timestamp()).as_second())
}

fn common_name(mut subject: Der<'_>) -> Option<&str> {
    let mut last = None;
    while let Some(mut names) = subject.expect(SET) {
        while let Some(mut pair) = names.expect(SEQUENCE) {
            if pair.expect(OBJECT_ID)?.0 == COMMON_NAME {
                last = std::str::from_utf8(pair.next()?.1).ok();
            }
        }
    }
    last
}

fn names_alternatives(content: &[u8]) -> bool {
    let Some(mut list) = Der(content).expect(SEQUENCE) else { return false };
    while let Some(mut extension) = list.expect(SEQUENCE) {
        if extension.expect(OBJECT_ID).is_some_and(|id| id.0 == SUBJECT_ALT_NAME) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read() {
        assert_eq!(time((UTC_TIME, b"491231235959Z")), Some(2_524_607_999));
        assert_eq!(time((UTC_TIME, b"500101000000Z")), Some(-631_152_000));
        assert_eq!(time((GENERALIZED_TIME, b"20500101000000Z")), Some(2_524_608_000));
        let end = Some(jiff::Timestamp::MAX.as_second());
        assert_eq!(time((GENERALIZED_TIME, b"99991231235959Z")), end);
        assert_eq!(time((UTC_TIME, b"4912312359Z")), None);
        assert_eq!(time((SET, b"491231235959Z")), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let fields = read(&bytes);
            prop_assert!(fields.is_none_or(|fields| fields.key.len() < bytes.len()));
        }
    }
}
