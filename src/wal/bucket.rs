//! An archive in a bucket, below a prefix.
//!
//! A listing costs money and time: a thousand keys per request. Where names of segments grow with
//! their keys, as every layout in use has it, a later listing goes on where the last one was whole on
//! the server's timeline. Later timelines come behind it and are listed again each time; what comes
//! before it is seen by the next listing of everything, see `Listing::resume`.

use std::{future::Future, sync::Arc};

use futures_util::TryStreamExt as _;

use super::archive::{HISTORY_MAX, ListError, Listed, Resume, read_history};
use crate::{
    domain::{
        failure::{Class, Failure, IntoFailure},
        wal::{ArchivedFile, Inventory, Noted, SegmentName, SegmentSize, Timeline, WalFile},
    },
    repository::store::{ObjectMeta, Store, StoreError, StoreErrorKind},
    sys::task::Task,
};

const DOING: &str = "list the WAL archive";
/// Segments behind a gap after which it is no longer looked whether the gap closes by itself. Those
/// that archive in parallel deliver out of order, but not by so much.
const SETTLED: u64 = 4096;

/// Looks through a bucket, or from `resume` on; the next can go on in timeline `head`.
pub(super) async fn list(
    store: Arc<dyn Store>,
    mut seen: Inventory,
    resume: Option<&Resume>,
    head: Timeline,
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
    let mut track = Track::new(resume.map(|(resume, _)| resume.clone()), head, size);
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
    let answer = task.doing(DOING).unless_cancelled(answer).await.map_err(ListError::Failed)?;
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
            if let Some(history) = read_history(&bytes) {
                seen.add_history(timeline, history);
            }
            Ok(())
        }
        Err(ListError::Unreadable { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Follows a listing, to know from where the next one can go on: from the last segment before the
/// first gap of the server's timeline.
struct Track {
    head: Timeline,
    size: SegmentSize,
    /// Everything of `head` up to here is whole, or settled.
    whole: Option<Resume>,
    last: Option<SegmentName>,
    /// Segments that came after the gap behind `whole`.
    behind: u64,
    ordered: bool,
}

impl Track {
    fn new(start: Option<Resume>, head: Timeline, size: SegmentSize) -> Self {
        let last = start.as_ref().map(|start| start.segment);
        let whole = start.filter(|start| start.segment.timeline == head);
        Self { head, size, whole, last, behind: 0, ordered: true }
    }

    fn saw(&mut self, key: &str, segment: SegmentName) {
        self.ordered &= self.last.is_none_or(|last| last <= segment);
        self.last = Some(segment);
        if segment.timeline != self.head {
            return;
        }
        let follows = self.whole.as_ref().is_none_or(|whole| {
            let (known, new) = (whole.segment.number(self.size), segment.number(self.size));
            known.zip(new).is_some_and(|(known, new)| new <= known + 1)
        });
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
    use jiff::Timestamp;

    use super::*;
    use crate::{
        domain::wal::{Expectation, Since, Sizes},
        jobs::wal_check::state::Listing,
        repository::memory::MemoryStore,
        sys::clock::SystemClock,
    };

    /// A bucket, and what was found in it by listings that go on as those of a job do.
    struct Bench {
        store: Arc<MemoryStore>,
        task: Task,
        last: Option<Listing>,
    }

    impl Bench {
        async fn with(names: &[&str]) -> Self {
            let clock = SystemClock::new();
            let store = Arc::new(MemoryStore::new(clock.clone()));
            let bench = Self { store, task: Task::new(clock), last: None };
            bench.add(names).await;
            bench
        }

        async fn add(&self, names: &[&str]) {
            for name in names {
                let text = "1\t0/6000000\tx\n".into();
                self.store.put_new(name, text).await.unwrap();
            }
        }

        /// Segments that are missing, in the eyes of a server on timeline `head`.
        async fn missing(&mut self, head: u32, claimed: &str) -> (u64, u64) {
            let head = timeline(head);
            let going_on = self.last.as_ref().and_then(|last| Some((last, last.resume(head)?)));
            let (seen, resume) = match going_on {
                Some((last, resume)) => (last.seen.clone(), Some(resume)),
                None => (Inventory::new(SegmentSize::DEFAULT, Sizes::Any), None),
            };
            let store = Arc::clone(&self.store) as Arc<dyn Store>;
            let listed = list(store, seen, resume, head, &self.task).await.unwrap();
            let expected = Expectation {
                since: Since::OldestBackup,
                head,
                may_lag: false,
                claimed: Some(claimed.parse().unwrap()),
                written: None,
                told: None,
                known_losses: &[],
            };
            let at = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
            let listing = Listing::of(listed, "x".to_owned(), at, &expected);
            let missing = (listing.missing_recent, listing.missing_old);
            self.last = Some(listing);
            missing
        }
    }

    /// What the hint on a foreign timeline says: move its files away.
    #[tokio::test]
    async fn a_timeline_that_is_moved_away_is_gone_at_the_next_listing() {
        let mut bench = Bench::with(&ONE[..5]).await;
        bench.add(&TWO).await;
        assert_eq!(bench.missing(1, ONE[4]).await, (0, 0));
        let newer = |bench: &Bench| bench.last.as_ref().unwrap().seen.histories.len();
        assert_eq!(newer(&bench), 1);
        assert_eq!(bench.missing(1, ONE[4]).await, (0, 0));
        assert_eq!(newer(&bench), 1, "it is there, and read again");
        for name in TWO {
            bench.store.lose(name).unwrap();
        }
        assert_eq!(bench.missing(1, ONE[4]).await, (0, 0));
        assert_eq!(newer(&bench), 0);
    }

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    const ONE: [&str; 6] = [
        "000000010000000000000001",
        "000000010000000000000002",
        "000000010000000000000003",
        "000000010000000000000004",
        "000000010000000000000005",
        "000000010000000000000006",
    ];
    /// It was left off timeline 1 at the beginning of segment 6.
    const TWO: [&str; 3] =
        ["00000002.history", "000000020000000000000006", "000000020000000000000007"];

    #[tokio::test]
    async fn a_later_timeline_does_not_hide_what_comes_to_the_server_s_own() {
        let mut bench = Bench::with(&ONE[..5]).await;
        bench.add(&TWO).await;
        assert_eq!(bench.missing(1, ONE[4]).await, (0, 0));
        bench.add(&ONE[5..6]).await;
        assert_eq!(bench.missing(1, ONE[5]).await, (0, 0));
        let resume = bench.last.as_ref().unwrap().resume(timeline(1)).unwrap();
        assert_eq!(resume.segment.to_string(), ONE[5], "the next one costs little");
        assert_eq!(bench.last.as_ref().unwrap().resume(timeline(2)), None);
    }

    #[tokio::test]
    async fn a_gap_is_looked_for_until_it_is_mended_wherever_it_is() {
        let mut bench = Bench::with(&[ONE[0], ONE[1], ONE[3]]).await;
        bench.add(&TWO).await;
        assert_eq!(bench.missing(2, TWO[2]).await, (2, 0));
        bench.add(&[ONE[4]]).await;
        assert_eq!(bench.missing(2, TWO[2]).await, (1, 0));
        bench.add(&[ONE[2]]).await;
        assert_eq!(bench.missing(2, TWO[2]).await, (0, 0));
        assert!(bench.last.as_ref().unwrap().resume(timeline(2)).is_some());
    }

    fn track(names: &[&str], head: u32) -> Option<String> {
        let mut track = Track::new(None, timeline(head), SegmentSize::DEFAULT);
        for name in names {
            track.saw(&format!("wal/{name}.gz"), name.parse().unwrap());
        }
        track.resume().map(|resume| resume.key)
    }

    #[test]
    fn a_listing_goes_on_before_the_first_gap_of_the_server_s_timeline() {
        let key = |name: &str| Some(format!("wal/{name}.gz"));
        let names = ["000000010000000000000001", "000000010000000000000002"];
        assert_eq!(track(&names, 1), key(names[1]));
        assert_eq!(track(&names, 2), None);
        let gap = [names[0], names[1], "000000010000000000000004"];
        assert_eq!(track(&gap, 1), key(names[1]));
        let promoted = [
            names[0],
            "000000010000000000000004",
            "0000000200000000000000FF",
            "000000020000000100000000",
        ];
        assert_eq!(track(&promoted, 2), key("000000020000000100000000"));
        assert_eq!(track(&promoted, 1), key(names[0]));
        assert_eq!(track(&["000000010000000000000002", "000000010000000000000001"], 1), None);
        assert_eq!(track(&[], 1), None);
    }

    #[test]
    fn an_old_gap_is_not_listed_again_for_ever() {
        let mut track = Track::new(None, Timeline::FIRST, SegmentSize::DEFAULT);
        for number in (0..10).chain(20..SETTLED + 100) {
            let name = SegmentName::new(Timeline::FIRST, number, SegmentSize::DEFAULT);
            track.saw(&name.to_string(), name);
        }
        let number = track.resume().unwrap().segment.number(SegmentSize::DEFAULT).unwrap();
        assert!(number > SETTLED, "{number}");
    }
}
