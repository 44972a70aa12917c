//! Whether a new backup looks as if something were missing in it.
//!
//! It is whole as pg_dump wrote it; what is judged is what pg_dump was given to read: a table that
//! was emptied, a schema that the role no longer sees, an application that writes elsewhere now. So it
//! is compared with the last backup of its series that nobody had reason to doubt, and one that
//! falls far short of it is kept, marked, and never takes the place of that last one until a person
//! says that all is well.
//!
//! What can still go wrong: a database that shrinks by less than the limit each day. Size against
//! the median of two weeks is an alert for that.

use std::fmt;

use super::{
    manifest::{Manifest, Plain, SQL, Totals},
    scope::options,
    suspicion::{Kind, Suspicion},
};

/// Tables and entries of the table of contents that may be gone without a word, as a share: one
/// table out of ten is a migration, more of them mostly is not.
const FEWER: Share = Share(10);
/// Tables that may be gone whatever share they are: of four, one is a migration as well.
const FEWER_TABLES: u64 = 1;
/// Rows are compared from so many on: of ten rows, six are gone on any day.
const ROWS_MIN: u64 = 100;
/// Entries of the table of contents are compared from so many on: of six, one is one grant.
const ENTRIES_MIN: u64 = 20;

/// A part of a whole, in per cent, 1 to 99.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u8);

impl Share {
    /// So many per cent; none where that is not a part: 1 to 99.
    pub const fn percent(percent: u8) -> Option<Self> {
        if percent >= 1 && percent <= 99 { Some(Self(percent)) } else { None }
    }

    /// Whether more than this share of `before` is gone in `now`.
    fn is_gone(self, before: u64, now: u64) -> bool {
        let left = u128::from(before) * u128::from(100 - self.0);
        u128::from(now) * 100 < left
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// What a backup holds, as far as backups are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measure {
    /// `custom` or `sql`.
    pub format: String,
    pub plain_bytes: u64,
    pub totals: Totals,
    /// Whether it is of the globals: its entries are statements.
    pub globals: bool,
    /// The options that made its form, sorted: `--inserts`, `--statistics`.
    pub form: Vec<String>,
    pub standby: bool,
    /// Unlogged tables that are left out for that.
    pub unlogged: u64,
}

impl Measure {
    /// That of a backup.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            globals: manifest.database.is_none(),
            standby: manifest.snapshot.standby,
            ..Self::new(&manifest.plain, manifest.totals.clone(), &manifest.tool.command)
        }
    }

    /// That of a backup of a database of a primary, with these bytes and counts, by that command line.
    pub fn new(plain: &Plain, totals: Totals, command: &[String]) -> Self {
        let format = plain.format.split(' ').next().unwrap_or_default().to_owned();
        let is_form = |word: &&String| options::parse(word) == Ok(options::Kind::Form);
        let mut form: Vec<String> = command.iter().filter(is_form).cloned().collect();
        form.sort();
        Self { format, plain_bytes: plain.bytes, totals, form, ..Self::default() }
    }

    /// Whether the rows are written as INSERT statements.
    fn inserts(&self) -> bool {
        self.totals.rows == 0 && self.totals.statements > 0
    }

    /// Entries that do not come and go with `--statistics`.
    fn entries(&self) -> u64 {
        self.totals.entries.saturating_sub(self.totals.statistics)
    }

    /// Rows, or statements that bring them.
    fn rows(&self) -> u64 {
        if self.inserts() { self.totals.statements } else { self.totals.rows }
    }
}

