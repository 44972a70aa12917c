//! What is in the database of a round: little, and each time something else.

use std::fmt::Write as _;

use super::dice::Dice;

/// Names of databases: an ordinary one, and some that tools have stumbled over.
const DATABASES: [&str; 5] = ["round", "we\"ird/.. 🐘", "host=evil", "a'b", "-x"];
/// Names of tables.
const TABLES: [&str; 8] = [
    "orders",
    "a/b",
    "it's \"q\"",
    "..",
    "🐘",
    "x y;--",
    "\\.",
    "sixty-three-bytes-of-a-name-are-the-most-that-postgresql-takes-",
];

/// A database.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) database: String,
    /// Fills it.
    pub(super) sql: String,
    /// Its tables as SQL names them.
    pub(super) tables: Vec<String>,
}

pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Contents {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let database = (*dice.pick(&DATABASES)).to_owned();
        let mut sql = String::from("SET client_min_messages = warning;\n");
        let mut tables = Vec::new();
        let count = dice.below(TABLES.len() as u64);
        for name in TABLES.iter().take(usize::try_from(count).unwrap()) {
            let table = quote(name);
            fill(dice, &table, &mut sql);
            tables.push(table);
        }
        if dice.percent(30) {
            partitions(dice, &mut sql);
            tables.push("parted".to_owned());
        }
        if dice.percent(40) {
            let (count, bytes) = (dice.below(20), dice.below(5000));
            writeln!(
                sql,
                "SELECT lo_from_bytea(0, decode(repeat(md5(i::text), {bytes} / 16), 'hex')) \
                 FROM generate_series(1, {count}) i;"
            )
            .unwrap();
        }
        // Rarely more than a part of 8 MiB takes: bytes that do not compress.
        let blobs = match dice.below(100) {
            0..4 => 700,
            4..40 => 60,
            _ => 0,
        };
        if blobs > 0 {
            let seed = dice.next();
            writeln!(
                sql,
                "CREATE TABLE blobs AS SELECT i, (SELECT string_agg(sha512(('{seed}/' || i || '/' \
                 || k)::bytea), '') FROM generate_series(1, 256) k) AS b \
                 FROM generate_series(1, {blobs}) i;"
            )
            .unwrap();
            tables.push("blobs".to_owned());
        }
        writeln!(sql, "CREATE SEQUENCE counter START {};", dice.below(1000) + 1).unwrap();
        Self { database, sql, tables }
    }

    /// Rows change: what a dump that has its snapshot must not see.
    pub(super) fn change_rows(&self, dice: &mut Dice) -> String {
        let Some(table) = self.any_table(dice) else { return "CREATE TABLE late(x int)".into() };
        match dice.below(3) {
            0 => format!("DELETE FROM {table}"),
            1 => format!("INSERT INTO {table} SELECT * FROM {table} LIMIT 100"),
            _ => format!("UPDATE {table} SET i = i + 1000000 WHERE i < 100"),
        }
    }

    /// Definitions change.
    pub(super) fn change_definitions(&self, dice: &mut Dice) -> String {
        let Some(table) = self.any_table(dice) else { return "CREATE TABLE late(x int)".into() };
        match dice.below(7) {
            0 | 1 => format!("DROP TABLE {table} CASCADE"),
            2 => format!("ALTER TABLE {table} ADD COLUMN late int DEFAULT 7"),
            3 => format!("ALTER TABLE {table} RENAME TO renamed"),
            4 => format!("ALTER TABLE {table} ALTER COLUMN i TYPE text"),
            5 => format!("TRUNCATE {table}"),
            _ => format!("CREATE INDEX late ON {table} (i)"),
        }
    }

    fn any_table(&self, dice: &mut Dice) -> Option<&String> {
        (!self.tables.is_empty()).then(|| dice.pick(&self.tables))
    }
}

/// Every table has a column `i`, a number without a key.
fn fill(dice: &mut Dice, table: &str, sql: &mut String) {
    let (rows, seed) = (dice.below(800), dice.next());
    writeln!(
        sql,
        "CREATE TABLE {table} (i bigint, t text, n numeric(12, 2), at timestamptz, j jsonb);
         INSERT INTO {table} SELECT i, CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN E'\\\\.' \
         WHEN 2 THEN E'line\\nend\\ttab' ELSE md5('{seed}' || i) END, i * 1.01, \
         'epoch'::timestamptz + i * interval '1 hour', jsonb_build_object('i', i) \
         FROM generate_series(1, {rows}) i;"
    )
    .unwrap();
    if dice.percent(30) {
        writeln!(sql, "CREATE INDEX ON {table} (i, t);").unwrap();
    }
    if dice.percent(20) {
        writeln!(sql, "COMMENT ON TABLE {table} IS E'two\\nlines; -- \\\\. and '';';").unwrap();
    }
}

fn partitions(dice: &mut Dice, sql: &mut String) {
    let rows = dice.below(300);
    writeln!(
        sql,
        "CREATE TABLE parted (i bigint, t text) PARTITION BY RANGE (i);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (100);
         CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
         INSERT INTO parted SELECT i, i::text FROM generate_series(1, {rows}) i;"
    )
    .unwrap();
}
