//! Listings that are stale, or leave things out.

use super::*;
use crate::{
    domain::{
        manifest::{MANIFEST_NAME, Manifest},
        suspicion::{ACKNOWLEDGED_NAME, Kind, MARK_NAME, Suspicion},
    },
    repository::{
        lying::{Lie, Lies, Lying},
        store::StoreErrorKind,
    },
};

impl Bench {
    /// The repository by listings without what ends so.
    async fn hiding(&self, hidden: &[&str]) -> Repository {
        let hidden = hidden.iter().map(|end| (*end).to_owned()).collect();
        let lies = Lies { hidden, ..Lies::default() };
        let store = Lying::new(Arc::clone(&self.store) as Arc<dyn Store>, lies);
        Repository::open("local".parse().unwrap(), store, false).await.unwrap()
    }

    /// One that is suspicious by its manifest and its mark.
    async fn suspect(&self, at: usize) {
        let id = &self.ids[at];
        let manifest = self.repository.manifest(&self.series, id).await.unwrap();
        let suspicions = vec![Suspicion::new(Kind::NoRows, "0 rows, before 5000")];
        let manifest = Manifest { suspicions, ..manifest }.versioned();
        self.store.plant(&self.key(at, MANIFEST_NAME), manifest.to_bytes().unwrap(), id.time());
        self.store.plant(&self.key(at, MARK_NAME), "[]", id.time());
    }
}

/// The listing shows backups whose manifest is gone: they do not push out those that are there.
#[tokio::test]
async fn what_is_listed_and_gone_takes_no_place() {
    let mut bench = Bench::new(6).await;
    bench.policy = policy(3);
    for at in [3, 4] {
        // As a stale listing shows it: there, and the store has none to give.
        bench.store.plant(&bench.key(at, MANIFEST_NAME), "", Timestamp::UNIX_EPOCH);
    }
    let (plan, survey) = bench.plan().await;
    assert_eq!(goes(&bench, &plan), [0], "5, 2 and 1 are the last three that are there");
    assert_eq!(checks(&survey), [("backup-damaged", Severity::Critical); 2]);
}

/// Whether one that the store refuses to give is whole is not known: nothing goes for it.
#[tokio::test]
async fn what_may_not_be_read_holds_the_series_and_is_not_called_damaged() {
    let mut bench = Bench::new(5).await;
    bench.policy = policy(2);
    let (mut held, mut went) = (0, 0);
    for step in 0..40 {
        let refused = Act::Fail(StoreErrorKind::Refused);
        let faults = Faults { at: Some((step, When::Before, refused)), ..Faults::default() };
        let store = Faulty::new(Arc::clone(&bench.store) as Arc<dyn Store>, faults);
        let opened = Repository::open("local".parse().unwrap(), store, false).await;
        let Ok(repository) = opened else { continue };
        let Ok(survey) = bench.survey(&repository).await else { continue };
        match &survey.series[0].held {
            Some(Obstacle::Refused(why)) => {
                assert!(why.contains("manifest.json"), "{why}");
                assert!(survey.series[0].remove.is_empty() && survey.findings.is_empty());
                held += 1;
            }
            held => {
                assert_eq!(*held, None);
                went += 1;
            }
        }
    }
    assert!(held > 0 && went > 0, "{held} held, {went} went");
}

/// One that goes because it is in doubt, and was acknowledged: its manifest is gone.
#[tokio::test]
async fn an_acknowledged_one_is_asked_for_before_it_takes_a_place() {
    let mut bench = Bench::new(4).await;
    bench.policy = policy(2);
    bench.suspect(2).await;
    bench.store.plant(&bench.key(2, ACKNOWLEDGED_NAME), "{}", bench.ids[2].time());
    bench.store.plant(&bench.key(2, MANIFEST_NAME), "", Timestamp::UNIX_EPOCH);
    let lied = bench.survey(&bench.hiding(&[ACKNOWLEDGED_NAME]).await).await.unwrap();
    let goes = goes(&bench, &lied.series[0]);
    assert!(!goes.contains(&1), "{goes:?}");
}

/// The last good one stays even where a listing leaves the marks of those in doubt out.
#[tokio::test]
async fn a_suspicious_one_whose_mark_is_not_listed_takes_no_place_of_a_good_one() {
    let mut bench = Bench::new(4).await;
    bench.policy = policy(2);
    for at in [2, 3] {
        bench.suspect(at).await;
    }
    let honest = bench.survey(&bench.repository).await.unwrap();
    assert_eq!(goes(&bench, &honest.series[0]), [0], "1 is the last good one");
    let lied = bench.survey(&bench.hiding(&[MARK_NAME]).await).await.unwrap();
    let goes = goes(&bench, &lied.series[0]);
    assert!(!goes.contains(&1), "{goes:?}");
}