/// Compares a new backup with the last one of its series that is not in doubt. What was never there
/// is not missed: a first backup is not suspicious, whatever it holds.
pub fn judge(new: &Measure, last: &Measure, shrink: Share) -> Vec<Suspicion> {
    let mut found = Vec::new();
    let mut add = |kind, what: String| found.push(Suspicion { kind, what });
    let (now, before) = (&new.totals, &last.totals);
    let pair = |now: u64, before: u64, of: &str| format!("{now} {of}, before {before}");
    // What a standby does not have is known, but for its rows and bytes.
    let known = if last.standby { 0 } else { new.unlogged };
    let tables = before.tables.saturating_sub(known);
    if now.tables == 0 && tables > 0 {
        add(Kind::NoTables, pair(0, before.tables, "tables"));
    } else if FEWER.is_gone(tables, now.tables) && tables - now.tables > FEWER_TABLES {
        add(Kind::FewerTables, pair(now.tables, before.tables, "tables"));
    }
    // Rows are counted alike in an archive and in SQL: the lines of COPY. Of entries, bytes and INSERT
    // statements in another form only what is gone altogether can be told.
    let same_options = new.form == last.form;
    let same_rows =
        new.inserts() == last.inserts() && (same_options || !new.inserts()) && known == 0;
    let same_format = new.inserts() == last.inserts() && new.format == last.format;
    let same_form = same_format && same_options;
    let (rows, rows_before) = (new.rows(), last.rows());
    if rows == 0 && rows_before > 0 && (known == 0 || tables > 0) {
        add(Kind::NoRows, pair(0, rows_before, "rows"));
    } else if same_rows && rows_before >= ROWS_MIN && shrink.is_gone(rows_before, rows) {
        add(Kind::FewerRows, pair(rows, rows_before, "rows"));
    }
    if now.large_objects == 0 && before.large_objects > 0 {
        add(Kind::NoLargeObjects, pair(0, before.large_objects, "large objects"));
    }
    // Of the options, an archive's entries show none but the statistics.
    let same_entries = same_form || same_format && new.format != SQL;
    let (entries, entries_before) = (new.entries(), last.entries().saturating_sub(known));
    if same_entries && entries_before >= ENTRIES_MIN && FEWER.is_gone(entries_before, entries) {
        let of = if new.globals { "statements" } else { "entries" };
        add(Kind::FewerEntries, pair(entries, entries_before, of));
    }
    if same_form && known == 0 && shrink.is_gone(last.plain_bytes, new.plain_bytes) {
        add(Kind::FewerBytes, pair(new.plain_bytes, last.plain_bytes, "bytes"));
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn measure(plain_bytes: u64, [entries, tables, rows, large_objects]: [u64; 4]) -> Measure {
        let totals = Totals { entries, tables, rows, large_objects, ..Totals::default() };
        Measure { format: "custom".to_owned(), plain_bytes, totals, ..Measure::default() }
    }

    #[test]
    fn another_form_is_not_taken_for_less() {
        let last = measure(100_000, [100, 20, 5000, 7]);
        let mut inserts = measure(40_000, [100, 20, 0, 7]);
        inserts.totals.statements = 50;
        assert_eq!(kinds(&inserts, &last), []);
        assert_eq!(kinds(&last, &inserts), []);
        inserts.totals.statements = 0;
        assert_eq!(kinds(&inserts, &last), [Kind::NoRows, Kind::FewerBytes]);
        let script = Measure { format: "sql".to_owned(), ..measure(40_000, [10, 20, 5000, 7]) };
        assert_eq!(kinds(&script, &last), []);
    }

    fn with(options: &[&str], it: Measure) -> Measure {
        let form = options.iter().map(ToString::to_string).collect();
        Measure { form, ..it }
    }

    /// More rows in one statement, or statistics no more: nothing of the database is gone.
    #[test]
    fn another_option_is_not_taken_for_less() {
        let mut single = measure(100_000, [100, 20, 0, 7]);
        single.totals.statements = 5000;
        let mut hundred = measure(40_000, [100, 20, 0, 7]);
        hundred.totals.statements = 50;
        let single = with(&["--inserts"], single);
        let hundred = with(&["--inserts", "--rows-per-insert=100"], hundred);
        assert_eq!(kinds(&hundred, &single), []);
        let again = with(&["--inserts"], Measure { form: Vec::new(), ..hundred });
        assert_eq!(kinds(&again, &single), [Kind::FewerRows, Kind::FewerBytes]);

        let mut known = measure(100_000, [160, 20, 5000, 7]);
        known.totals.statistics = 60;
        let known = with(&["--statistics"], known);
        assert_eq!(kinds(&measure(40_000, [100, 20, 5000, 7]), &known), []);
        assert_eq!(kinds(&measure(40_000, [89, 20, 5000, 7]), &known), [Kind::FewerEntries]);
    }

    #[test]
    fn what_a_standby_does_not_have_is_not_missed() {
        let primary = measure(100_000, [100, 20, 5000, 7]);
        let standby = |unlogged, it| Measure { standby: true, unlogged, ..it };
        let fewer = || measure(20_000, [90, 10, 200, 7]);
        assert_eq!(kinds(&standby(10, fewer()), &primary), []);
        let all = [Kind::FewerTables, Kind::FewerRows, Kind::FewerBytes];
        assert_eq!(kinds(&standby(0, fewer()), &primary), all, "it has no unlogged table");
        assert_eq!(kinds(&standby(7, fewer()), &primary), [Kind::FewerTables]);
        // The last one did not have them either.
        assert_eq!(kinds(&standby(10, fewer()), &standby(10, primary.clone())), all);
        let none = measure(1_000, [80, 0, 0, 7]);
        assert_eq!(kinds(&standby(20, none.clone()), &primary), []);
        assert_eq!(kinds(&standby(19, none), &primary), [Kind::NoTables, Kind::NoRows]);
    }

    #[test]
    fn one_table_comes_and_goes() {
        let last = measure(2_000, [19, 4, 99, 0]);
        assert_eq!(kinds(&measure(2_000, [18, 3, 99, 0]), &last), []);
        assert_eq!(kinds(&measure(2_000, [17, 2, 99, 0]), &last), [Kind::FewerTables]);
        let one = measure(2_000, [19, 1, 99, 0]);
        assert_eq!(kinds(&measure(2_000, [18, 0, 99, 0]), &one), [Kind::NoTables]);
    }

    #[test]
    fn rows_are_compared_whatever_the_format() {
        let archive = measure(100_000, [100, 20, 5000, 7]);
        let script = |rows| Measure { format: "sql".to_owned(), ..measure(1, [1, 20, rows, 7]) };
        assert_eq!(kinds(&script(50), &archive), [Kind::FewerRows]);
        assert_eq!(kinds(&script(2500), &archive), []);
        let fewer = measure(1, [1, 20, 50, 7]);
        assert_eq!(kinds(&fewer, &script(5000)), [Kind::FewerRows]);
    }

    fn kinds(new: &Measure, last: &Measure) -> Vec<Kind> {
        judge(new, last, Share(50)).into_iter().map(|it| it.kind).collect()
    }

    #[test]
    fn what_falls_short_of_the_last_is_suspicious() {
        let last = measure(100_000, [100, 20, 5000, 7]);
        let cases: [(Measure, &[Kind]); 9] = [
            (measure(100_000, [100, 20, 5000, 7]), &[]),
            (measure(50_000, [90, 18, 2500, 1]), &[]),
            (measure(49_999, [90, 18, 2500, 1]), &[Kind::FewerBytes]),
            (measure(50_000, [90, 18, 2499, 1]), &[Kind::FewerRows]),
            (measure(50_000, [90, 17, 2500, 1]), &[Kind::FewerTables]),
            (measure(50_000, [89, 18, 2500, 1]), &[Kind::FewerEntries]),
            (measure(50_000, [90, 18, 0, 1]), &[Kind::NoRows]),
            (measure(50_000, [90, 18, 2500, 0]), &[Kind::NoLargeObjects]),
            (
                measure(1_000, [9, 0, 0, 0]),
                &[
                    Kind::NoTables,
                    Kind::NoRows,
                    Kind::NoLargeObjects,
                    Kind::FewerEntries,
                    Kind::FewerBytes,
                ],
            ),
        ];
        for (new, expected) in cases {
            assert_eq!(kinds(&new, &last), expected, "{new:?}");
        }
    }

    #[test]
    fn few_rows_and_entries_come_and_go() {
        let last = measure(2_000, [20, 3, 99, 0]);
        assert_eq!(kinds(&measure(2_000, [20, 3, 1, 0]), &last), []);
        assert_eq!(kinds(&measure(2_000, [20, 3, 0, 0]), &last), [Kind::NoRows]);
        let last = measure(2_000, [20, 3, 100, 0]);
        assert_eq!(kinds(&measure(2_000, [20, 3, 1, 0]), &last), [Kind::FewerRows]);
        assert_eq!(kinds(&measure(2_000, [1, 3, 99, 0]), &measure(2_000, [19, 3, 99, 0])), []);
        assert_eq!(kinds(&measure(2_000, [17, 3, 100, 0]), &last), [Kind::FewerEntries]);
    }

    proptest! {
        /// What has not shrunk is never suspicious, and more of everything never makes it so.
        #[test]
        fn growth_is_not_suspicious(
            last in prop::array::uniform5(0u64..=u64::MAX / 2),
            more in prop::array::uniform5(0u64..1_000_000),
            percent in 1u8..=99,
        ) {
            let make = |n: [u64; 5]| measure(n[0], [n[1], n[2], n[3], n[4]]);
            let grown: [u64; 5] = std::array::from_fn(|at| last[at] + more[at]);
            let shrink = Share::percent(percent).unwrap();
            prop_assert_eq!(judge(&make(grown), &make(last), shrink), []);
        }

        /// What is suspicious at a limit is so at every stricter one.
        #[test]
        fn a_stricter_limit_finds_more(
            last in prop::array::uniform5(0u64..100_000),
            new in prop::array::uniform5(0u64..100_000),
            percent in 2u8..=99,
        ) {
            let make = |n: [u64; 5]| measure(n[0], [n[1], n[2], n[3], n[4]]);
            let at = |percent| judge(&make(new), &make(last), Share::percent(percent).unwrap());
            let stricter = at(percent - 1);
            prop_assert!(at(percent).iter().all(|it| stricter.contains(it)));
        }
    }
}
