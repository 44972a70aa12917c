//! Small files that lie beside an archive: compressed, encrypted like everything in their
//! repository, and named in the manifest.

use sha2::{Digest as _, Sha256};

use crate::{
    codec::{encrypt, hex, whole},
    domain::{
        failure::{Class, During, Failure},
        manifest::StoredFile,
    },
    repository::copy::Copy,
};

/// One file, as it is before it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallFile {
    /// Its name in the folder of the backup, where it is not encrypted: `pg_hba.conf.zst`.
    pub name: String,
    /// Where it lies on the server; none for what pgkeep made.
    pub path: Option<String>,
    /// Its bytes.
    pub plain: Vec<u8>,
}

/// Stores files in a copy that is being written.
///
/// # Errors
/// When one cannot be encrypted, or the repository does not take it. The copy is then to be aborted.
pub(super) async fn put(
    copy: &mut Copy,
    files: &[SmallFile],
    doing: &str,
) -> Result<Vec<StoredFile>, Failure> {
    let mut stored = Vec::new();
    for file in files {
        let bytes = whole::compress(&file.plain)
            .map_err(|error| Failure::from_error(Class::Internal, doing, &error))?;
        let bytes = encrypt::whole(bytes, copy.recipients())
            .map_err(|error| Failure::from_error(Class::Encryption, doing, &error))?;
        let object = copy.put(&file.name, bytes).await.during(doing)?;
        stored.push(StoredFile {
            object,
            path: file.path.clone(),
            plain_bytes: file.plain.len() as u64,
            plain_sha256: hex(&Sha256::digest(&file.plain)),
        });
    }
    Ok(stored)
}