/// The last one that somebody vouched for stays even where a listing leaves that out.
#[tokio::test]
async fn an_acknowledged_one_stays_where_the_listing_does_not_show_it() {
    let bench = Bench::new(4).await;
    for at in [1, 2, 3] {
        bench.suspect(at).await;
    }
    bench.store.plant(&bench.key(2, ACKNOWLEDGED_NAME), "{}", bench.ids[2].time());
    let honest = bench.survey(&bench.repository).await.unwrap();
    assert_eq!(goes(&bench, &honest.series[0]), [0, 1], "2 is the last before the doubt");
    let lied = bench.survey(&bench.hiding(&[ACKNOWLEDGED_NAME]).await).await.unwrap();
    assert_eq!(goes(&bench, &lied.series[0]), [0, 1]);
    assert_eq!(lied.series[0].before.as_ref(), Some(&bench.ids[2]));
}

/// A listing of the past shows the data of the newest, of which nothing but the manifest is left.
#[tokio::test]
async fn what_a_stale_listing_shows_of_the_newest_lets_no_other_go() {
    for seed in 0..20 {
        let bench = Bench::new(3).await;
        let lies = Lies { seed, rate: 1.0, kinds: vec![Lie::Stale], ..Lies::default() };
        let lying = Lying::new(Arc::clone(&bench.store) as Arc<dyn Store>, lies);
        let stale = Repository::open("local".parse().unwrap(), lying, false).await.unwrap();
        stale.listing(&Within::All).await.unwrap();
        bench.store.lose(&bench.key(2, "globals.sql.zst")).unwrap();
        let survey = bench.survey(&stale).await.unwrap();
        assert_eq!(goes(&bench, &survey.series[0]), [0, 1], "by the listing, 2 is whole");
        let done = carry_out(&stale, &survey.series[0], &bench.task).await;
        assert_eq!(done.failure.unwrap().class, Class::RepositoryDamaged, "{seed}");
        assert_eq!(bench.complete().await, [0, 1, 2], "{seed}");
    }
}

/// A person who is told that a backup is damaged deletes it.
#[tokio::test]
async fn nothing_is_called_damaged_for_what_a_listing_leaves_out() {
    let mut bench = Bench::new(4).await;
    bench.policy = policy(2);
    bench.suspect(1).await;
    bench.suspect(3).await;
    for hidden in [".zst", MARK_NAME] {
        let lied = bench.survey(&bench.hiding(&[hidden]).await).await.unwrap();
        assert!(lied.findings.is_empty(), "{hidden}: {:?}", lied.findings);
        assert_eq!(goes(&bench, &lied.series[0]), [0, 1], "{hidden}");
    }
    bench.store.lose(&bench.key(3, "globals.sql.zst")).unwrap();
    let survey = bench.survey(&bench.hiding(&[".zst"]).await).await.unwrap();
    assert_eq!(checks(&survey), [("backup-damaged", Severity::Critical)], "now it is");
}

/// That a repository does not answer says nothing of what is in it.
#[tokio::test]
async fn what_is_not_answered_fails_the_look_and_holds_nothing() {
    let bench = Bench::new(3).await;
    let mut failed = 0;
    for step in 0..20 {
        let away = Act::Fail(StoreErrorKind::Unavailable);
        let faults = Faults { at: Some((step, When::Before, away)), ..Faults::default() };
        let store = Faulty::new(Arc::clone(&bench.store) as Arc<dyn Store>, faults);
        let lies = Lies { hidden: vec![".zst".to_owned()], ..Lies::default() };
        let lying = Lying::new(store, lies);
        let opened = Repository::open("local".parse().unwrap(), lying, false).await;
        let Ok(repository) = opened else { continue };
        match bench.survey(&repository).await {
            Err(failure) => {
                assert_eq!(failure.class, Class::RepositoryUnavailable, "{failure}");
                failed += 1;
            }
            Ok(survey) => assert_eq!(survey.series[0].held, None, "{step}"),
        }
    }
    assert!(failed > 3, "{failed} failed");
}

#[tokio::test]
async fn what_goes_goes_whole_although_its_manifest_is_not_listed_any_more() {
    let bench = Bench::new(3).await;
    let (plan, _) = bench.plan().await;
    let hiding = bench.hiding(&[&format!("{}/{MANIFEST_NAME}", bench.ids[0])]).await;
    let done = carry_out(&hiding, &plan, &bench.task).await;
    assert!(done.failure.is_none(), "{done:?}");
    assert_eq!(done.removed, 2);
    assert_eq!(bench.complete().await, [2]);
    assert!(!bench.store.keys().iter().any(|key| key.contains(bench.ids[0].as_str())));
}
