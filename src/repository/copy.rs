//! Writing one copy of one backup: volumes, index, and last the manifest.
//!
//! Nothing becomes visible before [`Copy::commit`]. That ends each upload, looks each object up
//! again, and only then puts the manifest. An error on the way removes what was made visible. Where
//! the answer to the manifest's put was lost, the manifest is read back; where that fails too, it is
//! removed before its data; where even that fails, all is left as it is: either a whole backup, or
//! garbage that a sweep finds.
//!
//! A repository with recipients takes nothing that is not encrypted, whoever hands it in: each form
//! is looked at where it begins, and the manifest has to name the same recipients.
//!
//! Two that write the same copy at once have its index in common, so that the second leaves it where
//! it finds something of the first.
//!
//! What can still go wrong: a put of the manifest whose answer never came may take effect after
//! all, once the data is gone; comparing sizes ([`super::listing::Listed::check_sizes`]) shows it.

mod beside;
mod discard;

use std::sync::Arc;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use super::{
    begun_copies::Note,
    identity_marker::read_small,
    in_use::InUse,
    layout,
    store::{Limits, Store, StoreError, StoreErrorKind, Upload},
};
use crate::{
    codec::{encrypt, parts::Sealed},
    domain::{
        backup::{BackupId, Series},
        manifest::{BYTES_MAX, MANIFEST_NAME, Manifest, StoredObject, VOLUMES_MAX},
        recipients::Recipients,
        suspicion::{ACKNOWLEDGED_NAME, MARK_NAME},
    },
};

pub use self::beside::Beside;

/// A copy that is being written. Dropped, it leaves at most what a sweep finds.
#[derive(Debug)]
pub struct Copy {
    store: Arc<dyn Store>,
    series: Series,
    id: BackupId,
    stem: String,
    recipients: Recipients,
    volumes: Vec<Volume>,
    /// The parts that are under way. Here, so that an abort waits for them even where the future
    /// of [`Copy::store`] was dropped.
    parts: JoinSet<Result<(), StoreError>>,
    small: Vec<StoredObject>,
    /// Its upload, where it came in parts.
    beside: Vec<Arc<dyn Upload>>,
    /// Keys under which there may be something of ours.
    touched: Vec<String>,
    /// The manifest may be there and could not be removed: nothing is removed.
    keep: bool,
    note: Note,
    _writing: InUse,
}

#[derive(Debug)]
struct Volume {
    name: String,
    upload: Arc<dyn Upload>,
    parts: u32,
    bytes: u64,
    /// Length of its first part, and of every other but the last.
    part_bytes: usize,
    is_short: bool,
    /// SHA-256, once it is whole.
    sha256: Option<String>,
}

impl Volume {
    /// Whether a part of that length may come next.
    const fn takes(&self, number: u32, length: usize) -> bool {
        let is_next = number == self.parts + 1 && !self.is_short;
        is_next && (number == 1 || length <= self.part_bytes)
    }
}

impl Copy {
    pub(super) fn new(
        store: Arc<dyn Store>,
        (series, id, note): (Series, BackupId, Note),
        stem: String,
        recipients: Recipients,
        writing: InUse,
    ) -> Self {
        Self {
            store,
            series,
            id,
            stem,
            recipients,
            volumes: Vec::new(),
            parts: JoinSet::new(),
            small: Vec::new(),
            beside: Vec::new(),
            touched: Vec::new(),
            keep: false,
            note,
            _writing: writing,
        }
    }

    fn key(&self, name: &str) -> String {
        layout::object_key(&self.series, &self.id, name)
    }

    fn error(&self, kind: StoreErrorKind, what: impl Into<String>) -> StoreError {
        let folder = layout::folder(&self.series, &self.id);
        StoreError::new(kind, format!("write {folder}"), what)
    }

