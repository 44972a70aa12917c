//! Each conversation with PostgreSQL, frozen or slowed down at a boundary between two messages: pgkeep's own
//! sessions and those of its pg_dump and pg_dumpall go through one proxy to a real server.
//!
//! A run without harm tells how many boundaries there are. Then each of a sample (all of them with
//! PGKEEP_LONG=1) has a run of its own, and several go at once: waiting is most of what they do.

use std::time::Duration;

use pgkeep::domain::{
    failure::{Class, Failure},
    report::Verdict,
};
use rustix::process::Signal;

use super::{BUDGET_KIB, GRACE, Ran, SLACK, client_ended, peak_of, try_all, wait};
use crate::harness::{
    client::Client,
    freeze::{Framing, Freeze, Harm, Place},
    long_tests,
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster, SUPERUSER},
};

/// Longer than a run of these takes that ends by its own limits: some questions of two seconds each, and the
/// twelve of pg_dumpall.
const OWN_LIMITS: Duration = Duration::from_secs(40);
/// What is talked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Talk {
    Dump,
    Globals,
    Vacuum,
    Reindex,
    WalCheck,
    Doctor,
}

const TALKS: [Talk; 6] =
    [Talk::Dump, Talk::Globals, Talk::Vacuum, Talk::Reindex, Talk::WalCheck, Talk::Doctor];

impl Talk {
    fn args(self) -> Vec<&'static str> {
        match self {
            Self::Doctor => vec!["doctor", "--server", "main", "--json"],
            _ => vec!["run", "job", "--json"],
        }
    }

    fn home(self, cluster: &Cluster, proxy: &Freeze) -> Pgkeep {
        let host = quote(proxy.folder().to_string_lossy());
        let bin_dir = quote(cluster.bin_dir().to_string_lossy());
        let home = Pgkeep::with_daemon(&format!("grace = \"{}s\"", GRACE.as_secs()))
            .hasty()
            .toml(&format!(
                "[server.main]\nhost = {host}\nport = {}\nuser = \"{SUPERUSER}\"\nbin_dir = {bin_dir}\n\
                 connect_timeout = \"3s\"\nanswer_timeout = \"1s\"",
                cluster.port()
            ))
            .local("disk");
        let job = |kind: &str, lines: &str| {
            format!("[job.job]\nkind = \"{kind}\"\nserver = \"main\"\nattempts = 1\n{lines}")
        };
        match self {
            Self::Dump | Self::Doctor => home.dump(
                "job",
                "main",
                &[APP],
                &["disk"],
                "attempts = 1\nglobals = false\nworkers = 1\nstall_timeout = \"3s\"",
            ),
            Self::Globals => home.dump(
                "job",
                "main",
                &[APP],
                &["disk"],
                "attempts = 1\nworkers = 1\nstall_timeout = \"3s\"",
            ),
            Self::Vacuum => {
                home.toml(&job("vacuum", "databases = [\"app\"]\ntables = [\"shop.orders\"]"))
            }
            Self::Reindex => home
                .toml(&job("reindex", "databases = [\"app\"]\nindexes = [\"shop.orders_pkey\"]")),
            Self::WalCheck => home.toml(&job("wal-check", "expect_archiving = false")),
        }
    }
}

fn proxy(cluster: &Cluster, at: usize, harm: Harm) -> Freeze {
    let name = format!(".s.PGSQL.{}", cluster.port());
    let place = Place::Unix(cluster.socket_dir().join(&name));
    Freeze::unix(&name, place, Framing::Postgres, at, harm)
}

/// How many boundaries a whole conversation has.
fn boundaries(talk: Talk, cluster: &Cluster) -> usize {
    let proxy = proxy(cluster, usize::MAX, Harm::All);
    let home = talk.home(cluster, &proxy);
    let output = home.run(&talk.args());
    assert!([0, 7].contains(&output.code), "{talk:?}: {output:?}");
    proxy.passed()
}

