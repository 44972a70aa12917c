//! What the catalogue and the statistics know of tables, and which of them are due.
//!
//! No question here takes a lock on a table: sizes are not asked for, and statistics are read by
//! function. Tables are read in pages, so that a database with a million of them needs no more
//! memory than one with a thousand, but for those that are due.

use std::collections::{BTreeSet, HashSet};

use tokio_postgres::Row;

use crate::{
    domain::{
        relation::RelationName,
        vacuum::{Access, Decision, Facts, Skip, VacuumRules},
    },
    postgres::{
        PgError,
        column::{Text, columns, get},
        queries::Queries,
    },
};

/// Tables that are read at once.
const PAGE: i64 = 5000;
/// Tables that are left out for a reason and named; more are counted.
const LEFT_MAX: usize = 2000;
/// The privilege MAINTAIN came with PostgreSQL 17.
const MAINTAIN: u32 = 170_000;

/// A table that is due.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub oid: u32,
    pub relation: RelationName,
    pub partitioned: bool,
    pub reason: String,
    need: (u64, u64),
}

/// What was decided on the tables of a database.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// To do, the most needed first.
    pub due: Vec<Due>,
    /// Due, and cannot be done.
    pub skipped: Vec<(RelationName, Skip, String)>,
    /// Not due, and why; only so many are named.
    pub left: Vec<(RelationName, String)>,
    pub selected: usize,
    /// Tables that a pattern names and that are there.
    pub named: Vec<RelationName>,
}

/// Temporary tables are left out: nobody else can touch them. Foreign tables have no rows here;
/// TOAST tables are done with their tables.
fn sql(version: u32) -> String {
    let maintain = if version >= MAINTAIN {
        "OR coalesce(has_table_privilege(c.oid, 'MAINTAIN'), false)"
    } else {
        ""
    };
    format!(
        "SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, \
         c.relkind = 'p' AS partitioned, \
         n.nspname IN ('pg_catalog', 'information_schema') AS system, \
         (coalesce((SELECT rolsuper FROM pg_roles WHERE rolname = current_user), false) \
         OR pg_has_role(c.relowner, 'USAGE') \
         OR (NOT c.relisshared AND pg_has_role(d.datdba, 'USAGE')) {maintain}) AS permitted, \
         has_schema_privilege(n.oid, 'USAGE') AS schema_open, \
         coalesce(pg_stat_get_live_tuples(c.oid), 0) AS live, \
         coalesce(pg_stat_get_dead_tuples(c.oid), 0) AS dead, \
         coalesce(pg_stat_get_mod_since_analyze(c.oid), 0) AS changed, \
         coalesce(greatest({c_xid}, {c_mxid}, {t_xid}, {t_mxid}), 0)::bigint AS xid_age, \
         (extract(epoch FROM clock_timestamp() - greatest(pg_stat_get_last_vacuum_time(c.oid), \
            pg_stat_get_last_autovacuum_time(c.oid))))::float8 AS vacuumed_before, \
         (extract(epoch FROM clock_timestamp() - greatest(pg_stat_get_last_analyze_time(c.oid), \
            pg_stat_get_last_autoanalyze_time(c.oid))))::float8 AS analyzed_before \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_class t ON t.oid = c.reltoastrelid \
         CROSS JOIN (SELECT datdba FROM pg_database WHERE datname = current_database()) d \
         WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' AND c.oid > $1 \
         ORDER BY c.oid LIMIT $2",
        c_xid = age("age", "c.relfrozenxid"),
        c_mxid = age("mxid_age", "c.relminmxid"),
        t_xid = age("age", "t.relfrozenxid"),
        t_mxid = age("mxid_age", "t.relminmxid"),
    )
}

/// A partitioned parent has none: 0, whose age is the largest number there is.
fn age(function: &str, column: &str) -> String {
    format!("CASE WHEN {column} <> '0' THEN {function}({column}) END")
}

