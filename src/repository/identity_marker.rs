//! The marker: says that a place is a repository of ours, in which format, and which one. Its
//! absence tells an unmounted filesystem or a mistyped prefix from an empty repository.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    layout::MARKER_KEY,
    pieces::Reading,
    store::{Doing as _, Store, StoreError, StoreErrorKind},
};

/// The version of the layout that this program writes. It reads every older one.
const FORMAT_VERSION: u32 = 1;
/// A marker is about 100 bytes.
const LENGTH_MAX: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format_version: u32,
    repository_id: String,
}

/// Reads the repository's id; makes one where there is none and `create` says so. Of several that
/// make one at once, all get the same.
pub(super) async fn open(store: &Arc<dyn Store>, create: bool) -> Result<String, StoreError> {
    find(store, create).await.doing(&format!("open the repository {}", store.place()))
}

async fn find(store: &Arc<dyn Store>, create: bool) -> Result<String, StoreError> {
    if let Some(id) = read(store).await? {
        return Ok(id);
    }
    if !create {
        let what = format!("{MARKER_KEY} is missing: this is not a repository, or not mounted");
        return Err(StoreError::bare(StoreErrorKind::NotFound, what)
            .hint("check the path or prefix, and whether the filesystem is mounted"));
    }
    match store.put_new(MARKER_KEY, new_marker()?).await {
        Ok(_) => {}
        // Somebody was faster.
        Err(error) if error.kind == StoreErrorKind::Exists => {}
        Err(error) => return Err(error),
    }
    // Not every store refuses to overwrite: what lies there now counts.
    let missing = || {
        let what = format!("{MARKER_KEY} was stored and is not there");
        StoreError::bare(StoreErrorKind::Damaged, what)
    };
    read(store).await?.ok_or_else(missing)
}

fn new_marker() -> Result<Bytes, StoreError> {
    let refuse = |what: String| StoreError::bare(StoreErrorKind::Refused, what);
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| refuse(error.to_string()))?;
    let repository_id = format!("{:032x}", u128::from_be_bytes(random));
    let marker = Marker { format_version: FORMAT_VERSION, repository_id };
    let mut text =
        serde_json::to_string_pretty(&marker).map_err(|error| refuse(error.to_string()))?;
    text.push('\n');
    Ok(text.into())
}

async fn read(store: &Arc<dyn Store>) -> Result<Option<String>, StoreError> {
    let Some(bytes) = read_small(store, MARKER_KEY, LENGTH_MAX).await? else { return Ok(None) };
    parse(&bytes).map(Some)
}

fn parse(bytes: &[u8]) -> Result<String, StoreError> {
    #[derive(Deserialize)]
    struct VersionOnly {
        format_version: u32,
    }
    let damaged = |what: String| {
        let what = format!("{MARKER_KEY} is damaged: {what}");
        StoreError::bare(StoreErrorKind::Damaged, what).hint(format!(
            "If the backups beside it are as they should be, remove {MARKER_KEY}, and on each host that knows it the file repositories/NAME in the state directory: the next run that writes makes a new one."
        ))
    };
    let version: VersionOnly =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if version.format_version > FORMAT_VERSION {
        let found = version.format_version;
        let what = format!("it has format {found}; this pgkeep reads up to {FORMAT_VERSION}");
        return Err(StoreError::bare(StoreErrorKind::Refused, what)
            .hint("Use the version of pgkeep that writes to this repository, or a newer one."));
    }
    let marker: Marker =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    let is_id = !marker.repository_id.is_empty()
        && marker.repository_id.bytes().all(|b| b.is_ascii_hexdigit());
    if marker.format_version == 0 || !is_id {
        return Err(damaged("it has no id".to_owned()));
    }
    Ok(marker.repository_id)
}

/// Reads a small object whole; `None` where there is none, an error where it is longer than `most`
/// bytes.
pub(super) async fn read_small(
    store: &Arc<dyn Store>,
    key: &str,
    most: u64,
) -> Result<Option<Bytes>, StoreError> {
    match Reading::begin(store, key, most).await? {
        Some(reading) => reading.rest().await.map(|pieces| Some(pieces.concat())),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_read_or_refused() {
        let marker = new_marker().unwrap();
        assert_eq!(parse(&marker).unwrap().len(), 32);
        let cases: [(&[u8], StoreErrorKind); 5] = [
            (b"", StoreErrorKind::Damaged),
            (b"{}", StoreErrorKind::Damaged),
            (br#"{"format_version":1,"repository_id":"../x"}"#, StoreErrorKind::Damaged),
            (br#"{"format_version":0,"repository_id":"a0"}"#, StoreErrorKind::Damaged),
            (br#"{"format_version":2,"anything":"else"}"#, StoreErrorKind::Refused),
        ];
        for (bytes, kind) in cases {
            let error = parse(bytes).unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.hint.is_some());
        }
    }
}
