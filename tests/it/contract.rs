//! What every store does, whatever its kind, also behind decorators. One line in `stores!` adds a
//! kind: it is tried as it is, and behind a retry round seeded faults.

#![expect(clippy::unwrap_used, reason = "a test")]

mod checks;

use std::{any::Any, future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::harness::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

use pgkeep::{
    repository::{
        faulty::{Faults, Faulty},
        local::{LocalOptions, LocalStore},
        memory::MemoryStore,
        pace::{Pace, Paced},
        retry::{Retry, RetryPolicy},
        s3::{LEAST_PART_BYTES, S3Credentials, S3Options, S3Store},
        store::Store,
    },
    sys::clock::SystemClock,
};

/// A store to try, and what has to live as long as it.
pub(crate) struct Fixture {
    store: Arc<dyn Store>,
    _keep: Box<dyn Any>,
}

impl Fixture {
    /// A store that needs `keep` (a temporary folder, a server).
    pub(crate) fn new(store: impl Store + 'static, keep: impl Any) -> Self {
        Self { store: Arc::new(store), _keep: Box::new(keep) }
    }
}

async fn memory() -> Fixture {
    Fixture::new(MemoryStore::new(SystemClock::new()), ())
}

async fn paced() -> Fixture {
    let memory = Arc::new(MemoryStore::new(SystemClock::new()));
    let pace = Arc::new(Pace::new(1 << 30, SystemClock::new()));
    Fixture::new(Paced::new(memory, pace), ())
}

async fn local() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let options =
        LocalOptions { path: folder.path().to_owned(), min_free: 1, others_may_write: false };
    Fixture::new(LocalStore::new(options), folder)
}

async fn s3() -> Fixture {
    let (server, state) = (S3Server::start().await, tempfile::tempdir().unwrap());
    let credentials = S3Credentials::Static {
        access_key_id: ACCESS_KEY.to_owned(),
        secret_access_key: SECRET_KEY.to_owned().into(),
    };
    let mut options = S3Options::new(BUCKET, credentials, state.path().join("uploads"));
    options.endpoint = Some(server.url());
    options.path_style = true;
    options.prefix = "contract".into();
    options.part_bytes = LEAST_PART_BYTES;
    let store = S3Store::new(options, SystemClock::new()).await.unwrap();
    Fixture::new(store, (server, state))
}

macro_rules! stores {
    ($($kind:ident),+ $(,)?) => {$(
        mod $kind {
            #[tokio::test(flavor = "multi_thread")]
            async fn keeps_the_contract() {
                let fixture = super::$kind().await;
                super::contract(std::sync::Arc::clone(&fixture.store)).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn keeps_the_contract_through_faults() {
                let fixture = super::$kind().await;
                super::contract(super::through_faults(&fixture.store)).await;
            }
        }
    )+};
}

stores!(memory, paced, local, s3);

/// The store behind faults at random, and a retry that hides them.
fn through_faults(store: &Arc<dyn Store>) -> Arc<dyn Store> {
    let faulty = Faulty::new(Arc::clone(store), Faults::bad_day(20_261_121));
    Arc::new(Retry::new(
        faulty,
        RetryPolicy {
            give_up_after: Duration::from_mins(1),
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_millis(10),
            seed: 1,
        },
    ))
}

type Check = fn(Arc<dyn Store>, String) -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), |store, root| Box::pin(checks::$name(store, root)))),+]
    };
}

/// All checks, each below a prefix of its own, one after the other.
const CHECKS: &[(&str, Check)] = checks![
    what_is_put_is_there,
    a_taken_key_is_not_overwritten,
    an_upload_is_seen_only_after_its_commit,
    an_aborted_upload_leaves_nothing,
    a_dropped_upload_leaves_nothing_to_see,
    parts_may_come_in_any_order_and_again,
    committing_again_changes_nothing,
    an_upload_does_not_overwrite,
    empty_objects_are_objects,
    ranges_give_their_bytes,
    what_is_missing_is_told_apart,
    listings_are_in_order_and_count_whole_segments,
    hostile_keys_are_kept,
    illegal_keys_are_refused,
    deleting_is_idempotent,
    many_objects_are_listed_once_each,
    a_listing_starts_after_any_key,
    a_sweep_spares_what_lives_and_what_is_young,
];

/// Tries all checks on a store, which is empty.
pub(crate) async fn contract(store: Arc<dyn Store>) {
    for (name, check) in CHECKS {
        // A panic below names the check.
        eprintln!("{}: {name}", store.place());
        check(Arc::clone(&store), (*name).to_owned()).await;
    }
}
