//! As many volumes as there can be.

use super::*;
use crate::{
    backup::copy::tests::{backup, repository},
    domain::{
        failure::chain,
        manifest::{BYTES_MAX, VOLUMES_MAX, codec},
    },
    repository::layout,
};

/// Their names, the longest that there are, stand in every line that can have them.
#[tokio::test]
async fn a_manifest_of_as_many_volumes_as_there_can_be_is_read() {
    let (repository, store) = repository().await;
    let id = BackupId::new(SystemClock::new().now().wall, 1);
    let made = backup(&repository, &id).await;
    let recipients: Recipients = ["age1x".to_owned()].into_iter().collect();
    let stem = layout::stored_name(&format!("{}.dump.zst", "n".repeat(24)), &recipients);
    let names: Vec<String> =
        (1..=VOLUMES_MAX).map(|number| layout::volume_name(&stem, number)).collect();
    let facts = facts("app", &[]);
    let restore = lines(&about(Some(&facts), &Scope::default(), &names, &[], &recipients));
    let manifest = Manifest {
        objects: names.iter().map(|name| object(name)).collect(),
        codec: codec(&recipients),
        recipients,
        restore,
        ..made
    };
    let bytes = manifest.to_bytes().unwrap();
    assert!(bytes.len() as u64 > BYTES_MAX / 4 * 3, "{}: the limit is far from it", bytes.len());
    let key = layout::manifest_key(&series(), &id);
    store.lose(&key).unwrap();
    store.plant(&key, bytes, id.time());
    assert!(repository.manifest(&series(), &id).await.unwrap() == manifest);
    let longer = " ".repeat(usize::try_from(BYTES_MAX).unwrap() + 1);
    store.plant(&key, longer, id.time());
    let problem = chain(&repository.manifest(&series(), &id).await.unwrap_err());
    assert!(problem.contains("longer than"), "{problem}");
}
