//! Dumps of more than one volume.

use super::{
    Bucket, DISK, OFFSITE, Running, assert_listed, bin_dir,
    retry::{SOON, counted},
    run_job, stop_after_failures,
};
use crate::harness::{pgkeep::Pgkeep, postgres::Cluster};

/// 34 MiB that nothing compresses: pg_dump writes them as hexadecimal digits, and zstd makes of
/// two digits little more than one byte again.
const NOISE_SQL: &str = "CREATE TABLE noise (i int, bytes bytea);
    ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL;
    INSERT INTO noise SELECT i, (SELECT string_agg(sha512(format('%s/%s', i, k)::bytea), '')
        FROM generate_series(1, 1024) AS k) FROM generate_series(1, 544) AS i";
/// The least parts of a volume; 16 MiB.
pub(super) const SMALL: &str = "max_parts = 2";

pub(super) fn noisy() -> Cluster {
    let cluster = Cluster::builder().empty().start();
    cluster.psql("postgres", "CREATE DATABASE noisy");
    cluster.psql("noisy", NOISE_SQL);
    cluster
}

fn volumes(copy: &super::Copy) -> Vec<(&str, u64)> {
    let objects = copy.manifest.objects.iter();
    objects.map(|object| (object.name.as_str(), object.bytes)).collect()
}

/// Three volumes, all full but the last.
fn assert_three(copy: &super::Copy) {
    let volumes = volumes(copy);
    let [(one, full), (two, same), (three, rest)] = *volumes else { panic!("{volumes:?}") };
    let names = ["noisy.dump.zst", "noisy.dump.zst.001", "noisy.dump.zst.002"];
    assert_eq!([one, two, three], names);
    assert_eq!((full, same), (16 << 20, 16 << 20));
    assert!(rest < full, "{volumes:?}");
    let lines = copy.manifest.restore.join("\n");
    assert!(lines.contains(&format!("cat {} | zstd", names.join(" "))), "{lines}");
}

#[test]
fn dump_of_many_parts_is_split_into_volumes() {
    let cluster = noisy();
    let bucket = Bucket::start();
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = bucket.configure(home, SMALL);
    let home = home.dump("nightly", "main", &["noisy"], &[DISK, OFFSITE], super::ONCE);
    let mut daemon = home.ready_daemon();
    run_job(&home, "nightly", 0);
    let roots = [(DISK, home.repository_dir(DISK)), (OFFSITE, bucket.root())];
    let expected = ["noisy -> disk", "noisy -> offsite"];
    for copy in assert_listed(&home, &cluster, &roots, &expected) {
        assert_three(&copy);
    }
    assert!(bucket.server.uploads().is_empty());
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn dump_made_while_s3_is_away_has_the_volumes_that_it_takes() {
    let cluster = noisy();
    let bucket = Bucket::start();
    let fake = counted(&cluster);
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path())).local(DISK);
    let home = bucket.configure(home, SMALL);
    let home = home.dump("nightly", "main", &["noisy"], &[DISK, OFFSITE], SOON);
    let mut daemon = home.ready_daemon();
    // Down from the start: what goes to the disk alone must fit the bucket all the same.
    bucket.refuse();
    let running = Running::start(&home, "nightly");
    daemon.wait_log("failed: ");
    bucket.calm();
    running.end(0);
    assert_eq!(fake.starts(), 1);
    let roots = [(DISK, home.repository_dir(DISK)), (OFFSITE, bucket.root())];
    let expected = ["noisy -> disk", "noisy -> offsite"];
    let copies = assert_listed(&home, &cluster, &roots, &expected);
    assert_three(&copies[0]);
    assert_three(&copies[1]);
    assert_eq!(copies[0].manifest.id, copies[1].manifest.id);
    stop_after_failures(&mut daemon);
}
