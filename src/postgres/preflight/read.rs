//! Asking for what [`super`] describes.

use tokio_postgres::Row;

use crate::domain::{failure::Class, relation::RelationName};

use super::{
    super::{
        PgError,
        column::{columns, get, only},
        queries::Queries,
    },
    Facts, GlobalsFacts, Kind, LargeObjects, ReadAll, Relation, UserMapping, service,
};

/// Rows of an answer, at most. More than people read; enough to look at only a part of them.
const ROWS_MAX: i64 = 10_000;
/// Ids of large objects that are given.
const LARGE_OBJECTS_MAX: i64 = 20;

/// What an extension owns is made by CREATE EXTENSION; only the contents of its configuration tables
/// are dumped (`checkExtensionMembership` and `processExtensionTables` of pg_dump).
const NOT_OF_AN_EXTENSION: &str = "NOT EXISTS (SELECT FROM pg_depend d \
     JOIN pg_extension e ON e.oid = d.refobjid \
     WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 \
     AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' \
     AND NOT c.oid = ANY(coalesce(e.extconfig, '{}')))";

/// `selectDumpableNamespace` of pg_dump leaves these out.
const OWN_SCHEMA: &str = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

/// A user mapping whose options `pg_user_mappings` shows to this role; the view's own words (CREATE VIEW
/// pg_user_mappings in system_views.sql), without the superuser.
const MAPPING_VISIBLE: &str = "(u.umuser <> 0 AND u.usename = current_user \
     AND (pg_has_role(s.srvowner, 'USAGE') OR has_server_privilege(s.oid, 'USAGE')) \
     OR u.umuser = 0 AND pg_has_role(s.srvowner, 'USAGE'))";

/// Asks what pg_dump would meet in the session's database, as the session's role.
pub async fn read(ask: Queries<'_>) -> Result<Facts, PgError> {
    let sql = "SELECT current_setting('server_version_num')::bigint AS version_num, \
               quote_ident(current_database()) AS database, quote_ident(current_user) AS role, \
               rolsuper AS superuser, \
               current_setting('lo_compat_privileges')::boolean AS reads_any_large_object, \
               has_table_privilege('pg_catalog.pg_user_mapping', 'SELECT') AS mappings_are_certain, \
               nullif(rolconnlimit, -1) AS role_limit, (SELECT nullif(datconnlimit, -1) \
               FROM pg_database WHERE datname = current_database()) AS database_limit, \
               CASE WHEN NOT rolsuper AND current_setting('lc_messages') !~ '^($|C$|C[.]|POSIX|en)' \
               THEN current_setting('lc_messages') END AS language, \
               coalesce(pg_has_role(reads_all, 'MEMBER'), false) AS may_read_all, \
               coalesce(pg_has_role(reads_all, 'USAGE'), false) AS reads_all, \
               has_function_privilege('pg_catalog.pg_export_snapshot()', 'EXECUTE') IS FALSE AS lacks_export \
               FROM pg_roles, (SELECT (SELECT oid FROM pg_roles WHERE rolname = 'pg_read_all_data') \
               AS reads_all) AS x WHERE rolname = current_user";
    let row = &ask.row(sql, &[]).await?;
    let mut facts = Facts {
        version_num: u32::try_from(get::<u64>(row, "version_num")?).unwrap_or(0),
        database: get(row, "database")?,
        role: get(row, "role")?,
        superuser: get(row, "superuser")?,
        mappings_are_certain: get(row, "mappings_are_certain")?,
        role_limit: get(row, "role_limit")?,
        database_limit: get(row, "database_limit")?,
        language: get(row, "language")?,
        is_maintenance: ask.session.is_maintenance(),
        read_all: ReadAll::new(get(row, "may_read_all")?, get(row, "reads_all")?),
        lacks_export: get(row, "lacks_export")?,
        foreign_tables: foreign_tables(ask).await?,
        ..Facts::default()
    };
    if facts.superuser {
        return Ok(facts);
    }
    relations(ask, &mut facts).await?;
    let reads_any: bool = get(row, "reads_any_large_object")?;
    if !reads_any && !facts.read_all.reads_large_objects(facts.version_num) {
        facts.large_objects = large_objects(ask).await?;
    }
    facts.user_mappings = user_mappings(ask, facts.mappings_are_certain).await?;
    facts.subscriptions = subscriptions(ask).await?;
    facts.service = service::find(ask).await?;
    Ok(facts)
}

/// Tables and sequences that cannot be read, or not whole. A right on what was dropped meanwhile is
/// NULL, and not missing.
async fn relations(ask: Queries<'_>, facts: &mut Facts) -> Result<(), PgError> {
    let sql = format!(
        "SELECT schema, name, quote_ident(schema) AS schema_ident, \
         format('%I.%I', schema, name) AS ident, kind, lacks_usage, lacks_select, row_security, \
         coalesce(pg_has_role(relowner, 'USAGE'), false) AS owned \
         FROM (SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind, \
               c.oid, c.relowner, \
               has_schema_privilege(n.oid, 'USAGE') IS FALSE AS lacks_usage, \
               has_table_privilege(c.oid, 'SELECT') IS FALSE AS lacks_select, \
               c.relkind = 'r' AND c.relrowsecurity AND row_security_active(c.oid) AS row_security \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'p', 'S') AND {OWN_SCHEMA}) c \
         WHERE (lacks_usage OR lacks_select OR row_security) AND {NOT_OF_AN_EXTENSION} \
         ORDER BY schema, name LIMIT $1"
    );
    for row in &ask.rows(&sql, &[&ROWS_MAX]).await? {
        let relation = relation(row)?;
        if get(row, "row_security")? {
            facts.row_security.push(relation.clone());
        }
        if relation.lacks_usage || relation.lacks_select {
            facts.unreadable.push(relation);
        }
    }
    Ok(())
}

