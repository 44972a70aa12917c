//! What is to be done with each index, and why.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{failure::Class, finding::CheckName, pattern::Glob};

use super::{
    Activity, Build, Debris, DropDebris, Index, debris,
    obstacle::obstacle,
    trouble::{INVALID, Trouble, trouble, unattached},
};

/// The finding about what a build has left behind.
pub const DEBRIS: CheckName = CheckName("index-debris");
/// REINDEX CONCURRENTLY came with PostgreSQL 12.
const CONCURRENTLY: u32 = 120_000;
/// 14.0 to 14.3 could corrupt an index while building it CONCURRENTLY (release notes of 14.4).
const CORRUPTING: std::ops::Range<u32> = 140_000..140_004;

/// What a job asks for.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Patterns of `schema.index`.
    pub named: Vec<Glob>,
    pub invalid: bool,
    pub concurrently: bool,
    pub debris: DropDebris,
}

/// What is to be done with an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Drop,
    Rebuild,
    /// Leave it out, although a pattern matches it.
    Skip,
    /// It was asked for and cannot be done: a failure of that class.
    Refuse(Class),
    /// Tell of it, in a finding of that name.
    Report(CheckName),
}

impl Action {
    /// The action as a plan has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Rebuild => "rebuild",
            Self::Skip => "skip",
            Self::Refuse(_) => "refuse",
            Self::Report(_) => "report",
        }
    }
}

/// One index with what is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned<'a> {
    pub index: &'a Index,
    pub action: Action,
    pub reason: String,
    pub hint: Option<String>,
    /// Debris of it, to be dropped before it is rebuilt.
    pub debris: Vec<&'a Index>,
}

/// Why a server of that version cannot do it at all, with a hint.
pub fn refusal(version_num: u32, concurrently: bool) -> Option<(&'static str, &'static str)> {
    if !concurrently {
        return None;
    }
    if version_num < CONCURRENTLY {
        return Some((
            "REINDEX CONCURRENTLY came with PostgreSQL 12",
            "set concurrently = false, which locks the table against writes, or upgrade the server",
        ));
    }
    CORRUPTING.contains(&version_num).then_some((
        "PostgreSQL 14.0 to 14.3 can corrupt an index while building it CONCURRENTLY",
        "update the server to 14.4 or newer, then rebuild every index that was built so",
    ))
}

/// Decides for each index: first the debris that goes, then what is rebuilt, invalid ones first.
/// What another session is building right now is left alone. What is neither asked for nor in
/// trouble is not in the plan. `version_num` is the server's.
pub fn plan<'a>(
    wishes: &Wishes,
    version_num: u32,
    indexes: &'a [Index],
    activity: &Activity,
    builds: &[Build],
) -> Vec<Planned<'a>> {
    let parents = Parents::of(wishes, indexes);
    let mut plan: Vec<Planned<'a>> = indexes
        .iter()
        .filter(|index| index.is_whole() || !activity.is_building(index.table))
        .filter_map(|index| match debris(index, indexes) {
            Some(found) => Some(of_debris(&found, wishes, builds)),
            None => of_index(index, wishes, version_num, &parents),
        })
        .collect();
    give_to_bases(&mut plan, indexes);
    plan.sort_by_key(|it| (rank(it.action), it.index.is_whole(), it.index.label()));
    plan
}

const fn rank(action: Action) -> u8 {
    match action {
        Action::Drop => 0,
        Action::Rebuild => 1,
        Action::Refuse(_) => 2,
        Action::Skip => 3,
        Action::Report(_) => 4,
    }
}

/// Debris of an index that is to be rebuilt goes with the rebuild: it is no work of its own.
fn give_to_bases<'a>(planned: &mut Vec<Planned<'a>>, indexes: &'a [Index]) {
    let rebuilt: BTreeSet<u32> =
        planned.iter().filter(|it| it.action == Action::Rebuild).map(|it| it.index.oid).collect();
    let mut given: BTreeMap<u32, Vec<&Index>> = BTreeMap::new();
    planned.retain(|it| {
        let base = debris(it.index, indexes).and_then(|found| found.base);
        match base.filter(|base| it.action == Action::Drop && rebuilt.contains(&base.oid)) {
            Some(base) => {
                given.entry(base.oid).or_default().push(it.index);
                false
            }
            None => true,
        }
    });
    for it in planned {
        it.debris = given.remove(&it.index.oid).unwrap_or_default();
    }
}

