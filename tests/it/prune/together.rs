//! Prune and dump on the same series at the same time.

use std::{fs, path::Path};

use super::{JOB, names, now, stored};
use crate::harness::{
    fakes::{Fake, fake_bin_dir},
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster},
    process::Output,
    wait::{PATIENCE, eventually},
};

const DISK: &str = "disk";

/// A home with a dump and a prune on one local repository.
fn home(cluster: &Cluster, bin_dir: &Path) -> Pgkeep {
    let bin_dir = format!("bin_dir = {}", quote(bin_dir.to_string_lossy()));
    Pgkeep::new()
        .server_with("main", cluster, &bin_dir)
        .local(DISK)
        .dump("nightly", "main", &[APP], &[DISK], "globals = false\nattempts = 1")
        .toml("[retention.standard]\nkeep_last = 1")
        .toml(&format!(
            "[job.{JOB}]\nkind = \"prune\"\nafter = [\"nightly\"]\nrepositories = [\"{DISK}\"]\n\
             retention = \"standard\""
        ))
}

/// The id of the backup that a run made.
fn made(output: &Output) -> String {
    let report = output.json();
    report["report"]["targets"][0]["figures"]["backup"].as_str().unwrap().to_owned()
}

/// The path of the only series.
fn series(home: &Pgkeep) -> String {
    let listed = home.run(&["list", "--json"]).expect_code(0).json();
    let system_id = listed[0]["system_id"].as_str().unwrap().to_owned();
    format!("main/{system_id}/{APP}/all")
}

#[test]
fn a_dump_and_a_prune_do_not_disturb_each_other() {
    let cluster = Cluster::start();
    let first = home(&cluster, cluster.bin_dir());
    let id = made(&first.run(&["run", "nightly", "--json"]).expect_code(0));
    let root = first.repository_dir(DISK);
    let series = series(&first);
    // An older one, by its name and its manifest.
    let old =
        pgkeep::domain::backup::BackupId::new(now() - jiff::SignedDuration::from_hours(48), 7);
    let [from, to] = [id.as_str(), old.as_str()].map(|id| root.join(&series).join(id));
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let manifest = fs::read_to_string(to.join("manifest.json")).unwrap();
    fs::write(to.join("manifest.json"), manifest.replace(&id, old.as_str())).unwrap();

    let fake = fake_bin_dir(Fake::Gated, cluster.bin_dir());
    let programs = fake.path();
    let real = quote(cluster.bin_dir().to_string_lossy());
    first.rewrite(&first.config().replace(&real, &quote(programs.to_string_lossy())));
    let mut daemon = first.ready_daemon();
    let second = std::thread::scope(|scope| {
        let dump = scope.spawn(|| first.run(&["run", "nightly", "--json"]));
        fake.wait_stopped();
        first.run(&["run", JOB]).expect_code(0);
        assert_eq!(stored(&root, &series)[0], [id.clone()].into(), "the old one went");
        fake.release();
        made(&dump.join().unwrap().expect_code(0))
    });
    // It runs after the dump by itself.
    eventually("the prune after the dump", PATIENCE, || {
        (stored(&root, &series) == [[second.clone()].into(), names([])]).then_some(())
    });
    daemon.stop();
    daemon.assert_log_clean(&[]);
}
