//! Each conversation with a bucket, frozen or slowed down within its messages: of a head, a part, an answer, every
//! so many bytes are a boundary. [`crate::repositories`] has the same request by request, with a daemon.
//!
//! Each case has a prefix of its own, which holds one backup.

use std::{fs, path::Path, time::Duration};

use pgkeep::domain::{
    failure::Class,
    name::RepositoryName,
    report::{Outcome, TargetReport},
};
use rustix::process::Signal;

use super::{BUDGET_KIB, GRACE, Ran, SLACK, client_ended, peak_of, try_all, wait};
use crate::harness::{
    client::Client,
    freeze::{Framing, Freeze, Harm, Place},
    long_tests,
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    process::{command, must},
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
};

/// Bytes between two boundaries: a head has some of them, and a part many.
const PIECE: usize = 400;
/// Longer than a command takes that ends by its own limits: some requests of a second each, repeated for two.
const OWN_LIMITS: Duration = Duration::from_secs(45);
/// What the bucket may take.
const LINES: &str = "request_timeout = \"1s\"\nmin_rate = \"1GiB\"\ngive_up_after = \"2s\"\nanswer_timeout = \"3s\"\n\
                     parallel_parts = 2";

/// What is talked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Talk {
    Dump,
    CopyTo,
    CopyFrom,
    Prune,
    List,
    Show,
    Doctor,
}

const TALKS: [Talk; 7] =
    [Talk::Dump, Talk::CopyTo, Talk::CopyFrom, Talk::Prune, Talk::List, Talk::Show, Talk::Doctor];

#[derive(Debug, Clone, Copy)]
struct Case {
    talk: Talk,
    at: usize,
    harm: Harm,
    /// What ends it; none: its own limits do.
    signal: Option<Signal>,
}

/// What all cases begin with: one backup in a folder, and the same in a bucket.
struct World {
    cluster: Cluster,
    server: S3Server,
    template: Pgkeep,
    id: String,
}

impl World {
    async fn start() -> Self {
        let (cluster, server) = (Cluster::start(), S3Server::start().await);
        let template = home(&cluster, &server.url(), "template");
        template.run(&["run", "dump"]).expect_code(0);
        let rows = template.run(&["list", "--json"]).expect_code(0).json();
        let id = rows[0]["id"].as_str().unwrap().to_owned();
        Self { cluster, server, template, id }
    }

    /// A home of its own for a case, with what there is in both repositories.
    fn home(&self, prefix: &str, talk: Talk, proxy: &Freeze) -> Pgkeep {
        let home = home(&self.cluster, &format!("http://{}", proxy.address()), prefix);
        if talk != Talk::CopyTo {
            copy(&self.server.object_path("template"), &self.server.object_path(prefix));
        }
        if talk != Talk::CopyFrom {
            copy(&self.template.repository_dir("disk"), &home.repository_dir("disk"));
        }
        home
    }

    fn args(&self, talk: Talk) -> Vec<&str> {
        match talk {
            Talk::Dump => vec!["run", "dump", "--json"],
            Talk::CopyTo => vec!["run", "up", "--json"],
            Talk::CopyFrom => vec!["run", "down", "--json"],
            Talk::Prune => vec!["run", "tidy", "--json"],
            Talk::List => vec!["list", "--json"],
            Talk::Show => vec!["show", &self.id, "--json"],
            Talk::Doctor => vec!["doctor", "--json"],
        }
    }

    fn proxy(&self, at: usize, harm: Harm) -> Freeze {
        let place = Place::Tcp(self.server.address().to_string());
        Freeze::tcp(place, Framing::Pieces(PIECE), at, harm)
    }

    /// How many boundaries a whole conversation has.
    fn boundaries(&self, talk: Talk) -> usize {
        let proxy = self.proxy(usize::MAX, Harm::All);
        let output = self.home(&format!("whole{talk:?}"), talk, &proxy).run(&self.args(talk));
        assert!([0, 7].contains(&output.code), "{talk:?}: {output:?}");
        proxy.passed()
    }

    /// Manifests in a folder: what is a backup.
    fn backups(root: &Path) -> usize {
        if !root.exists() {
            return 0;
        }
        must(command("find").arg(root).args(["-name", "manifest.json"])).lines().count()
    }

