//! The unit that systemd is given.

use std::{fs, path::Path, time::Duration};

use pgkeep::{
    cli::exit::Exit,
    config::{self, Diagnostics},
};

use crate::harness::process::{command, run};

fn unit() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/pgkeep.service"))
        .unwrap()
}

/// The values of a directive, in their order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn systemd_understands_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pgkeep.service");
    // It looks whether the program is there.
    let text = unit().replace("/usr/bin/pgkeep", env!("CARGO_BIN_EXE_pgkeep"));
    fs::write(&path, text).unwrap();
    if !is_installed() {
        eprintln!("SKIPPED: systemd-analyze is not installed, the unit was not checked");
        return;
    }
    let mut verify = command("systemd-analyze");
    let said = run(verify.args(["verify", "--man=no"]).arg(&path), "").expect_code(0);
    let about_us: Vec<&str> =
        said.stderr.lines().filter(|line| line.contains("pgkeep.service")).collect();
    assert!(about_us.is_empty(), "{}", about_us.join("\n"));
}

/// Where the unit is exposed, out of 100; a unit that says nothing about it has 96.
const EXPOSURE_MAX: &str = "17";

#[test]
fn the_unit_is_hardened() {
    if !is_installed() {
        eprintln!("SKIPPED: systemd-analyze is not installed, the hardening was not checked");
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/pgkeep.service");
    let mut security = command("systemd-analyze");
    security.args(["security", "--offline=yes", "--no-pager", "--threshold", EXPOSURE_MAX]);
    run(security.arg(path), "").expect_code(0);
}

/// check-config has no credentials in `ExecReload=` (systemd 252), and what it stops never reaches the
/// daemon's metric; in `ExecStartPre=` its exit code stops no restarts.
#[test]
fn the_daemon_alone_judges_its_configuration() {
    let unit = unit();
    let [start] = values(&unit, "ExecStart")[..] else { panic!("one ExecStart") };
    assert_eq!(values(&unit, "ExecReload"), [start.replace(" daemon ", " reload ")]);
    assert_eq!(values(&unit, "ExecStartPre"), Vec::<&str>::new());
    let never: Vec<u8> = values(&unit, "RestartPreventExitStatus")
        .iter()
        .flat_map(|codes| codes.split(' '))
        .map(|code| code.parse().unwrap())
        .collect();
    assert_eq!(never, [Exit::Usage.code(), Exit::Configuration.code()]);
}

#[test]
fn memory_and_tasks_have_a_limit_outside_of_the_daemon() {
    let unit = unit();
    assert_eq!(values(&unit, "MemoryMax").len(), 1);
    let [tasks] = values(&unit, "TasksMax")[..] else { panic!("one TasksMax") };
    // The runtime alone may start 512 threads for files.
    assert!(tasks.parse::<u32>().unwrap() > 512, "{tasks}");
}

#[test]
fn the_folders_of_the_unit_are_made() {
    let read = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        fs::read_to_string(folder.join(name)).unwrap()
    };
    let (users, tmpfiles, unit) = (read("pgkeep.sysusers"), read("pgkeep.tmpfiles"), unit());
    let [user] = values(&unit, "User")[..] else { panic!("one User") };
    assert!(users.lines().any(|line| line.starts_with(&format!("u {user} "))), "{users}");
    for path in values(&unit, "ReadWritePaths") {
        let path = path.trim_start_matches('-');
        let made = |line: &str| line.split_whitespace().nth(1) == Some(path);
        assert!(tmpfiles.lines().any(made), "{path}");
    }
}

fn is_installed() -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let installed = |folder: &Path| folder.join("systemd-analyze").exists();
    std::env::split_paths(&folders).any(|folder| installed(&folder))
}

#[test]
fn systemd_waits_longer_than_pgkeep_for_its_children() {
    let mut d = Diagnostics::new();
    let grace = config::load_text("", &|_| None, &mut d).unwrap().daemon.grace;
    let unit = unit();
    let [limit] = values(&unit, "TimeoutStopSec")[..] else { panic!("one TimeoutStopSec") };
    let minutes: u64 = limit.strip_suffix("min").unwrap().parse().unwrap();
    // TERM, grace, KILL, and what is to be cleaned up after it.
    assert!(Duration::from_mins(minutes) > grace * 2, "{limit} {grace:?}");
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "KillMode"), ["mixed"]);
    assert_eq!(values(&unit, "WatchdogSec").len(), 1);
}

#[test]
fn memory_goes_back_to_the_system() {
    let unit = unit();
    let mut environment = values(&unit, "Environment");
    environment.sort_unstable();
    assert_eq!(environment, ["MALLOC_ARENA_MAX=2", "MALLOC_MMAP_THRESHOLD_=1048576"]);
}
