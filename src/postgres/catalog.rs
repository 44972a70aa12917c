//! Facts about a server and its databases, on PostgreSQL 11 to 19.

use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use crate::domain::{
    Timestamp,
    failure::Class,
    manifest::{DatabaseFacts, Extension},
    name::DatabaseName,
    pattern::{Access, Candidate},
};

use super::column::get;
use super::{PgError, Session, column::Text, locale};

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
pub async fn server_facts(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<ServerFacts, PgError> {
    let (version_num, version) = version(session, cancel).await?;
    if version_num < OLDEST {
        return Err(too_old(&version));
    }
    let sql = "SELECT system_identifier::text, pg_is_in_recovery(), \
               (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM pg_control_system()";
    let row = session.query_one(sql, &[], cancel).await.map_err(|error| match error.class() {
        Class::Privilege => error.with_hint(
            "run as superuser: GRANT EXECUTE ON FUNCTION pg_control_system() TO the role of pgkeep",
        ),
        _ => error,
    })?;
    let system_id: i64 = number(&get::<String>(&row, 0)?)?;
    Ok(ServerFacts {
        version_num,
        version,
        // The server keeps it unsigned and shows it signed.
        system_id: system_id.cast_unsigned(),
        in_recovery: get(&row, 1)?,
        at: timestamp(get(&row, 2)?)?,
    })
}

/// The system identifier, asked in a session of any database; none where the role may not ask for it
/// there: rights on functions are each database's own.
///
/// # Errors
/// When the server does not answer.
pub async fn system_id(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<Option<u64>, PgError> {
    let sql = "SELECT system_identifier::text FROM pg_control_system()";
    match session.query_one(sql, &[], cancel).await {
        Ok(row) => Ok(Some(number::<i64>(&get::<String>(&row, 0)?)?.cast_unsigned())),
        Err(error) if error.class() == Class::Privilege => Ok(None),
        Err(error) => Err(error),
    }
}

/// The version (`server_version_num`) and whether it is a standby: what any role may ask.
///
/// # Errors
/// When the server is older than [`OLDEST`], or does not answer.
pub async fn version_and_role(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<(u32, bool), PgError> {
    let (version_num, version) = version(session, cancel).await?;
    if version_num < OLDEST {
        return Err(too_old(&version));
    }
    let row = session.query_one("SELECT pg_is_in_recovery()", &[], cancel).await?;
    Ok((version_num, get(&row, 0)?))
}

fn too_old(version: &str) -> PgError {
    let what = format!("the server is PostgreSQL {version}: pgkeep supports 11 and newer");
    PgError::new(Class::Configuration, what)
}

async fn version(session: &Session, cancel: &CancellationToken) -> Result<(u32, String), PgError> {
    let sql = "SELECT current_setting('server_version_num'), current_setting('server_version')";
    let row = session.query_one(sql, &[], cancel).await?;
    Ok((number(&get::<String>(&row, 0)?)?, get(&row, 1)?))
}

/// All databases of a server, by name. Sizes take a look at every file of every database:
/// `with_sizes` asks for them.
pub async fn databases(
    session: &Session,
    with_sizes: bool,
    cancel: &CancellationToken,
) -> Result<Vec<Database>, PgError> {
    let (version_num, _) = version(session, cancel).await?;
    // pg_database_size() fails without CONNECT or pg_read_all_stats.
    let size = if with_sizes {
        "CASE WHEN has_database_privilege(d.oid, 'CONNECT') \
             OR pg_has_role('pg_read_all_stats', 'USAGE') THEN pg_database_size(d.oid) END"
    } else {
        "NULL::bigint"
    };
    let sql = format!("{} ORDER BY d.datname", database_sql(version_num, size));
    let rows = session.query(&sql, &[], cancel).await?;
    rows.iter().map(database).collect()
}

fn database_sql(version_num: u32, size: &str) -> String {
    let collation =
        if version_num >= HAS_COLLATION_VERSION { "d.datcollversion" } else { "NULL::text" };
    format!(
        "SELECT d.datname::text, d.datconnlimit = -2, d.datallowconn, \
         pg_get_userbyid(d.datdba)::text, pg_encoding_to_char(d.encoding)::text, \
         d.datcollate::text, d.datctype::text, {collation}, {size} \
         FROM pg_database d"
    )
}

fn database(row: &Row) -> Result<Database, PgError> {
    let name: Text = get(row, 0)?;
    let size: Option<i64> = get(row, 8)?;
    Ok(Database {
        access: match (get(row, 1)?, get(row, 2)?) {
            (true, _) => Access::HalfDropped,
            (false, false) => Access::Closed,
            (false, true) if !name.is_whole => Access::Unnameable,
            (false, true) => Access::Open,
        },
        name: name.text.parse().map_err(|error| unexpected(&error))?,
        owner: get(row, 3)?,
        encoding: get(row, 4)?,
        collate: get(row, 5)?,
        ctype: get(row, 6)?,
        collation_version: get(row, 7)?,
        size_bytes: size.and_then(|size| u64::try_from(size).ok()),
    })
}

/// What a manifest says of the database of this session.
pub async fn database_facts(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<DatabaseFacts, PgError> {
    let (version_num, _) = version(session, cancel).await?;
    let sql = format!(
        "{} WHERE d.datname = current_database()",
        database_sql(version_num, "pg_database_size(d.oid)")
    );
    let database = database(&session.query_one(&sql, &[], cancel).await?)?;
    let size = database.size_bytes.ok_or_else(|| unexpected("the database has no size"))?;
    let mut facts = database.into_facts(size, extensions(session, cancel).await?);
    locale::complete(&mut facts, session, version_num, cancel).await?;
    Ok(facts)
}

/// The extensions of the session's database, by name.
pub async fn extensions(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<Vec<Extension>, PgError> {
    let sql = "SELECT extname::text, extversion FROM pg_extension ORDER BY extname";
    let rows = session.query(sql, &[], cancel).await?;
    let extension = |row: &Row| {
        Ok(Extension { name: get(row, 0)?, version: get(row, 1)?, available_version: None })
    };
    rows.iter().map(extension).collect()
}

/// Microseconds since 1970.
pub(super) fn timestamp(micros: i64) -> Result<Timestamp, PgError> {
    Timestamp::from_microsecond(micros).map_err(|error| unexpected(&error))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, PgError> {
    text.parse().map_err(|_| unexpected("the server sent no number"))
}

fn unexpected(what: &(impl std::fmt::Display + ?Sized)) -> PgError {
    PgError::new(Class::Internal, what.to_string())
}
