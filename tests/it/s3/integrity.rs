//! Which digests go with which requests. That is all that can be tested here: s3s-fs accepts
//! parts with wrong ones.

use pgkeep::repository::s3::Integrity;

use super::{Bench, KEY, PART, bytes, open};
use crate::harness::chaos::Seen;

/// Every header that carries a digest or announces one.
const DIGESTS: [&str; 6] = [
    "content-md5",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc64nvme",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-trailer",
    "x-amz-checksum-sha256",
];

/// Sends two parts and a small object; gives back what went over the line: create, part, complete
/// and put.
async fn sent(integrity: Integrity) -> [Seen; 4] {
    let bench = Bench::start().await;
    let mut options = bench.options();
    options.integrity = integrity;
    let store = open(options).await;
    let upload = store.begin(KEY).await.expect("begun");
    upload.part(1, bytes(PART, 1)).await.expect("a part");
    upload.part(2, bytes(10, 2)).await.expect("a part");
    upload.commit().await.expect("committed");
    store.put_new("small", "123456789".into()).await.expect("written");
    let one = |method, target| {
        let mut seen = bench.chaos.seen(method, target);
        assert_eq!(seen.len(), 1, "{method} {target}");
        seen.remove(0)
    };
    [
        one("POST", "?uploads"),
        one("PUT", "partNumber=1"),
        one("POST", "uploadId="),
        one("PUT", "small"),
    ]
}

fn digests(seen: &Seen) -> Vec<&'static str> {
    DIGESTS.into_iter().filter(|name| seen.header(name).is_some()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_sends_md5_to_an_endpoint_of_ones_own() {
    let [create, part, complete, put] = sent(Integrity::Auto).await;
    assert_eq!(digests(&part), ["content-md5"]);
    assert_eq!(digests(&put), ["content-md5"]);
    // printf 123456789 | openssl md5 -binary | base64
    assert_eq!(put.header("content-md5"), Some("JfnnlDI7RTiF9RgfG2JNCw=="));
    assert!(digests(&create).is_empty() && digests(&complete).is_empty());
    assert_eq!(create.header("x-amz-checksum-algorithm"), None);
    assert_eq!(create.header("x-amz-meta-pgkeep-upload").map(str::len), Some(32));
}

#[tokio::test(flavor = "multi_thread")]
async fn none_sends_none() {
    for seen in sent(Integrity::None).await {
        assert!(digests(&seen).is_empty(), "{seen:?}");
        assert_eq!(seen.header("x-amz-checksum-algorithm"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crc64nvme_is_declared_sent_and_completed_for_the_whole_object() {
    let [create, part, complete, put] = sent(Integrity::Crc64Nvme).await;
    assert_eq!(create.header("x-amz-checksum-algorithm"), Some("CRC64NVME"));
    assert_eq!(create.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
    assert_eq!(digests(&part), ["x-amz-checksum-crc64nvme"]);
    assert_eq!(complete.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
    assert_eq!(digests(&complete), ["x-amz-checksum-crc64nvme"]);
    let length = (PART + 10).to_string();
    assert_eq!(complete.header("x-amz-mp-object-size"), Some(length.as_str()));
    assert_eq!(digests(&put), ["x-amz-checksum-crc64nvme"]);
    // The catalogue's check value ae8b14860a799888, in base64.
    assert_eq!(put.header("x-amz-checksum-crc64nvme"), Some("rosUhgp5mIg="));
}

#[tokio::test(flavor = "multi_thread")]
async fn crc32_is_declared_and_sent_with_each_part() {
    let [create, part, _, put] = sent(Integrity::Crc32).await;
    assert_eq!(create.header("x-amz-checksum-algorithm"), Some("CRC32"));
    assert_eq!(digests(&part), ["x-amz-checksum-crc32"]);
    // The catalogue's check value cbf43926, in base64.
    assert_eq!(put.header("x-amz-checksum-crc32"), Some("y/Q5Jg=="));
}