    /// Takes the stream and stores it, with as many parts under way as the store can take; so many
    /// are in memory. On an error it returns at once and drops the receiver, so that the sender
    /// learns of it.
    pub async fn store(&mut self, mut events: mpsc::Receiver<Sealed>) -> Result<(), StoreError> {
        self.note.write().await;
        let result = self.take_all(&mut events).await;
        drop(events);
        result
    }

    async fn take_all(&mut self, events: &mut mpsc::Receiver<Sealed>) -> Result<(), StoreError> {
        let limits = self.store.limits();
        loop {
            tokio::select! {
                biased;
                Some(done) = self.parts.join_next() => self.settle(done)?,
                event = events.recv(), if self.parts.len() < limits.parallel_parts.max(1) => match event {
                    Some(event) => self.take(event, &limits).await?,
                    None => break,
                },
            }
        }
        while let Some(done) = self.parts.join_next().await {
            self.settle(done)?;
        }
        if self.volumes.last().is_none_or(|volume| volume.sha256.is_none()) {
            let count = self.volumes.len();
            let what = format!("the stream broke off in volume {}", count.max(1));
            return Err(self.error(StoreErrorKind::Damaged, what));
        }
        Ok(())
    }

    fn settle(&self, done: Result<Result<(), StoreError>, JoinError>) -> Result<(), StoreError> {
        done.unwrap_or_else(|error| Err(self.error(StoreErrorKind::Refused, error.to_string())))
    }

    async fn take(&mut self, event: Sealed, limits: &Limits) -> Result<(), StoreError> {
        let out_of_order = |this: &Self, what: String| this.error(StoreErrorKind::Damaged, what);
        match event {
            Sealed::Part { volume, number, bytes } => {
                if number == 1 {
                    if volume == 1 {
                        self.check_form(&bytes)?;
                    }
                    self.begin_volume(volume).await?;
                }
                let length = bytes.len();
                let fits = length <= limits.part_bytes && number <= limits.max_parts;
                let upload = match self.open_volume(volume) {
                    Some(open) if fits && open.takes(number, length) => {
                        if number == 1 {
                            open.part_bytes = length;
                        }
                        open.parts = number;
                        open.bytes += length as u64;
                        open.is_short = length < open.part_bytes;
                        Arc::clone(&open.upload)
                    }
                    _ => {
                        let what = format!(
                            "part {number} of volume {volume} ({length} bytes) does not fit there"
                        );
                        return Err(out_of_order(self, what));
                    }
                };
                self.parts.spawn(async move { upload.part(number, bytes).await });
            }
            Sealed::VolumeEnd { volume, bytes, sha256 } => match self.open_volume(volume) {
                Some(open) if open.bytes == bytes => open.sha256 = Some(sha256),
                _ => {
                    let what = format!("volume {volume} does not end after {bytes} bytes");
                    return Err(out_of_order(self, what));
                }
            },
        }
        Ok(())
    }

    /// The volume that is being written, if it is that one.
    fn open_volume(&mut self, number: u32) -> Option<&mut Volume> {
        let is_last = u32::try_from(self.volumes.len()) == Ok(number);
        self.volumes.last_mut().filter(|volume| is_last && volume.sha256.is_none())
    }

    async fn begin_volume(&mut self, number: u32) -> Result<(), StoreError> {
        let is_next = u32::try_from(self.volumes.len() + 1) == Ok(number);
        if !is_next || self.volumes.last().is_some_and(|volume| volume.sha256.is_none()) {
            let what = format!("volume {number} came after {}", self.volumes.len());
            return Err(self.error(StoreErrorKind::Damaged, what));
        }
        if number > VOLUMES_MAX {
            let what = format!("it has more than {VOLUMES_MAX} volumes: no manifest names as many");
            return Err(self
                .error(StoreErrorKind::Refused, what)
                .hint("make `max_parts` or `part_size` larger, of the repository of the job that has the smallest: a volume has so many parts"));
        }
        let name = layout::volume_name(&self.stem, number);
        let upload = Arc::from(self.store.begin(&self.key(&name)).await?);
        self.volumes.push(Volume {
            name,
            upload,
            parts: 0,
            bytes: 0,
            part_bytes: 0,
            is_short: false,
            sha256: None,
        });
        Ok(())
    }