    /// One boundary: the command ends in time, by its own limits or at a signal, what it reports is there, and what
    /// has nothing to do with the bucket is done.
    fn tried(&self, number: usize, case: Case) {
        let Case { talk, at, harm, signal } = case;
        let proxy = self.proxy(at, harm);
        let prefix = format!("case{number}");
        let home = self.home(&prefix, talk, &proxy);
        let before = World::backups(&home.repository_dir("disk"));
        let before_there = World::backups(&self.server.object_path(&prefix));
        let client = Client::start(&home, &self.args(talk));
        let pid = client.pid();
        let reached = wait(OWN_LIMITS, || proxy.is_frozen() || client_ended(pid));
        assert!(reached, "{case:?}: it neither came so far nor ended");
        // Pieces are not the same in each run: one that takes less is a run without harm.
        let signal = signal.filter(|_| proxy.is_frozen());
        if let Some(signal) = signal {
            client.signal(signal);
        }
        let limit = if signal.is_some() { GRACE + SLACK } else { OWN_LIMITS };
        let mut memory = 0;
        let in_time = wait(limit, || {
            memory = memory.max(peak_of(pid));
            client_ended(pid)
        });
        assert!(in_time, "{case:?}: not ended within {limit:?}");
        assert!(memory <= BUDGET_KIB, "{case:?}: {memory} KiB");
        let output = client.end();
        assert!(!output.stderr.contains("panicked"), "{case:?}: {output:?}");
        let (here, there) = (home.repository_dir("disk"), self.server.object_path(&prefix));
        let more = World::backups(&here) - before;
        if !matches!(talk, Talk::Dump | Talk::CopyTo | Talk::CopyFrom | Talk::Prune) {
            assert!(signal.is_some() || output.text().contains("disk"), "{case:?}: {output:?}");
            return;
        }
        let ran = Ran::of(&output);
        let stored = |repository: &str| {
            let of = |it: &&TargetReport| {
                let name = it.target.repository.as_ref().map(RepositoryName::as_str);
                name == Some(repository) && it.outcome == Outcome::Succeeded
            };
            ran.report.targets.iter().filter(of).count()
        };
        if talk == Talk::Prune {
            assert_eq!((World::backups(&here), World::backups(&there)), (1, 1), "{case:?}");
            return;
        }
        assert_eq!(more, stored("disk"), "{case:?}: what is there is what succeeded: {ran:#?}");
        // The last word of a commit may be the one that is not heard: then it is there, and is reported as lost.
        let more_there = World::backups(&there) - before_there;
        assert!(more_there >= stored("cloud"), "{case:?}: {ran:#?}");
        if talk == Talk::Dump && signal.is_none() {
            assert_eq!(more, 1, "{case:?}: the folder does not wait for the bucket: {ran:#?}");
        }
        let odd = ran.report.failures().find(|it| it.class == Class::Internal);
        assert_eq!(odd, None, "{case:?}");
    }
}

fn home(cluster: &Cluster, url: &str, prefix: &str) -> Pgkeep {
    let lines = format!("prefix = \"{prefix}\"\n{LINES}");
    let copy = |name: &str, from: &str, to: &str| {
        format!(
            "[job.{name}]\nkind = \"copy\"\nfrom = \"{from}\"\nto = [\"{to}\"]\nglobals = false\nattempts = 1"
        )
    };
    Pgkeep::with_daemon(&format!("grace = \"{}s\"", GRACE.as_secs()))
        .hasty()
        .server("main", cluster)
        .local("disk")
        .s3_with("cloud", url, BUCKET, (ACCESS_KEY, SECRET_KEY), &lines)
        .dump("dump", "main", &[APP], &["disk", "cloud"], "globals = false\nattempts = 1\nworkers = 1")
        .toml(&copy("up", "disk", "cloud"))
        .toml(&copy("down", "cloud", "disk"))
        .toml("[retention.all]\nkeep_last = 3")
        .toml(
            "[job.tidy]\nkind = \"prune\"\nrepositories = [\"disk\", \"cloud\"]\nretention = \"all\"\nattempts = 1",
        )
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    must(command("cp").arg("-a").arg(from.join(".")).arg(to));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_falls_silent_within_a_message_is_given_up() {
    let world = World::start().await;
    let whole = [Talk::Dump, Talk::CopyFrom, Talk::List].map(|talk| (talk, world.boundaries(talk)));
    let at = |talk: usize, part: usize| (whole[talk].0, whole[talk].1 * part / 8);
    let cases = [
        (at(0, 1), Harm::Trickle, None),
        (at(0, 4), Harm::All, None),
        (at(0, 6), Harm::One, None),
        (at(0, 5), Harm::All, Some(Signal::INT)),
        (at(1, 4), Harm::Trickle, Some(Signal::TERM)),
        (at(1, 6), Harm::All, None),
        (at(2, 3), Harm::One, None),
    ];
    let cases = cases.map(|((talk, at), harm, signal)| Case { talk, at, harm, signal });
    let cases: Vec<_> = cases.into_iter().enumerate().collect();
    try_all(&cases, |(number, case)| world.tried(*number, *case));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_falls_silent_within_any_message_is_given_up_long() {
    if !long_tests() {
        return;
    }
    let world = World::start().await;
    let mut cases = Vec::new();
    for talk in TALKS {
        let count = world.boundaries(talk);
        eprintln!("{talk:?}: {count} boundaries");
        let step = (count / 60).max(1);
        for (number, at) in (0..count).step_by(step).enumerate() {
            let harm = [Harm::All, Harm::Trickle, Harm::One][number % 3];
            let signal = [None, Some(Signal::INT), None, Some(Signal::TERM)][number % 4];
            cases.push(Case { talk, at, harm, signal });
        }
    }
    let cases: Vec<_> = cases.into_iter().enumerate().collect();
    try_all(&cases, |(number, case)| world.tried(*number, *case));
}
