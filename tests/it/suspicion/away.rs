//! Repositories that cannot be asked when a backup is compared with the last.

use std::fs;

use super::{Bench, DB, DISK, SAFE, move_folder};

#[test]
fn the_last_good_backup_stays_although_its_repository_is_away_when_a_bad_one_is_made() {
    let bench = Bench::new("");
    let (good, findings) = bench.dump();
    assert!(findings.is_empty(), "{findings:#?}");
    // The other one is new.
    fs::remove_dir_all(bench.home.repository_dir(SAFE).join("main")).unwrap();
    bench.cluster.psql(DB, "DELETE FROM items WHERE i > 100");
    let root = bench.home.repository_dir(DISK);
    let away = root.with_file_name("away");
    move_folder(&root, &away);
    let ran = bench.home.run(&["run", "nightly", "--json"]).json();
    assert_eq!(ran["verdict"], "partial", "{ran:#}");
    let what = ran["report"]["findings"][0]["what"].as_str().unwrap();
    assert!(what.contains("could not be compared") && what.contains("disk: "), "{what}");
    assert_eq!(bench.rows(SAFE)[0]["suspicious"], true);
    // What there is now is in doubt: it says nothing about what is good.
    let ran = bench.home.run(&["run", "nightly", "--json"]).json();
    let what = ran["report"]["findings"][0]["what"].as_str().unwrap();
    assert!(what.contains("safe: every backup there is in doubt"), "{what}");
    move_folder(&away, &root);
    let (bad, findings) = bench.dump();
    let what = findings[0]["what"].as_str().unwrap();
    assert!(what.contains("100 rows, before 5000") && what.contains(&good), "{what}");
    assert_eq!(bench.prune(), [vec![good, bad.clone()], vec![bad]]);
}