    /// What its store can take.
    pub fn limits(&self) -> Limits {
        self.store.limits()
    }

    /// Whom everything in it is encrypted to.
    pub fn recipients(&self) -> &Recipients {
        &self.recipients
    }

    /// Refuses the beginning of something plain where everything is to be encrypted.
    fn check_form(&self, begin: &[u8]) -> Result<(), StoreError> {
        let magic = &encrypt::MAGIC[..begin.len().min(encrypt::MAGIC.len())];
        if self.recipients.is_empty() || begin.starts_with(magic) {
            return Ok(());
        }
        let what = "what was to be stored is not encrypted: a defect in pgkeep, please report it";
        Err(self.error(StoreErrorKind::Encryption, what))
    }

    /// What is there under the last key is another's: it is not to be removed.
    fn not_ours(&mut self, error: &StoreError) {
        if error.kind == StoreErrorKind::Exists {
            self.touched.pop();
        }
    }

    /// Makes it a backup: ends the uploads, looks each object up again, and puts the manifest that
    /// `make` makes of the volumes. On an error nothing is left that looks like a backup.
    pub async fn commit(
        mut self,
        make: impl FnOnce(Vec<StoredObject>) -> Manifest,
    ) -> Result<Manifest, StoreError> {
        let result = match self.commit_data().await {
            Ok(volumes) => self.commit_manifest(make(volumes)).await,
            Err(error) => Err(error),
        };
        match &result {
            Ok(_) => self.note.remove().await,
            Err(error) => {
                if let Err(left) = self.discard().await {
                    tracing::debug!(%error, %left, "a copy that failed was not removed whole");
                }
            }
        }
        result
    }

    /// Gives the copy up and removes what is there, within a time limit. What an error leaves, a
    /// sweep finds.
    pub async fn abort(mut self) -> Result<(), StoreError> {
        self.discard().await
    }

    async fn commit_data(&mut self) -> Result<Vec<StoredObject>, StoreError> {
        let mut volumes = Vec::new();
        for volume in &self.volumes {
            if let (Some(sha256), bytes) = (volume.sha256.clone(), volume.bytes) {
                volumes.push(StoredObject { name: volume.name.clone(), bytes, sha256 });
            }
        }
        if volumes.is_empty() || volumes.len() != self.volumes.len() {
            let what = "the stream was not stored whole";
            return Err(self.error(StoreErrorKind::Damaged, what));
        }
        let uploads = self.volumes.iter().map(|volume| Arc::clone(&volume.upload));
        let uploads: Vec<Arc<dyn Upload>> = uploads.collect();
        for (upload, object) in uploads.iter().zip(&volumes) {
            self.touched.push(self.key(&object.name));
            match upload.commit().await {
                Ok(meta) => self.compare(object, Some(meta.bytes))?,
                Err(error) => {
                    self.not_ours(&error);
                    return Err(error);
                }
            }
        }
        for object in volumes.iter().chain(&self.small) {
            let found = self.store.head(&self.key(&object.name)).await?;
            self.compare(object, found.map(|meta| meta.bytes))?;
        }
        Ok(volumes)
    }

    fn compare(&self, object: &StoredObject, found: Option<u64>) -> Result<(), StoreError> {
        if found == Some(object.bytes) {
            return Ok(());
        }
        let found = found.map_or_else(|| "is not there".to_owned(), |n| format!("has {n} bytes"));
        let what = format!("{} was stored with {} bytes and {found}", object.name, object.bytes);
        Err(self
            .error(StoreErrorKind::Damaged, what)
            .hint("The store does not keep what it confirmed. Look at its rules and its own log."))
    }

