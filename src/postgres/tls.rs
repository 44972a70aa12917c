//! TLS with the meaning that libpq gives to `sslmode`.
//!
//! rustls by itself verifies always and fully, which refuses most servers that libpq users have:
//! Debian's self-signed default certificate, self-signed certificates as their own root, names in
//! the common name only. So there is one verifier here with three degrees:
//!
//! | sslmode | chain | name |
//! |---|---|---|
//! | `allow`, `prefer`, `require` without a root certificate | any | any |
//! | those with a root certificate, `verify-ca` | to a root | any |
//! | `verify-full` | to a root | must match |
//!
//! A self-signed server certificate that stands in `sslrootcert` itself, byte for byte, is trusted
//! (with `verify-full`: for its name). Signatures of the handshake are always checked, so that the
//! server has the key of the certificate that it shows. Version 1 certificates, which webpki does
//! not read, are checked here.
//!
//! The client's own certificate may be of version 1 too: what most tutorials make.
//!
//! Known differences: a version 1 certificate has to be signed by a root itself, not by an
//! intermediate; and revocation lists are not supported, so that asking for one is refused.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme, SupportedProtocolVersion,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio_postgres_rustls::MakeRustlsConnect;
use x509_cert::Version;

use crate::{domain::text::shell_word, sys::files::read_limited};

use super::{
    params::SpecError,
    x509::{self, Certificate},
};

/// More than a bundle of all public roots, in bytes.
const PEM_MAX: u64 = 4 * 1024 * 1024;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    /// TLS only if the server refuses to do without.
    Allow,
    /// TLS if the server can.
    Prefer,
    Require,
    /// TLS with a certificate that a root signed.
    VerifyCa,
    /// TLS with a certificate that a root signed for this host.
    VerifyFull,
}

impl SslMode {
    pub(super) const ALL: [Self; 6] =
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// libpq's name for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Reads libpq's name.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| {
            SpecError::new(format!("sslmode {text:?} does not exist"))
                .hint("use disable, allow, prefer, require, verify-ca or verify-full")
        })
    }
}

/// Where trust starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Nowhere: any certificate will do.
    None,
    /// At the certificates of the operating system (`sslrootcert=system`).
    System,
    /// At the certificates of this PEM file.
    File(PathBuf),
}

/// What TLS is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    pub mode: SslMode,
    pub roots: Roots,
    /// `sslcert` and `sslkey`: PEM files.
    pub client: Option<(PathBuf, PathBuf)>,
    pub sni: bool,
    pub versions: (bool, bool),
}

