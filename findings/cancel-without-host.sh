#!/bin/sh
# tokio-postgres cannot cancel the statements of a client that was made by `connect_raw`.
#
# Guess:    a client's cancel_token cancels its statement, whichever way the client was connected.
# Seen:     `connect_raw` takes a stream that the program opened itself, and the client then knows no host.
#           `cancel_query` opens a second connection to the host that it knows, and fails with "unknown
#           host" at once. The statement runs on. `cancel_query_raw` with another stream works.
# Version:  tokio-postgres 0.7.18, with PostgreSQL 18.4.
# Output:   connect: cancelled; connect_raw: error connecting to server: unknown host, still running;
#           connect_raw and cancel_query_raw: cancelled
# Matters:  who opens its own sockets (for a limit on the connect, a tunnel, a namespace) finds out only when a
#           job is stopped: the backup's statement, its snapshot and its locks stay at the server.
# Source:   own runs.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname -- "$0")/lib/common.sh"

need cargo
fetch_postgres
start_server s 18
cargo_project "$work/client" 'tokio-postgres = "=0.7.18"
tokio = { version = "=1.54.1", features = ["rt-multi-thread", "macros", "net", "time"] }' <<'RUST'
use std::{error::Error, time::Duration};
use tokio::net::UnixStream;
use tokio_postgres::{error::SqlState, Client, Config, NoTls};

#[tokio::main]
async fn main() {
    let folder = std::env::args().nth(1).unwrap();
    let socket = format!("{folder}/.s.PGSQL.5432");
    let mut config = Config::new();
    config.host_path(&folder).user("postgres").dbname("postgres");

    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let token = client.cancel_token();
    println!("connect: {}", outcome(&client, token.cancel_query(NoTls)).await);

    for raw in [false, true] {
        let stream = UnixStream::connect(&socket).await.unwrap();
        let (client, connection) = config.connect_raw(stream, NoTls).await.unwrap();
        tokio::spawn(connection);
        let token = client.cancel_token();
        if raw {
            let stream = UnixStream::connect(&socket).await.unwrap();
            let answer = token.cancel_query_raw(stream, NoTls);
            println!("connect_raw, cancel_query_raw: {}", outcome(&client, answer).await);
        } else {
            println!("connect_raw: {}", outcome(&client, token.cancel_query(NoTls)).await);
        }
    }
}

/// Cancels a statement that is running, and tells what became of both.
async fn outcome(
    client: &Client,
    cancel: impl std::future::Future<Output = Result<(), tokio_postgres::Error>>,
) -> String {
    let statement = client.batch_execute("select pg_sleep(6)");
    let later = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cancel.await
    };
    match tokio::join!(statement, later) {
        (Err(error), Ok(())) if error.code() == Some(&SqlState::QUERY_CANCELED) => "cancelled".into(),
        (Ok(()), Err(error)) => {
            format!("{error}: {}, and it ran to its end", error.source().map(|e| e.to_string()).unwrap_or_default())
        }
        other => format!("{other:?}"),
    }
}
RUST
"$work/client/main" "$work/s" >"$work/output" || broken "the program failed"
cat "$work/output"
grep -q '^connect: cancelled$' "$work/output" || broken "nothing can be cancelled"
grep -q '^connect_raw, cancel_query_raw: cancelled$' "$work/output" || changed "cancel_query_raw does not help"
grep -q '^connect_raw: .*unknown host, and it ran to its end$' "$work/output" ||
    changed "cancel_query works for connect_raw"
