//! Where things lie in a repository: pure text.
//!
//! ```text
//! pgkeep-repository.json
//! <server>/<system id>/<database>/<contents>/<backup id>/app.dump.zst, app.dump.zst.001, …
//!                                                        index.json.zst
//!                                                        (encrypted: app.dump.zst.age,
//!                                                        app.dump.zst.age.001, …, index.json.zst.age)
//!                                                        manifest.json
//!                                                        suspicious.json, acknowledged.json
//! ```

use super::key;
use crate::domain::{
    backup::{BackupId, Series},
    manifest::MANIFEST_NAME,
    recipients::Recipients,
};

/// The end of the names of what is encrypted; a volume's number comes behind it, since only all
/// volumes together decrypt.
const AGE: &str = ".age";

/// The marker's key: format and id of the repository.
pub const MARKER_KEY: &str = "pgkeep-repository.json";

/// Segments of a series' path.
const SERIES_DEPTH: usize = 4;

/// The folder of a backup, without a slash at the end.
pub fn folder(series: &Series, id: &BackupId) -> String {
    format!("{}/{id}", series.path())
}

/// The key of an object in a backup's folder.
pub fn object_key(series: &Series, id: &BackupId, name: &str) -> String {
    format!("{}/{id}/{name}", series.path())
}

/// The key of a backup's manifest.
pub fn manifest_key(series: &Series, id: &BackupId) -> String {
    object_key(series, id, MANIFEST_NAME)
}

/// The name under which something is stored that is encrypted to these recipients, or to nobody.
pub fn stored_name(plain: &str, recipients: &Recipients) -> String {
    if recipients.is_empty() { plain.to_owned() } else { format!("{plain}{AGE}") }
}

/// The name that [`stored_name`] was given: `app.dump.zst` of `app.dump.zst.age`.
pub fn plain_name<'a>(stored: &'a str, recipients: &Recipients) -> &'a str {
    if recipients.is_empty() { stored } else { stored.strip_suffix(AGE).unwrap_or(stored) }
}

/// The name of volume `number`, counted from 1: the stem, then `.001` for the second.
pub fn volume_name(stem: &str, number: u32) -> String {
    match number.saturating_sub(1) {
        0 => stem.to_owned(),
        more => format!("{stem}.{more:03}"),
    }
}

/// What a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Marker,
    Backup {
        series: Series,
        id: BackupId,
        name: String,
    },
    /// Nothing of ours.
    Foreign,
}

/// Says what `key` is.
pub fn place(key: &str) -> Place {
    if key == MARKER_KEY {
        return Place::Marker;
    }
    backup_place(key).unwrap_or(Place::Foreign)
}

fn backup_place(key: &str) -> Option<Place> {
    let (folder, name) = key.rsplit_once('/')?;
    let (path, id) = folder.rsplit_once('/')?;
    if path.split('/').count() != SERIES_DEPTH || !key::is_segment(name) {
        return None;
    }
    Some(Place::Backup {
        series: Series::from_path(path)?,
        id: id.parse().ok()?,
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart() {
        let series = Series::from_path("main/7/a=2Fb/all").unwrap();
        let id: BackupId = "20261121T021500Z-k3f9q2x7".parse().unwrap();
        let key = object_key(&series, &id, "a=2Fb.dump.zst.001");
        assert_eq!(key, "main/7/a=2Fb/all/20261121T021500Z-k3f9q2x7/a=2Fb.dump.zst.001");
        assert!(key::is_key(&key));
        let name = "a=2Fb.dump.zst.001".to_owned();
        assert_eq!(place(&key), Place::Backup { series, id, name });
        assert_eq!(place(MARKER_KEY), Place::Marker);
        for foreign in [
            "",
            "x",
            "sub/pgkeep-repository.json",
            "main/7/a/all/20261121T021500Z-k3f9q2x7",
            "main/7/a/all/20261121T021500Z-k3f9q2x7/x/y",
            "main/7/a/all/20261121T021500Z-k3f9q2x7/.x",
            "main/7/a/all/yesterday/manifest.json",
            "main/7/../all/20261121T021500Z-k3f9q2x7/manifest.json",
        ] {
            assert_eq!(place(foreign), Place::Foreign, "{foreign}");
        }
    }

    #[test]
    fn what_is_encrypted_says_so_in_its_name() {
        let nobody = Recipients::default();
        let somebody: Recipients = ["age1x".to_owned()].into_iter().collect();
        let stored = stored_name("app.dump.zst", &somebody);
        assert_eq!(stored, "app.dump.zst.age");
        assert_eq!(volume_name(&stored, 2), "app.dump.zst.age.001");
        assert_eq!(plain_name(&stored, &somebody), "app.dump.zst");
        assert_eq!(stored_name("app.age", &nobody), "app.age");
        assert_eq!(plain_name("app.age", &nobody), "app.age");
    }

    #[test]
    fn volumes_are_numbered_from_the_second_on() {
        let names = [1, 2, 3, 1000, 1001].map(|number| volume_name("app.dump.zst", number));
        assert_eq!(
            names,
            [
                "app.dump.zst",
                "app.dump.zst.001",
                "app.dump.zst.002",
                "app.dump.zst.999",
                "app.dump.zst.1000"
            ]
        );
    }
}
