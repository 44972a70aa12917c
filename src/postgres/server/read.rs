//! `[server.NAME]`, read into libpq's parameters.
//!
//! The connection is given key by key, or as `conninfo` in a form that libpq reads. With `conninfo` or
//! `service` what is left out is libpq's own: `PG*` variables, the service file, `~/.pgpass`.

use std::{sync::Arc, time::Duration};

use secrecy::ExposeSecret as _;

use super::Server;
use crate::{
    config::{Diagnostics, Options, Secret, Section, class},
    domain::name::ServerName,
    postgres::{
        ConnSpec,
        params::{Params, SpecError},
        service::Environment,
        spec::{ANSWER_TIMEOUT, CONNECT_TIMEOUT},
        tls::SslMode,
        tools::Toolbox,
    },
};

/// The database that every cluster has.
const MAINTENANCE_DATABASE: &str = "postgres";
/// Keys that say what a connection string says too.
const IN_CONNINFO: [&str; 10] = [
    "host",
    "port",
    "user",
    "database",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "service",
    "options",
];

impl Server {
    /// Reads one `[server.NAME]`, and resolves it as libpq would. Looks at files, never at the network.
    /// What is wrong is reported; where that is so there is no server.
    pub fn read(
        name: &ServerName,
        section: &Section,
        environment: &Environment,
        toolbox: Arc<Toolbox>,
        d: &mut Diagnostics,
    ) -> Option<Self> {
        let before = d.error_count();
        let mut o = section.options();
        check_together(&mut o, d);
        let timeout = || Duration::from_secs(1)..=Duration::from_hours(1);
        // What stands in the table is all that counts, unless libpq's own means are named.
        let with_variables = o.given("conninfo").is_some() || o.given("service").is_some();
        let password = o.secret("password", d);
        let params = params(&mut o, password.as_ref(), with_variables, d);
        let maintenance = maintenance(&mut o, d);
        let connect_timeout = o.take_in_or("connect_timeout", timeout(), CONNECT_TIMEOUT, d);
        let answer_timeout = o.take_in_or("answer_timeout", timeout(), ANSWER_TIMEOUT, d);
        let bin_dir = o.program_folder("bin_dir", d);
        o.finish(d);
        if d.error_count() > before {
            return None;
        }
        let spec = params.and_then(|it| ConnSpec::resolve(it, with_variables, environment));
        let mut spec = spec
            .map_err(|error| {
                d.error(section.span(), error.to_string()).maybe_hint(error.hint);
            })
            .ok()?;
        spec.password = password.or(spec.password);
        (spec.connect_timeout, spec.answer_timeout) = (connect_timeout, answer_timeout);
        let maintenance = maintenance.map(|(user, password)| spec.as_role(&user, password));
        Some(Self { name: name.clone(), maintenance, spec, bin_dir, toolbox })
    }
}

/// Reports keys that exclude each other, and such as need each other.
fn check_together(o: &mut Options<'_>, d: &mut Diagnostics) {
    for key in IN_CONNINFO {
        o.at_most_one(&["conninfo", key], d);
    }
    for key in ["password", "password_file", "password_credential"] {
        o.at_most_one(&[key, "passfile"], d);
    }
    for (key, other) in [("sslcert", "sslkey"), ("sslkey", "sslcert")] {
        if let Some(span) = o.given(key)
            && o.given(other).is_none()
        {
            d.error(span, format!("`{key}` needs `{other}` beside it")).class(class::MISSING);
        }
    }
}