fn relation(row: &Row) -> Result<Relation, PgError> {
    let is_sequence = get::<String>(row, "kind")? == "S";
    let kind = if is_sequence { Kind::Sequence } else { Kind::Table };
    Ok(columns!(row, Relation {
        schema, name, schema_ident, ident, lacks_usage, lacks_select, owned; kind: kind
    }))
}

/// pg_dump opens each one (`dumpLOs`), which takes SELECT. There may be millions, of few owners: rights
/// are looked at once for all that are alike.
async fn large_objects(ask: Queries<'_>) -> Result<LargeObjects, PgError> {
    const UNREADABLE: &str = "NOT EXISTS (SELECT FROM \
         aclexplode(coalesce(lomacl, acldefault('L', lomowner))) a \
         WHERE a.privilege_type = 'SELECT' \
         AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))";
    let sql = format!(
        "SELECT coalesce(sum(n), 0)::bigint FROM (SELECT lomowner, lomacl, count(*) AS n \
         FROM pg_largeobject_metadata GROUP BY lomowner, lomacl) AS alike WHERE {UNREADABLE}"
    );
    let mut found = LargeObjects { count: ask.value(&sql, &[]).await?, first: Vec::new() };
    if found.count > 0 {
        let sql = format!(
            "SELECT oid FROM pg_largeobject_metadata WHERE {UNREADABLE} ORDER BY oid LIMIT $1"
        );
        found.first = ask.list(&sql, &[&LARGE_OBJECTS_MAX], only).await?;
    }
    Ok(found)
}

/// Mappings that pg_dump would write without their options (`dumpUserMappings`): those that have some,
/// or, where that cannot be known, all that this role may not look into.
async fn user_mappings(ask: Queries<'_>, certain: bool) -> Result<Vec<UserMapping>, PgError> {
    let has_options = if certain {
        "EXISTS (SELECT FROM pg_user_mapping m WHERE m.oid = u.umid AND m.umoptions IS NOT NULL)"
    } else {
        "true"
    };
    let sql = format!(
        "SELECT quote_ident(s.srvname) AS server, \
         CASE WHEN u.umuser = 0 THEN 'PUBLIC' ELSE coalesce(quote_ident(u.usename), '?') END AS user \
         FROM pg_user_mappings u JOIN pg_foreign_server s ON s.oid = u.srvid \
         WHERE u.umoptions IS NULL AND NOT coalesce({MAPPING_VISIBLE}, false) AND {has_options} \
         AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_foreign_server'::regclass \
                         AND d.objid = s.oid AND d.deptype = 'e') \
         ORDER BY 1, 2 LIMIT $1"
    );
    let mapping = |row: &Row| Ok(columns!(row, UserMapping { server, user }));
    ask.list(&sql, &[&ROWS_MAX], mapping).await
}

/// `getSubscriptions` of pg_dump leaves all of them out for whoever is no superuser, in every version.
/// Everybody may read their names.
async fn subscriptions(ask: Queries<'_>) -> Result<Vec<String>, PgError> {
    let sql = "SELECT quote_ident(subname) FROM pg_subscription WHERE subdbid = \
               (SELECT oid FROM pg_database WHERE datname = current_database()) \
               ORDER BY 1 LIMIT $1";
    ask.list(sql, &[&ROWS_MAX], only).await
}

/// Whether damaged pages are read as empty ones (`zero_damaged_pages`), which the server tells in a language
/// that is not understood here.
pub async fn hides_damage(ask: Queries<'_>) -> Result<bool, PgError> {
    let sql = "SELECT current_setting('zero_damaged_pages')::boolean \
               AND current_setting('lc_messages') !~ '^(C$|C[.]|POSIX|en)'";
    ask.value(sql, &[]).await
}

async fn foreign_tables(ask: Queries<'_>) -> Result<Vec<RelationName>, PgError> {
    let sql = format!(
        "SELECT n.nspname::text AS schema, c.relname::text AS name \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'f' AND {OWN_SCHEMA} AND {NOT_OF_AN_EXTENSION} \
         ORDER BY 1, 2 LIMIT $1"
    );
    ask.list(&sql, &[&ROWS_MAX], |row| Ok(columns!(row, RelationName { schema, name }))).await
}

/// Asks whether the globals can be dumped with the hashes of passwords, by reading none of them: some
/// services grant the right and refuse all the same.
pub async fn globals(ask: Queries<'_>, passwords_wanted: bool) -> Result<GlobalsFacts, PgError> {
    let sql =
        "SELECT quote_ident(current_database()) AS database, quote_ident(current_user) AS role";
    let row = ask.row(sql, &[]).await?;
    let sql = "SELECT rolpassword FROM pg_catalog.pg_authid LIMIT 0";
    let passwords_refused = match ask.rows(sql, &[]).await {
        Ok(_) => None,
        Err(error) if error.class() == Class::Privilege => Some(error.to_string()),
        Err(error) => return Err(error),
    };
    let service = service::find(ask).await?;
    Ok(columns!(&row, GlobalsFacts {
        database, role; passwords_wanted: passwords_wanted, passwords_refused: passwords_refused,
        service: service
    }))
}