fn facts(row: &Row) -> Result<Facts, PgError> {
    let (schema, name): (Text, Text) = (get(row, "schema")?, get(row, "name")?);
    let is_nameable = schema.is_whole && name.is_whole;
    let access = match (get(row, "permitted")?, get::<Option<bool>>(row, "schema_open")?) {
        (false, _) => Access::Denied,
        (true, Some(false)) => Access::SchemaClosed,
        _ if !is_nameable => Access::Unnameable,
        // None: the schema is gone, and the table with it, as will be seen.
        (true, _) => Access::Granted,
    };
    let relation = RelationName { schema: schema.text, name: name.text };
    Ok(columns!(row, Facts {
        oid, partitioned, system, live, dead, changed, xid_age, vacuumed_before, analyzed_before;
        relation: relation, access: access
    }))
}

/// Looks at every table of the session's database and decides on each.
pub(super) async fn choose(
    ask: Queries<'_>,
    version: u32,
    rules: &VacuumRules,
    only: Option<&BTreeSet<String>>,
) -> Result<Chosen, PgError> {
    let sql = sql(version);
    let literals: HashSet<RelationName> = rules.tables.literals().into_iter().collect();
    let mut chosen = Chosen::default();
    let mut after = 0u32;
    loop {
        let rows = ask.rows(&sql, &[&after, &PAGE]).await?;
        for row in &rows {
            let facts = facts(row)?;
            after = facts.oid;
            if literals.contains(&facts.relation) {
                chosen.named.push(facts.relation.clone());
            }
            chosen.add(facts, rules, only);
        }
        if rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            break;
        }
    }
    chosen.due.sort_by(|a, b| b.need.cmp(&a.need).then_with(|| a.relation.cmp(&b.relation)));
    chosen.left.sort();
    Ok(chosen)
}

impl Chosen {
    fn add(&mut self, facts: Facts, rules: &VacuumRules, only: Option<&BTreeSet<String>>) {
        let need = rules.need(&facts);
        match rules.decide(&facts, only) {
            Decision::NotSelected => return,
            Decision::Due(reason) => {
                let Facts { oid, relation, partitioned, .. } = facts;
                self.due.push(Due { oid, relation, partitioned, reason, need });
            }
            Decision::Skip(skip, why) => self.skipped.push((facts.relation, skip, why)),
            Decision::Leave(why) if self.left.len() < LEFT_MAX => {
                self.left.push((facts.relation, why));
            }
            Decision::Leave(_) => {}
        }
        self.selected += 1;
    }
}

/// A table as it is now: its name, and whether autovacuum is vacuuming it to prevent wraparound.
/// None: it is gone. Whose processes the role may not see it does not see here either.
pub(super) async fn now(
    ask: Queries<'_>,
    oid: u32,
) -> Result<Option<(RelationName, bool)>, PgError> {
    let sql = "SELECT n.nspname::text AS schema, c.relname::text AS name, EXISTS (SELECT FROM \
               pg_stat_progress_vacuum p JOIN pg_stat_activity a ON a.pid = p.pid \
               WHERE p.datname = current_database() AND p.relid IN (c.oid, c.reltoastrelid) \
               AND a.query LIKE 'autovacuum:%(to prevent wraparound)') AS busy \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let rows = ask.rows(sql, &[&oid]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some((columns!(row, RelationName { schema, name }), get(row, "busy")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_each_version_have_all_columns() {
        for version in [110_000, MAINTAIN, 190_000] {
            let sql = sql(version);
            assert_eq!(sql.matches(") AS permitted, ").count(), 1, "{version}: {sql}");
            assert_eq!(sql.contains("'MAINTAIN'"), version >= MAINTAIN, "{version}: {sql}");
            for name in ["schema", "name", "partitioned", "system", "schema_open", "live", "dead"] {
                assert!(sql.contains(&format!(" AS {name}, ")), "{version}: {name}: {sql}");
            }
        }
    }
}
