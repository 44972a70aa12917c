//! Parts of another size than the usual one.

use super::{Bench, CLOUD, DISK, Setup};

fn part_lengths(bench: &Bench) -> Vec<u64> {
    let seen = bench.chaos.seen("PUT", "partNumber=");
    seen.iter().map(|it| it.header("content-length").unwrap().parse().unwrap()).collect()
}

/// The stream is cut once for all repositories, into parts that each of them takes.
#[tokio::test(flavor = "multi_thread")]
async fn the_smallest_part_size_is_that_of_all() {
    for (size, largest) in [("5MiB", 5 << 20), ("16MiB", 8 << 20)] {
        let cloud = format!("{}\npart_size = \"{size}\"", super::PATIENT);
        let setup = Setup { cloud: cloud.leak(), megabytes: 20, ..Setup::default() };
        let bench = setup.start().await;
        bench.run().expect_code(0);
        let lengths = part_lengths(&bench);
        assert!(lengths.len() >= 2, "{lengths:?}");
        assert!(lengths.iter().all(|length| *length <= largest), "{size}: {lengths:?}");
        assert!(lengths.contains(&largest), "{size}: {lengths:?}");
        bench.assert_all_restore(CLOUD, 1);
        bench.assert_all_restore(DISK, 1);
    }
}

/// A bucket alone has its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_alone_has_its_own_part_size() {
    let cloud = "request_timeout = \"20s\"\npart_size = \"16MiB\"\nparallel_parts = 2";
    let bench = Setup { cloud, megabytes: 40, ..Setup::default() }.start().await;
    let only = bench.home.config().replace("[\"disk\", \"cloud\"]", "[\"cloud\"]");
    assert_ne!(only, bench.home.config());
    bench.home.rewrite(&only);
    bench.run().expect_code(0);
    assert!(part_lengths(&bench).contains(&(16 << 20)), "{:?}", part_lengths(&bench));
    bench.assert_all_restore(CLOUD, 1);
}
