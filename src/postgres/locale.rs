//! What a new server needs to have so that it takes a database and sorts its text as the old one did:
//! provider and locale, versions of collations, extensions. By version, PostgreSQL 11 to 19.
//!
//! An index on text is only good with the order of the library that it was built with. The versions
//! that were recorded and those of the libraries here stand side by side in the manifest.

use tokio_postgres::Row;

use crate::domain::manifest::{Collation, Extension};

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

/// Columns of the table `pg_database d`.
pub(super) fn columns(version_num: u32) -> String {
    if version_num < HAS_PROVIDER {
        return "NULL::text AS locale_provider, NULL::text AS locale, NULL::text AS icu_rules, \
                NULL::text AS collation_version, NULL::text AS collation_actual_version"
            .to_owned();
    }
    let provider = provider("d.datlocprovider");
    let locale = if version_num < HAS_LOCALE { "daticulocale" } else { "datlocale" };
    let rules = if version_num < HAS_RULES { "NULL::text" } else { "daticurules::text" };
    format!(
        "{provider} AS locale_provider, {locale}::text AS locale, {rules} AS icu_rules, \
         d.datcollversion AS collation_version, \
         pg_database_collation_actual_version(d.oid) AS collation_actual_version"
    )
}

/// A column with the letter of a provider, as CREATE DATABASE has it (`COLLPROVIDER_…` in `pg_collation.h`).
fn provider(column: &str) -> String {
    format!(
        "CASE {column} WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' \
         ELSE {column}::text END"
    )
}

/// The collations that columns or indexes of the database use, and whose recorded version is not
/// that of the library here.
pub(super) async fn collations(ask: Queries<'_>) -> Result<Vec<Collation>, PgError> {
    // Only of those that are used is the library asked: it takes a millisecond for each.
    let sql = format!(
        "SELECT n.nspname::text AS schema, c.collname::text AS name, \
         {provider} AS provider, c.collversion AS recorded_version, \
         c.actual AS actual_version \
         FROM (SELECT collnamespace, collname, collprovider, collversion, \
         pg_collation_actual_version(oid) AS actual FROM pg_collation WHERE oid IN \
         (SELECT attcollation FROM pg_attribute WHERE attrelid >= 16384 AND attcollation <> 0) \
         OFFSET 0) AS c JOIN pg_namespace AS n ON n.oid = c.collnamespace \
         WHERE c.collversion <> c.actual ORDER BY 1, 2 LIMIT {COLLATIONS_MAX}",
        provider = provider("c.collprovider")
    );
    let collation = |row: &Row| {
        Ok(columns!(row, Collation { schema, name, provider, recorded_version, actual_version }))
    };
    ask.list(&sql, &[], collation).await
}

/// Which version of each extension the server's packages would install. They may be gone, or
/// damaged: then nothing is said of it, and the backup goes on.
pub(super) async fn available(
    extensions: &mut [Extension],
    ask: Queries<'_>,
) -> Result<(), PgError> {
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
        assert!(!columns(140_012).contains("dat"), "{}", columns(140_012));
        for (version, expected) in [
            (150_018, "daticulocale::text AS locale, NULL::text AS icu_rules,"),
            (160_004, "daticulocale::text AS locale, daticurules::text AS icu_rules,"),
            (170_000, "datlocale::text AS locale, daticurules::text AS icu_rules,"),
            (180_001, "datlocale::text AS locale, daticurules::text AS icu_rules,"),
        ] {
            let sql = columns(version);
            assert!(sql.contains(expected), "{version}: {sql}");
        }
    }
}
