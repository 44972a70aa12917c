use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
};

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Spec {
    Spec::new("/bin/sh").args(["-c", script])
}

async fn run(spec: Spec) -> Arc<Exit> {
    run_captured(spec, 64 * 1024, SOON, &CancellationToken::new()).await.unwrap()
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rfind(')').is_some_and(|at| !stat[at + 1..].trim_start().starts_with('Z'))
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

/// Starts a script and reads the lines that it writes first.
async fn start_and_read(script: &str, lines: usize) -> (Child, Vec<String>, BufReader<File>) {
    let mut child = Child::spawn(shell(script), Stdout::Pipe).await.unwrap();
    let mut reader = BufReader::new(child.take_stdout().unwrap());
    let read = tokio::task::spawn_blocking(move || {
        let mut read = Vec::new();
        for _ in 0..lines {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            read.push(line.trim().to_owned());
        }
        (read, reader)
    });
    let (read, reader) = read.await.unwrap();
    (child, read, reader)
}

#[tokio::test]
async fn what_a_child_does_not_read_holds_up_nobody() {
    let stdin: SecretSlice<u8> = vec![b'x'; 1 << 20].into();
    let read = Spec { stdin: stdin.clone(), ..shell("wc -c; wc -c") };
    let text = String::from_utf8(run(read).await.stdout.clone()).unwrap();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["1048576", "0"]);
    assert!(run(Spec { stdin, ..shell("exit 0") }).await.success());
    assert_eq!(run(shell("cat")).await.stdout, b"");
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    assert_eq!(run(shell("exit 3")).await.end, End::Code(3));
    assert_eq!(run(shell("kill -9 $$")).await.end, End::Signal(9));
    assert!(run(shell("true")).await.success());
    let error = Child::spawn(Spec::new("/nonexistent/x"), Stdout::Null).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start /nonexistent/x");
    assert_eq!(error.source.kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn the_environment_is_ours_alone() {
    // Cargo sets this one for tests.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let exit = run(Spec::new("/usr/bin/env").envs([("PGAPPNAME", "pgkeep")])).await;
    let text = String::from_utf8(exit.stdout.clone()).unwrap();
    let mut names: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
    names.sort_unstable();
    assert!(names.contains(&("PGAPPNAME", "pgkeep")) && names.contains(&("LC_MESSAGES", "C")));
    for (name, _) in names {
        assert!(["PATH", "HOME", "TZ", "LC_MESSAGES", "PGAPPNAME"].contains(&name), "{name}");
    }
}

#[tokio::test]
async fn a_child_has_the_asked_priority_and_its_own_group() {
    // Field 5 is the group, field 19 the nice value.
    let script = "read _ _ _ _ g _ _ _ _ _ _ _ _ _ _ _ _ _ n _ </proc/$$/stat; echo $$ $g $n";
    let exit = run(Spec { nice: 7, ..shell(script) }).await;
    let text = String::from_utf8(exit.stdout.clone()).unwrap();
    let fields: Vec<i32> = text.split_whitespace().map(|field| field.parse().unwrap()).collect();
    assert_eq!(fields[0], fields[1]);
    assert!(fields[2] >= 7, "{text}");
}

#[tokio::test]
async fn a_flood_on_stderr_is_bounded_and_does_not_block() {
    let script =
        "echo first >&2; head -c 5000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo last >&2";
    let exit = run(shell(script)).await;
    assert!(exit.success());
    assert!(exit.stderr.starts_with("first\n") && exit.stderr.trim_end().ends_with("\nlast"));
    assert!(exit.stderr.len() < STDERR_LIMIT + 100);
    assert_eq!(exit.stderr_left_out, 5_000_012 - STDERR_LIMIT as u64);
}

#[tokio::test]
async fn a_capture_is_bounded() {
    let spec = shell("head -c 100000 /dev/zero");
    let exit = run_captured(spec, 10, SOON, &CancellationToken::new()).await.unwrap();
    assert_eq!((exit.stdout.len(), exit.stdout_left_out), (10, 99_990));
}

#[tokio::test]
async fn the_reader_sees_the_end_when_the_child_has_ended() {
    let (mut child, lines, mut reader) = start_and_read("echo one; echo two", 1).await;
    assert_eq!(lines, ["one"]);
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        rest
    });
    assert_eq!(tokio::time::timeout(SOON, rest).await.unwrap().unwrap(), "two\n");
    assert!(child.wait().await.success());
}