/// What the section says of the connection, in libpq's words.
fn params(
    o: &mut Options<'_>,
    password: Option<&Secret>,
    with_variables: bool,
    d: &mut Diagnostics,
) -> Result<Params, SpecError> {
    let database = o.take::<String>("database", d).map(|name| name.value);
    let database = database.or_else(|| (!with_variables).then(|| MAINTENANCE_DATABASE.to_owned()));
    let given = [
        ("host", host(o, d)),
        ("port", o.take_in("port", 1..=u16::MAX, d).map(|port| port.value.to_string())),
        ("user", non_empty(o, "user", d)),
        ("dbname", database),
        ("service", non_empty(o, "service", d)),
        ("passfile", path(o, "passfile", d)),
        ("sslmode", sslmode(o, d)),
        ("sslrootcert", path(o, "sslrootcert", d)),
        ("sslcert", path(o, "sslcert", d)),
        ("sslkey", path(o, "sslkey", d)),
        ("options", o.take("options", d).map(|options| options.value)),
        ("password", password.map(|it| it.value.expose_secret().to_owned())),
    ];
    let mut params = Params::default();
    for (keyword, value) in given {
        value.map_or(Ok(()), |value| params.set(keyword, value))?;
    }
    if let Some(conninfo) = o.text_with_secret("conninfo", "password", holds_password, d) {
        let text = conninfo.value.expose_secret();
        if text.trim().is_empty() {
            d.error(&conninfo.span, "`conninfo` is empty");
        }
        params.fill_from(Params::parse(text)?);
    }
    Ok(params)
}

fn holds_password(conninfo: &str) -> bool {
    Params::parse(conninfo).is_ok_and(|params| params.get("password").is_some())
}

fn non_empty(o: &mut Options<'_>, key: &'static str, d: &mut Diagnostics) -> Option<String> {
    let text = o.take::<String>(key, d)?;
    if text.value.is_empty() {
        d.error(&text.span, format!("`{key}` is empty")).hint("leave the key out, or fill it in");
        return None;
    }
    Some(text.value)
}

/// Text of a TOML file is UTF-8, and so is a path in it.
fn path(o: &mut Options<'_>, key: &'static str, d: &mut Diagnostics) -> Option<String> {
    o.absolute_path(key, d)?.value.into_os_string().into_string().ok()
}

/// A password without its role would be nobody's.
fn maintenance(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<(String, Option<Secret>)> {
    let forms =
        ["maintenance_password", "maintenance_password_file", "maintenance_password_credential"];
    if o.given("maintenance_user").is_none()
        && let Some(alone) = forms.into_iter().find_map(|key| o.given(key))
    {
        d.error(&alone, "a password for maintenance needs `maintenance_user` beside it")
            .class(class::MISSING)
            .hint("name the role, or leave both out: `user` does the maintenance then");
    }
    let password = o.secret("maintenance_password", d);
    Some((non_empty(o, "maintenance_user", d)?, password))
}

fn host(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<String> {
    let span = o.given("host")?;
    let host = non_empty(o, "host", d)?;
    if host.contains(',') {
        d.error(&span, "`host` names several hosts").hint("several hosts go into `conninfo`");
        return None;
    }
    if let Some((name, port)) = host.rsplit_once(':')
        && !name.contains(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        d.error(&span, "`host` holds a port").hint(format!("write host = {name:?}, port = {port}"));
        return None;
    }
    if host.contains("://") {
        d.error(&span, "`host` is a connection string").hint("put it into `conninfo`");
        return None;
    }
    Some(host)
}

fn sslmode(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<String> {
    let choices = SslMode::ALL.map(|mode| (mode.as_str(), mode.as_str()));
    o.one_of("sslmode", &choices, d).map(|mode| mode.value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_connection_strings_are_seen() {
        for with in [
            "host=a password=b",
            "host=a password = 'b'",
            "postgres://u:p@h/d",
            "postgresql://h/d?password=x",
            "postgresql://u:p@h1,h2/d",
        ] {
            assert!(holds_password(with), "{with}");
        }
        for without in [
            "host=a user=b passfile=/x",
            "postgres://u@h:5432/d",
            "postgres://h:5432/d",
            "service=main",
        ] {
            assert!(!holds_password(without), "{without}");
        }
    }
}
