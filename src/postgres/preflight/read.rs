//! Asking for what [`super`] describes.

use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use crate::domain::{failure::Class, relation::RelationName};

use super::{
    super::{PgError, Session, column::get},
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
///
/// # Errors
/// When the server does not answer.
pub async fn read(session: &Session, cancel: &CancellationToken) -> Result<Facts, PgError> {
    let sql = "SELECT current_setting('server_version_num')::int, quote_ident(current_database()), \
               quote_ident(current_user), rolsuper, \
               current_setting('lo_compat_privileges')::boolean, \
               has_table_privilege('pg_catalog.pg_user_mapping', 'SELECT'), \
               nullif(rolconnlimit, -1), (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()), \
               nullif(current_setting('lc_messages'), '') !~ '^(C$|C[.]|POSIX|en)', \
               current_setting('lc_messages'), \
               coalesce(pg_has_role(reads_all, 'MEMBER'), false), \
               coalesce(pg_has_role(reads_all, 'USAGE'), false), \
               has_function_privilege('pg_catalog.pg_export_snapshot()', 'EXECUTE') IS FALSE \
               FROM pg_roles, (SELECT (SELECT oid FROM pg_roles WHERE rolname = 'pg_read_all_data') \
               AS reads_all) AS x WHERE rolname = current_user";
    let row = session.query_one(sql, &[], cancel).await?;
    let version_num: i32 = get(&row, 0)?;
    let mut facts = Facts {
        version_num: u32::try_from(version_num).unwrap_or(0),
        database: get(&row, 1)?,
        role: get(&row, 2)?,
        superuser: get(&row, 3)?,
        mappings_are_certain: get(&row, 5)?,
        role_limit: get(&row, 6)?,
        database_limit: get(&row, 7)?,
        is_maintenance: session.is_maintenance(),
        read_all: ReadAll::new(get(&row, 10)?, get(&row, 11)?),
        lacks_export: get(&row, 12)?,
        foreign_tables: foreign_tables(session, cancel).await?,
        ..Facts::default()
    };
    if facts.superuser {
        return Ok(facts);
    }
    if get::<Option<bool>>(&row, 8)? == Some(true) {
        facts.language = Some(get(&row, 9)?);
    }
    relations(session, &mut facts, cancel).await?;
    if !get::<bool>(&row, 4)? && !facts.read_all.reads_large_objects(facts.version_num) {
        facts.large_objects = large_objects(session, cancel).await?;
    }
    facts.user_mappings = user_mappings(session, facts.mappings_are_certain, cancel).await?;
    facts.subscriptions = subscriptions(session, cancel).await?;
    facts.service = service::find(session, cancel).await?;
    Ok(facts)
}

/// Tables and sequences that cannot be read, or not whole. A right on what was dropped meanwhile is
/// NULL, and not missing.
async fn relations(
    session: &Session,
    facts: &mut Facts,
    cancel: &CancellationToken,
) -> Result<(), PgError> {
    let sql = format!(
        "SELECT schema, name, quote_ident(schema), format('%I.%I', schema, name), kind, \
         lacks_usage, lacks_select, row_security, coalesce(pg_has_role(relowner, 'USAGE'), false) \
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
    for row in session.query(&sql, &[&ROWS_MAX], cancel).await? {
        let relation = relation(&row)?;
        if get::<bool>(&row, 7)? {
            facts.row_security.push(relation.clone());
        }
        if relation.lacks_usage || relation.lacks_select {
            facts.unreadable.push(relation);
        }
    }
    Ok(())
}

fn relation(row: &Row) -> Result<Relation, PgError> {
    let kind: String = get(row, 4)?;
    Ok(Relation {
        schema: get(row, 0)?,
        name: get(row, 1)?,
        schema_ident: get(row, 2)?,
        ident: get(row, 3)?,
        kind: if kind == "S" { Kind::Sequence } else { Kind::Table },
        lacks_usage: get(row, 5)?,
        lacks_select: get(row, 6)?,
        owned: get(row, 8)?,
    })
}

/// pg_dump opens each one (`dumpLOs`), which takes SELECT. There may be millions, of few owners: rights
/// are looked at once for all that are alike.
async fn large_objects(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<LargeObjects, PgError> {
    const UNREADABLE: &str = "NOT EXISTS (SELECT FROM \
         aclexplode(coalesce(lomacl, acldefault('L', lomowner))) a \
         WHERE a.privilege_type = 'SELECT' \
         AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))";
    let sql = format!(
        "SELECT coalesce(sum(n), 0)::bigint FROM (SELECT lomowner, lomacl, count(*) AS n \
         FROM pg_largeobject_metadata GROUP BY lomowner, lomacl) AS alike WHERE {UNREADABLE}"
    );
    let count: i64 = get(&session.query_one(&sql, &[], cancel).await?, 0)?;
    let mut found = LargeObjects { count: u64::try_from(count).unwrap_or(0), first: Vec::new() };
    if count > 0 {
        let sql = format!(
            "SELECT oid FROM pg_largeobject_metadata WHERE {UNREADABLE} ORDER BY oid LIMIT $1"
        );
        let rows = session.query(&sql, &[&LARGE_OBJECTS_MAX], cancel).await?;
        found.first = rows.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
    }
    Ok(found)
}

/// Mappings that pg_dump would write without their options (`dumpUserMappings`): those that have some,
/// or, where that cannot be known, all that this role may not look into.
async fn user_mappings(
    session: &Session,
    certain: bool,
    cancel: &CancellationToken,
) -> Result<Vec<UserMapping>, PgError> {
    let has_options = if certain {
        "EXISTS (SELECT FROM pg_user_mapping m WHERE m.oid = u.umid AND m.umoptions IS NOT NULL)"
    } else {
        "true"
    };
    let sql = format!(
        "SELECT quote_ident(s.srvname), \
         CASE WHEN u.umuser = 0 THEN 'PUBLIC' ELSE coalesce(quote_ident(u.usename), '?') END \
         FROM pg_user_mappings u JOIN pg_foreign_server s ON s.oid = u.srvid \
         WHERE u.umoptions IS NULL AND NOT coalesce({MAPPING_VISIBLE}, false) AND {has_options} \
         AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_foreign_server'::regclass \
                         AND d.objid = s.oid AND d.deptype = 'e') \
         ORDER BY 1, 2 LIMIT $1"
    );
    let rows = session.query(&sql, &[&ROWS_MAX], cancel).await?;
    let mapping = |row: &Row| Ok(UserMapping { server: get(row, 0)?, user: get(row, 1)? });
    rows.iter().map(mapping).collect()
}

/// `getSubscriptions` of pg_dump leaves all of them out for whoever is no superuser, in every version.
/// Everybody may read their names.
async fn subscriptions(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<Vec<String>, PgError> {
    let sql = "SELECT quote_ident(subname) FROM pg_subscription WHERE subdbid = \
               (SELECT oid FROM pg_database WHERE datname = current_database()) \
               ORDER BY 1 LIMIT $1";
    let rows = session.query(sql, &[&ROWS_MAX], cancel).await?;
    rows.iter().map(|row| get(row, 0)).collect()
}

/// Whether damaged pages are read as empty ones (`zero_damaged_pages`), which the server tells in a language
/// that is not understood here.
///
/// # Errors
/// When the server does not answer.
pub async fn hides_damage(session: &Session, cancel: &CancellationToken) -> Result<bool, PgError> {
    let sql = "SELECT current_setting('zero_damaged_pages')::boolean \
               AND current_setting('lc_messages') !~ '^(C$|C[.]|POSIX|en)'";
    get(&session.query_one(sql, &[], cancel).await?, 0)
}

async fn foreign_tables(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<Vec<RelationName>, PgError> {
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'f' AND {OWN_SCHEMA} AND {NOT_OF_AN_EXTENSION} \
         ORDER BY 1, 2 LIMIT $1"
    );
    let rows = session.query(&sql, &[&ROWS_MAX], cancel).await?;
    rows.iter().map(|row| Ok(RelationName { schema: get(row, 0)?, name: get(row, 1)? })).collect()
}

/// Asks whether the globals can be dumped with the hashes of passwords, by reading none of them: some
/// services grant the right and refuse all the same.
///
/// # Errors
/// When the server does not answer.
pub async fn globals(
    session: &Session,
    passwords_wanted: bool,
    cancel: &CancellationToken,
) -> Result<GlobalsFacts, PgError> {
    let sql = "SELECT quote_ident(current_database()), quote_ident(current_user)";
    let row = session.query_one(sql, &[], cancel).await?;
    let sql = "SELECT rolpassword FROM pg_catalog.pg_authid LIMIT 0";
    let passwords_refused = match session.query(sql, &[], cancel).await {
        Ok(_) => None,
        Err(error) if error.class() == Class::Privilege => Some(error.to_string()),
        Err(error) => return Err(error),
    };
    Ok(GlobalsFacts {
        database: get(&row, 0)?,
        role: get(&row, 1)?,
        passwords_wanted,
        passwords_refused,
        service: service::find(session, cancel).await?,
    })
}
