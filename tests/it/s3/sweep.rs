//! Uploads that a crash left behind.

use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};

use super::{Bench, KEY, bytes, list, open};
use crate::harness::chaos::Fault;

const OTHER: &str = "main/741/app/all/20261122T021500Z-k3f9q2x8/app.dump.zst";
const AN_HOUR: Duration = Duration::from_hours(1);

#[expect(clippy::disallowed_methods, reason = "the store's records are of now")]
fn in_hours(hours: i64) -> Timestamp {
    Timestamp::now() + hours.hours()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_a_crash_left_is_swept_from_its_record() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let upload = store.begin(KEY).await.expect("begun");
    assert_eq!(bench.records(), 1, "remembered before the first part");
    upload.part(1, bytes(100, 1)).await.expect("a part");
    // A crash: neither committed nor aborted, and the lock is gone.
    drop(upload);
    drop(store);

    let store = bench.store().await;
    let alive = store.begin(OTHER).await.expect("begun");
    alive.part(1, bytes(100, 2)).await.expect("a part");
    let swept = store.sweep(AN_HOUR, in_hours(0)).await.expect("swept");
    assert_eq!((swept.uploads, bench.records()), (0, 2), "too young");
    let swept = store.sweep(AN_HOUR, in_hours(2)).await.expect("swept");
    assert_eq!((swept.uploads, bench.records()), (1, 1), "the live one is spared");
    assert_eq!(bench.server.uploads().len(), 1);
    alive.commit().await.expect("committed");
    assert_eq!(bench.server.parts(), 0);
    assert_eq!(list(&store, "").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_an_upload_that_was_completed_goes_and_the_object_stays() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let upload = store.begin(KEY).await.expect("begun");
    upload.part(1, bytes(100, 1)).await.expect("a part");
    let record = std::fs::read_dir(bench.uploads_dir()).expect("a folder").next();
    let record = record.expect("a record").expect("an entry").path();
    let text = std::fs::read(&record).expect("read");
    upload.commit().await.expect("committed");
    // A crash between the store's answer and the removal of the record.
    std::fs::write(&record, text).expect("written");
    let swept = store.sweep(AN_HOUR, in_hours(2)).await.expect("swept");
    assert_eq!((swept.uploads, bench.records()), (0, 0));
    assert_eq!(list(&store, "").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_only_the_store_knows_are_swept_where_it_lists_them() {
    let bench = Bench::start().await;
    // A host that is gone with its state directory.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let mut options = bench.options();
    options.uploads_dir = elsewhere.path().into();
    drop(open(options).await.begin(KEY).await.expect("begun"));
    let forgotten = bench.server.uploads().remove(0);
    let store = bench.store().await;
    let alive = store.begin(OTHER).await.expect("begun");
    let live = bench.server.uploads().into_iter().find(|id| *id != forgotten).expect("an id");
    let upload = |key: &str, id: &str, day: u32| {
        format!(
            "<Upload><Key>host/a/{key}</Key><UploadId>{id}</UploadId>\
             <Initiated>2026-11-{day:02}T00:00:00.000Z</Initiated></Upload>"
        )
    };
    // s3s-fs cannot list uploads: the proxy answers in its place.
    let body = format!(
        "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{}{}{}{}\
         </ListMultipartUploadsResult>",
        upload(KEY, &forgotten, 22),
        upload(OTHER, &live, 22),
        upload("somebody/elses/file", "00000000-0000-0000-0000-000000000001", 22),
        upload(KEY, "00000000-0000-0000-0000-000000000002", 30),
    );
    bench.chaos.on("GET", "?uploads", Fault::Answer(200, "", body));
    let now = "2026-11-30T12:00:00Z".parse().expect("a time");
    let swept = store.sweep(Duration::ZERO, now).await.expect("swept");
    assert_eq!(swept.uploads, 1);
    assert_eq!(bench.server.uploads(), [live]);
    assert_eq!(bench.chaos.seen("DELETE", "uploadId=").len(), 1);
    alive.abort().await.expect("aborted");
}

/// A list of uploads may still show what was completed, or belong to a backup that is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_listed_upload_of_what_is_there_is_left_alone() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let (folder, _) = KEY.rsplit_once('/').expect("a folder");
    let manifest = format!("{folder}/manifest.json");
    let upload = |key: &str, number: u32| {
        format!(
            "<Upload><Key>host/a/{key}</Key><UploadId>00000000-0000-0000-0000-00000000000{number}\
             </UploadId><Initiated>2026-11-22T00:00:00.000Z</Initiated></Upload>"
        )
    };
    let list = format!(
        "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{}{}\
         </ListMultipartUploadsResult>",
        upload(KEY, 1),
        upload("main/741/app/all/yesterday/20261121T021500Z-k3f9q2x7", 2),
    );
    bench.chaos.on("GET", "?uploads", Fault::Answer(200, "", list));
    let now = "2026-11-30T12:00:00Z".parse().expect("a time");
    for there in [KEY, &manifest] {
        store.put_new(there, bytes(10, 1)).await.expect("written");
        let swept = store.sweep(Duration::ZERO, now).await.expect("swept");
        assert_eq!(swept.uploads, 0);
        assert!(bench.chaos.seen("DELETE", "uploadId=").is_empty());
        store.delete(there).await.expect("deleted");
    }
    bench.chaos.calm().await;
    // Nor where it is not known whether it is there, or the list was cut.
    let cut = format!("<ListMultipartUploadsResult>{}", upload(KEY, 1));
    let whole = format!("{cut}<IsTruncated>false</IsTruncated></ListMultipartUploadsResult>");
    bench.chaos.next(1, "GET", "?uploads", Fault::Answer(200, "", cut));
    store.sweep(Duration::ZERO, now).await.expect_err("a cut list");
    bench.chaos.on("GET", "?uploads", Fault::Answer(200, "", whole));
    bench.chaos.on("HEAD", "", Fault::slow_down());
    store.sweep(Duration::ZERO, now).await.expect_err("no answer");
    assert!(bench.chaos.seen("DELETE", "uploadId=").is_empty());
}