#[tokio::test]
async fn grandchildren_end_with_the_group() {
    let (mut child, lines, _reader) = start_and_read("sleep 600 & echo $!; wait", 1).await;
    let grandchild: i32 = lines[0].parse().unwrap();
    assert!(alive(grandchild));
    let exit = child.terminate(SOON).await;
    assert_eq!(exit.end, End::Signal(15));
    until("the grandchild ends", || !alive(grandchild)).await;
}

#[tokio::test]
async fn what_a_leader_leaves_behind_is_killed_with_it() {
    let exit = run(shell("sleep 600 >/dev/null 2>&1 & echo $!")).await;
    let left: i32 = String::from_utf8(exit.stdout.clone()).unwrap().trim().parse().unwrap();
    until("what was left behind ends", || !alive(left)).await;
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed_after_the_grace() {
    let script = "trap '' TERM; echo ready; while :; do sleep 600; done";
    let (mut child, _, _reader) = start_and_read(script, 1).await;
    let exit = child.terminate(Duration::from_millis(100)).await;
    assert_eq!(exit.end, End::Signal(9));
    assert_eq!(child.wait().await.end, End::Signal(9));
}

#[tokio::test]
async fn a_child_that_cleans_up_on_sigterm_has_the_time_to() {
    let script = "trap 'echo cleaned >&2; exit 9' TERM; echo ready; while :; do sleep 0.02; done";
    let (mut child, _, _reader) = start_and_read(script, 1).await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let Waited::Cancelled(exit) = child.wait_or_cancel(&cancel, SOON).await else {
        panic!("not cancelled")
    };
    // The shell may say first that its own `sleep` was terminated.
    assert_eq!((exit.end, exit.stderr.lines().last()), (End::Code(9), Some("cleaned")));
}

#[tokio::test]
async fn a_dropped_child_is_killed_and_reaped() {
    let (child, _, _reader) = start_and_read("trap '' TERM; echo ready; sleep 600", 1).await;
    let pid = child.pid();
    drop(child);
    until("it is reaped", || !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn too_long_and_cancelled_are_told_apart() {
    let spec = shell("sleep 600");
    let none = CancellationToken::new();
    let error = run_captured(spec.clone(), 1, Duration::from_millis(50), &none).await.unwrap_err();
    assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
    none.cancel();
    let error = run_captured(spec, 1, SOON, &none).await.unwrap_err();
    assert!(matches!(error, RunError::Cancelled), "{error}");
}

#[tokio::test]
async fn records_come_and_go_with_the_child() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("children");
    let spec = Spec { record_in: Some(records.clone()), ..shell("sleep 600") };
    let mut child = Child::spawn(spec, Stdout::Null).await.unwrap();
    assert!(records.join(format!("{}.json", child.pid())).exists());
    child.terminate(SOON).await;
    assert_eq!(fs::read_dir(&records).unwrap().count(), 0);
}

#[tokio::test]
async fn leftovers_of_a_crash_are_ended_and_strangers_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().to_owned();
    let script = "trap '' TERM; echo ready; while :; do sleep 600; done";
    let (mut left, _, _reader) = start_and_read(script, 1).await;
    let mut stranger = Child::spawn(shell("sleep 600"), Stdout::Null).await.unwrap();
    let record = |child: &Child| ChildRecord::of(child.group.pid, "x".as_ref()).unwrap();
    let recorded = record(&left);
    recorded.write(&records).unwrap();
    let mut reused = record(&stranger);
    reused.start_time -= 1;
    reused.write(&records).unwrap();
    fs::write(records.join("7.json"), "cut o").unwrap();

    let grace = Duration::from_millis(100);
    let reap = move || reap_leftovers(&records, grace).unwrap();
    let found = tokio::task::spawn_blocking(reap).await.unwrap();
    assert_eq!(found, [recorded]);
    assert_eq!(left.wait().await.end, End::Signal(9));
    assert!(alive(stranger.pid()));
    stranger.terminate(SOON).await;
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(reap_leftovers("/nonexistent".as_ref(), grace).unwrap(), []);
}
