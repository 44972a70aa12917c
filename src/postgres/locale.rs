//! What a new server needs to have so that it takes a database and sorts its text as the old one did:
//! provider and locale, versions of collations, extensions. By version, PostgreSQL 11 to 19.
//!
//! An index on text is only good with the order of the library that it was built with. The versions
//! that were recorded and those of the libraries here stand side by side in the manifest.

use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use crate::domain::manifest::{Collation, DatabaseFacts, Extension};

use super::{PgError, Session, column::get};

/// `pg_database.datlocprovider`, `daticulocale` and `pg_database_collation_actual_version()`.
const HAS_PROVIDER: u32 = 150_000;
/// `pg_database.daticurules`.
const HAS_RULES: u32 = 160_000;
/// `daticulocale` became `datlocale`, since there is the provider `builtin` as well.
const HAS_LOCALE: u32 = 170_000;
/// Collations that are named; a library that was upgraded changes all of them at once.
const COLLATIONS_MAX: usize = 100;

/// Completes the facts about the session's database.
pub async fn complete(
    facts: &mut DatabaseFacts,
    session: &Session,
    version_num: u32,
    cancel: &CancellationToken,
) -> Result<(), PgError> {
    if let Some(sql) = database_sql(version_num) {
        let row = session.query_one(&sql, &[], cancel).await?;
        facts.locale_provider = Some(provider(&get::<String>(&row, 0)?));
        facts.locale = get(&row, 1)?;
        facts.icu_rules = get(&row, 2)?;
        facts.collation_actual_version = get(&row, 3)?;
    }
    facts.collations = collations(session, cancel).await?;
    available(&mut facts.extensions, session, cancel).await
}

fn database_sql(version_num: u32) -> Option<String> {
    if version_num < HAS_PROVIDER {
        return None;
    }
    let locale = if version_num < HAS_LOCALE { "daticulocale" } else { "datlocale" };
    let rules = if version_num < HAS_RULES { "NULL::text" } else { "daticurules::text" };
    Some(format!(
        "SELECT datlocprovider::text, {locale}::text, {rules}, \
         pg_database_collation_actual_version(oid) \
         FROM pg_database WHERE datname = current_database()"
    ))
}

/// As CREATE DATABASE has it (`COLLPROVIDER_…` in `pg_collation.h`).
fn provider(letter: &str) -> String {
    let name = match letter {
        "c" => "libc",
        "i" => "icu",
        "b" => "builtin",
        other => other,
    };
    name.to_owned()
}

/// The collations that columns or indexes of the database use, and whose recorded version is not
/// that of the library here.
async fn collations(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<Vec<Collation>, PgError> {
    // Only of those that are used is the library asked: it takes a millisecond for each.
    let sql = format!(
        "SELECT n.nspname::text, c.collname::text, c.collprovider::text, c.collversion, c.actual \
         FROM (SELECT collnamespace, collname, collprovider, collversion, \
         pg_collation_actual_version(oid) AS actual FROM pg_collation WHERE oid IN \
         (SELECT attcollation FROM pg_attribute WHERE attrelid >= 16384 AND attcollation <> 0) \
         OFFSET 0) AS c JOIN pg_namespace AS n ON n.oid = c.collnamespace \
         WHERE c.collversion <> c.actual ORDER BY 1, 2 LIMIT {COLLATIONS_MAX}"
    );
    let rows = session.query(&sql, &[], cancel).await?;
    let collation = |row: &Row| {
        Ok(Collation {
            schema: get(row, 0)?,
            name: get(row, 1)?,
            provider: provider(&get::<String>(row, 2)?),
            recorded_version: get(row, 3)?,
            actual_version: get(row, 4)?,
        })
    };
    rows.iter().map(collation).collect()
}

/// Which version of each extension the server's packages would install. They may be gone, or
/// damaged: then nothing is said of it, and the backup goes on.
async fn available(
    extensions: &mut [Extension],
    session: &Session,
    cancel: &CancellationToken,
) -> Result<(), PgError> {
    let sql = "SELECT a.name::text, a.default_version FROM pg_available_extensions AS a \
               JOIN pg_extension AS e ON e.extname = a.name";
    let rows = match session.query(sql, &[], cancel).await {
        Ok(rows) => rows,
        Err(error) if cancel.is_cancelled() => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "the packages of extensions cannot be read");
            return Ok(());
        }
    };
    for row in &rows {
        let name: String = get(row, 0)?;
        if let Some(known) = extensions.iter_mut().find(|known| known.name == name) {
            known.available_version = get(row, 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_asked_for_what_it_has() {
        assert_eq!(database_sql(140_012), None);
        for (version, columns) in [
            (150_018, "daticulocale::text, NULL::text,"),
            (160_004, "daticulocale::text, daticurules::text,"),
            (170_000, "datlocale::text, daticurules::text,"),
            (180_001, "datlocale::text, daticurules::text,"),
        ] {
            let sql = database_sql(version).unwrap();
            assert!(sql.contains(columns), "{version}: {sql}");
        }
    }
}
