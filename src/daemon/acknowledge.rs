//! Acknowledgements that reach the daemon: beside the runs, in a task of their own, so that a slow
//! repository holds nothing up.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{
    control::{Reply, ReplySender},
    table::Table,
    watch::Touched,
};
use crate::{
    backup::{
        acknowledge::{Acknowledged, Order, acknowledge},
        owner::Owners,
    },
    domain::{failure::Failure, suspicion::Acknowledgement},
    sys::host,
};

/// Who says so.
pub fn by(uid: u32, at: Timestamp) -> Acknowledgement {
    let user = host::user_name(uid).unwrap_or_else(|| format!("uid {uid}"));
    Acknowledgement { at, user, host: host::hostname() }
}

/// Does it with the repositories of a table.
///
/// # Errors
/// Where it is not known which host this is.
pub async fn run(table: &Table, order: &Order) -> Result<Acknowledged, Failure> {
    let owners = Owners::new(&table.daemon.state_dir, table.daemon.adopt.clone(), BTreeMap::new())?;
    let done = acknowledge(&table.repositories, order, &owners).await;
    for line in done.acknowledged.iter().filter(|line| !line.before) {
        let (user, subject) = (&order.by.user, &line.subject);
        tracing::info!(repository = %line.repository, id = %line.id, user, "acknowledged a suspicious backup of {}/{subject}", line.server);
    }
    Ok(done)
}

/// Does it in the background; the answer goes to `reply`.
pub fn start(table: &Arc<Table>, order: Order, touched: Touched, reply: ReplySender) {
    let table = Arc::clone(table);
    tokio::spawn(async move {
        let answer = match run(&table, &order).await {
            Ok(done) => {
                touched.add(done.acknowledged.iter().map(|line| line.repository.clone()));
                Reply::Acknowledged(done)
            }
            Err(failure) => Reply::Failed(failure),
        };
        reply.send(answer);
    });
}
