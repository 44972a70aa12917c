//! A small S3 server for tests and the demo: s3s-fs over HTTP, path style, one key pair.
//!
//! It says `listening on http://127.0.0.1:PORT` on one line when it is ready, and runs until it
//! is killed. Not for anybody's data: it checks few digests and holds everything in plain files.

#[path = "../it/harness/s3.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod s3;

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::Parser;
use tokio::net::TcpListener;

#[derive(Debug, Parser)]
#[command(name = "s3-server", about = "A small S3 server for tests and the demo")]
struct Arguments {
    /// The folder that holds the buckets
    #[arg(long)]
    dir: PathBuf,
    /// The address to listen on; port 0: any that is free
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// The id of the access key
    #[arg(long)]
    access_key: String,
    /// The secret access key
    #[arg(long)]
    secret_key: String,
    /// A bucket to make if it is not there (may be repeated)
    #[arg(long = "bucket")]
    buckets: Vec<String>,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.dir)?;
    for bucket in &arguments.buckets {
        std::fs::create_dir_all(arguments.dir.join(bucket))?;
    }
    let listener = TcpListener::bind(&arguments.listen).await?;
    let mut out = io::stdout();
    writeln!(out, "listening on http://{}", listener.local_addr()?)?;
    out.flush()?;
    s3::serve(listener, &arguments.dir, &arguments.access_key, &arguments.secret_key).await
}
