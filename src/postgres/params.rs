//! libpq's connection parameters: keyword/value strings and URIs, read as libpq reads them
//! ("Connection Strings" in the PostgreSQL manual).
//!
//! An error never repeats the text: a password may stand in it. A parameter that libpq would obey
//! and pgkeep's own session cannot is refused, not passed over.

use std::{collections::BTreeMap, fmt};

/// What pgkeep does with a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Support {
    Used,
    /// Without effect on what pgkeep does.
    Ignored,
    /// libpq would obey it and we cannot.
    Refused,
}
use Support::{Ignored, Refused, Used};

/// libpq's keywords with their environment variables: `PQconninfoOptions` in fe-connect.c of
/// PostgreSQL 18.
const KEYWORDS: &[(&str, Option<&str>, Support)] = &[
    ("application_name", Some("PGAPPNAME"), Ignored),
    ("channel_binding", Some("PGCHANNELBINDING"), Used),
    ("client_encoding", Some("PGCLIENTENCODING"), Ignored),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT"), Ignored),
    ("dbname", Some("PGDATABASE"), Used),
    ("fallback_application_name", None, Ignored),
    ("gssdelegation", Some("PGGSSDELEGATION"), Ignored),
    ("gssencmode", Some("PGGSSENCMODE"), Used),
    ("gsslib", Some("PGGSSLIB"), Ignored),
    ("host", Some("PGHOST"), Used),
    ("hostaddr", Some("PGHOSTADDR"), Used),
    ("keepalives", None, Used),
    ("keepalives_count", None, Used),
    ("keepalives_idle", None, Used),
    ("keepalives_interval", None, Used),
    ("krbsrvname", Some("PGKRBSRVNAME"), Ignored),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Ignored),
    ("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), Ignored),
    ("min_protocol_version", Some("PGMINPROTOCOLVERSION"), Ignored),
    ("options", Some("PGOPTIONS"), Used),
    ("passfile", Some("PGPASSFILE"), Used),
    ("password", Some("PGPASSWORD"), Used),
    ("port", Some("PGPORT"), Used),
    ("replication", None, Refused),
    ("require_auth", Some("PGREQUIREAUTH"), Refused),
    ("requirepeer", Some("PGREQUIREPEER"), Refused),
    ("requiressl", Some("PGREQUIRESSL"), Refused),
    ("scram_client_key", None, Refused),
    ("scram_server_key", None, Refused),
    ("service", Some("PGSERVICE"), Used),
    ("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), Used),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), Used),
    ("sslcert", Some("PGSSLCERT"), Used),
    ("sslcertmode", Some("PGSSLCERTMODE"), Refused),
    ("sslcompression", Some("PGSSLCOMPRESSION"), Ignored),
    ("sslcrl", Some("PGSSLCRL"), Refused),
    ("sslcrldir", Some("PGSSLCRLDIR"), Refused),
    ("sslkey", Some("PGSSLKEY"), Used),
    ("sslmode", Some("PGSSLMODE"), Used),
    ("sslnegotiation", Some("PGSSLNEGOTIATION"), Used),
    ("sslpassword", None, Refused),
    ("sslrootcert", Some("PGSSLROOTCERT"), Used),
    ("sslsni", Some("PGSSLSNI"), Used),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Used),
    ("tcp_user_timeout", None, Used),
    ("user", Some("PGUSER"), Used),
];

/// Why connection parameters were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct SpecError {
    /// What is wrong. Never holds a value that may be secret.
    pub what: String,
    pub hint: Option<String>,
}

impl SpecError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Parameters by libpq's keyword. An empty value counts as not given, as in libpq.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<&'static str, String>);

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |key: &str| key != "password";
        let entries = self
            .0
            .iter()
            .map(|(key, value)| (*key, if shown(key) { value.as_str() } else { "[redacted]" }));
        f.debug_map().entries(entries).finish()
    }
}

