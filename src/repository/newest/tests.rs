//! Random series, held against a naive look at what was drawn.

use std::sync::Arc;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::{
    domain::{
        manifest::{MANIFEST_NAME, StoredObject},
        retention,
        suspicion::{Kind, Suspicion},
    },
    repository::{
        layout,
        lying::{Lies, Lying},
        memory::MemoryStore,
        store::Store,
        tests::{manifest, series},
    },
    sys::clock::{Clock as _, SystemClock},
};

const DATA: &str = "app.dump.zst.age";

/// What is there of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    Whole,
    /// Its manifest alone.
    Lost,
    /// Its manifest is no manifest.
    Garbled,
    /// Its data alone.
    Incomplete,
    /// The store does not give its manifest.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    Marked,
    /// The mark is there, and the listing leaves it out.
    Hidden,
    Acknowledged,
    /// The mark is gone, and the manifest tells of the doubt.
    Lost,
}

/// One backup as it was drawn.
#[derive(Debug, Clone)]
pub(crate) struct Drawn {
    minutes_ago: i64,
    /// Whether it was written by the store's clock two days before its id says.
    is_ahead: bool,
    data: Data,
    doubt: Doubt,
    proof: Option<Proof>,
}

impl Drawn {
    fn id(&self, now: Timestamp) -> BackupId {
        BackupId::new(now - SignedDuration::from_mins(self.minutes_ago), 1)
    }

    fn is_whole(&self) -> bool {
        self.data == Data::Whole && self.doubt != Doubt::Lost
    }

    fn may_count(&self) -> bool {
        self.minutes_ago >= -10 && !self.is_ahead && self.data != Data::Incomplete
    }

    fn in_doubt(&self) -> bool {
        matches!(self.doubt, Doubt::Marked | Doubt::Hidden)
    }
}

/// Up to 40 backups of one series, of different times.
pub(crate) fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let data = prop_oneof![
        3 => Just(Data::Whole),
        2 => Just(Data::Lost),
        1 => Just(Data::Garbled),
        1 => Just(Data::Incomplete),
        1 => Just(Data::Refused),
    ];
    let doubt = prop_oneof![
        4 => Just(Doubt::None),
        2 => Just(Doubt::Marked),
        1 => Just(Doubt::Hidden),
        1 => Just(Doubt::Acknowledged),
        1 => Just(Doubt::Lost),
    ];
    let proof = prop_oneof![
        2 => Just(None),
        1 => Just(Some(Proof::Verified)),
        1 => Just(Some(Proof::Drilled)),
    ];
    // Damage that is rare, or so frequent that more are damaged than are asked for.
    let rest = (prop::bool::weighted(0.1), data, doubt, proof);
    let facts = (rest, any::<bool>()).prop_map(|((is_ahead, data, doubt, proof), is_worse)| {
        let data = if is_worse && data == Data::Whole { Data::Lost } else { data };
        Drawn { minutes_ago: 0, is_ahead, data, doubt, proof }
    });
    prop::collection::btree_map(-30_i64..4_000, facts, 0..40).prop_map(|backups| {
        let placed = backups.into_iter().map(|(minutes, it)| {
            let minutes_ago = if minutes < 0 { minutes } else { minutes / 4 * 4 + 1 };
            Drawn { minutes_ago, ..it }
        });
        let mut all: Vec<Drawn> = placed.collect();
        all.dedup_by_key(|it| it.minutes_ago);
        all
    })
}

