//! Whose backups they are: a clone of a host does not add to the series of its original.

use std::fs;

use crate::harness::{
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    process::Output,
};

const DISK: &str = "disk";
const JOB: &str = "nightly";

/// The id of the backup that a run made.
fn made(output: &Output) -> String {
    let report = output.json();
    report["report"]["targets"][0]["figures"]["backup"].as_str().unwrap().to_owned()
}

#[test]
fn a_dump_into_a_series_of_another_host_is_refused_until_it_is_adopted() {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local(DISK).dump(
        JOB,
        "main",
        &[APP],
        &[DISK],
        "globals = false\nattempts = 1",
    );
    let id = made(&home.run(&["run", JOB, "--json"]).expect_code(0));
    let listed = home.run(&["list", "--json"]).expect_code(0).json();
    let system_id = listed[0]["system_id"].as_str().unwrap();
    let series = home.repository_dir(DISK).join(format!("main/{system_id}/{APP}/all"));
    let manifest = series.join(&id).join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let own = pgkeep::sys::host::owner(&home.state_dir()).unwrap();
    assert!(text.contains(&own.machine_id));
    let other = "5".repeat(32);
    fs::write(&manifest, text.replace(&own.machine_id, &other)).unwrap();

    let report = home.run(&["run", JOB, "--json"]).expect_code(1).json();
    let failure = &report["report"]["targets"][0]["outcome"]["detail"];
    assert_eq!(failure["class"], "configuration", "{failure}");
    let what = failure["what"].as_str().unwrap();
    assert!(what.contains(&other) && what.contains(&own.host), "{what}");
    let hint = failure["hint"].as_str().unwrap();
    assert!(hint.contains(&format!("adopt = [\"{other}\"] in [daemon]")), "{hint}");
    assert_eq!(fs::read_dir(&series).unwrap().count(), 1);

    let adopting =
        home.config().replacen("[daemon]\n", &format!("[daemon]\nadopt = [\"{other}\"]\n"), 1);
    home.rewrite(&adopting);
    home.run(&["run", JOB, "--json"]).expect_code(0);
    // The series is ours now.
    home.rewrite(home.config());
    let third = made(&home.run(&["run", JOB, "--json"]).expect_code(0));
    assert!(series.join(third).join("manifest.json").exists());
}
