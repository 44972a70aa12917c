//! The lines, on states of the world that are hard to get into.

use super::{
    host::{Daemon, HostView, StateTrouble, UnitView},
    repository::RepositoryView,
    *,
};
use crate::{
    repository::{
        probe::Probed,
        survey::{Compliance, Parts, Survey},
    },
    sys::unit::Barrier,
};

fn honest() -> RepositoryView {
    let survey = Survey {
        condition: Some(Compliance::Yes),
        digest: Some(Compliance::Yes),
        parts: Some(Parts { trouble: None, digest: Compliance::Yes }),
        space: Some((10 << 30, 1 << 30)),
        versioned: Some(false),
        lock: None,
        expiry: Some(Vec::new()),
    };
    let probed = Probed {
        place: "s3://bucket/db1".to_owned(),
        keeps_what_is_there: true,
        reads_back: true,
        lists: true,
        clock_ahead: Some(SignedDuration::from_secs(3)),
        not_removed: None,
        survey,
    };
    RepositoryView { probed, databases: 5 << 30 }
}

/// What is found, as `label severity check`.
fn found<F>(lines: &[&Line<F>], facts: &F) -> Vec<String> {
    let each = look(lines, facts).into_iter().flat_map(|looked| {
        let label = looked.label;
        looked.findings.into_iter().map(move |it| {
            assert!(it.hint.is_some_and(|hint| !hint.is_empty()), "{}", it.check);
            format!("{label} {} {}", it.severity.as_str(), it.check)
        })
    });
    each.collect()
}

#[test]
fn an_honest_repository_has_a_line_for_each_thing_and_no_finding() {
    let looked = look(repository::LINES, &honest());
    assert_eq!(looked.len(), repository::LINES.len());
    assert_eq!(found(repository::LINES, &honest()), Vec::<String>::new());
    let mut folder = honest();
    folder.probed.survey = Survey { space: Some((10 << 30, 0)), ..Survey::default() };
    let labels: Vec<_> =
        look(repository::LINES, &folder).into_iter().map(|looked| looked.label).collect();
    assert_eq!(labels, ["writing", "overwriting", "removing", "space", "clock"]);
}

#[test]
fn each_lie_of_a_repository_is_found() {
    type Lie = fn(&mut RepositoryView);
    let lies: [(Lie, &str); 19] = [
        (|it| it.probed.reads_back = false, "writing critical repository-integrity"),
        (|it| it.probed.lists = false, "writing critical repository-integrity"),
        (|it| it.probed.keeps_what_is_there = false, "overwriting critical repository-overwrite"),
        (
            |it| it.probed.survey.condition = Some(Compliance::Ignored),
            "overwriting warning repository-overwrite",
        ),
        (
            |it| it.probed.survey.condition = Some(Compliance::Unsupported),
            "overwriting info repository-overwrite",
        ),
        (
            |it| {
                let trouble = Some(("refused".to_owned(), None));
                it.probed.survey.parts = Some(Parts { trouble, digest: Compliance::NotAsked });
            },
            "parts critical repository-parts",
        ),
        (
            |it| {
                it.probed.survey.parts = Some(Parts { trouble: None, digest: Compliance::Ignored });
            },
            "digests warning repository-digest",
        ),
        (
            |it| {
                // Said once, whatever takes them.
                it.probed.survey.digest = Some(Compliance::Ignored);
                it.probed.survey.parts = Some(Parts { trouble: None, digest: Compliance::Ignored });
            },
            "digests warning repository-digest",
        ),
        (
            |it| it.probed.survey.digest = Some(Compliance::Ignored),
            "digests warning repository-digest",
        ),
        (
            |it| it.probed.survey.digest = Some(Compliance::Unsupported),
            "digests warning repository-digest",
        ),
        (
            |it| it.probed.survey.digest = Some(Compliance::NotAsked),
            "digests info repository-digest",
        ),
        (|it| it.probed.not_removed = Some("no".into()), "removing warning repository-delete"),
        (
            |it| {
                it.probed.not_removed = Some("locked".into());
                it.probed.survey.lock = Some("COMPLIANCE for 30 days".into());
            },
            "removing info repository-delete",
        ),
        (|it| it.probed.survey.versioned = Some(true), "versions info repository-versions"),
        (
            |it| it.probed.survey.expiry = Some(vec!["tidy removes".into()]),
            "rules warning repository-expiry",
        ),
        (|it| it.probed.survey.space = Some((1, 1)), "space critical repository-space"),
        (|it| it.databases = 50 << 30, "space info repository-space"),
        (
            |it| it.probed.clock_ahead = Some(SignedDuration::from_mins(20)),
            "clock warning repository-clock",
        ),
        (
            |it| it.probed.clock_ahead = Some(SignedDuration::from_mins(-2)),
            "clock warning repository-clock",
        ),
    ];
    for (lie, expected) in lies {
        let mut view = honest();
        lie(&mut view);
        assert_eq!(found(repository::LINES, &view), [expected]);
        // What a line says over a finding is not what the finding denies.
        let claims = ["writing", "overwriting", "digests", "removing", "rules"];
        let looked = look(repository::LINES, &view);
        for line in looked.iter().filter(|line| claims.contains(&line.label)) {
            assert_eq!(line.state == "see below", !line.findings.is_empty(), "{line:?}");
        }
    }
}

