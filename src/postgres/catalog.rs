//! Facts about a server and its databases, on PostgreSQL 11 to 19.

use tokio_postgres::Row;

use crate::domain::{
    Timestamp,
    failure::Class,
    manifest::{DatabaseFacts, Extension},
    name::DatabaseName,
    pattern::{Access, Candidate},
};

use super::{
    PgError,
    column::{Text, columns, get, sent_no},
    locale,
    queries::Queries,
};

/// The oldest server that is supported, as `server_version_num`.
pub const OLDEST: u32 = 110_000;

/// What a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`: `150018`.
    pub version_num: u32,
    /// `server_version`: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// `system_identifier` of `pg_control_system()`: unique for each initdb, the same on a standby.
    pub system_id: u64,
    /// Whether it is a standby (`pg_is_in_recovery()`).
    pub in_recovery: bool,
    pub at: Timestamp,
}

impl ServerFacts {
    /// The major version: `15`.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }
}

/// A database, as the list of the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// `datname`; of one that is no UTF-8 ([`Access::Unnameable`]), with escapes in it.
    pub name: DatabaseName,
    pub access: Access,
    /// `pg_database_size()` in bytes, where it was asked for and the role may know it.
    pub size_bytes: Option<u64>,
}

impl Database {
    /// What patterns look at.
    pub fn candidate(&self) -> Candidate {
        Candidate { name: self.name.clone(), access: self.access }
    }
}

/// Asks a server what it is. Any database will do.
pub async fn server_facts(ask: Queries<'_>) -> Result<ServerFacts, PgError> {
    let (version_num, version) = version(ask).await?;
    let sql = "SELECT system_identifier::text AS system_id, pg_is_in_recovery() AS in_recovery, \
               clock_timestamp() AS at FROM pg_control_system()";
    let row = ask.row(sql, &[]).await.map_err(|error| match error.class() {
        Class::Privilege => error.with_hint(
            "run as superuser: GRANT EXECUTE ON FUNCTION pg_control_system() TO the role of pgkeep",
        ),
        _ => error,
    })?;
    let system_id = unsigned(&get::<String>(&row, "system_id")?)?;
    Ok(
        columns!(&row, ServerFacts { in_recovery, at; version_num: version_num, version: version, system_id: system_id }),
    )
}

/// The system identifier, asked in a session of any database; none where the role may not ask for it
/// there: rights on functions are each database's own.
pub async fn system_id(ask: Queries<'_>) -> Result<Option<u64>, PgError> {
    let sql = "SELECT system_identifier::text FROM pg_control_system()";
    match ask.value::<String>(sql, &[]).await {
        Ok(text) => unsigned(&text).map(Some),
        Err(error) if error.class() == Class::Privilege => Ok(None),
        Err(error) => Err(error),
    }
}

/// The server keeps a system identifier unsigned and shows it signed.
fn unsigned(text: &str) -> Result<u64, PgError> {
    text.parse().map(i64::cast_unsigned).map_err(|_| sent_no("number"))
}

/// The version (`server_version_num`) and whether it is a standby: what any role may ask.
///
/// # Errors
/// When the server is older than [`OLDEST`], or does not answer.
pub async fn version_and_role(ask: Queries<'_>) -> Result<(u32, bool), PgError> {
    let (version_num, _) = version(ask).await?;
    Ok((version_num, ask.value("SELECT pg_is_in_recovery()", &[]).await?))
}

async fn version(ask: Queries<'_>) -> Result<(u32, String), PgError> {
    let sql = "SELECT current_setting('server_version_num') AS number, \
               current_setting('server_version') AS version";
    let row = ask.row(sql, &[]).await?;
    let number = get::<String>(&row, "number")?.parse().map_err(|_| sent_no("number"))?;
    let version: String = get(&row, "version")?;
    if number < OLDEST {
        let what = format!("the server is PostgreSQL {version}: pgkeep supports 11 and newer");
        return Err(PgError::new(Class::Configuration, what));
    }
    Ok((number, version))
}

/// All databases of a server, by name. Sizes take a look at every file of every database:
/// `with_sizes` asks for them.
pub async fn databases(ask: Queries<'_>, with_sizes: bool) -> Result<Vec<Database>, PgError> {
    version(ask).await?;
    // pg_database_size() fails without CONNECT or pg_read_all_stats.
    let sql = "SELECT datname::text AS name, datconnlimit = -2 AS half_dropped, \
               datallowconn AS open, CASE WHEN $1 AND (has_database_privilege(oid, 'CONNECT') \
               OR pg_has_role('pg_read_all_stats', 'USAGE')) THEN pg_database_size(oid) END \
               AS size_bytes FROM pg_database ORDER BY datname";
    ask.list(sql, &[&with_sizes], database).await
}

fn database(row: &Row) -> Result<Database, PgError> {
    let name: Text = get(row, "name")?;
    let access = match (get(row, "half_dropped")?, get(row, "open")?) {
        (true, _) => Access::HalfDropped,
        (false, false) => Access::Closed,
        (false, true) if !name.is_whole => Access::Unnameable,
        (false, true) => Access::Open,
    };
    let name = name.text.parse().map_err(|_| sent_no("name of a database"))?;
    Ok(columns!(row, Database { size_bytes; access: access, name: name }))
}

/// What a manifest says of the database of this session.
pub async fn database_facts(ask: Queries<'_>) -> Result<DatabaseFacts, PgError> {
    let (version_num, _) = version(ask).await?;
    let sql = format!(
        "SELECT d.datname::text AS name, pg_get_userbyid(d.datdba)::text AS owner, \
         pg_encoding_to_char(d.encoding)::text AS encoding, d.datcollate::text AS collate, \
         d.datctype::text AS ctype, pg_database_size(d.oid) AS size_bytes, {locale} \
         FROM pg_database d WHERE d.datname = current_database()",
        locale = locale::columns(version_num)
    );
    let row = ask.row(&sql, &[]).await?;
    let collations = locale::collations(ask).await?;
    let mut extensions = extensions(ask).await?;
    locale::available(&mut extensions, ask).await?;
    Ok(columns!(&row, DatabaseFacts {
        name, owner, encoding, collate, ctype, size_bytes, collation_version,
        collation_actual_version, locale_provider, locale, icu_rules;
        collations: collations, extensions: extensions
    }))
}

/// The extensions of the session's database, by name.
pub async fn extensions(ask: Queries<'_>) -> Result<Vec<Extension>, PgError> {
    let sql =
        "SELECT extname::text AS name, extversion AS version FROM pg_extension ORDER BY extname";
    let extension =
        |row: &Row| Ok(columns!(row, Extension { name, version; available_version: None }));
    ask.list(sql, &[], extension).await
}
