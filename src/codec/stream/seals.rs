//! Tests of several seals on one stream.

use std::collections::BTreeSet;

use tokio::sync::mpsc::channel;

use super::{
    tests::{ENCODE, Got, PART, archive, outcome, piped, plain, task},
    *,
};
use crate::codec::{
    archive::ArchiveProof,
    encrypt::tests::{keys, open},
};

#[tokio::test]
async fn one_pass_makes_a_plain_and_an_encrypted_form_of_the_same() {
    let bytes = archive(4, 20_000);
    let ((one, first), (two, second)) = (keys(), keys());
    let both: Recipients = first.iter().chain(second.iter()).map(str::to_owned).collect();
    let encode = Encode { volume_parts: 3, ..ENCODE };
    let (to_plain, from_plain) = channel(1);
    let (to_secret, from_secret) = channel(1);
    let (to_twin, from_twin) = channel(1);
    let seals =
        vec![plain(vec![to_plain]), Seal { recipients: both, sinks: vec![to_secret, to_twin] }];
    let proof = Box::new(ArchiveProof::new(std::env::temp_dir()));
    let answer = start(piped(bytes.clone()), proof, encode, seals, &task());
    let (clear, secret, twin) =
        tokio::join!(Got::all(from_plain), Got::all(from_secret), Got::all(from_twin));
    outcome(answer).await.unwrap();
    for got in [&clear, &secret, &twin] {
        got.check(encode);
    }
    assert!(secret.ends.len() > 2, "the volumes of the encrypted form are cut as well");
    assert!(secret.stream() == twin.stream(), "same recipients, one seal");
    assert!(zstd::decode_all(&*clear.stream()).unwrap() == bytes);
    for identity in [one, two] {
        assert!(open(&secret.stream(), &identity).unwrap() == clear.stream());
    }
    // A volume that is lost, or in the wrong place, shows.
    let (key, _) = keys();
    assert!(open(&secret.stream(), &key).is_err());
}

#[tokio::test]
async fn the_index_finds_its_frames_in_what_was_decrypted() {
    let bytes = archive(10, 4_000);
    let (identity, recipients) = keys();
    let (sink, got) = channel(1);
    let seals = vec![Seal { recipients, sinks: vec![sink] }];
    let answer = start(
        piped(bytes.clone()),
        Box::new(ArchiveProof::new(std::env::temp_dir())),
        ENCODE,
        seals,
        &task(),
    );
    let got = Got::all(got).await;
    let streamed = outcome(answer).await.unwrap();
    let joined = open(&got.stream(), &identity).unwrap();
    let index = crate::codec::index::encode(&streamed.structure, &streamed.frames)
        .unwrap()
        .to_vec()
        .unwrap();
    let index = crate::codec::index::decode(&index).unwrap();
    let size = |bytes: u64| usize::try_from(bytes).unwrap();
    let data = &index.entries[7].data;
    let from = size(data.stored.offset);
    let within = zstd::decode_all(&joined[from..from + size(data.stored.bytes)]).unwrap();
    let start = size(data.plain.offset - data.stored.plain_offset);
    let at = size(data.plain.offset);
    let length = size(data.plain.bytes);
    assert!(within[start..start + length] == bytes[at..at + length]);
}

#[tokio::test]
async fn a_seal_whose_sinks_went_away_leaves_the_other_whole() {
    let bytes = archive(4, 40_000);
    for leaves_plain in [true, false] {
        let (identity, recipients) = keys();
        let (leaving, mut leaves) = channel(1);
        let (staying, stays) = channel(1);
        let (plain_sink, secret_sink) =
            if leaves_plain { (leaving, staying) } else { (staying, leaving) };
        let seals = vec![plain(vec![plain_sink]), Seal { recipients, sinks: vec![secret_sink] }];
        let answer = start(
            piped(bytes.clone()),
            Box::new(ArchiveProof::new(std::env::temp_dir())),
            ENCODE,
            seals,
            &task(),
        );
        let stays = tokio::spawn(Got::all(stays));
        assert!(leaves.recv().await.is_some());
        drop(leaves);
        let got = stays.await.unwrap();
        outcome(answer).await.unwrap();
        got.check(ENCODE);
        let packed =
            if leaves_plain { open(&got.stream(), &identity).unwrap() } else { got.stream() };
        assert!(zstd::decode_all(&*packed).unwrap() == bytes);
    }
}

#[tokio::test]
async fn what_cannot_be_encrypted_is_stored_nowhere() {
    let wrong: Recipients = ["age1nobody".to_owned()].into_iter().collect();
    let (to_plain, from_plain) = channel(1);
    let (to_secret, from_secret) = channel(1);
    let seals = vec![plain(vec![to_plain]), Seal { recipients: wrong, sinks: vec![to_secret] }];
    let answer = start(
        piped(archive(1, 10)),
        Box::new(ArchiveProof::new(std::env::temp_dir())),
        ENCODE,
        seals,
        &task(),
    );
    let (clear, secret) = tokio::join!(Got::all(from_plain), Got::all(from_secret));
    assert!(matches!(outcome(answer).await, Err(StreamError::Encrypt(_))));
    assert!(clear.stream().is_empty() && secret.stream().is_empty());
}

#[test]
fn memory_counts_a_part_for_each_seal_and_what_encrypting_takes() {
    let (_, secret) = keys();
    let nobody = Recipients::default();
    let of =
        |seals: &[&Recipients]| ENCODE.memory(3, &seals.iter().copied().collect::<BTreeSet<_>>());
    let one = of(&[&nobody]);
    assert_eq!(of(&[&secret]) - one, Encrypt::BYTES);
    assert_eq!(of(&[&nobody, &secret]) - one, Encrypt::BYTES + PART as u64);
}
