//! What repositories in memory say about the last backup.

use std::sync::Arc;

use super::*;
use crate::{
    backup::copy::{
        marked::doubt,
        tests::{backup, repository},
    },
    domain::{
        failure::Class,
        suspicion::{Acknowledgement, MARK_NAME},
    },
    repository::layout,
    sys::clock::SystemClock,
};

const HOUR: Duration = Duration::from_hours(1);

fn task() -> Task {
    Task::new(SystemClock::new())
}

/// The id of a backup of so many hours ago.
fn hour(task: &Task, ago: u32) -> BackupId {
    BackupId::new(task.clock.now().wall - HOUR * ago, 1)
}

fn asked<const N: usize>(some: [(&str, Result<Repository, Failure>); N]) -> Repositories {
    some.map(|(name, opened)| (name.parse().unwrap(), opened.map(Arc::new))).into()
}

fn away() -> Result<Repository, Failure> {
    Err(Failure::new(Class::RepositoryUnavailable, "open repository", "it is not mounted"))
}

/// What is said of a new backup that holds nothing, and what it was compared with.
async fn compare(
    asked: &Repositories,
    series: &Series,
    task: &Task,
) -> (Vec<Kind>, Option<BackupId>) {
    let yardstick = Yardstick::find((Share::percent(50), asked), series, task).await;
    let measure = Measure { format: "sql".into(), globals: true, ..Measure::default() };
    let kinds = yardstick.judge(&measure).into_iter().map(|it| it.kind).collect();
    (kinds, yardstick.last.map(|(id, _)| id))
}

#[tokio::test]
async fn a_first_backup_is_one_only_where_every_repository_says_so() {
    let task = task();
    let series = Series::from_path("main/7/app/all").unwrap();
    let fresh = || async { Ok(repository().await.0) };
    let all = asked([("disk", fresh().await), ("offsite", fresh().await)]);
    assert_eq!(compare(&all, &series, &task).await, (vec![], None));
    // One that is away may hold the last good one.
    let some = asked([("disk", away()), ("offsite", fresh().await)]);
    assert_eq!(compare(&some, &series, &task).await, (vec![Kind::Other], None));
    // Where backups are not compared, it does not matter.
    let off = Yardstick::find((None, &some), &series, &task).await;
    assert!(off.problems.is_empty());
}

#[tokio::test]
async fn where_one_gives_the_last_backup_it_does_not_matter_who_is_away() {
    let task = task();
    let (local, _) = repository().await;
    let good = hour(&task, 2);
    let series = backup(&local, &good).await.series;
    let all = asked([("disk", Ok(local)), ("offsite", away())]);
    assert_eq!(compare(&all, &series, &task).await, (vec![Kind::FewerBytes], Some(good)));
}

#[tokio::test]
async fn a_series_of_backups_in_doubt_alone_is_no_empty_one() {
    let task = task();
    let ((local, store), id) = (repository().await, hour(&task, 1));
    let series = doubt(&local, &store, &id).await;
    let now = task.clock.now().wall;
    assert_eq!(last(&local, &series, now).await, Ok(Last::InDoubt));
    let (fresh, _) = repository().await;
    let all = asked([("disk", Ok(fresh)), ("offsite", Ok(local))]);
    assert_eq!(compare(&all, &series, &task).await, (vec![Kind::Other], None));
}

#[tokio::test]
async fn one_whose_manifest_alone_tells_of_a_doubt_is_not_trusted() {
    let task = task();
    let (local, store) = repository().await;
    let (good, bad) = (hour(&task, 2), hour(&task, 1));
    let series = doubt(&local, &store, &bad).await;
    let mark = layout::object_key(&series, &bad, MARK_NAME);
    store.lose(&mark).unwrap();
    let now = task.clock.now().wall;
    let problem = last(&local, &series, now).await.unwrap_err();
    assert!(problem.contains(bad.as_str()) && problem.contains(MARK_NAME), "{problem}");
    backup(&local, &good).await;
    let found = |answer| match answer {
        Ok(Last::Found(id, _)) => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(found(last(&local, &series, now).await), good);
    // Somebody has looked at it.
    let by = Acknowledgement { at: now, user: "postgres".to_owned(), host: "db1".to_owned() };
    local.acknowledge(&series, &bad, &by).await.unwrap();
    assert_eq!(found(last(&local, &series, now).await), bad);
}

#[tokio::test]
async fn one_from_the_future_is_not_compared_with() {
    let task = task();
    let (local, _) = repository().await;
    let ahead = BackupId::new(task.clock.now().wall + HOUR * 48, 1);
    let series = backup(&local, &ahead).await.series;
    assert_eq!(last(&local, &series, task.clock.now().wall).await, Ok(Last::None));
}