fn of_debris<'a>(found: &Debris<'a>, wishes: &Wishes, builds: &[Build]) -> Planned<'a> {
    let index = found.index;
    match found.may_be_dropped(wishes.debris, builds) {
        Ok(reason) => planned(index, Action::Drop, reason, None),
        Err(why) => {
            let reason = format!(
                "it is invalid and looks as if an interrupted REINDEX had left it behind: {why}"
            );
            let hint = format!(
                "make sure that nobody is building it, then: DROP INDEX CONCURRENTLY {}",
                index.sql_name()
            );
            planned(index, Action::Report(DEBRIS), reason, Some(hint))
        }
    }
}

fn planned(index: &Index, action: Action, reason: String, hint: Option<String>) -> Planned<'_> {
    Planned { index, action, reason, hint, debris: Vec::new() }
}

/// Partitioned indexes that a pattern matches: it is their parts that are rebuilt.
struct Parents<'a> {
    by_oid: BTreeMap<u32, &'a Index>,
    matched: BTreeSet<u32>,
}

impl<'a> Parents<'a> {
    fn of(wishes: &Wishes, indexes: &'a [Index]) -> Self {
        let tops = indexes.iter().filter(|index| index.partitioned);
        let by_oid: BTreeMap<u32, &Index> = tops.map(|index| (index.oid, index)).collect();
        let is_named = |index: &&&Index| matching(index, &wishes.named).is_some();
        let matched = by_oid.values().filter(is_named).map(|index| index.oid).collect();
        Self { by_oid, matched }
    }

    /// The partitioned index by which this one was asked for.
    fn asked(&self, index: &Index) -> Option<&'a Index> {
        let mut next = index.parent;
        while let Some(parent) = next.and_then(|oid| self.by_oid.get(&oid)) {
            if self.matched.contains(&parent.oid) {
                return Some(parent);
            }
            next = parent.parent;
        }
        None
    }
}

/// The pattern that asks for the index. Wildcards pass over what belongs to the server itself and
/// over temporary tables.
fn matching<'a>(index: &Index, named: &'a [Glob]) -> Option<&'a Glob> {
    let label = index.label();
    let own = index.system || index.toast || index.temporary;
    named.iter().find(|glob| glob.matches(&label) && (!own || glob.literal().is_some()))
}

