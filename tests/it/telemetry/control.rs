use std::{
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use pgkeep::{
    daemon::control::{
        ConnectError, ControlClient, ControlRequest, ControlServer, Reply, Request, ServeError,
    },
    domain::report::{Report, Verdict},
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, job};

struct Daemon {
    path: PathBuf,
    requests: mpsc::Receiver<ControlRequest>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

fn daemon() -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/control.sock");
    let server = ControlServer::bind(&path).unwrap();
    let (sender, requests) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(sender, stop.clone()));
    Daemon { path, requests, stop, serving, _folder: folder }
}

impl Daemon {
    async fn request(&mut self) -> ControlRequest {
        timeout(PATIENCE, self.requests.recv()).await.unwrap().unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn ended() -> Reply {
    let (run, verdict) = ("r1".to_owned(), Verdict::Partial);
    Reply::Ended { run, verdict, report: Box::new(Report::default()) }
}

#[tokio::test]
async fn a_run_is_followed_to_its_end() {
    let mut daemon = daemon();
    assert_eq!(mode(&daemon.path), 0o600);
    assert_eq!(mode(daemon.path.parent().unwrap()), 0o700);
    let client = ControlClient::connect(&daemon.path).await.unwrap();
    let request = Request::Run { job: job("nightly") };
    let mut replies = client.call(&request).await.unwrap();
    let asked = daemon.request().await;
    assert_eq!(asked.request, request);
    assert_eq!(asked.uid, rustix::process::geteuid().as_raw());
    let sent = [
        Reply::Accepted { run: "r1".to_owned() },
        Reply::Progress { stage: "dump app".to_owned(), bytes: 7 },
        ended(),
    ];
    for reply in &sent {
        assert!(asked.reply.send(reply.clone()));
    }
    for reply in sent {
        assert_eq!(replies.next().await.unwrap(), Some(reply));
    }
    assert_eq!(replies.next().await.unwrap(), None);
    daemon.stop.cancel();
    timeout(PATIENCE, daemon.serving).await.unwrap().unwrap();
    assert!(!daemon.path.exists(), "removed at the end");
    let error = ControlClient::connect(&daemon.path).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotRunning(_)), "{error}");
}

