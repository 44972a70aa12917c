//! What leaves the stream towards the repositories.

use bytes::Bytes;

/// One message to a repository's uploader, in order. Volumes and parts are counted from 1; a
/// volume's parts come in order, then its end; then the next volume. After the last
/// [`Sealed::VolumeEnd`] the channel closes. A channel that closes earlier means that the stream
/// broke off: nothing of it may be committed.
#[derive(Debug, Clone)]
pub enum Sealed {
    /// The next part of a volume. Every part but a volume's last has the same length.
    Part {
        /// Which volume.
        volume: u32,
        /// Which part of it.
        number: u32,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A volume is whole.
    VolumeEnd {
        /// Which volume.
        volume: u32,
        /// Its length in bytes.
        bytes: u64,
        /// SHA-256 of its bytes, lower-case hexadecimal.
        sha256: String,
    },
}