/// What a backup was drawn as, in a store.
fn plant(store: &MemoryStore, drawn: &Drawn, now: Timestamp) {
    let id = drawn.id(now);
    let two_days = SignedDuration::from_hours(48);
    let written = if drawn.is_ahead { id.time() - two_days } else { id.time() };
    let put = |name: &str, bytes: Vec<u8>| {
        store.plant(&layout::object_key(&series(), &id, name), bytes, written);
    };
    let object = StoredObject { name: DATA.to_owned(), bytes: 1, sha256: "0".repeat(64) };
    let mut manifest = manifest(&id, vec![object], None);
    manifest.recipients = ["age1x".to_owned()].into_iter().collect();
    manifest.codec.push("age".to_owned());
    if drawn.doubt != Doubt::None {
        manifest.suspicions = vec![Suspicion::new(Kind::NoRows, "0 rows, before 5000")];
        if drawn.doubt != Doubt::Lost {
            put(MARK_NAME, b"[]".to_vec());
        }
    }
    if drawn.doubt == Doubt::Acknowledged {
        put(ACKNOWLEDGED_NAME, b"{}".to_vec());
    }
    match drawn.data {
        Data::Incomplete => {}
        Data::Garbled => put(MANIFEST_NAME, b"{".to_vec()),
        _ => put(MANIFEST_NAME, manifest.versioned().to_bytes().unwrap()),
    }
    if drawn.data != Data::Lost {
        put(DATA, b"x".to_vec());
    }
    match drawn.proof {
        Some(Proof::Verified) => put("proof-20261121T021500Z-verify.json", b"{}".to_vec()),
        Some(Proof::Drilled) => put("proof-20261121T021500Z-drill.json", b"{}".to_vec()),
        None => {}
    }
}

/// A repository with what was drawn, in which it is now `now`.
pub(crate) async fn bucket(drawn: &[Drawn], now: Timestamp) -> Repository {
    let store = Arc::new(MemoryStore::new(SystemClock::new()));
    let mut lies = Lies::default();
    for it in drawn {
        plant(&store, it, now);
        let key = |name| layout::object_key(&series(), &it.id(now), name);
        if it.data == Data::Refused {
            lies.refused.push(key(MANIFEST_NAME));
        }
        if it.doubt == Doubt::Hidden {
            lies.hidden.push(key(MARK_NAME));
        }
    }
    let lying = Lying::new(store as Arc<dyn Store>, lies);
    Repository::open("local".parse().unwrap(), lying, true).await.unwrap()
}

/// The newest that fits, by what was drawn.
fn naive(drawn: &[Drawn], criteria: Criteria, now: Timestamp) -> Option<BackupId> {
    let is_named = |it: &&Drawn| {
        let is_marked = it.doubt == Doubt::Marked;
        (it.may_count() || (criteria.future && it.data != Data::Incomplete))
            && !(criteria.trusted && is_marked)
            && (criteria.proof.is_none() || criteria.proof == it.proof)
            && criteria.until.is_none_or(|until| it.id(now).time() <= until)
    };
    let mut named: Vec<&Drawn> = drawn.iter().filter(is_named).collect();
    named.sort_by_key(|it| (!it.may_count(), it.minutes_ago));
    let fits = |it: &&&Drawn| {
        let is_read = matches!(it.data, Data::Whole | Data::Lost) && it.doubt != Doubt::Lost;
        let is_enough = if criteria.manifest_alone { is_read } else { it.is_whole() };
        is_enough && !(criteria.trusted && it.in_doubt())
    };
    named.iter().take(ASKED_MAX).find(fits).map(|it| it.id(now))
}

/// The newest whole backup, by what was drawn.
pub(crate) fn newest_whole(drawn: &[Drawn], now: Timestamp) -> Option<BackupId> {
    naive(drawn, Criteria::default(), now)
}

/// The first that is whole, and what was passed over until then.
async fn first(
    mut newest: Newest,
    repository: &Repository,
    drawn: &[Drawn],
    now: Timestamp,
) -> Option<BackupId> {
    while let Some((listed, examined)) = newest.next(repository).await.unwrap() {
        let it = drawn.iter().find(|it| it.id(now) == listed.id).unwrap();
        match examined.verdict {
            Verdict::Whole { in_doubt } => {
                assert_eq!(in_doubt, it.in_doubt(), "{it:?}");
                return Some(listed.id);
            }
            Verdict::Refused(_) => assert_eq!(it.data, Data::Refused, "{it:?}"),
            Verdict::Damaged(why) => {
                assert!(!it.is_whole() && it.data != Data::Refused, "{it:?}: {why}");
            }
        }
    }
    None
}

