//! Notifications: what is told, to whom, how often; and that telling is in nobody's way.

mod command;
mod delivery;
mod trial;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    cli::shape::shape,
    harness::{
        client::Client,
        fakes::Fake,
        pgkeep::{Pgkeep, quote},
        receiver::{Receiver, Request},
        wait::{PATIENCE, eventually},
    },
    lifecycle::{Bench, NOWHERE, files_below, job, memory},
};

/// `[notify.NAME]` for a receiver, with more lines.
pub(crate) fn webhook(name: &str, url: &str, lines: &str) -> String {
    format!(
        "[notify.{name}]\nkind = \"webhook\"\nurl = {}\nretry_backoff = \"1s\"\n{lines}",
        quote(url)
    )
}

/// A job that always fails at once, since there is no server.
pub(crate) fn hopeless(notify: &str) -> Pgkeep {
    let job = job("nightly", "attempts = 1\n");
    Pgkeep::new().toml(NOWHERE).local("disk").toml(&job).toml(notify)
}

fn events(requests: &[Request]) -> Vec<String> {
    requests.iter().map(Request::event).collect()
}

/// A job whose dumps are whole, and the file with what pg_dump says besides.
fn talkative(notify: &str) -> (Bench, PathBuf) {
    let script = "#!/bin/sh\nhere=$(dirname -- \"$0\")\nread -r real <\"$here/real\"\n\
        case \" $* \" in *\" --version \"*) ;; *) cat \"$here/says\" >&2 ;; esac\n\
        exec \"$real/pg_dump\" \"$@\"\n";
    let bench = Bench::with(Pgkeep::new().toml(notify), Fake::Gated);
    let folder = bench.fake.path();
    fs::write(folder.join("pg_dump"), script).unwrap();
    fs::write(folder.join("says"), "").unwrap();
    (bench, folder.join("says"))
}

/// No file of the home but its configuration holds one of the texts.
#[track_caller]
fn assert_nowhere(home: &Pgkeep, secrets: &[&str]) {
    let files = files_below(home.home());
    assert!(files.iter().any(|path| path.ends_with("/daemon-0.log")), "where is the log?");
    for path in files.iter().filter(|path| !path.ends_with("pgkeep.toml")) {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} stands in {path}");
        }
    }
}

#[test]
fn a_failure_is_told_once_and_so_is_its_end_over_a_restart() {
    let receiver = Receiver::start();
    let notify = webhook("ops", &receiver.url("/hooks/hunter2"), "token = \"hunter3\"\n");
    let (mut bench, _) = talkative(&notify);
    let retried = bench
        .home
        .config()
        .replace("[job.nightly]", "[job.nightly]\nattempts = 2\nretry_backoff = \"1s\"");
    bench.home.rewrite(&retried);
    let mut daemon = bench.home.ready_daemon();
    bench.home.run(&["run", "nightly"]).expect_code(0);
    assert_eq!(receiver.requests().len(), 0, "a success is not worth a word");
    bench.cluster.stop();
    bench.home.run(&["run", "nightly"]).expect_code(1);
    let told = receiver.wait(1).remove(0);
    assert_eq!(told.path, "/hooks/hunter2");
    for header in ["POST ", "authorization: Bearer hunter3", "content-type: application/json"] {
        assert!(told.head.contains(header), "{header:?} is not in {}", told.head);
    }
    let body = told.json();
    assert_eq!((&body["event"], &body["verdict"]), (&"failure".into(), &"failed".into()), "{body}");
    assert_eq!((&body["previous_verdict"], &body["attempts"]), (&"succeeded".into(), &2.into()));
    assert_eq!(body["failures"][0]["class"], "connection");
    assert_documented(&body);
    bench.home.run(&["run", "nightly"]).expect_code(1);
    eventually("what was told in the journal", PATIENCE, || {
        memory(&bench.home, "nightly")["told"]["ops"]["failing"].is_object().then_some(())
    });
    assert_eq!(
        daemon
            .metrics()
            .value("pgkeep_notifications_total", &[("notify", "ops"), ("outcome", "sent")]),
        Some(1.0)
    );
    daemon.stop();
    daemon.assert_log_clean(&["failed", "ended"]);

    let mut daemon = bench.home.ready_daemon();
    bench.cluster.start_again();
    bench.home.run(&["run", "nightly"]).expect_code(0);
    assert_eq!(events(&receiver.wait(2)), ["failure", "recovery"]);
    bench.home.run(&["run", "nightly"]).expect_code(0);
    let status = bench.home.run(&["status", "--json"]).expect_code(0);
    let said = format!("{}{}{}", status.text(), daemon.metrics().text, daemon.log());
    assert!(said.contains("notification sent"), "{said}");
    for secret in ["hunter2", "hunter3"] {
        assert!(!said.contains(secret), "{secret} is shown");
    }
    daemon.stop();
    daemon.assert_log_clean(&[]);
    assert_eq!(receiver.requests().len(), 2);
    assert_nowhere(&bench.home, &["hunter2", "hunter3"]);
}

