//! Small files that lie beside an archive: compressed, encrypted like everything in their
//! repository, and named in the manifest.

use std::io::{self, Write as _};

use sha2::{Digest as _, Sha256};

use crate::{
    codec::{encrypt, hex},
    domain::{
        failure::{Class, During, Failure},
        manifest::StoredFile,
    },
    repository::copy::Copy,
    sys::task::Task,
};

/// One file, as it is before it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallFile {
    /// Its name in the folder of the backup, where it is not encrypted: `pg_hba.conf.zst`.
    pub name: String,
    /// Where it lies on the server; none for what pgkeep made.
    pub path: Option<String>,
    pub plain: Vec<u8>,
}

/// Stores files in a copy that is being written.
///
/// # Errors
/// When one cannot be encrypted, or the repository does not take it. The copy is then to be aborted.
pub(super) async fn put(
    copy: &mut Copy,
    files: &[SmallFile],
    task: &Task,
) -> Result<Vec<StoredFile>, Failure> {
    let mut stored = Vec::new();
    for file in files {
        let bytes = compress(&file.plain)
            .map_err(|error| Failure::from_error(Class::Internal, task, &error))?;
        let bytes = encrypt::whole(bytes, copy.recipients()).during(task)?;
        let object = copy.put(&file.name, bytes).await.during(task)?;
        stored.push(StoredFile {
            object,
            path: file.path.clone(),
            plain_bytes: file.plain.len() as u64,
            plain_sha256: hex(&Sha256::digest(&file.plain)),
        });
    }
    Ok(stored)
}

/// One frame with a checksum, at zstd's own default level. Never fails in practice: memory takes what is
/// written to it.
fn compress(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3)?;
    encoder.include_checksum(true)?;
    encoder.write_all(plain)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back() {
        for plain in [&b""[..], b"x", &vec![7; 100_000]] {
            assert_eq!(zstd::stream::decode_all(&compress(plain).unwrap()[..]).unwrap(), plain);
        }
    }
}
