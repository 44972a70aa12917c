//! A real S3 server over HTTP (s3s-fs), in this process, on a port of its own.
//!
//! Its gaps (measured): it does not check digests of parts, cannot list unfinished uploads, says
//! `AccessDenied` of an upload that it does not know, and takes no key above some 160 bytes. Two
//! that no real store has are closed here: it would make a bucket that is missing, and show a
//! folder as an object. The program `s3-server` is the same
//! server for child processes and the demo.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::SimpleAuth,
    path::S3Path,
    s3_error,
    service::S3ServiceBuilder,
};
use tokio::{net::TcpListener, task::JoinHandle};

/// The key pair of the servers that tests start.
pub(crate) const ACCESS_KEY: &str = "AKIAPGKEEPTEST";
/// Its secret.
pub(crate) const SECRET_KEY: &str = "not-a-secret-of-anybody";
/// The bucket that they hold.
pub(crate) const BUCKET: &str = "backups";

/// What s3s-fs does not look at before it acts.
#[derive(Debug)]
struct Doorkeeper {
    dir: PathBuf,
}

#[async_trait::async_trait]
impl S3Access for Doorkeeper {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() {
            return Err(s3_error!(AccessDenied));
        }
        let (bucket, key) = match cx.s3_path() {
            S3Path::Root => return Ok(()),
            S3Path::Bucket { bucket } => (bucket, None),
            S3Path::Object { bucket, key } => (bucket, Some(key)),
        };
        let bucket = self.dir.join(&**bucket);
        if !bucket.is_dir() {
            return Err(s3_error!(NoSuchBucket));
        }
        match key {
            Some(key) if bucket.join(&**key).is_dir() => Err(s3_error!(NoSuchKey)),
            _ => Ok(()),
        }
    }
}

/// Serves the folders in `dir` as buckets, until the future is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    dir: &Path,
    access_key: &str,
    secret_key: &str,
) -> io::Result<()> {
    let files =
        s3s_fs::FileSystem::new(dir).map_err(|error| io::Error::other(format!("{error:?}")))?;
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(access_key, secret_key));
    service.set_access(Doorkeeper { dir: dir.to_owned() });
    let service = service.build();
    let http = Builder::new(TokioExecutor::new());
    loop {
        let (socket, _) = listener.accept().await?;
        let connection = http.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
        tokio::spawn(async move {
            // A client that breaks off is not the server's trouble.
            drop(connection.await);
        });
    }
}

/// A running server with one bucket; ends when dropped.
#[derive(Debug)]
pub(crate) struct S3Server {
    address: SocketAddr,
    dir: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl S3Server {
    /// Starts a server that holds [`BUCKET`].
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join(BUCKET)).expect("a bucket");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let path = dir.path().to_owned();
        let task = tokio::spawn(async move {
            serve(listener, &path, ACCESS_KEY, SECRET_KEY).await.expect("a server");
        });
        Self { address, dir, task }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address for a client.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The files that hold an object.
    pub(crate) fn object_path(&self, key: &str) -> PathBuf {
        self.dir.path().join(BUCKET).join(key)
    }

    /// How many parts of unfinished uploads it holds.
    pub(crate) fn parts(&self) -> usize {
        let entries = std::fs::read_dir(self.dir.path()).expect("a folder");
        entries
            .filter(|entry| {
                let name = entry.as_ref().expect("an entry").file_name();
                name.to_string_lossy().starts_with(".upload_id-")
            })
            .count()
    }

    /// The ids of its unfinished uploads.
    pub(crate) fn uploads(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).expect("a folder");
        let id = |entry: io::Result<std::fs::DirEntry>| {
            let name = entry.expect("an entry").file_name().into_string().ok()?;
            Some(name.strip_prefix(".upload-")?.strip_suffix(".json")?.to_owned())
        };
        entries.filter_map(id).collect()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
