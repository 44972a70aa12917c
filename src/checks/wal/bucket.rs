//! An archive in a bucket, below a prefix.
//!
//! A listing costs money and time: a thousand keys per request. Where names of segments grow with
//! their keys, as every layout in use has it, a later listing goes on where the last one was whole.

use std::{future::Future, sync::Arc};

use futures_util::TryStreamExt as _;

use super::listing::{HISTORY_MAX, ListError, Listed, Resume, read_history};
use crate::{
    domain::{
        failure::{Class, Failure},
        wal::{ArchivedFile, Inventory, Noted, SegmentName, SegmentSize, Timeline, WalFile},
    },
    repository::store::{ObjectMeta, Store, StoreError, StoreErrorKind},
    sys::task::Task,
};

const DOING: &str = "list the WAL archive";
/// Segments behind a gap after which it is no longer looked whether the gap closes by itself. Those
/// that archive in parallel deliver out of order, but not by so much.
const SETTLED: u64 = 4096;

/// Looks through a bucket, or from `resume` on.
pub(super) async fn list(
    store: Arc<dyn Store>,
    mut seen: Inventory,
    resume: Option<&Resume>,
    task: &Task,
) -> Result<Listed, ListError> {
    let size = seen.size();
    let number = resume.and_then(|resume| resume.segment.number(size));
    let resume = resume.zip(number);
    let counted = (seen.foreign, seen.misnamed);
    match resume {
        Some((resume, number)) => seen.forget_after(resume.segment.timeline, number),
        None => seen = Inventory::new(size, seen.sizes()),
    }
    let mut track = Track::new(resume.map(|(resume, _)| resume.clone()), size);
    let mut keys = match resume {
        Some((resume, _)) => store.list_after("", &resume.key),
        None => store.list(""),
    };
    while let Some(object) = next(&mut keys, task).await? {
        let name = object.key.rsplit('/').next().unwrap_or_default();
        match seen.add(name, object.bytes) {
            Noted::Segment(segment) => track.saw(&object.key, segment),
            Noted::History(timeline) => {
                history(&*store, &object, timeline, &mut seen, task).await?;
            }
            Noted::Other | Noted::Foreign => {}
        }
    }
    if resume.is_some() {
        // A part of them was counted before.
        (seen.foreign, seen.misnamed) = counted;
    }
    Ok(Listed { seen, resume: track.resume() })
}

/// Whether a segment is there.
pub(super) async fn holds(
    store: Arc<dyn Store>,
    segment: SegmentName,
    resume: Option<&Resume>,
    task: &Task,
) -> Result<bool, ListError> {
    let mut keys = match resume.filter(|resume| resume.segment < segment) {
        Some(resume) => store.list_after("", &resume.key),
        None => store.list(""),
    };
    while let Some(object) = next(&mut keys, task).await? {
        let name = object.key.rsplit('/').next().unwrap_or_default();
        let file = ArchivedFile::parse(name).map(|archived| archived.file);
        if file == Some(WalFile::Segment(segment)) {
            return Ok(true);
        }
    }
    Ok(false)
}

type Keys<'a> = futures_util::stream::BoxStream<'a, Result<ObjectMeta, StoreError>>;

async fn next(keys: &mut Keys<'_>, task: &Task) -> Result<Option<ObjectMeta>, ListError> {
    cancellable(keys.try_next(), task).await
}

/// Awaits an answer of the store, unless the run is cancelled.
pub(super) async fn cancellable<T>(
    answer: impl Future<Output = Result<T, StoreError>>,
    task: &Task,
) -> Result<T, ListError> {
    let answer = tokio::select! {
        biased;
        () = task.cancel.cancelled() => {
            let failure = Failure::new(Class::Interrupted, DOING, "the run was cancelled");
            return Err(ListError::Failed(failure));
        }
        answer = answer => answer,
    };
    answer.map_err(|error| match error.kind {
        StoreErrorKind::Refused => ListError::Unreadable {
            what: error.to_string(),
            hint: error.hint.unwrap_or_else(|| {
                "let the credentials of the repository list the bucket and read below the prefix \
                 (s3:ListBucket, s3:GetObject)"
                    .to_owned()
            }),
        },
        _ => ListError::Failed(error.into_failure(DOING)),
    })
}