/// What docs/NOTIFY.md shows has the very keys of what was sent.
#[track_caller]
fn assert_documented(body: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/NOTIFY.md");
    let page = fs::read_to_string(path).unwrap();
    let (_, example) = page.split_once("```json\n").unwrap();
    let example: Value = serde_json::from_str(example.split_once("\n```").unwrap().0).unwrap();
    let (there, page) = (shape(body), shape(&example));
    // What was sent has no findings.
    let unknown: Vec<_> = there.difference(&page).collect();
    let missing: Vec<_> =
        page.difference(&there).filter(|key| !key.starts_with(".findings")).collect();
    assert!(
        unknown.is_empty() && missing.is_empty(),
        "not documented {unknown:?}, not there {missing:?}"
    );
}

#[test]
fn a_check_hears_of_each_run_under_one_id() {
    let receiver = Receiver::start();
    let url = quote(receiver.url("/3c9169a5-a3f9-4a8b-a2a9-hunter2"));
    let notify = format!("[notify.nightly]\nkind = \"healthchecks\"\nurl = {url}\n");
    let (mut bench, _) = talkative(&notify);
    let mut daemon = bench.home.ready_daemon();
    bench.home.run(&["run", "nightly"]).expect_code(0);
    receiver.wait(2);
    bench.cluster.stop();
    let once = bench.home.config().replace("[job.nightly]", "[job.nightly]\nattempts = 1");
    bench.home.rewrite(&once);
    bench.home.run(&["reload"]).expect_code(0);
    for _ in 0..2 {
        bench.home.run(&["run", "nightly"]).expect_code(1);
    }
    let pings = receiver.wait(6);
    let base = "/3c9169a5-a3f9-4a8b-a2a9-hunter2";
    let parts = |ping: &Request| {
        let (path, rid) = ping.path.split_once("?rid=").unwrap();
        (path.strip_prefix(base).unwrap().to_owned(), rid.to_owned())
    };
    let (signals, ids): (Vec<String>, Vec<String>) = pings.iter().map(parts).unzip();
    assert_eq!(signals, ["/start", "", "/start", "/fail", "/start", "/fail"]);
    assert_eq!((&ids[0], &ids[2], &ids[4]), (&ids[1], &ids[3], &ids[5]));
    assert!(ids[0] != ids[2] && ids[2] != ids[4] && ids[0].len() == 36, "{ids:?}");
    assert!(pings[3].body.contains("failed [connection]"), "{}", pings[3].body);
    daemon.stop();
    daemon.assert_log_clean(&["failed", "ended"]);
    assert_nowhere(&bench.home, &["hunter2"]);
}

/// The standby of a pair with the same configuration: a start without an end would page every night.
#[test]
fn a_run_that_may_have_nothing_to_do_tells_no_start() {
    let receiver = Receiver::start();
    let notify = webhook("ops", &receiver.url("/x"), "on = [\"start\", \"success\"]\n");
    let (bench, _) = talkative(&notify);
    let of = |role: &str| format!("[job.nightly]\nonly_on = \"{role}\"");
    let config = |role: &str| bench.home.config().replace("[job.nightly]", &of(role));
    bench.home.rewrite(&config("standby"));
    let mut daemon = bench.home.ready_daemon();
    bench.home.run(&["run", "nightly"]).expect_code(6);
    bench.home.rewrite(&config("primary"));
    bench.home.run(&["reload"]).expect_code(0);
    bench.home.run(&["run", "nightly"]).expect_code(0);
    assert_eq!(events(&receiver.wait(1)), ["success"]);
    daemon.stop();
    assert_eq!(receiver.requests().len(), 1);
}

