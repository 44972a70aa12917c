//! The statement for one table, for each version of the server: a pure function.

use crate::{
    domain::{relation::RelationName, units::ByteSize, vacuum::Mode},
    postgres::ident::qualified,
};

/// How gently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementOptions {
    /// Whether empty pages at a table's end are given back, under an ACCESS EXCLUSIVE lock (12+;
    /// an older server always tries).
    pub truncate: bool,
    /// Workers for indexes (13+).
    pub parallel: u32,
    /// Shared buffers that it may use (16+).
    pub buffer_usage_limit: Option<ByteSize>,
}

/// `server_version_num` from which on there is …
const TRUNCATE: u32 = 120_000;
const PARALLEL: u32 = 130_000;
const BUFFER_USAGE_LIMIT: u32 = 160_000;
const DATABASE_STATS: u32 = 160_000;
/// VACUUM and ANALYZE of a parent process its children from here on, and ONLY keeps them from it.
const ONLY: u32 = 180_000;

/// The statement. A partitioned parent has no rows: it is analyzed, whatever the mode is.
pub(super) fn statement(
    mode: Mode,
    partitioned: bool,
    wanted: &StatementOptions,
    version: u32,
    relation: &RelationName,
) -> String {
    let vacuums = mode.vacuums() && !partitioned;
    let full = mode == Mode::Full;
    let mut options = vec!["VERBOSE".to_owned()];
    if vacuums {
        match mode {
            Mode::Full => options.push("FULL".to_owned()),
            Mode::Freeze => options.push("FREEZE".to_owned()),
            Mode::VacuumAnalyze => options.push("ANALYZE".to_owned()),
            Mode::Vacuum | Mode::Analyze => {}
        }
        if version >= TRUNCATE && !full {
            options.push(format!("TRUNCATE {}", wanted.truncate));
        }
        if version >= PARALLEL && !full {
            options.push(format!("PARALLEL {}", wanted.parallel));
        }
        // The databases' own numbers are brought up to date once, at the end.
        if version >= DATABASE_STATS {
            options.push("SKIP_DATABASE_STATS".to_owned());
        }
    }
    if let Some(limit) =
        wanted.buffer_usage_limit.filter(|_| version >= BUFFER_USAGE_LIMIT && !full)
    {
        options.push(format!("BUFFER_USAGE_LIMIT '{}kB'", limit.bytes() >> 10));
    }
    let verb = if vacuums { "VACUUM" } else { "ANALYZE" };
    let only = if version >= ONLY { "ONLY " } else { "" };
    let name = qualified(&relation.schema, &relation.name);
    format!("{verb} ({}) {only}{name}", options.join(", "))
}

/// What brings `datfrozenxid` up to date after tables were vacuumed without it.
pub(super) fn database_stats(mode: Mode, version: u32) -> Option<&'static str> {
    (mode.vacuums() && version >= DATABASE_STATS).then_some("VACUUM (ONLY_DATABASE_STATS)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENTLE: StatementOptions =
        StatementOptions { truncate: false, parallel: 0, buffer_usage_limit: None };

    fn of(mode: Mode, partitioned: bool, major: u32, options: &StatementOptions) -> String {
        let relation = RelationName { schema: "s".to_owned(), name: "a\"b".to_owned() };
        let text = statement(mode, partitioned, options, major * 10_000 + 3, &relation);
        text.strip_suffix("\"s\".\"a\"\"b\"").unwrap().trim_end().to_owned()
    }

    #[test]
    fn each_version_gets_what_it_has() {
        use Mode::{Analyze, Freeze, Full, Vacuum, VacuumAnalyze};
        let cases = [
            (Vacuum, 11, "VACUUM (VERBOSE)"),
            (Vacuum, 12, "VACUUM (VERBOSE, TRUNCATE false)"),
            (VacuumAnalyze, 11, "VACUUM (VERBOSE, ANALYZE)"),
            (VacuumAnalyze, 13, "VACUUM (VERBOSE, ANALYZE, TRUNCATE false, PARALLEL 0)"),
            (Freeze, 15, "VACUUM (VERBOSE, FREEZE, TRUNCATE false, PARALLEL 0)"),
            (
                Freeze,
                16,
                "VACUUM (VERBOSE, FREEZE, TRUNCATE false, PARALLEL 0, SKIP_DATABASE_STATS)",
            ),
            (Vacuum, 18, "VACUUM (VERBOSE, TRUNCATE false, PARALLEL 0, SKIP_DATABASE_STATS) ONLY"),
            (Full, 11, "VACUUM (VERBOSE, FULL)"),
            (Full, 15, "VACUUM (VERBOSE, FULL)"),
            (Full, 17, "VACUUM (VERBOSE, FULL, SKIP_DATABASE_STATS)"),
            (Analyze, 11, "ANALYZE (VERBOSE)"),
            (Analyze, 17, "ANALYZE (VERBOSE)"),
            (Analyze, 18, "ANALYZE (VERBOSE) ONLY"),
        ];
        for (mode, major, expected) in cases {
            assert_eq!(of(mode, false, major, &GENTLE), expected, "{mode:?} on {major}");
        }
    }

    #[test]
    fn options_and_parents() {
        let limit = Some(ByteSize::mib(2));
        let options = StatementOptions { truncate: true, parallel: 4, buffer_usage_limit: limit };
        assert_eq!(
            of(Mode::Vacuum, false, 16, &options),
            "VACUUM (VERBOSE, TRUNCATE true, PARALLEL 4, SKIP_DATABASE_STATS, \
             BUFFER_USAGE_LIMIT '2048kB')"
        );
        assert_eq!(of(Mode::Vacuum, false, 11, &options), "VACUUM (VERBOSE)");
        let analyze = "ANALYZE (VERBOSE, BUFFER_USAGE_LIMIT '2048kB')";
        assert_eq!(of(Mode::VacuumAnalyze, true, 17, &options), analyze, "a parent has no rows");
        assert_eq!(of(Mode::Full, false, 15, &options), "VACUUM (VERBOSE, FULL)");
        assert_eq!(database_stats(Mode::Vacuum, 150_003), None);
        assert_eq!(database_stats(Mode::Analyze, 160_003), None);
        assert!(database_stats(Mode::Freeze, 160_003).is_some());
    }
}