fn of_index<'a>(
    index: &'a Index,
    wishes: &Wishes,
    version_num: u32,
    parents: &Parents<'_>,
) -> Option<Planned<'a>> {
    let (reason, literal) = match (matching(index, &wishes.named), parents.asked(index)) {
        (Some(glob), _) => (format!("{:?} asks for it", glob.as_str()), glob.literal().is_some()),
        (None, Some(parent)) => (format!("it is a part of {}", parent.label()), false),
        (None, None) if index.is_whole() => return None,
        (None, None) => (String::new(), false),
    };
    let asked = !reason.is_empty();
    let report = |Trouble { what, hint }| {
        planned(index, Action::Report(INVALID), what.to_owned(), Some(hint))
    };
    if index.partitioned {
        return (!index.valid).then(|| report(unattached(index)));
    }
    if !asked && !wishes.invalid || !index.live {
        return Some(report(trouble(index, version_num)));
    }
    if let Some((class, why, hint)) = obstacle(index, wishes.concurrently) {
        // Who names it means it; a pattern only happens to match.
        let action = match class {
            Class::Privilege => Action::Refuse(class),
            _ if literal || !asked => Action::Refuse(class),
            _ => Action::Skip,
        };
        return Some(planned(index, action, why, Some(hint)));
    }
    let reason = match (index.is_whole(), asked) {
        (true, _) => reason,
        (false, true) => format!("{reason}, and it is invalid"),
        (false, false) => "it is invalid".to_owned(),
    };
    Some(planned(index, Action::Rebuild, reason, None))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{index, invalid},
        *,
    };

    fn wishes(named: &[&str], invalid: bool) -> Wishes {
        Wishes {
            named: named.iter().map(|text| text.parse().unwrap()).collect(),
            invalid,
            concurrently: true,
            debris: DropDebris::Matching,
        }
    }

    /// The plan in short: `rebuild public.a`.
    fn short(wishes: &Wishes, indexes: &[Index], activity: &Activity) -> Vec<String> {
        let planned = plan(wishes, 150_018, indexes, activity, &[]);
        let line = |it: &Planned<'_>| {
            let with = it.debris.iter().map(|debris| format!(" -{}", debris.name));
            let class = match it.action {
                Action::Refuse(class) => format!(":{class}"),
                _ => String::new(),
            };
            let with: String = with.collect();
            format!("{}{class} {}{with}", it.action.as_str(), it.index.label())
        };
        planned.iter().map(line).collect()
    }

    #[test]
    fn what_is_asked_for_is_rebuilt_and_trouble_is_told() {
        let calm = Activity::default();
        let all = [index(1, "a", "i"), index(2, "b", "j"), invalid(3, "c", "k")];
        assert_eq!(
            short(&wishes(&["public.a"], false), &all, &calm),
            ["rebuild public.a", "report public.c"]
        );
        assert_eq!(short(&wishes(&[], true), &all, &calm), ["rebuild public.c"]);
        assert_eq!(
            short(&wishes(&["public.?"], false), &all, &calm),
            ["rebuild public.c", "rebuild public.a", "rebuild public.b"],
            "invalid ones first"
        );
        let busy = Activity { building: vec![(1, 99)], ..calm };
        assert_eq!(short(&wishes(&[], true), &all, &busy), [""; 0], "it is being built");
        let half = Index { live: false, ..invalid(3, "c", "k") };
        assert_eq!(short(&wishes(&[], true), &[half], &Activity::default()), ["report public.c"]);
    }

    #[test]
    fn debris_goes_with_the_rebuild_or_alone() {
        let calm = Activity::default();
        let all = [index(1, "a", "i"), invalid(2, "a_ccnew", "i"), invalid(3, "b_ccold", "j")];
        assert_eq!(
            short(&wishes(&["public.a"], true), &all, &calm),
            ["rebuild public.a -a_ccnew", "report public.b_ccold"]
        );
        assert_eq!(
            short(&wishes(&[], true), &all, &calm),
            ["drop public.a_ccnew", "report public.b_ccold"],
            "never rebuilt"
        );
        let own = Wishes { debris: DropDebris::Own, ..wishes(&[], true) };
        assert_eq!(short(&own, &all, &calm), ["report public.a_ccnew", "report public.b_ccold"]);
        let busy = Activity { building: vec![(1, 99)], ..calm };
        assert_eq!(short(&wishes(&["public.a"], true), &all, &busy), ["rebuild public.a"]);
    }

    #[test]
    fn what_the_server_would_refuse_is_refused_where_it_is_named() {
        let calm = Activity::default();
        let exclusion = Index { exclusion: true, ..index(1, "x", "i") };
        let system = Index { system: true, ..index(2, "s", "i") };
        let foreign = Index { permitted: false, ..index(3, "f", "i") };
        let all = [exclusion, system, foreign];
        assert_eq!(
            short(&wishes(&["public.*"], false), &all, &calm),
            ["refuse:privilege public.f", "skip public.x"]
        );
        assert_eq!(
            short(&wishes(&["public.x", "public.s"], false), &all, &calm),
            ["refuse:configuration public.s", "refuse:configuration public.x"]
        );
        let locking = Wishes { concurrently: false, ..wishes(&["public.x", "public.s"], false) };
        assert_eq!(short(&locking, &all, &calm), ["rebuild public.s", "rebuild public.x"]);
    }

    #[test]
    fn of_a_partitioned_index_the_parts_are_rebuilt() {
        let top = Index { partitioned: true, ..index(1, "top", "i") };
        let middle = Index { partitioned: true, parent: Some(1), ..index(2, "middle", "i") };
        let part = |oid, name, parent| Index { parent: Some(parent), ..index(oid, name, "i") };
        let all = [top, middle, part(3, "p", 1), part(4, "q", 2), part(5, "r", 9)];
        let calm = Activity::default();
        let expected = ["rebuild public.p", "rebuild public.q"];
        assert_eq!(short(&wishes(&["public.top"], false), &all, &calm), expected);
        let broken = Index { valid: false, ..all[0].clone() };
        assert_eq!(short(&wishes(&[], true), &[broken], &calm), ["report public.top"]);
    }

    #[test]
    fn versions_that_cannot_or_must_not() {
        for (version, concurrently, refused) in [
            (110_022, true, true),
            (110_022, false, false),
            (120_000, true, false),
            (140_000, true, true),
            (140_003, true, true),
            (140_003, false, false),
            (140_004, true, false),
            (150_018, true, false),
        ] {
            assert_eq!(refusal(version, concurrently).is_some(), refused, "{version}");
        }
    }
}
