//! What a new server needs to have so that it takes a database and sorts its text as the old one did:
//! provider and locale, versions of collations, extensions. By version, PostgreSQL 11 to 19.
//!
//! An index on text is only good with the order of the library that it was built with. The versions
//! that were recorded and those of the libraries here stand side by side in the manifest.

use tokio_postgres::Row;

use crate::domain::manifest::{Collation, DatabaseFacts, Extension};

use super::{
    PgError,
    column::{columns, get},
    queries::Queries,
};

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
    ask: Queries<'_>,
    version_num: u32,
) -> Result<(), PgError> {
    if let Some(sql) = database_sql(version_num) {
        let row = ask.row(&sql, &[]).await?;
        facts.locale_provider = Some(provider(get(&row, "provider")?));
        facts.locale = get(&row, "locale")?;
        facts.icu_rules = get(&row, "rules")?;
        facts.collation_actual_version = get(&row, "actual_version")?;
    }
    facts.collations = collations(ask).await?;
    available(&mut facts.extensions, ask).await
}

fn database_sql(version_num: u32) -> Option<String> {
    if version_num < HAS_PROVIDER {
        return None;
    }
    let locale = if version_num < HAS_LOCALE { "daticulocale" } else { "datlocale" };
    let rules = if version_num < HAS_RULES { "NULL::text" } else { "daticurules::text" };
    Some(format!(
        "SELECT datlocprovider::text AS provider, {locale}::text AS locale, {rules} AS rules, \
         pg_database_collation_actual_version(oid) AS actual_version \
         FROM pg_database WHERE datname = current_database()"
    ))
}

/// As CREATE DATABASE has it (`COLLPROVIDER_…` in `pg_collation.h`).
fn provider(letter: String) -> String {
    match letter.as_str() {
        "c" => "libc".to_owned(),
        "i" => "icu".to_owned(),
        "b" => "builtin".to_owned(),
        _ => letter,
    }
}

/// The collations that columns or indexes of the database use, and whose recorded version is not
/// that of the library here.
async fn collations(ask: Queries<'_>) -> Result<Vec<Collation>, PgError> {
    // Only of those that are used is the library asked: it takes a millisecond for each.
    let sql = format!(
        "SELECT n.nspname::text AS schema, c.collname::text AS name, \
         c.collprovider::text AS provider, c.collversion AS recorded_version, \
         c.actual AS actual_version \
         FROM (SELECT collnamespace, collname, collprovider, collversion, \
         pg_collation_actual_version(oid) AS actual FROM pg_collation WHERE oid IN \
         (SELECT attcollation FROM pg_attribute WHERE attrelid >= 16384 AND attcollation <> 0) \
         OFFSET 0) AS c JOIN pg_namespace AS n ON n.oid = c.collnamespace \
         WHERE c.collversion <> c.actual ORDER BY 1, 2 LIMIT {COLLATIONS_MAX}"
    );
    let collation = |row: &Row| {
        let provider = provider(get(row, "provider")?);
        Ok(columns!(row, Collation {
            schema, name, recorded_version, actual_version; provider: provider
        }))
    };
    ask.list(&sql, &[], collation).await
}

/// Which version of each extension the server's packages would install. They may be gone, or
/// damaged: then nothing is said of it, and the backup goes on.
async fn available(extensions: &mut [Extension], ask: Queries<'_>) -> Result<(), PgError> {
    let sql = "SELECT a.name::text AS name, a.default_version FROM pg_available_extensions AS a \
               JOIN pg_extension AS e ON e.extname = a.name";
    let rows = match ask.rows(sql, &[]).await {
        Ok(rows) => rows,
        Err(error) if ask.cancel.is_cancelled() => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "the packages of extensions cannot be read");
            return Ok(());
        }
    };
    for row in &rows {
        let name: String = get(row, "name")?;
        if let Some(known) = extensions.iter_mut().find(|known| known.name == name) {
            known.available_version = get(row, "default_version")?;
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
            (150_018, "daticulocale::text AS locale, NULL::text AS rules,"),
            (160_004, "daticulocale::text AS locale, daticurules::text AS rules,"),
            (170_000, "datlocale::text AS locale, daticurules::text AS rules,"),
            (180_001, "datlocale::text AS locale, daticurules::text AS rules,"),
        ] {
            let sql = database_sql(version).unwrap();
            assert!(sql.contains(columns), "{version}: {sql}");
        }
    }
}