impl TlsSpec {
    /// Reads the files and builds what connects.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, SpecError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
        versions.extend(self.versions.0.then_some(&rustls::version::TLS12));
        versions.extend(self.versions.1.then_some(&rustls::version::TLS13));
        let verifier = Arc::new(Verifier::new(self, &provider)?);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| SpecError::new(format!("TLS: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.client {
            Some((cert, key)) => {
                let identity = client(builder.crypto_provider(), cert, key)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
            }
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = self.sni;
        // libpq 17 offers it, and requires it for direct negotiation.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(MakeRustlsConnect::new(config))
    }
}

/// The client's certificate with its key. Whether it will do is the server's to say: it is not parsed
/// further than to see that the two belong together, as webpki would refuse version 1. One that cannot be read here
/// goes as it is.
fn client(provider: &CryptoProvider, cert: &Path, key: &Path) -> Result<CertifiedKey, SpecError> {
    let (chain, key_der) = (read_certificates(cert)?, read_key(key)?);
    let unusable = |why: &dyn std::fmt::Display| {
        let (cert, key) = (cert.display(), key.display());
        SpecError::new(format!("cannot use {cert} with the key {key}: {why}"))
    };
    let key = provider.key_provider.load_private_key(key_der).map_err(|error| unusable(&error))?;
    let of_cert = x509::read(&chain[0]).map(|cert| cert.body.subject_public_key_info);
    let of_key = key.public_key().and_then(|public| x509::public_key(&public));
    if of_cert.zip(of_key).is_some_and(|(of_cert, of_key)| of_cert != of_key) {
        return Err(unusable(&"they do not belong together"));
    }
    Ok(CertifiedKey::new(chain, key))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SpecError> {
    let pem = read_limited(path, PEM_MAX)
        .map_err(|error| SpecError::new(crate::domain::failure::chain(&error)))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(SpecError::new(format!("{} holds no certificate", path.display()))),
        Err(error) => Err(SpecError::new(format!("{} is no PEM: {error}", path.display()))),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, SpecError> {
    let named = |what: &str| SpecError::new(format!("the key {} {what}", path.display()));
    let meta = fs::metadata(path).map_err(|error| named(&format!("cannot be read: {error}")))?;
    // As libpq: others none, the group only where root owns it.
    let exposed = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if meta.mode() & exposed != 0 {
        let hint = format!("run: chmod 0600 {}", shell_word(&path.display().to_string()));
        return Err(named("can be read by others").hint(hint));
    }
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| named(&format!("cannot be used (is it encrypted?): {error}")))
}

/// Verifies server certificates as libpq would.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// None: any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl Verifier {
    fn new(spec: &TlsSpec, provider: &Arc<CryptoProvider>) -> Result<Self, SpecError> {
        let trusted = match &spec.roots {
            Roots::None => None,
            Roots::File(path) => Some(read_certificates(path)?),
            Roots::System => Some(rustls_native_certs::load_native_certs().certs),
        };
        let chain = match &trusted {
            Some(trusted) => Some(chain_verifier(trusted, provider)?),
            None => None,
        };
        let trusted = trusted.unwrap_or_default();
        let check_name = spec.mode == SslMode::VerifyFull;
        Ok(Self { provider: Arc::clone(provider), chain, trusted, check_name })
    }

    /// The name, by subjectAltName; by common name only where there is none (RFC 6125, as libpq).
    fn check_name(&self, cert: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), TlsError> {
        if !self.check_name {
            return Ok(());
        }
        let read = x509::read(cert);
        let Some(read) = read.filter(|read| !read.has_alt_names()) else {
            return verify_server_name(&ParsedCertificate::try_from(cert)?, name);
        };
        let host = name.to_str();
        match read.common_name() {
            Some(common) if common_name_matches(common, &host) => Ok(()),
            _ => Err(TlsError::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }
}

fn chain_verifier(
    trusted: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, SpecError> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(trusted.iter().cloned());
    if added == 0 {
        return Err(SpecError::new("there is no root certificate that can be used"));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|error| SpecError::new(format!("TLS: {error}")))
}

fn read<'a>(cert: &'a CertificateDer<'_>) -> Result<Certificate<'a>, TlsError> {
    x509::read(cert).ok_or(TlsError::InvalidCertificate(CertificateError::BadEncoding))
}

fn check_validity(cert: &Certificate<'_>, now: UnixTime) -> Result<(), TlsError> {
    let now = Duration::from_secs(now.as_secs());
    let error = match cert.valid() {
        (from, _) if now < from => CertificateError::NotValidYet,
        (_, until) if now > until => CertificateError::Expired,
        _ => return Ok(()),
    };
    Err(TlsError::InvalidCertificate(error))
}

/// `wildcard_certificate_match` of fe-secure-common.c: `*.` stands for exactly one label.
fn common_name_matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(suffix), Some((label, rest))) => {
            !label.is_empty() && suffix.contains('.') && suffix.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        // What we cannot read, webpki may.
        let cert = x509::read(end_entity);
        let is_root =
            |cert: &&Certificate<'_>| cert.is_self_issued() && self.trusted.contains(end_entity);
        if let Some(cert) = cert.as_ref().filter(is_root) {
            check_validity(cert, now)?;
        } else if let Some(cert) = cert.filter(|cert| cert.body.version == Version::V1) {
            self.verify_version_1(&cert, now)?;
        } else {
            let verified = chain.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
            // webpki looks at the name last: all else is in order by then.
            match verified {
                Ok(_)
                | Err(TlsError::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )) => {}
                Err(error) => return Err(error),
            }
        }
        self.check_name(end_entity, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let known = &self.provider.signature_verification_algorithms;
        if ParsedCertificate::try_from(cert).is_ok() {
            return verify_tls12_signature(message, cert, dss, known);
        }
        self.verify_by_key(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let known = &self.provider.signature_verification_algorithms;
        if ParsedCertificate::try_from(cert).is_ok() {
            return verify_tls13_signature(message, cert, dss, known);
        }
        if is_pkcs1(dss.scheme) {
            // RFC 8446, 4.2.3: these sign certificates only.
            return Err(TlsError::InvalidCertificate(CertificateError::BadSignature));
        }
        self.verify_by_key(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const fn is_pkcs1(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

impl Verifier {
    /// A version 1 certificate that a root signed. It has no extensions that could forbid anything.
    fn verify_version_1(&self, cert: &Certificate<'_>, now: UnixTime) -> Result<(), TlsError> {
        check_validity(cert, now)?;
        let known = self.provider.signature_verification_algorithms.all;
        let signed_by = |root: &Certificate<'_>| {
            let mut fitting = known.iter().filter(|algorithm| {
                x509::is_same(algorithm.public_key_alg_id(), root.key_algorithm())
                    && x509::is_same(algorithm.signature_alg_id(), &cert.signature_algorithm)
            });
            fitting.any(|algorithm| {
                algorithm.verify_signature(root.key(), cert.signed, &cert.signature).is_ok()
            })
        };
        let roots = self.trusted.iter().filter_map(|root| x509::read(root));
        let mut roots = roots.filter(|root| root.body.subject == cert.body.issuer);
        match roots.find(signed_by) {
            Some(root) => check_validity(&root, now),
            None => Err(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    /// For certificates that webpki does not parse (version 1): the same check with the key that
    /// we read ourselves.
    fn verify_by_key(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let cert = read(cert)?;
        let mapping = self.provider.signature_verification_algorithms.mapping;
        let fitting = mapping
            .iter()
            .filter(|(scheme, _)| *scheme == dss.scheme)
            .flat_map(|(_, algorithms)| *algorithms)
            .filter(|algorithm| x509::is_same(algorithm.public_key_alg_id(), cert.key_algorithm()));
        for algorithm in fitting {
            if algorithm.verify_signature(cert.key(), message, dss.signature()).is_ok() {
                return Ok(HandshakeSignatureValid::assertion());
            }
        }
        Err(TlsError::InvalidCertificate(CertificateError::BadSignature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names_match_as_in_libpq() {
        assert!(common_name_matches("DB.example.org", "db.example.org"));
        assert!(common_name_matches("*.example.org", "db.example.org"));
        assert!(!common_name_matches("*.example.org", "a.db.example.org"));
        assert!(!common_name_matches("*.example.org", "example.org"));
        assert!(!common_name_matches("*.org", "example.org"));
        assert!(!common_name_matches("*", "localhost"));
    }

    #[test]
    fn modes_are_read() {
        assert_eq!(SslMode::parse("verify-ca").unwrap(), SslMode::VerifyCa);
        assert!(SslMode::parse("verify_ca").is_err());
        assert!(SslMode::Require < SslMode::VerifyFull);
    }

    #[test]
    fn a_missing_root_is_an_error() {
        let spec = TlsSpec {
            mode: SslMode::VerifyFull,
            roots: Roots::File("/nonexistent/root.crt".into()),
            client: None,
            sni: true,
            versions: (true, true),
        };
        let error = spec.connector().err().unwrap();
        assert!(error.to_string().contains("/nonexistent/root.crt"), "{error}");
    }
}
