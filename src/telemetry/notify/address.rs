//! An address of the web that may be a secret by itself: only its host is ever shown.

use std::fmt;

use axum::http::Uri;

use crate::config::{Diagnostics, Options};

/// Texts shorter than this are no secrets, and would be found everywhere.
const SECRET_MIN: usize = 4;

/// Where to send to.
#[derive(Clone)]
pub(super) struct Address {
    uri: Uri,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}", self.uri.scheme_str().unwrap_or_default())
    }
}

impl Address {
    /// The address of `url`, `url_file` or `url_credential`.
    pub(super) fn read(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<Self> {
        use secrecy::ExposeSecret as _;
        let given = ["url", "url_file", "url_credential"].map(|key| o.given(key));
        let Some(span) = given.into_iter().flatten().next() else {
            d.error(o.span(), format!("[{}] needs `url`", o.section()))
                .class(crate::config::class::MISSING)
                .hint("or `url_file`, `url_credential`: an address can be a secret");
            return None;
        };
        let text = o.secret("url", d)?.value;
        let address = Self::parse(text.expose_secret());
        address
            .map_err(|(what, hint)| {
                d.error(span, what).hint(hint);
            })
            .ok()
    }

    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        let shape = ("this is not an address of the web", "write https://HOST/PATH");
        let uri: Uri = text.parse().map_err(|_| shape)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(shape);
        }
        let authority = uri.authority().ok_or(shape)?;
        if authority.as_str().contains('@') {
            let hint = "leave it out; `token` is sent as a bearer token";
            return Err(("an address with a user or a password is not supported", hint));
        }
        Ok(Self { uri })
    }

    /// Whether TLS is spoken.
    pub(super) fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The address itself.
    pub(super) fn uri(&self) -> Uri {
        self.uri.clone()
    }

    /// The address with more path and one more parameter.
    pub(super) fn with(&self, more: &str, parameter: &str) -> Option<Uri> {
        let path = self.uri.path().trim_end_matches('/');
        let query = self.uri.query().into_iter().chain([parameter]);
        let query: Vec<&str> = query.filter(|part| !part.is_empty()).collect();
        format!("{self}{path}{more}?{}", query.join("&")).trim_end_matches('?').parse().ok()
    }

    /// The text without what makes the address a secret, and without these.
    pub(super) fn scrub(&self, text: &str, secrets: &[&str]) -> String {
        let path = self.uri.path();
        let whole = self.uri.path_and_query().map_or(path, |both| both.as_str());
        let segments = path.split('/').chain(self.uri.query());
        let mut clean = text.to_owned();
        for secret in [whole, path].into_iter().chain(segments).chain(secrets.iter().copied()) {
            if secret.len() >= SECRET_MIN {
                clean = clean.replace(secret, "…");
            }
        }
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_is_shown() {
        let address =
            Address::parse("https://hooks.example.org:8443/a/hunter2?key=hunter3").unwrap();
        assert_eq!(
            format!("{address} {address:?}"),
            ["https://hooks.example.org:8443"; 2].join(" ")
        );
        let text =
            "error of https://hooks.example.org:8443/a/hunter2?key=hunter3, hunter2, hunter4";
        let clean = address.scrub(text, &["hunter4"]);
        assert!(!clean.contains("hunter"), "{clean}");
        assert!(clean.contains("hooks.example.org"), "{clean}");
    }

    #[test]
    fn more_path_goes_before_the_parameters() {
        for (url, with) in [
            ("https://h/uuid", "https://h/uuid/fail?rid=1"),
            ("https://h/uuid/", "https://h/uuid/fail?rid=1"),
            ("http://h:1/key/slug?create=1", "http://h:1/key/slug/fail?create=1&rid=1"),
        ] {
            let uri = Address::parse(url).unwrap().with("/fail", "rid=1").unwrap();
            assert_eq!(uri.to_string(), with);
        }
    }

    #[test]
    fn without_a_parameter_there_is_no_question_mark() {
        let uri = Address::parse("https://h/uuid").unwrap().with("/log", "").unwrap();
        assert_eq!(uri.to_string(), "https://h/uuid/log");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "hunter2", "ftp://h/", "https://", "/a", "https://u:p@h/", "https://a b/"]
        {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
