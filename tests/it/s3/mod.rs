//! The S3 store against a real server over HTTP, and with a proxy between them that does harm.
//!
//! s3s-fs accepts wrong digests of parts, so that corruption on the way is tested only as far as
//! this: the headers that let a stricter server notice it are sent.

mod behaviour;
mod faults;
mod hostile;
mod integrity;
mod lists;
mod servers;
mod sweep;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use pgkeep::{
    repository::{
        s3::{LEAST_PART_BYTES, S3Credentials, S3Options, S3Store},
        store::{ObjectMeta, Store, StoreError},
    },
    sys::clock::SystemClock,
};

use crate::harness::{
    chaos::Chaos,
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
};

/// The part size of these tests, the least that stores take.
const PART: usize = LEAST_PART_BYTES;
/// A key of the repository's layout.
const KEY: &str = "main/741/app/all/20261121T021500Z-k3f9q2x7/app.dump.zst";

/// A server, and a store that reaches it by way of a proxy.
struct Bench {
    server: S3Server,
    chaos: Chaos,
    state: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        let server = S3Server::start().await;
        let chaos = Chaos::start(server.address(), 7).await;
        Self { server, chaos, state: tempfile::tempdir().expect("a folder") }
    }

    fn uploads_dir(&self) -> PathBuf {
        self.state.path().join("uploads")
    }

    /// How many unfinished uploads are remembered.
    fn records(&self) -> usize {
        std::fs::read_dir(self.uploads_dir()).map_or(0, Iterator::count)
    }

    /// Options with time limits that a test can wait for.
    fn options(&self) -> S3Options {
        let credentials = S3Credentials::Static {
            access_key_id: ACCESS_KEY.into(),
            secret_access_key: SECRET_KEY.to_owned().into(),
        };
        let mut options = S3Options::new(BUCKET, credentials, self.uploads_dir());
        options.endpoint = Some(self.chaos.url());
        options.path_style = true;
        options.prefix = "host/a".into();
        options.part_bytes = PART;
        options
    }

    /// Options under which a request has one second, however long it is.
    fn hasty(&self) -> S3Options {
        let mut options = self.options();
        options.request_timeout = Duration::from_secs(1);
        options.min_rate = 1 << 40;
        options
    }

    async fn store(&self) -> Arc<dyn Store> {
        open(self.options()).await
    }

    async fn hasty_store(&self) -> Arc<dyn Store> {
        open(self.hasty()).await
    }
}

async fn open(options: S3Options) -> Arc<dyn Store> {
    Arc::new(S3Store::new(options, SystemClock::new()).await.expect("a store"))
}

/// Bytes that differ from place to place.
fn bytes(length: usize, seed: u32) -> Bytes {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

async fn read(store: &Arc<dyn Store>, key: &str) -> Result<Vec<u8>, StoreError> {
    store.get(key, None).await?.map_ok(|piece| piece.to_vec()).try_concat().await
}

async fn list(store: &Arc<dyn Store>, prefix: &str) -> Vec<ObjectMeta> {
    store.list(prefix).map(|item| item.expect("an item")).collect().await
}
