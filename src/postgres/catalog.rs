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
/// `pg_database.datcollversion` came with PostgreSQL 15.
const HAS_COLLATION_VERSION: u32 = 150_000;

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
    /// The server's clock.
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
    /// Whether it can be connected to.
    pub access: Access,
    /// The owner's role name.
    pub owner: String,
    /// `UTF8`, `SQL_ASCII`, …
    pub encoding: String,
    /// `LC_COLLATE`
    pub collate: String,
    /// `LC_CTYPE`
    pub ctype: String,
    /// Version of the collation when the database was made (15+).
    pub collation_version: Option<String>,
    /// `pg_database_size()` in bytes, where it was asked for and the role may know it.
    pub size_bytes: Option<u64>,
}

impl Database {
    /// What patterns look at.
    pub fn candidate(&self) -> Candidate {
        Candidate { name: self.name.clone(), access: self.access }
    }

    /// What a manifest says of the database, whose extensions and size were read in it.
    pub fn into_facts(self, size_bytes: u64, extensions: Vec<Extension>) -> DatabaseFacts {
        DatabaseFacts {
            name: self.name.into(),
            owner: self.owner,
            encoding: self.encoding,
            collate: self.collate,
            ctype: self.ctype,
            collation_version: self.collation_version,
            collation_actual_version: None,
            locale_provider: None,
            locale: None,
            icu_rules: None,
            collations: Vec::new(),
            size_bytes,
            extensions,
        }
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
///
/// # Errors
/// When the server does not answer.
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
    let (version_num, _) = version(ask).await?;
    // pg_database_size() fails without CONNECT or pg_read_all_stats.
    let size = if with_sizes {
        "CASE WHEN has_database_privilege(d.oid, 'CONNECT') \
             OR pg_has_role('pg_read_all_stats', 'USAGE') THEN pg_database_size(d.oid) END"
    } else {
        "NULL::bigint"
    };
    let sql = format!("{} ORDER BY d.datname", database_sql(version_num, size));
    ask.list(&sql, &[], database).await
}

fn database_sql(version_num: u32, size: &str) -> String {
    let collation =
        if version_num >= HAS_COLLATION_VERSION { "d.datcollversion" } else { "NULL::text" };
    format!(
        "SELECT d.datname::text AS name, d.datconnlimit = -2 AS half_dropped, \
         d.datallowconn AS open, pg_get_userbyid(d.datdba)::text AS owner, \
         pg_encoding_to_char(d.encoding)::text AS encoding, d.datcollate::text AS collate, \
         d.datctype::text AS ctype, {collation} AS collation_version, {size} AS size_bytes \
         FROM pg_database d"
    )
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
    Ok(columns!(row, Database {
        owner, encoding, collate, ctype, collation_version, size_bytes; access: access, name: name
    }))
}

/// What a manifest says of the database of this session.
pub async fn database_facts(ask: Queries<'_>) -> Result<DatabaseFacts, PgError> {
    let (version_num, _) = version(ask).await?;
    let sql = format!(
        "{} WHERE d.datname = current_database()",
        database_sql(version_num, "pg_database_size(d.oid)")
    );
    let database = database(&ask.row(&sql, &[]).await?)?;
    let size = database.size_bytes.ok_or_else(|| sent_no("size of the database"))?;
    let mut facts = database.into_facts(size, extensions(ask).await?);
    locale::complete(&mut facts, ask, version_num).await?;
    Ok(facts)
}

/// The extensions of the session's database, by name.
pub async fn extensions(ask: Queries<'_>) -> Result<Vec<Extension>, PgError> {
    let sql =
        "SELECT extname::text AS name, extversion AS version FROM pg_extension ORDER BY extname";
    let extension =
        |row: &Row| Ok(columns!(row, Extension { name, version; available_version: None }));
    ask.list(sql, &[], extension).await
}
