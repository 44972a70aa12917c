//! Options for single databases of a job for all: they hold where they match, all others stay whole, and
//! nobody says that a database is in no backup when a part of it is.

use pgkeep::domain::finding::Severity;

use super::{DISK, disk, listed, run_job, shell, whole_status};
use crate::{
    cli::shape::assert_documented,
    harness::{
        pgkeep::Pgkeep,
        postgres::{APP, Cluster, HOSTILE},
        process::run,
        wait::{PATIENCE, eventually},
    },
};

const ONCE: &str = "attempts = 1\nworkers = 1";
/// In every database: a log that is not worth its backup, and something that is.
const LOG: &str = "CREATE TABLE public.log AS SELECT generate_series(1, 500) AS n; \
                   CREATE TABLE public.keep AS SELECT generate_series(1, 7) AS n";

fn with_log(databases: &[&str]) -> Cluster {
    let cluster = Cluster::start();
    for database in databases {
        cluster.psql(database, LOG);
    }
    cluster
}

/// The metric of how much of the server's databases is backed up.
fn in_part(daemon: &crate::harness::pgkeep::Daemon, coverage: &str) -> Option<f64> {
    let labels = [("server", "main"), ("coverage", coverage)];
    daemon.metrics().value("pgkeep_databases_in_part", &labels)
}

#[test]
fn options_for_one_database_leave_all_others_whole() {
    let cluster = with_log(&[APP, "postgres"]);
    // A name with everything in it is a key like any other.
    let hostile = HOSTILE.replace('"', "\\\"");
    let lines = format!(
        "{ONCE}\nmax_age = \"1h\"\n[job.nightly.database.{APP}]\nexclude_table_data = [\"public.log\"]\n\
         [job.nightly.database.\"{hostile}\"]\ncontents = \"all\""
    );
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &["*"], &[DISK], &lines);
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "nightly", 0);
    for subject in [APP, "postgres", HOSTILE, "@globals"] {
        ran.assert_succeeded(subject, DISK);
    }
    assert!(!ran.report.findings.iter().any(|it| it.check == "selection-unused"), "{ran:#?}");
    let copies = listed(&home, &disk(&home));
    for copy in &copies {
        assert_eq!(copy.manifest.series.is_whole(), copy.subject() != APP, "{}", copy.subject());
        if copy.subject() != APP && copy.subject() != "@globals" {
            super::assert_restores(&cluster, copy);
        }
    }
    let part = copies.iter().find(|copy| copy.subject() == APP).unwrap();
    let lines = part.manifest.restore.join("\n");
    run(shell(&cluster, &lines).current_dir(&part.folder), "").expect_code(0);
    let count = "SELECT count(*) FROM log UNION ALL SELECT count(*) FROM keep";
    assert_eq!(cluster.psql("restored", count), "0\n7");

    let status = eventually("a look at the server", PATIENCE, || {
        let status = whole_status(&home);
        (!status.in_part.is_empty()).then_some(status)
    });
    assert!(status.unprotected.values().all(Vec::is_empty), "{:?}", status.unprotected);
    let part = serde_json::json!([{"database": APP, "coverage": "all-but"}]);
    let said = serde_json::to_value(&status.in_part).unwrap();
    assert_eq!(said["main"], part);
    let text = home.run(&["status"]).expect_code(0).text();
    assert!(
        text.contains("BACKED UP ONLY IN PART, on main: app (all but what a job names)")
            && !text.contains("NO JOB BACKS UP"),
        "{text}"
    );
    let labels = [("server", "main")];
    assert_eq!(daemon.metrics().value("pgkeep_databases_unprotected", &labels), Some(0.0));
    assert_eq!((in_part(&daemon, "all-but"), in_part(&daemon, "only")), (Some(1.0), Some(0.0)));
    let age = |datname| {
        let labels = [("server", "main"), ("datname", datname), ("repository", DISK)];
        daemon.metrics().value("pgkeep_backup_max_age_seconds", &labels)
    };
    assert_eq!((age("postgres"), age(APP)), (Some(3600.0), None));
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

/// A job for everything goes on being one, whatever it leaves out.
#[test]
fn a_selection_of_every_database_takes_the_globals_along_and_says_its_cost() {
    let cluster = with_log(&[APP]);
    let lines =
        format!("{ONCE}\nexclude = [\"{}*\"]\nexclude_table_data = [\"*.log\"]", &HOSTILE[..2]);
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &["*"], &[DISK], &lines);
    let said = home.run(&["check-config"]).expect_code(0).text();
    for words in [
        "job nightly makes selections of databases \"*\" (part-",
        "contents all, exclude_table_data *.log",
        "not the databases' backups, but series of their own",
        "only the job's own max_age (",
        "`pgkeep status` shows them as backed up in part",
    ] {
        assert!(said.contains(words), "{words}\n--- is not in\n{said}");
    }
    let json = home.run(&["check-config", "--json"]).expect_code(0).json();
    assert_documented("check-config, with selections", &json);
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "nightly", 0);
    ran.assert_succeeded("@globals", DISK);
    eventually("a look at the server", PATIENCE, || {
        (in_part(&daemon, "all-but") == Some(2.0)).then_some(())
    });
    let status = whole_status(&home);
    assert!(status.unprotected.values().all(Vec::is_empty), "{:?}", status.unprotected);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn options_for_a_database_that_is_not_there_are_told() {
    let cluster = Cluster::start();
    let lines = format!(
        "{ONCE}\n[job.nightly.database.ap]\nexclude_table_data = [\"public.log\"]\n\
         [job.nightly.database.\"zz_*\"]\ncontents = \"schema\""
    );
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &["*"], &[DISK], &lines);
    let ran = run_job(&home, "nightly", 0);
    let unused: Vec<_> =
        ran.report.findings.iter().filter(|it| it.check == "selection-unused").collect();
    assert_eq!(unused.len(), 2, "{ran:#?}");
    assert!(unused.iter().all(|it| it.severity == Severity::Warning));
    assert!(unused[0].what.contains("[job.nightly] has options for database \"ap\""));
    assert_eq!(unused[0].hint.as_deref(), Some("did you mean \"app\"?"));
    assert!(unused[1].hint.as_deref().unwrap().contains("psql -l"));
    assert!(listed(&home, &disk(&home)).iter().all(|copy| copy.manifest.series.is_whole()));
}