impl Params {
    /// The value of a keyword.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Sets a keyword, which must be one of libpq's and one that pgkeep can obey.
    pub fn set(&mut self, keyword: &str, value: impl Into<String>) -> Result<(), SpecError> {
        let value = value.into();
        let Some((name, _, support)) = KEYWORDS.iter().find(|(name, ..)| *name == keyword) else {
            return Err(unknown(keyword));
        };
        if *support == Refused && !value.is_empty() {
            return Err(SpecError::new(format!(
                "the connection parameter {name} is not supported by pgkeep, and leaving it out \
                 would \
                 weaken what was asked for"
            )));
        }
        if value.contains('\0') {
            return Err(SpecError::new(format!("the connection parameter {name} contains NUL")));
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// Takes over what is not set here.
    pub fn fill_from(&mut self, other: Self) {
        for (key, value) in other.0 {
            if self.get(key).is_none() {
                self.0.insert(key, value);
            }
        }
    }

    /// What libpq's environment variables say.
    pub fn from_env(env: &super::service::Environment) -> Result<Self, SpecError> {
        let mut params = Self::default();
        for (keyword, variable, _) in KEYWORDS {
            if let Some(variable) = variable
                && let Some(value) = env.get(variable)
            {
                let from_variable = |mut error: SpecError| {
                    error.what = format!("{variable}: {}", error.what);
                    error
                };
                params.set(keyword, value).map_err(from_variable)?;
            }
        }
        Ok(params)
    }

    /// Reads `key=value …` or a URI.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let uri = ["postgresql://", "postgres://"].iter().find_map(|s| text.strip_prefix(s));
        match uri {
            Some(rest) => parse_uri(rest),
            None => parse_pairs(text),
        }
    }
}

/// The word itself is not repeated: it may be a part of a password that was not quoted.
fn unknown(keyword: &str) -> SpecError {
    let error = SpecError::new("the connection string has a parameter that libpq does not know");
    let near = |name: &str| strsim::damerau_levenshtein(name, keyword) <= 2;
    match KEYWORDS.iter().find(|(name, ..)| near(name)) {
        Some((name, ..)) => error.hint(format!("did you mean {name}?")),
        None => error,
    }
}

/// Writes a value so that a keyword/value string holds it whatever its characters are.
pub fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

/// `conninfo_parse` of fe-connect.c.
fn parse_pairs(text: &str) -> Result<Params, SpecError> {
    let mut params = Params::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let place = text.len() - rest.len() + 1;
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (keyword, after) = rest.split_at(end);
        let Some(value) = after.trim_start().strip_prefix('=') else {
            let what = format!("the connection string has no \"=\" after the word at byte {place}");
            return Err(SpecError::new(what));
        };
        let (value, after) = parse_value(value.trim_start())?;
        params.set(keyword, value)?;
        rest = after.trim_start();
    }
    Ok(params)
}

/// Reads one value and gives what follows it.
fn parse_value(text: &str) -> Result<(String, &str), SpecError> {
    let (text, quoted) = match text.strip_prefix('\'') {
        Some(inner) => (inner, true),
        None => (text, false),
    };
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_ascii_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(SpecError::new("the connection string has a quote that is not closed"));
    }
    Ok((value, ""))
}

/// `conninfo_uri_parse_options` of fe-connect.c. `rest` is what follows the scheme.
fn parse_uri(rest: &str) -> Result<Params, SpecError> {
    let mut params = Params::default();
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = before.split_once('/').unwrap_or((before, ""));
    // libpq ends the user at the first '@'; a host never has one, so that the last is kinder.
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    params.set("user", decode(user)?)?;
    params.set("password", decode(password)?)?;
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = split_host(host)?;
        names.push(decode(name)?);
        ports.push(decode(port)?);
    }
    params.set("host", names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        params.set("port", ports.join(","))?;
    }
    params.set("dbname", decode(database)?)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(SpecError::new("the connection URI has a parameter without \"=\""));
        };
        // What JDBC writes; libpq reads it too.
        match (decode(key)?.as_str(), decode(value)?) {
            ("ssl", value) if value == "true" => params.set("sslmode", "require")?,
            (key, value) => params.set(key, value)?,
        }
    }
    Ok(params)
}