pub(super) fn failed(what: &str) -> ListError {
    ListError::Failed(Failure::new(Class::Internal, DOING, what))
}

/// Reads a history, unless it is known: it never changes. One that cannot be read is only not read.
async fn history(
    store: &dyn Store,
    object: &ObjectMeta,
    timeline: Timeline,
    seen: &mut Inventory,
    task: &Task,
) -> Result<(), ListError> {
    let known = seen.histories.get(&timeline).is_some_and(Option::is_some);
    if known || object.bytes > HISTORY_MAX {
        return Ok(());
    }
    let read = async {
        let chunks = store.get(&object.key, Some(0..object.bytes)).await?;
        chunks
            .try_fold(Vec::new(), async |mut all, chunk| {
                all.extend_from_slice(&chunk);
                Ok(all)
            })
            .await
    };
    match cancellable(read, task).await {
        Ok(bytes) => {
            if let Some(history) = read_history(&object.key, &bytes) {
                seen.add_history(timeline, history);
            }
            Ok(())
        }
        Err(ListError::Unreadable { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Follows a listing, to know from where the next one can go on: from the last segment before the
/// first gap of the newest timeline.
struct Track {
    size: SegmentSize,
    /// Everything up to here is whole, or settled.
    whole: Option<Resume>,
    last: Option<SegmentName>,
    /// Segments that came after the gap behind `whole`.
    behind: u64,
    ordered: bool,
}

impl Track {
    fn new(start: Option<Resume>, size: SegmentSize) -> Self {
        let last = start.as_ref().map(|start| start.segment);
        Self { size, whole: start, last, behind: 0, ordered: true }
    }

    fn saw(&mut self, key: &str, segment: SegmentName) {
        self.ordered &= self.last.is_none_or(|last| last <= segment);
        self.last = Some(segment);
        let follows = match &self.whole {
            None => true,
            Some(whole) if whole.segment.timeline != segment.timeline => true,
            Some(whole) => {
                let (known, new) = (whole.segment.number(self.size), segment.number(self.size));
                known.zip(new).is_some_and(|(known, new)| new <= known + 1)
            }
        };
        self.behind = if follows { 0 } else { self.behind + 1 };
        if follows || self.behind > SETTLED {
            self.behind = 0;
            self.whole = Some(Resume { key: key.to_owned(), segment });
        }
    }

    /// None where the order of keys says nothing.
    fn resume(self) -> Option<Resume> {
        self.whole.filter(|_| self.ordered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(names: &[&str]) -> Option<String> {
        let mut track = Track::new(None, SegmentSize::DEFAULT);
        for name in names {
            track.saw(&format!("wal/{name}.gz"), name.parse().unwrap());
        }
        track.resume().map(|resume| resume.key)
    }

    #[test]
    fn a_listing_goes_on_before_the_first_gap_of_the_newest_timeline() {
        let key = |name: &str| Some(format!("wal/{name}.gz"));
        let names = ["000000010000000000000001", "000000010000000000000002"];
        assert_eq!(track(&names), key(names[1]));
        let gap = [names[0], names[1], "000000010000000000000004"];
        assert_eq!(track(&gap), key(names[1]));
        let promoted = [
            names[0],
            "000000010000000000000004",
            "0000000200000000000000FF",
            "000000020000000100000000",
        ];
        assert_eq!(track(&promoted), key("000000020000000100000000"));
        assert_eq!(track(&["000000010000000000000002", "000000010000000000000001"]), None);
        assert_eq!(track(&[]), None);
    }

    #[test]
    fn an_old_gap_is_not_listed_again_for_ever() {
        let mut track = Track::new(None, SegmentSize::DEFAULT);
        for number in (0..10).chain(20..SETTLED + 100) {
            let name = SegmentName::new(Timeline::FIRST, number, SegmentSize::DEFAULT);
            track.saw(&name.to_string(), name);
        }
        let number = track.resume().unwrap().segment.number(SegmentSize::DEFAULT).unwrap();
        assert!(number > SETTLED, "{number}");
    }
}
