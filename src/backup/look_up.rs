//! Looks each backup up in the listing once it is stored: what a listing does not show is neither
//! listed, pruned, copied nor counted, and nobody would know.
//!
//! A listing may lag behind for a moment. Nothing is ever removed for what it does not show.

use std::time::Duration;

use crate::{
    domain::{
        finding::{CheckName, Finding, Severity},
        manifest::Manifest,
        target::Target,
    },
    repository::{repo::Repository, store::StoreError},
    sys::task::Task,
};

/// The waits before each look, in milliseconds.
const WAITS: [u64; 4] = if cfg!(test) { [0; 4] } else { [0, 200, 1_000, 3_000] };
/// How long one look may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Looks up a backup that was just stored. Some: it is not listed as it was stored.
pub async fn look_up(repository: &Repository, manifest: &Manifest, task: &Task) -> Option<Finding> {
    let mut problem = String::new();
    for wait in WAITS {
        let look = async {
            if wait > 0 {
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            tokio::time::timeout(LIMIT, look(repository, manifest)).await
        };
        let Ok(looked) = task.unless_cancelled(look).await else { return None };
        match looked {
            Ok(Ok(None)) => return None,
            Ok(Ok(Some(amiss))) => problem = amiss,
            // The store has asked again by itself.
            Ok(Err(error)) => {
                problem = error.to_string();
                break;
            }
            Err(_) => {
                problem = format!("no list came within {} s", LIMIT.as_secs());
                break;
            }
        }
    }
    let (name, series, id) = (repository.name(), manifest.series.path(), &manifest.id);
    let what = format!("{name}: backup {id} of {series} was stored and is not listed: {problem}");
    let hint = "what is not listed is not pruned, copied or counted, and `pgkeep list` does not show it: \
                look at the store, and at a proxy before it";
    let target = Target::series(&manifest.series).in_repository(name);
    Some(
        Finding::new(CheckName("backup-unlisted"), Severity::Warning, what)
            .hint(hint)
            .about(target),
    )
}

async fn look(repository: &Repository, manifest: &Manifest) -> Result<Option<String>, StoreError> {
    let listed = repository.look_at(&manifest.series, &manifest.id).await?;
    Ok(match listed {
        None => Some("nothing of it is shown".to_owned()),
        Some(listed) if !listed.complete => Some("its manifest is not shown".to_owned()),
        Some(listed) => listed.check_sizes(manifest).first().map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        backup::copy::tests::{backup, repository},
        domain::{backup::BackupId, manifest::MANIFEST_NAME},
        repository::{
            lying::{Lies, Lying},
            store::Store,
        },
        sys::clock::SystemClock,
    };

    #[tokio::test]
    async fn what_the_listing_does_not_show_is_told_and_stays() {
        let task = Task::new(SystemClock::new());
        let (repository, store) = repository().await;
        let manifest = backup(&repository, &BackupId::new(task.clock.now().wall, 1)).await;
        assert_eq!(look_up(&repository, &manifest, &task).await, None);
        let before = store.keys();
        for (hidden, told) in
            [(MANIFEST_NAME, "its manifest"), (".zst", "is missing"), ("", "nothing of it")]
        {
            let lies = Lies { hidden: vec![hidden.to_owned()], ..Lies::default() };
            let lying = Lying::new(Arc::clone(&store) as Arc<dyn Store>, lies);
            let name = "local".parse().unwrap();
            let lying = Repository::open(name, lying, false).await.unwrap();
            let finding = look_up(&lying, &manifest, &task).await.unwrap();
            assert_eq!((&*finding.check, finding.severity), ("backup-unlisted", Severity::Warning));
            assert!(finding.what.contains(told), "{finding:?}");
        }
        assert_eq!(store.keys(), before);
        task.cancel.cancel();
        assert_eq!(look_up(&repository, &manifest, &task).await, None);
    }
}
