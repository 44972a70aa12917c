//! Seeded rounds: each draws a database, repositories, and one trouble, and holds what is promised
//! of every dump. Either a backup is listed that restores with the tools of the distribution, and
//! compares equal with the database as it was at the snapshot; or the run failed, and nothing is
//! listed as complete. Nothing half is left after a sweep, and the next run succeeds.
//!
//! `PGKEEP_ROUNDS` and `PGKEEP_SEED` set how many rounds there are, and the seed of the first; that of
//! each next is one more. A round that fails prints the line that repeats it alone.

mod contents;
mod dice;
mod regression;
mod trouble;
pub(crate) mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde_json::Value;

use self::{
    contents::Contents,
    dice::Dice,
    trouble::{SORTS, Trouble},
    world::{Job, Ran, Running, World, delivered, folder},
};
use crate::harness::{compare::Fingerprint, liar::Fault, long_tests};

/// Rounds of the long run.
const LONG: u64 = 1000;
/// Failed rounds after which a run ends: the next would only repeat them.
const FAILED_MAX: usize = 10;

fn from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        Err(_) => default,
    }
}

#[test]
fn rounds_short_first() {
    rounds(1, SORTS / 2);
}

#[test]
fn rounds_short_second() {
    rounds(1 + SORTS / 2, SORTS - SORTS / 2);
}

#[test]
fn rounds_long() {
    if long_tests() {
        rounds(from_env("PGKEEP_SEED", 1000), from_env("PGKEEP_ROUNDS", LONG));
    }
}

fn rounds(first: u64, count: u64) {
    let mut world = World::new();
    let mut failed: Vec<String> = Vec::new();
    let mut tally: BTreeMap<(String, bool), u64> = BTreeMap::new();
    for seed in first..first + count {
        let mut told = String::new();
        let ended = catch_unwind(AssertUnwindSafe(|| round(seed, &mut world, &mut told)));
        match ended {
            Ok(stored) => {
                let sort = told.split(['(', ' ']).next().unwrap_or_default().to_owned();
                *tally.entry((sort, stored)).or_default() += 1;
                eprintln!("seed {seed}: {told}: {}", if stored { "stored" } else { "failed" });
            }
            Err(_) => failed.push(format!(
                "{told}\n  repeat it: PGKEEP_LONG=1 PGKEEP_SEED={seed} PGKEEP_ROUNDS=1 \
                 cargo nextest run --features test-util rounds_long"
            )),
        }
        world.clear();
        if failed.len() >= FAILED_MAX {
            break;
        }
    }
    eprintln!("{tally:#?}");
    assert!(failed.is_empty(), "{} rounds failed:\n{}", failed.len(), failed.join("\n"));
}

/// One round. Says whether the run with the trouble left a backup.
fn round(seed: u64, world: &mut World, told: &mut String) -> bool {
    let mut dice = Dice::new(seed);
    let contents = Contents::draw(&mut dice);
    let database = &contents.database;
    let name = contents::quote(database);
    world.cluster.psql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"));
    world.cluster.psql(database, &contents.sql);
    let before = Fingerprint::of(&world.cluster, database);
    let (trouble, job) = Trouble::draw(seed % SORTS, &mut dice, world, &contents);
    let short: String = format!("{trouble:?}").chars().take(120).collect();
    write!(told, "{short} in {database:?} -> {:?}", job.repositories).unwrap();

    let ran = trouble.carry_out(world, &job, &contents);
    world.liar.set(&Fault::None);
    world.runtime.block_on(world.chaos.calm());
    let stored = Listed::of(world);
    stored.check(&ran, &BTreeSet::new());
    stored.assert_one_of(&job);
    for one in &stored.complete {
        stored.assert_same(world, one, (&before, database));
    }
    stored.assert_clean(world);
    assert!(!trouble.is_harmless(&contents) || ran.code == 0, "{ran:#?}");

    // What is left of it keeps nobody from the next.
    let next = Running::start(&world.home, &job.name).end();
    let after = Listed::of(world);
    after.check(&next, &stored.complete);
    if !matches!(trouble, Trouble::FullDisk) {
        // That database may be too large for the small disk whatever happens.
        assert_eq!(next.code, 0, "the next run: {next:#?}");
        let now = if trouble.changes_database() {
            Fingerprint::of(&world.cluster, database)
        } else {
            before
        };
        let new: Vec<Stored> = after.complete.difference(&stored.complete).cloned().collect();
        after.assert_same(world, dice.pick(&new), (&now, database));
    }
    after.assert_clean(world);
    !stored.complete.is_empty()
}

/// A complete backup: repository and id.
type Stored = (String, String);

/// What `list --incomplete` shows.
struct Listed {
    rows: Vec<Value>,
    complete: BTreeSet<Stored>,
}

impl Listed {
    fn of(world: &World) -> Self {
        let rows = world.rows();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let whole = rows.iter().filter(|row| row["complete"] == true);
        let complete = whole.map(|row| (text(row, "repository"), text(row, "id"))).collect();
        Self { rows, complete }
    }

    /// What a run that ended by itself says is what is listed beside `earlier`.
    fn check(&self, ran: &Ran, earlier: &BTreeSet<Stored>) {
        if ran.code >= 128 {
            return;
        }
        let report = ran.report.as_ref().unwrap_or_else(|| panic!("no report: {}", ran.stderr));
        let new = self.complete.difference(earlier);
        let listed: BTreeSet<String> = new.map(|(repository, _)| repository.clone()).collect();
        let said = delivered(report);
        assert_eq!(said, listed, "what the run says, and what is listed: {ran:#?}");
        let expected: &[i32] = if listed.is_empty() { &[1] } else { &[0, 4] };
        assert!(expected.contains(&ran.code), "{ran:#?}");
    }

    /// At most one backup, in each repository of the job.
    fn assert_one_of(&self, job: &Job) {
        let each: BTreeSet<&str> = self.complete.iter().map(|(it, _)| it.as_str()).collect();
        assert_eq!(each.len(), self.complete.len(), "several of one run: {:?}", self.complete);
        assert!(each.iter().all(|it| job.repositories.contains(it)), "{each:?}");
    }

    fn assert_same(
        &self,
        world: &World,
        (repository, id): &Stored,
        (before, like): (&Fingerprint, &str),
    ) {
        let is = |row: &&Value| row["repository"] == **repository && row["id"] == **id;
        let row = self.rows.iter().find(is).expect("a row");
        world.restore(&folder(world, row), repository, like);
        let differences = before.differences(&Fingerprint::of(&world.cluster, "restored"));
        world.cluster.psql("postgres", "DROP DATABASE restored");
        assert!(differences.is_empty(), "{repository} {id} differs:\n{}", differences.join("\n"));
    }

    /// After a sweep nothing lies there but whole backups.
    fn assert_clean(&self, world: &World) {
        world.sweep();
        let whole = self.rows.iter().filter(|row| row["complete"] == true);
        let folders: Vec<_> = whole.map(|row| folder(world, row)).collect();
        let mut files = world.files();
        files.retain(|file| !folders.iter().any(|folder| file.starts_with(folder)));
        assert!(files.is_empty(), "what is not listed: {files:#?}");
    }
}