/// One boundary: the run ends in time, cancelled or by its own limits, and nothing looks like a backup.
fn tried(talk: Talk, cluster: &Cluster, (at, harm, cancels): (usize, Harm, bool)) {
    let what = format!("{talk:?} at {at}, {harm:?}, cancelled: {cancels}");
    let proxy = proxy(cluster, at, harm);
    let mut home = talk.home(cluster, &proxy);
    if talk == Talk::Globals {
        // pg_dumpall has ten minutes at least.
        home = home.env("PGKEEP_TEST_HASTE", "30");
    }
    let client = Client::start(&home, &talk.args());
    let pid = client.pid();
    let frozen = wait(OWN_LIMITS, || proxy.is_frozen() || client_ended(pid));
    assert!(frozen, "{what}: it neither came so far nor ended");
    // A run may take a message less than another: then it is a run without harm.
    let harmed = proxy.is_frozen();
    if cancels && harmed {
        client.signal(Signal::INT);
    }
    let limit = if cancels { GRACE + SLACK } else { OWN_LIMITS };
    let mut memory = 0;
    let in_time = wait(limit, || {
        memory = memory.max(peak_of(pid));
        client_ended(pid)
    });
    assert!(in_time, "{what}: not ended within {limit:?}");
    assert!(memory <= BUDGET_KIB, "{what}: {memory} KiB");
    let output = client.end();
    let listed = home.run(&["list", "--json"]);
    if talk == Talk::Doctor || output.code == 0 {
        return;
    }
    let ran = Ran::of(&output);
    if cancels {
        assert!(
            matches!(ran.verdict, Verdict::Cancelled | Verdict::Failed | Verdict::Partial),
            "{what}"
        );
    } else {
        // The runs share a server: an index may be another's at the moment.
        let odd = |it: &&Failure| matches!(it.class, Class::Internal | Class::Interrupted);
        assert_eq!(ran.report.failures().find(odd), None, "{what}");
    }
    let delivered = ran.report.targets.iter().filter(|it| {
        it.target.repository.is_some() && it.outcome == pgkeep::domain::report::Outcome::Succeeded
    });
    let backups = listed.json().as_array().map_or(0, Vec::len);
    assert_eq!(delivered.count(), backups, "{what}: what is listed is what succeeded");
}

fn cluster() -> Cluster {
    Cluster::builder().setting("max_connections", "100").start()
}

#[test]
fn a_conversation_that_falls_silent_is_ended() {
    let cluster = cluster();
    let mut tries = Vec::new();
    for (number, talk) in TALKS.into_iter().enumerate() {
        let count = boundaries(talk, &cluster);
        // Early, in the middle, and late; each talk another way.
        let share = |part: usize| count * part / 8 + number % 3;
        tries.push((talk, (share(1), Harm::All, true)));
        tries.push((talk, (share(4), Harm::All, number % 2 == 0)));
        tries.push((talk, (share(6), Harm::One, true)));
        if number % 2 == 1 {
            tries.push((talk, (share(3), Harm::Trickle, true)));
        }
    }
    try_all(&tries, |(talk, case)| tried(*talk, &cluster, *case));
}

#[test]
fn a_conversation_that_falls_silent_anywhere_is_ended_long() {
    if !long_tests() {
        return;
    }
    let cluster = cluster();
    let mut tries = Vec::new();
    for talk in TALKS {
        let count = boundaries(talk, &cluster);
        eprintln!("{talk:?}: {count} boundaries");
        let step = (count / 60).max(1);
        for (number, at) in (0..count).step_by(step).enumerate() {
            let harm = [Harm::All, Harm::One, Harm::Trickle][number % 3];
            tries.push((talk, (at, harm, harm == Harm::Trickle || number % 2 == 0)));
        }
    }
    try_all(&tries, |(talk, case)| tried(*talk, &cluster, *case));
}