type HostTrouble = fn(&mut HostView);

#[test]
fn each_trouble_of_a_host_is_found() {
    let healthy = || HostView {
        state_dir: ("/var/lib/pgkeep".into(), Ok(())),
        daemon: Daemon::Up,
        metrics: Some(("127.0.0.1:9479".parse().unwrap(), Ok(()))),
        unit: Some(UnitView { name: "pgkeep.service".to_owned(), closed: Vec::new() }),
        jobs: 2,
        untriggered: Vec::new(),
    };
    assert_eq!(found(host::LINES, &healthy()), Vec::<String>::new());
    let troubles: [(HostTrouble, &str); 9] = [
        (|it| it.state_dir.1 = Err(StateTrouble::Missing), "state info state-directory"),
        (
            |it| it.state_dir.1 = Err(StateTrouble::Foreign { owner: 7 }),
            "state info state-directory",
        ),
        (
            |it| it.state_dir.1 = Err(StateTrouble::Exposed { mode: 0o775 }),
            "state critical state-directory",
        ),
        (
            |it| it.state_dir.1 = Err(StateTrouble::Unusable("read-only".into())),
            "state critical state-directory",
        ),
        (
            |it| {
                let closed = ("repository local".into(), "/srv/b".into(), Barrier::ReadOnly);
                it.unit.as_mut().unwrap().closed.push(closed);
            },
            "unit critical unit-paths",
        ),
        (|it| it.daemon = Daemon::Down, "daemon info daemon-socket"),
        (|it| it.daemon = Daemon::Closed("denied".into()), "daemon warning daemon-socket"),
        (
            |it| it.metrics = Some(("[::1]:1".parse().unwrap(), Err("in use".into()))),
            "metrics warning metrics-address",
        ),
        (|it| it.untriggered = vec!["manual".parse().unwrap()], "schedules info job-untriggered"),
    ];
    for (trouble, expected) in troubles {
        let mut view = healthy();
        trouble(&mut view);
        assert_eq!(found(host::LINES, &view), [expected]);
    }
}

#[test]
fn servers_tell_of_clocks_programs_and_databases_without_a_job() {
    use super::server::{LINES, ServerView};
    use crate::{
        domain::{
            protection::{InPart, Protection},
            scope::Coverage,
        },
        postgres::{
            catalog::ServerFacts,
            notice::{Level, Notice},
        },
    };
    let healthy = || ServerView {
        facts: ServerFacts {
            version_num: 150_018,
            version: "15.18".to_owned(),
            system_id: 1,
            in_recovery: false,
            at: jiff::Timestamp::UNIX_EPOCH,
        },
        clock_ahead: SignedDuration::ZERO,
        programs: Some((15, "/usr/lib/postgresql/15/bin".to_owned())),
        protection: Some(Protection::default()),
        kept_by_service: Vec::new(),
        service: None,
        said: Vec::new(),
    };
    assert_eq!(found(LINES, &healthy()), Vec::<String>::new());
    let expires = Notice {
        severity: Level::Warning,
        sqlstate: "01000".to_owned(),
        message: "role password will expire soon".to_owned(),
        detail: None,
    };
    let other = Notice { message: "hello".to_owned(), ..expires.clone() };
    let warned = ServerView { said: vec![other, expires], ..healthy() };
    assert_eq!(found(LINES, &warned), ["login warning role-login"]);
    let late = ServerView { clock_ahead: SignedDuration::from_mins(-5), ..healthy() };
    assert_eq!(found(LINES, &late), ["clock warning server-clock"]);
    assert!(look(LINES, &late)[1].state.contains("5m behind this host"));
    let newer = ServerView { programs: Some((17, String::new())), ..healthy() };
    assert_eq!(found(LINES, &newer), ["programs warning tool-version"]);
    let protection = |none: &[&str], in_part: &[(&str, Coverage)]| {
        let none = none.iter().map(|name| name.parse().unwrap()).collect();
        let in_part = in_part.iter().map(|(name, coverage)| InPart {
            database: name.parse().unwrap(),
            coverage: *coverage,
        });
        ServerView {
            protection: Some(Protection { none, in_part: in_part.collect() }),
            ..healthy()
        }
    };
    let alone = protection(&["shop"], &[]);
    assert_eq!(found(LINES, &alone), ["protection warning databases-unprotected"]);
    let meant = protection(&[], &[("shop", Coverage::AllBut)]);
    assert_eq!(found(LINES, &meant), Vec::<String>::new());
    assert!(look(LINES, &meant)[2].state.ends_with("only in part: shop"));
    let few = protection(&[], &[("shop", Coverage::Only)]);
    assert_eq!(found(LINES, &few), ["protection warning databases-unprotected"]);
}
