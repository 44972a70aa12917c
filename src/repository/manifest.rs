//! Reading the manifest of a backup, in bounded memory whatever a store sends in its place.

use super::{
    layout,
    pieces::Reading,
    repo::{ManifestProblem, Repository},
};
use crate::domain::{
    backup::{BackupId, Series},
    manifest::{BYTES_MAX, Manifest},
};

/// What most manifests are shorter than, by far: only one of those that are longer is read at a time.
const USUAL_MAX: u64 = 1 << 20;

impl Repository {
    /// Reads a backup's manifest.
    ///
    /// # Errors
    /// See [`ManifestProblem`].
    pub async fn manifest(
        &self,
        series: &Series,
        id: &BackupId,
    ) -> Result<Manifest, ManifestProblem> {
        let key = layout::manifest_key(series, id);
        let reading = Reading::begin(self.store(), &key, BYTES_MAX).await;
        let mut reading =
            reading.map_err(ManifestProblem::Store)?.ok_or(ManifestProblem::Missing)?;
        let is_long = reading.is_longer_than(USUAL_MAX).await.map_err(ManifestProblem::Store)?;
        let _turn = if is_long { Some(self.long_manifests().lock().await) } else { None };
        let pieces = reading.rest().await.map_err(ManifestProblem::Store)?;
        Manifest::from_reader(pieces, series, id).map_err(ManifestProblem::Invalid)
    }
}
