//! Backups in doubt, by their names.

use super::*;
use crate::domain::{
    retention::Reason,
    suspicion::{ACKNOWLEDGED_NAME, MARK_NAME},
};

impl Bench {
    fn mark(&self, at: usize, name: &str) {
        self.store.plant(&self.key(at, name), "{}", self.ids[at].time());
    }
}

#[tokio::test]
async fn the_last_before_suspicious_ones_stays_until_somebody_has_looked() {
    let bench = Bench::new(5).await;
    for at in [3, 4] {
        bench.mark(at, MARK_NAME);
    }
    let (plan, survey) = bench.plan().await;
    assert_eq!(goes(&bench, &plan), [0, 1, 3]);
    assert_eq!(
        (plan.floor.as_ref(), plan.before.as_ref()),
        (Some(&bench.ids[4]), Some(&bench.ids[2]))
    );
    let reason = Reason::BeforeSuspicious.to_string();
    let steps = survey.steps.finish();
    let held: Vec<_> = steps.iter().filter(|step| step.reason == reason).collect();
    assert_eq!(held.len(), 1);
    assert_eq!(
        (held[0].target.object.as_deref(), &*held[0].action),
        (Some(bench.ids[2].as_str()), "keep")
    );
    let done = carry_out(&bench.repository, &plan, &bench.task).await;
    assert!(done.failure.is_none(), "{done:?}");
    assert_eq!(bench.complete().await, [2, 4]);
    // Only the newest counts: one before it that was acknowledged changes nothing.
    bench.mark(4, ACKNOWLEDGED_NAME);
    let (plan, _) = bench.plan().await;
    assert_eq!((goes(&bench, &plan), plan.before), (vec![2], None));
}

#[tokio::test]
async fn one_that_is_damaged_holds_nothing() {
    let bench = Bench::new(4).await;
    bench.mark(3, MARK_NAME);
    bench.store.lose(&bench.key(2, "globals.sql.zst")).unwrap();
    bench.mark(2, "globals.sql.zst");
    let (plan, survey) = bench.plan().await;
    assert_eq!(goes(&bench, &plan), [0]);
    assert_eq!(plan.before.as_ref(), Some(&bench.ids[1]));
    assert_eq!(checks(&survey), [("backup-damaged", Severity::Critical)]);
}

#[tokio::test]
async fn nothing_goes_where_the_last_good_one_has_gone_meanwhile() {
    let bench = Bench::new(4).await;
    bench.mark(3, MARK_NAME);
    let (plan, _) = bench.plan().await;
    bench.store.lose(&bench.key(2, "manifest.json")).unwrap();
    let done = carry_out(&bench.repository, &plan, &bench.task).await;
    assert_eq!(done.failure.unwrap().class, Class::RepositoryDamaged);
    assert_eq!(bench.complete().await, [0, 1, 3]);
}