    async fn commit_manifest(&mut self, manifest: Manifest) -> Result<Manifest, StoreError> {
        let is_stored = |(object, volume): (&StoredObject, &Volume)| {
            volume.name == object.name
                && volume.bytes == object.bytes
                && volume.sha256.as_ref() == Some(&object.sha256)
        };
        let is_ours = manifest.series == self.series
            && manifest.id == self.id
            && manifest.recipients == self.recipients;
        // Marks lie beside the manifest, and are no part of what it vouches for.
        let is_mark = |it: &&StoredObject| [MARK_NAME, ACKNOWLEDGED_NAME].contains(&&*it.name);
        let named = self.small.len() - self.small.iter().filter(is_mark).count();
        let names_all = manifest.objects.len() == self.volumes.len()
            && manifest.stored().count() == self.volumes.len() + named;
        let is_beside = |object: &StoredObject| self.small.contains(object);
        let all_stored = manifest.objects.iter().zip(&self.volumes).all(is_stored)
            && manifest.stored().skip(manifest.objects.len()).all(is_beside);
        if !is_ours || !names_all || !all_stored {
            let what = "the manifest names other things than were stored: a defect in pgkeep, \
                        please report it";
            return Err(self.error(StoreErrorKind::Refused, what));
        }
        let bytes = manifest.to_bytes();
        let bytes = bytes.map_err(|e| self.error(StoreErrorKind::Refused, e.to_string()))?;
        let bytes = Bytes::from(bytes);
        let key = self.key(MANIFEST_NAME);
        let answer = self.store.put_new(&key, bytes.clone()).await;
        if let Err(error) = &answer
            && error.kind == StoreErrorKind::Exists
        {
            // Somebody else's commit record: neither it nor what it names is ours to remove.
            self.keep = true;
            return Err(error.clone());
        }
        // Only an answer that was lost may be looked up; one that says no is heeded.
        let may_be_there = answer.as_ref().err().is_none_or(|error| {
            matches!(error.kind, StoreErrorKind::Unavailable | StoreErrorKind::Slow)
        });
        match (read_small(&self.store, &key, BYTES_MAX).await, answer) {
            (Ok(Some(there)), _) if there == bytes && may_be_there => Ok(manifest),
            (Ok(None), Err(error)) => Err(error),
            (Ok(None), Ok(_)) => {
                let what = "the manifest was stored and is not there";
                Err(self.error(StoreErrorKind::Damaged, what))
            }
            (unclear, answer) => {
                self.keep = self.store.delete(&key).await.is_err();
                let what = "the manifest that is there is not the one that was stored";
                let other = || self.error(StoreErrorKind::Damaged, what);
                Err(answer.err().or(unclear.err()).unwrap_or_else(other))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        repository::{memory::MemoryStore, repo::Repository},
        sys::clock::{Clock as _, SystemClock},
    };

    /// It is said where the limit is, not once all is stored and the manifest is too long.
    #[tokio::test]
    async fn no_more_volumes_are_begun_than_a_manifest_names() {
        let store = Arc::new(MemoryStore::new(SystemClock::new()));
        let name = "local".parse().unwrap();
        let repository = Repository::open(name, store.clone(), true).await.unwrap();
        let series = Series::from_path("main/7/app/all").unwrap();
        let id = BackupId::new(SystemClock::new().now().wall, 1);
        let mut copy = repository.start_copy(&series, &id, "app.dump.zst");
        copy.begin_volume(1).await.unwrap();
        let upload = Arc::clone(&copy.volumes[0].upload);
        let ended = |number| Volume {
            name: layout::volume_name("app.dump.zst", number),
            upload: Arc::clone(&upload),
            parts: 1,
            bytes: 1,
            part_bytes: 1,
            is_short: false,
            sha256: Some(String::new()),
        };
        copy.volumes = (1..VOLUMES_MAX).map(ended).collect();
        copy.begin_volume(VOLUMES_MAX).await.unwrap();
        copy.volumes.last_mut().unwrap().sha256 = Some(String::new());
        let error = copy.begin_volume(VOLUMES_MAX + 1).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
        assert!(error.hint.is_some_and(|hint| hint.contains("max_parts")));
    }
}
