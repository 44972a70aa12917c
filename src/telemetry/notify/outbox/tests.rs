use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    domain::{finding::Severity, notice::Rules},
    sys::clock::SystemClock,
    telemetry::{
        metrics::Setup,
        notify::{Channel, webhook},
    },
};

/// Takes a notice for each permit, and says how each attempt ends.
#[derive(Debug)]
struct Fake {
    permits: Semaphore,
    ends: Mutex<VecDeque<Result<(), Again>>>,
    took: Mutex<Vec<String>>,
}

impl Fake {
    fn new(ends: &[Result<(), Again>]) -> Arc<Self> {
        let ends = Mutex::new(ends.iter().copied().collect());
        Arc::new(Self { permits: Semaphore::new(0), ends, took: Mutex::default() })
    }

    fn took(&self) -> Vec<String> {
        self.took.lock().unwrap().clone()
    }
}

#[async_trait]
impl Channel for Fake {
    async fn deliver(
        &self,
        notice: &Notice,
        _limit: Duration,
        stop: &CancellationToken,
    ) -> Result<(), Undelivered> {
        tokio::select! {
            permit = self.permits.acquire() => permit.unwrap().forget(),
            () = stop.cancelled() => return Err(Undelivered::stopped()),
        }
        self.took.lock().unwrap().push(notice.text.clone());
        let end = self.ends.lock().unwrap().pop_front().unwrap_or(Ok(()));
        end.map_err(|again| Undelivered::new(again, "no"))
    }
}

fn post() -> Arc<Post> {
    let setup = Setup { version: "", kinds: &[], skip_reasons: &[], datname_cap: 1 };
    Post::new(Arc::new(Metrics::new(&setup).unwrap()), SystemClock::new())
}

fn notifier(channel: &Arc<Fake>) -> Arc<Notifier> {
    let on = Event::CHOICES.iter().copied().collect();
    Arc::new(Notifier {
        name: "ops".parse().unwrap(),
        kind: &webhook::KIND,
        rules: Rules { on, min_severity: Severity::Info, repeat: None, each_run: false },
        jobs: None,
        timeout: Duration::from_secs(1),
        attempts: 3,
        backoff: Duration::from_millis(1),
        channel: channel.clone(),
        queue: Queue::default(),
    })
}

fn letter(text: &str) -> Letter {
    let now = "2026-11-21T00:00:00Z".parse().unwrap();
    let mut notice = Notice::test(&"ops".parse().unwrap(), "db1", now);
    text.clone_into(&mut notice.text);
    Letter { notice, job: "nightly".parse().unwrap(), told: None }
}

fn ends(post: &Post) -> Vec<(String, bool)> {
    post.take_sent().into_iter().map(|sent| (sent.letter.notice.text, sent.delivered)).collect()
}

async fn idle(post: &Post) {
    while !post.workers.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn the_oldest_that_wait_make_room() {
    let (fake, post) = (Fake::new(&[]), post());
    let ops = notifier(&fake);
    ops.send(&post, letter("under way"));
    tokio::task::yield_now().await;
    let names: Vec<String> = (0..QUEUE_MAX + 3).map(|at| at.to_string()).collect();
    for name in &names {
        ops.send(&post, letter(name));
    }
    let dropped = names[..3].iter().map(|name| (name.clone(), false));
    assert_eq!(ends(&post), dropped.collect::<Vec<_>>());
    fake.permits.add_permits(1000);
    idle(&post).await;
    let mut arrived = vec!["under way".to_owned()];
    arrived.extend_from_slice(&names[3..]);
    assert_eq!(fake.took(), arrived);
    // The task has ended; the next letter starts another.
    ops.send(&post, letter("later"));
    idle(&post).await;
    assert_eq!(ends(&post).last().unwrap(), &("later".to_owned(), true));
}

#[tokio::test]
async fn attempts_are_counted_and_a_refusal_is_final() {
    let tries = [Err(Again::Yes), Err(Again::After(Duration::ZERO)), Ok(())];
    for (tries, took, delivered) in [
        (&tries[..], 3, true),
        (&[Err(Again::Yes); 5][..], 3, false),
        (&[Err(Again::No), Ok(())][..], 1, false),
    ] {
        let (fake, post) = (Fake::new(tries), post());
        fake.permits.add_permits(1000);
        notifier(&fake).send(&post, letter("x"));
        idle(&post).await;
        assert_eq!((fake.took().len(), ends(&post)[0].1), (took, delivered), "{tries:?}");
    }
}

#[tokio::test]
async fn the_end_waits_no_longer_than_its_limit() {
    let (fake, post) = (Fake::new(&[]), post());
    let ops = notifier(&fake);
    for name in ["a", "b"] {
        ops.send(&post, letter(name));
    }
    post.close(Duration::from_millis(20)).await;
    assert_eq!(ends(&post), [("a".to_owned(), false), ("b".to_owned(), false)]);
}

#[tokio::test]
async fn at_the_end_nothing_waits_for_its_next_attempt() {
    let (fake, post) =
        (Fake::new(&[Err(Again::After(BACKOFF_MAX)), Ok(()), Err(Again::Yes)]), post());
    fake.permits.add_permits(1000);
    let ops = notifier(&fake);
    for name in ["a", "b"] {
        ops.send(&post, letter(name));
    }
    while fake.took().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    post.close(Duration::from_secs(20)).await;
    // One more attempt for the first, one for the second.
    assert_eq!(ends(&post), [("a".to_owned(), true), ("b".to_owned(), false)]);
}
