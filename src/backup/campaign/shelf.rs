//! One repository of a story, as a process meets it: behind lies, faults and a trap that kills.

use std::sync::Arc;

use futures_util::StreamExt as _;

use super::{
    plot::Plot,
    truth::{Backup, Leave, Truth},
};
use crate::{
    repository::{
        faulty::{Act, Faults, Faulty, When},
        lying::Lying,
        repo::Repository,
        store::Store,
    },
    sys::clock::Clock,
};

/// Where a process is killed, once it comes there.
#[derive(Debug, Clone, Default)]
pub(super) struct Trap(Vec<Arc<Faulty>>);

impl Trap {
    /// One of two.
    pub(super) fn or(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }

    pub(super) async fn sprung(&self) {
        let each = self.0.iter().map(|faulty| Box::pin(faulty.hung()));
        futures_util::future::select_all(each).await;
    }
}

/// One repository of a story.
#[derive(Debug)]
pub(super) struct Shelf {
    name: &'static str,
    pub(super) truth: Arc<Truth>,
    store: Arc<dyn Store>,
    pub(super) plot: Plot,
    /// What each host notes.
    notes: Option<[tempfile::TempDir; 2]>,
}

impl Shelf {
    pub(super) fn new(name: &'static str, plot: Plot, clock: Arc<dyn Clock>) -> Self {
        let truth = Truth::new(clock);
        let notes = plot.notes.then(|| [(); 2].map(|()| tempfile::tempdir().unwrap()));
        let store = Lying::new(truth.clone(), plot.lies.clone());
        Self { name, truth, store, plot, notes }
    }

    /// From now on its listings tell the truth, and nothing fails.
    pub(super) fn be_honest(&mut self) {
        self.plot = Plot { notes: self.plot.notes, ..Plot::default() };
        self.store = self.truth.clone();
    }

    /// Whether its listings never show such an object.
    pub(super) fn hides(&self, name: &str) -> bool {
        self.plot.lies.hidden.iter().any(|end| name.ends_with(end.as_str()))
    }

    /// Somebody lists it: what there is may be shown by a stale listing.
    pub(super) async fn be_listed(&self) {
        let _: Vec<_> = self.store.list("").take(1).collect().await;
    }

    /// Whether its listings are not to be believed.
    pub(super) fn lies(&self) -> bool {
        self.plot.lies.rate > 0.0 || !self.plot.lies.hidden.is_empty()
    }

    /// Whether its requests may fail.
    pub(super) fn fails(&self) -> bool {
        self.plot.faults > 0.0
    }

    /// Opens it as a new process does, which is killed at that request, if it comes there.
    pub(super) async fn open(
        &mut self,
        leave: Leave,
        kill: Option<(u64, When)>,
    ) -> (Option<Arc<Repository>>, Trap) {
        let host = leave.host;
        self.truth.begin(leave);
        let rate = self.plot.faults;
        let at = kill.map(|(request, when)| (request, when, Act::Hang));
        self.plot.lies.seed = self.plot.lies.seed.wrapping_add(1);
        let seed = self.plot.lies.seed;
        let faults = Faults { seed, before: rate, after: rate, cut: rate, at, ..Faults::default() };
        let deadly = Faulty::new(Arc::clone(&self.store), faults);
        let trap = Trap(vec![deadly.clone()]);
        let opened = tokio::select! {
            biased;
            () = trap.sprung() => return (None, trap),
            opened = Repository::open(self.name.parse().unwrap(), deadly, true) => opened,
        };
        let noting = |it: Repository| match &self.notes {
            Some(folders) => it.noting_in(folders[host].path().join("begun")),
            None => it,
        };
        (opened.ok().map(|it| Arc::new(noting(it))), trap)
    }

    /// The repository by what is true.
    pub(super) async fn honest(&self) -> Repository {
        let store = self.truth.clone() as Arc<dyn Store>;
        Repository::open(self.name.parse().unwrap(), store, true).await.unwrap()
    }

    pub(super) async fn assert_whole(&self, backup: &Backup) {
        let amiss = self.truth.amiss_of(backup).await;
        assert_eq!(amiss, None, "{backup:?} in {}", self.name);
    }
}
