//! Stories of whole repositories: copies that are stopped at each step, lost objects, sweeps.

mod beside;
mod copy;
mod faults;
mod sweep;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    copy::Copy,
    listing::{Listed, Within},
    memory::MemoryStore,
    repo::Repository,
    store::{Store, StoreError},
};
use crate::{
    codec::parts::Sealed,
    domain::{
        backup::{BackupId, Series, Subject},
        manifest::{FORMAT_VERSION, Manifest, Owner, Plain, Snapshot, StoredObject, Tool, Totals},
        recipients::Recipients,
    },
    sys::clock::{Clock, SystemClock},
};

const STEM: &str = "app.dump.zst";

pub(super) fn series() -> Series {
    Series {
        server: "main".parse().unwrap(),
        system_id: 7_300_000_000_000_000_000,
        subject: Subject::Database("app".parse().unwrap()),
        contents: "all".to_owned(),
    }
}

/// An id of now.
fn new_id() -> BackupId {
    BackupId::new(SystemClock::new().now().wall, getrandom::u64().unwrap())
}

fn memory() -> MemoryStore {
    MemoryStore::new(SystemClock::new())
}

async fn open(store: Arc<dyn Store>) -> Repository {
    Repository::open("local".parse().unwrap(), store, true).await.unwrap()
}

pub(super) fn manifest(
    id: &BackupId,
    objects: Vec<StoredObject>,
    index: Option<StoredObject>,
) -> Manifest {
    let at = id.time();
    Manifest {
        format_version: FORMAT_VERSION,
        id: id.clone(),
        series: series(),
        owner: Owner { machine_id: "0".repeat(32), host: "db1".to_owned() },
        pgkeep_version: "0.1.0".to_owned(),
        server_version: "15.18".to_owned(),
        server_version_num: 150_018,
        tool: Tool { name: "pg_dump".to_owned(), version: "15.18".to_owned(), command: vec![] },
        selection: None,
        database: None,
        snapshot: Snapshot {
            at,
            lsn_before: "0/1".to_owned(),
            lsn_after: "0/2".to_owned(),
            timeline: None,
            standby: false,
        },
        started_at: at,
        finished_at: at,
        left_out: vec![],
        plain: Plain { format: "custom 1.14".to_owned(), bytes: 1, sha256: "0".repeat(64) },
        codec: vec!["zstd".to_owned()],
        recipients: Recipients::default(),
        objects,
        index,
        files: vec![],
        totals: Totals::default(),
        suspicions: vec![],
        restore: vec![],
    }
}

/// What the codec sends for volumes of these lengths.
fn events(volumes: &[usize], part_bytes: usize) -> Vec<Sealed> {
    let mut events = Vec::new();
    for (volume, length) in (1..).zip(volumes) {
        let bytes = Bytes::from(vec![u8::try_from(volume).unwrap(); *length]);
        for (number, part) in (1..).zip(bytes.chunks(part_bytes)) {
            events.push(Sealed::Part { volume, number, bytes: bytes.slice_ref(part) });
        }
        let sha256 = format!("{volume:064x}");
        events.push(Sealed::VolumeEnd { volume, bytes: *length as u64, sha256 });
    }
    events
}

/// Feeds events into a copy.
async fn feed(copy: &mut Copy, events: Vec<Sealed>) -> Result<(), StoreError> {
    let (sender, receiver) = mpsc::channel(2);
    let feeding = async move {
        for event in events {
            if sender.send(event).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(copy.store(receiver), feeding).0
}

/// The whole story of a copy: two volumes, the second of one short part, and an index.
async fn whole_copy(repository: &Repository, id: &BackupId) -> Result<Manifest, StoreError> {
    let part_bytes = repository.limits().part_bytes;
    let mut copy = repository.start_copy(&series(), id, STEM);
    let stored = feed(&mut copy, events(&[2 * part_bytes + 5, 7], part_bytes)).await;
    let index = match stored {
        Ok(()) => copy.put("index.json.zst", &b"index"[..]).await,
        Err(error) => Err(error),
    };
    match index {
        Ok(index) => copy.commit(|objects| manifest(id, objects, Some(index))).await,
        Err(error) => {
            copy.abort().await.ok();
            Err(error)
        }
    }
}

async fn listed(repository: &Repository) -> Vec<Listed> {
    repository.listing(&Within::All).await.unwrap().backups
}

/// Whatever has a manifest is whole. Gives how many have one.
async fn assert_sound(repository: &Repository, story: &str) -> usize {
    let mut complete = 0;
    for found in listed(repository).await.iter().filter(|found| found.complete) {
        let manifest = repository.manifest(&found.series, &found.id).await.expect(story);
        assert_eq!(found.check_sizes(&manifest), [], "{story}");
        complete += 1;
    }
    complete
}
