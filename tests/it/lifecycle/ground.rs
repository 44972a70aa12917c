//! What the daemon stands on: its state directory, the lock in it, and a repository in a folder.
//! Nobody else may change them, and nobody gets in beside it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use super::status_of;
use crate::harness::{
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    wait::{PATIENCE, eventually},
};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn home() -> (Pgkeep, Cluster) {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local("disk");
    (home.dump("nightly", "main", &[APP], &["disk"], "globals = false\nattempts = 1"), cluster)
}

#[test]
fn a_state_directory_that_others_may_write_is_refused() {
    let (home, _cluster) = home();
    let state = home.state_dir();
    fs::create_dir_all(&state).unwrap();
    for mode in [0o770, 0o702, 0o1777] {
        chmod(&state, mode);
        for arguments in [&["daemon"][..], &["run", "nightly"]] {
            let said = home.run(arguments).expect_code(1).stderr;
            assert!(said.contains("may be written by others"), "{said}");
            assert!(said.contains(&format!("chmod go-w {}", state.display())), "{said}");
        }
        let doctor = home.run(&["doctor", "--json"]).json();
        let found = doctor.to_string();
        assert!(found.contains("others may write to"), "{found}");
    }
    chmod(&state, 0o755);
    home.run(&["run", "nightly"]).expect_code(0);
}

#[test]
fn a_repository_that_others_may_write_takes_nothing_and_can_be_read() {
    let (home, cluster) = home();
    home.run(&["run", "nightly"]).expect_code(0);
    let repository = home.repository_dir("disk");
    for mode in [0o775, 0o777] {
        chmod(&repository, mode);
        let ran = home.run(&["run", "nightly"]).expect_code(1);
        let said = ran.stderr.clone() + &ran.text();
        assert!(
            said.contains("repository-refused") && said.contains("may be written by others"),
            "{said}"
        );
        assert!(said.contains(&format!("chmod go-w {}", repository.display())), "{said}");
        let listed = home.run(&["list", "--json"]).expect_code(0).json();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    }
    let open =
        home.config().replace("kind = \"local\"", "kind = \"local\"\nothers_may_write = true");
    home.rewrite(&open);
    home.run(&["run", "nightly"]).expect_code(0);
    super::assert_restores(&home, &cluster, "disk");
}

#[test]
fn a_lock_that_is_deleted_lets_no_second_daemon_in() {
    let (home, cluster) = home();
    let mut daemon = home.ready_daemon();
    let lock = home.state_dir().join("lock");
    fs::remove_file(&lock).unwrap();
    let second = home.run(&["daemon"]).expect_code(6);
    assert!(second.stderr.contains("is in use by another pgkeep"), "{}", second.stderr);
    daemon.wait_log("the lock of the state directory was removed");
    eventually("the lock's file", PATIENCE, || {
        (fs::read_to_string(&lock).ok()?.trim() == daemon.pid().to_string()).then_some(())
    });
    home.run(&["daemon"]).expect_code(6);
    home.run(&["run", "nightly"]).expect_code(0);
    super::assert_restores(&home, &cluster, "disk");
    daemon.stop();
    daemon.assert_log_clean(&["the lock of the state directory was removed"]);
}

#[test]
fn a_daemon_whose_state_directory_is_replaced_ends() {
    let (home, _cluster) = home();
    let mut daemon = home.ready_daemon();
    let (state, aside) = (home.state_dir(), home.home().join("moved"));
    #[expect(clippy::disallowed_methods, reason = "what a person does")]
    fs::rename(&state, &aside).unwrap();
    assert_eq!(daemon.wait_exit(), 1);
    let log = daemon.log();
    assert!(log.contains("was removed or replaced while it was in use"), "{log}");
}

#[test]
fn nothing_in_the_state_directory_is_written_through_a_link() {
    let (home, cluster) = home();
    let (state, theirs) = (home.state_dir(), home.home().join("theirs"));
    fs::create_dir_all(state.join("jobs")).unwrap();
    chmod(&state, 0o700);
    fs::write(&theirs, "theirs").unwrap();
    // Where version 0.1 wrote before it renamed.
    symlink(&theirs, state.join("jobs/nightly.tmp")).unwrap();
    symlink(&theirs, state.join("jobs/nightly.json")).unwrap();
    home.run(&["run", "nightly"]).expect_code(0);
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
    assert!(fs::symlink_metadata(state.join("jobs/nightly.json")).unwrap().is_file());
    let mut daemon = home.ready_daemon();
    assert_eq!(status_of(&home, "nightly")["last"]["verdict"], "succeeded");
    daemon.stop();
    super::assert_restores(&home, &cluster, "disk");
    // The locks are opened, and never through a link.
    for link in [state.join("lock"), home.runtime_dir().join("control.sock.lock")] {
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        drop(fs::remove_file(&link));
        symlink(&theirs, &link).unwrap();
        let said = home.run(&["daemon"]).expect_code(1).stderr;
        assert!(said.contains("it is a symbolic link"), "{said}");
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
        fs::remove_file(&link).unwrap();
    }
}