#[tokio::test]
async fn two_clients_are_served_at_once() {
    let mut daemon = daemon();
    let first = ControlClient::connect(&daemon.path).await.unwrap();
    let first = first.call(&Request::Run { job: job("a") }).await.unwrap();
    let to_first = daemon.request().await;
    let second = ControlClient::connect(&daemon.path).await.unwrap();
    let second = second.call(&Request::Status).await.unwrap();
    let to_second = daemon.request().await;
    assert_eq!(to_second.request, Request::Status);
    to_second.reply.send(Reply::Status(serde_json::json!({"jobs": 1})));
    let status = second.last(PATIENCE).await.unwrap();
    assert_eq!(status, Reply::Status(serde_json::json!({"jobs": 1})));
    to_first.reply.send(ended());
    assert_eq!(first.last(PATIENCE).await.unwrap(), ended());
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place_and_stops_nothing() {
    let mut daemon = daemon();
    let client = ControlClient::connect(&daemon.path).await.unwrap();
    let replies = client.call(&Request::Run { job: job("a") }).await.unwrap();
    let asked = daemon.request().await;
    assert!(asked.reply.send(Reply::Accepted { run: "r1".to_owned() }));
    drop(replies);
    timeout(PATIENCE, async {
        while !asked.reply.is_closed() {
            sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(!asked.reply.send(ended()), "and that is all that the daemon notices");
    assert!(daemon.requests.try_recv().is_err(), "no cancellation was asked for");
    let client = ControlClient::connect(&daemon.path).await.unwrap();
    let replies = client.call(&Request::Status).await.unwrap();
    daemon.request().await.reply.send(Reply::Done("up".to_owned()));
    assert_eq!(replies.last(PATIENCE).await.unwrap(), Reply::Done("up".to_owned()));
}

#[tokio::test]
async fn a_client_that_only_closes_its_writing_side_still_reads() {
    let mut daemon = daemon();
    let path = daemon.path.clone();
    let client = spawn_blocking(move || {
        let mut stream = StdStream::connect(path).unwrap();
        stream.write_all(b"{\"version\":1,\"request\":{\"run\":{\"job\":\"a\"}}}\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let asked = daemon.request().await;
    assert!(asked.reply.send(Reply::Accepted { run: "r1".to_owned() }));
    assert!(asked.reply.send(Reply::Done("end".to_owned())));
    let answer = timeout(PATIENCE, client).await.unwrap().unwrap();
    assert_eq!(answer, "{\"accepted\":{\"run\":\"r1\"}}\n{\"done\":\"end\"}\n");
}

async fn answer_to(path: &Path, call: Vec<u8>) -> String {
    let path = path.to_owned();
    let client = spawn_blocking(move || {
        let mut stream = StdStream::connect(path).unwrap();
        // The server may refuse, and close, before all is written.
        stream.write_all(&call).unwrap_or_default();
        // What was not read there makes the end of the stream an error here.
        let mut answer = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|count| count == 1) {
            answer.push(byte[0]);
        }
        String::from_utf8(answer).unwrap()
    });
    timeout(PATIENCE, client).await.unwrap().unwrap()
}

#[tokio::test]
async fn calls_that_make_no_sense_are_refused_with_a_reason() {
    let daemon = daemon();
    for (call, reason) in [
        (vec![b'x'; (1 << 20) + 1], "longer than 1048576 bytes"),
        (vec![b'x'; 8 << 20], "longer than 1048576 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "this is no call"),
        (b"{\"version\":2,\"request\":\"status\"}\n".to_vec(), "version 1, the client 2"),
        (b"{\"version\":1,\"request\":\"dance\"}\n".to_vec(), "does not know this request"),
        (b"{\"version\":1,\"request\":{\"run\":{\"job\":\"../x\"}}}\n".to_vec(), "is not allowed"),
    ] {
        let answer = answer_to(&daemon.path, call).await;
        assert!(answer.contains("refused") && answer.contains(reason), "{reason}: {answer}");
    }
    let path = daemon.path.clone();
    let silent = spawn_blocking(move || {
        let mut stream = StdStream::connect(path).unwrap();
        stream.read(&mut [0; 512]).unwrap()
    });
    assert!(timeout(PATIENCE, silent).await.unwrap().unwrap() > 0, "told that no call came");
}

#[tokio::test]
async fn clients_that_say_nothing_make_room_for_one_that_does() {
    let mut daemon = daemon();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(ControlClient::connect(&daemon.path).await.unwrap());
    }
    // Long before the time is over that each of them has for its call.
    let answered = async {
        let client = ControlClient::connect(&daemon.path).await.unwrap();
        let replies = client.call(&Request::Status).await.unwrap();
        daemon.request().await.reply.send(Reply::Done("up".to_owned()));
        replies.last(PATIENCE).await.unwrap()
    };
    let answer = timeout(Duration::from_secs(4), answered).await.expect("room was made at once");
    assert_eq!(answer, Reply::Done("up".to_owned()));
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let mut daemon = daemon();
    let mut followed = Vec::new();
    for _ in 0..64 {
        let client = ControlClient::connect(&daemon.path).await.unwrap();
        let replies = client.call(&Request::Status).await.unwrap();
        followed.push((replies, daemon.request().await));
    }
    let more = ControlClient::connect(&daemon.path).await.unwrap();
    let reply = more.call(&Request::Status).await.unwrap().last(PATIENCE).await.unwrap();
    assert_eq!(reply, Reply::Refused { reason: "too many control connections".to_owned() });
}

/// After its call it sends without end, and reads nothing of many answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_on_and_on_is_cut_off() {
    let mut daemon = daemon();
    let path = daemon.path.clone();
    let sent = spawn_blocking(move || {
        let mut stream = StdStream::connect(path).unwrap();
        stream.write_all(b"{\"version\":1,\"request\":\"status\"}\n").unwrap();
        let mut sent = 0_u64;
        while stream.write_all(&[b'x'; 1 << 13]).is_ok() {
            sent += 1 << 13;
            assert!(sent < 1 << 30, "a gigabyte was taken");
        }
        sent
    });
    let request = daemon.request().await;
    assert!(timeout(PATIENCE, sent).await.unwrap().unwrap() < 16 << 20);
    assert!(!request.reply.send(Reply::Done("late".to_owned())), "it has gone");
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_and_a_live_ones_never() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists(), "left by a process that was killed");
    let error = ControlClient::connect(&path).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotRunning(_)), "{error}");
    let server = ControlServer::bind(&path).unwrap();
    let again = ControlServer::bind(&path).unwrap_err();
    assert!(matches!(again, ServeError::Live(_)), "{again}");
    assert!(ControlClient::connect(&path).await.is_ok(), "the live one is still there");
    drop(server);
    assert!(!path.exists());
    // Somebody listens who does not know of the lock.
    let foreign = StdListener::bind(&path).unwrap();
    let error = ControlServer::bind(&path).unwrap_err();
    assert!(matches!(error, ServeError::Live(_)), "{error}");
    assert!(StdStream::connect(&path).is_ok());
    drop(foreign);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    let error = ControlServer::bind(&path).unwrap_err();
    assert!(matches!(error, ServeError::InTheWay(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_socket_that_was_replaced_is_not_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let server = ControlServer::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = StdListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}

#[tokio::test]
async fn a_folder_that_others_can_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let error = ControlServer::bind(&folder.path().join("control.sock")).unwrap_err();
    assert!(matches!(error, ServeError::Folder(_)), "{error}");
}

#[tokio::test]
async fn other_users_are_kept_out_and_can_tell_it_from_no_daemon() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: other_users…: only root can become another user");
        return;
    }
    let daemon = daemon();
    // The folder above belongs to this test alone: open it, so that the socket's own mode counts.
    for folder in daemon.path.ancestors().skip(1).take(2) {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    let socket = daemon.path.to_str().unwrap();
    let speak = |mode: u32| {
        fs::set_permissions(&daemon.path, Permissions::from_mode(mode)).unwrap();
        let name = "telemetry::control::child_of_another_user";
        // nobody
        let child = super::child_of_user(Some(65534), name, &[("PGKEEP_TEST_SOCKET", socket)]);
        let mut child = child.expect("this binary can be run by other users");
        spawn_blocking(move || {
            let mut text = String::new();
            child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
            assert!(child.wait().unwrap().success(), "{text}");
            text
        })
    };
    let text = timeout(PATIENCE, speak(0o600)).await.unwrap().unwrap();
    assert!(text.contains("denied by the socket"), "{text}");
    let text = timeout(PATIENCE, speak(0o666)).await.unwrap().unwrap();
    assert!(text.contains("only the daemon's user and root"), "{text}");
}

#[tokio::test]
#[ignore = "started by other_users_are_kept_out_and_can_tell_it_from_no_daemon"]
async fn child_of_another_user() {
    assert!(std::env::var_os(super::CHILD).is_some(), "not to be run by hand");
    let path = PathBuf::from(std::env::var_os("PGKEEP_TEST_SOCKET").unwrap());
    match ControlClient::connect(&path).await {
        Err(ConnectError::Denied(_)) => println!("denied by the socket"),
        Err(error) => panic!("{error}"),
        Ok(client) => {
            println!("{:?}", client.call(&Request::Status).await.unwrap().last(PATIENCE).await);
        }
    }
}