#[test]
fn findings_are_told_when_they_change() {
    let receiver = Receiver::start();
    let (bench, says) = talkative(&webhook("ops", &receiver.url("/"), ""));
    let mut daemon = bench.home.ready_daemon();
    let run = |said: &str| {
        fs::write(&says, said).unwrap();
        bench.home.run(&["run", "nightly"]).expect_code(0);
    };
    run("");
    run("pg_dump: warning: 12 odd things\n");
    assert_eq!(events(&receiver.wait(1)), ["findings"]);
    run("pg_dump: warning: 34 odd things\n");
    run("pg_dump: warning: a bad thing\n");
    let told = receiver.wait(2);
    let body = told[1].json();
    assert_eq!(body["findings"][0]["check"], "tool-output", "{body}");
    assert!(body["findings"][0]["what"].as_str().unwrap().contains("a bad thing"), "{body}");
    assert_eq!(body["verdict"], "succeeded");
    run("");
    let gone = receiver.wait(3).remove(2).json();
    assert_eq!(
        (&gone["event"], gone["findings"].as_array().unwrap().len()),
        (&"findings".into(), 0)
    );
    run("");
    daemon.stop();
    daemon.assert_log_clean(&["odd things", "a bad thing"]);
    assert_eq!(receiver.requests().len(), 3);
}

#[test]
fn a_run_that_was_killed_is_told_of_at_the_next_start_and_one_that_was_stopped_is_not() {
    let receiver = Receiver::start();
    let notify = webhook("ops", &receiver.url("/"), "on = [\"failure\", \"start\"]\n");
    let bench = Bench::with(Pgkeep::new().toml(&notify), Fake::Gated);
    let mut daemon = bench.home.ready_daemon();
    let run = Client::start(&bench.home, &["run", "nightly"]);
    bench.fake.wait_stopped();
    assert_eq!(events(&receiver.wait(1)), ["start"]);
    daemon.stop();
    drop(run);
    let stopped = bench.fake.path().join("stopped");
    fs::remove_file(&stopped).unwrap();

    let mut daemon = bench.home.ready_daemon();
    let run = Client::start(&bench.home, &["run", "nightly"]);
    bench.fake.wait_stopped();
    receiver.wait(2);
    daemon.kill9();
    drop(run);

    let mut daemon = bench.home.ready_daemon();
    let told = receiver.wait(3);
    assert_eq!(events(&told), ["start", "start", "failure"]);
    let body = told[2].json();
    assert_eq!(
        (&body["verdict"], &body["previous_verdict"]),
        (&"interrupted".into(), &"cancelled".into())
    );
    assert_eq!(body["run"], told[1].json()["run"]);
    daemon.stop();
    let mut daemon = bench.home.ready_daemon();
    daemon.stop();
    assert_eq!(receiver.requests().len(), 3, "once");
}

#[test]
fn each_job_tells_whom_it_names() {
    let all = Receiver::start();
    let one = Receiver::start();
    let config = format!(
        "{}\n{}\n{}\n{}",
        webhook("all", &all.url("/"), ""),
        webhook("one", &one.url("/"), "jobs = [\"a\"]\n"),
        job("a", "attempts = 1\n"),
        job("b", "attempts = 1\nnotify = [\"one\"]\n"),
    );
    let silent = job("c", "attempts = 1\nnotify = []\n");
    let home = Pgkeep::new().toml(NOWHERE).local("disk").toml(&config).toml(&silent);
    let mut daemon = home.ready_daemon();
    for name in ["a", "b", "c"] {
        home.run(&["run", name]).expect_code(1);
    }
    let jobs = |requests: Vec<Request>| -> Vec<Value> {
        requests.iter().map(|request| request.json()["job"].clone()).collect()
    };
    assert_eq!(jobs(one.wait(2)), ["a", "b"]);
    assert_eq!(jobs(all.wait(1)), ["a"]);
    daemon.stop();
    assert_eq!((all.requests().len(), one.requests().len()), (1, 2));
}