fn split_host(text: &str) -> Result<(&str, &str), SpecError> {
    if let Some(inner) = text.strip_prefix('[') {
        let Some((name, after)) = inner.split_once(']') else {
            return Err(SpecError::new("the connection URI has a \"[\" without \"]\""));
        };
        return match after.strip_prefix(':') {
            Some(port) => Ok((name, port)),
            None if after.is_empty() => Ok((name, "")),
            None => Err(SpecError::new("the connection URI has text between \"]\" and the port")),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

fn decode(text: &str) -> Result<String, SpecError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    let error = || SpecError::new("the connection URI has a damaged percent escape");
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let (digits, after) = tail.split_at_checked(2).ok_or_else(error)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(error());
        }
        let digits = std::str::from_utf8(digits).map_err(|_| error())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| error())?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| SpecError::new("the connection URI is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Vec<(&'static str, String)> {
        let params = Params::parse(text).unwrap();
        params.0.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    #[test]
    fn pairs_are_read_as_libpq_reads_them() {
        let text = r" host = /var/run  password='a b\'c\\d' user=x\ y options='' dbname=app ";
        assert_eq!(
            parsed(text),
            [
                ("dbname", "app".to_owned()),
                ("host", "/var/run".to_owned()),
                ("password", r"a b'c\d".to_owned()),
                ("user", "x y".to_owned()),
            ]
        );
        assert_eq!(parsed("  "), []);
    }

    #[test]
    fn uris_are_read_as_libpq_reads_them() {
        let text =
            "postgresql://me:p%40ss@[::1]:5433,db2:5434/my%2Fdb?sslmode=verify-full&ssl=true";
        assert_eq!(
            parsed(text),
            [
                ("dbname", "my/db".to_owned()),
                ("host", "::1,db2".to_owned()),
                ("password", "p@ss".to_owned()),
                ("port", "5433,5434".to_owned()),
                ("sslmode", "require".to_owned()),
                ("user", "me".to_owned()),
            ]
        );
        assert_eq!(
            parsed("postgres://%2Frun%2Fpg/app?service=x"),
            [
                ("dbname", "app".to_owned()),
                ("host", "/run/pg".to_owned()),
                ("service", "x".to_owned()),
            ]
        );
        assert_eq!(
            parsed("postgres:///?host=/run&port=1"),
            [("host", "/run".to_owned()), ("port", "1".to_owned()),]
        );
    }

    #[test]
    fn errors_do_not_repeat_secrets() {
        for bad in [
            "password=hunter2 hunter2",
            "password=a hunter2=b",
            "password='hunter2",
            "postgres://u:hunter2%zz@h/",
            "postgres://u:hunter2%f@h/?x",
            "postgres://u:hunter2@[::1/",
            "host=x require_auth=hunter2",
        ] {
            let error = Params::parse(bad).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let params = Params::parse("password=hunter2 user=u").unwrap();
        assert!(!format!("{params:?}").contains("hunter2"));
    }

    #[test]
    fn unknown_and_unsupported_parameters_are_refused() {
        let error = Params::parse("hots=x").unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("did you mean host?"));
        assert!(Params::parse("sslcrl=/x").is_err());
        assert!(Params::parse("sslcrl=").is_ok());
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back(value in "[^\0]{1,30}") {
            let text = format!("dbname={} user=x", quote(&value));
            let params = Params::parse(&text).unwrap();
            prop_assert_eq!(params.get("dbname"), Some(value.as_str()));
            prop_assert_eq!(params.get("user"), Some("x"));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            drop(Params::parse(&text));
            drop(Params::parse(&format!("postgres://{text}")));
        }
    }
}