/// Whoever is told that a backup is damaged deletes it.
#[tokio::test]
async fn what_only_a_newer_pgkeep_reads_is_not_called_damaged() {
    let store = Arc::new(MemoryStore::new(SystemClock::new()));
    let name = "local".parse().unwrap();
    let opened = Repository::open(name, Arc::clone(&store) as Arc<dyn Store>, true);
    let repository = opened.await.unwrap();
    let id = BackupId::new(now(), 1);
    let said = async |manifest: Vec<u8>| {
        store.plant(&layout::object_key(&series(), &id, MANIFEST_NAME), manifest, now());
        match repository.examine(&series(), &id, None).await.unwrap().verdict {
            Verdict::Damaged(said) => said,
            other => panic!("{other:?}"),
        }
    };
    let mut newer = manifest(&id, Vec::new(), None);
    newer.format_version = 99;
    let said_of_newer = said(newer.to_bytes().unwrap()).await;
    assert!(said_of_newer.starts_with("cannot be read here: "), "{said_of_newer}");
    assert!(said_of_newer.contains("99") && !said_of_newer.contains("damaged"), "{said_of_newer}");
    let said_of_rest = said(b"{".to_vec()).await;
    assert!(said_of_rest.starts_with("is damaged: "), "{said_of_rest}");
}

/// A second without a fraction, as ids have.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(SystemClock::new().now().wall.as_second()).unwrap()
}

fn criteria() -> impl Strategy<Value = (Criteria, i64)> {
    let proof = prop_oneof![Just(None), Just(Some(Proof::Verified)), Just(Some(Proof::Drilled))];
    let facts = (any::<[bool; 4]>(), proof, 0_i64..4_000);
    facts.prop_map(|([trusted, future, manifest_alone, is_bound], proof, minutes)| {
        let until = is_bound.then(|| now() - SignedDuration::from_mins(minutes));
        (Criteria { trusted, proof, until, future, manifest_alone }, minutes)
    })
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_question_has_the_answer_of_a_naive_look(all in drawn(), (criteria, _) in criteria()) {
        block_on(async {
            let now = now();
            let repository = bucket(&all, now).await;
            let newest = Newest::of(&repository, &series(), criteria, now).await.unwrap();
            let found = first(newest, &repository, &all, now).await;
            assert_eq!(found, naive(&all, criteria, now), "{criteria:?}");
            // By names alone: no more is known of it than when it was begun.
            let ids: Vec<BackupId> = all.iter().map(|it| it.id(now)).collect();
            let named = Newest::among(&series(), &ids, Criteria { future: true, ..criteria }, now);
            let mut expected: Vec<BackupId> = ids.iter().filter(|id| {
                criteria.until.is_none_or(|until| id.time() <= until) && criteria.proof.is_none()
            }).cloned().collect();
            // The newest first; those from the future behind all others.
            expected.sort_by_key(|id| (retention::is_later(id, now), std::cmp::Reverse(id.clone())));
            expected.truncate(ASKED_MAX);
            assert_eq!(named.rest().map(|it| it.id.clone()).collect::<Vec<_>>(), expected);
        });
    }
}

#[tokio::test]
async fn a_repository_that_does_not_answer_says_nothing_of_a_backup() {
    use crate::repository::faulty::{Faults, Faulty};
    let store = Arc::new(MemoryStore::new(SystemClock::new()));
    let whole = Drawn {
        minutes_ago: 5,
        is_ahead: false,
        data: Data::Whole,
        doubt: Doubt::None,
        proof: None,
    };
    plant(&store, &whole, now());
    let open =
        async |store: Arc<dyn Store>| Repository::open("local".parse().unwrap(), store, true).await;
    open(store.clone()).await.unwrap();
    let mut away = 0;
    for seed in 0..20 {
        let faults = Faults { seed, before: 0.4, ..Faults::default() };
        let Ok(repository) = open(Faulty::new(store.clone(), faults)).await else { continue };
        let id = whole.id(now());
        match repository.examine(&series(), &id, None).await {
            Ok(examined) => assert!(matches!(examined.verdict, Verdict::Whole { .. })),
            Err(error) => {
                assert!(error.kind.is_worth_a_retry(), "{error}");
                away += 1;
            }
        }
    }
    assert!(away > 0, "it always answered");
}

#[test]
fn of_copies_of_the_newest_the_first_is_nearest() {
    let id = |minute| BackupId::new(now() - SignedDuration::from_mins(minute), 1);
    let (old, new) = (id(9), id(1));
    let gave =
        [(old.clone(), "disk"), (new.clone(), "office"), (new.clone(), "cloud"), (old, "tape")];
    assert_eq!(nearest(gave), Some((new, "office")));
    assert_eq!(nearest(Vec::<(BackupId, ())>::new()), None);
}
