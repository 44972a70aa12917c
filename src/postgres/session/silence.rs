//! When a server counts as silent.

use std::{future::Future, pin::Pin, sync::atomic::Ordering, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::domain::{failure::Class, units::format_duration};

use super::{
    super::{connect::find, error::PgError},
    Session,
};

/// `application_name` of a session that asks whether another one's server is there.
const BESIDE: &str = "pgkeep";

impl Session {
    /// Ends when the server counts as silent: after `limit`, or when a second session has no answer either.
    pub(super) async fn silence(&self, limit: Option<Duration>) -> PgError {
        if let Some(limit) = limit {
            tokio::time::sleep(limit).await;
            return self.silent(limit);
        }
        loop {
            tokio::time::sleep(self.spec.answer_timeout).await;
            if let Err(error) = self.ask_beside().await {
                return error;
            }
        }
    }

    fn silent(&self, limit: Duration) -> PgError {
        let (at, limit) = (&self.endpoint, format_duration(limit));
        let what = format!("the server at {at} has not answered for {limit}");
        PgError::new(Class::Connection, what).with_hint(
            "does the server, or the network between, stand still? answer_timeout sets how long a question \
             to the catalogue may take",
        )
    }

    /// Whether the server still has the backend, asked in a second session. What it refuses it has answered.
    /// Behind a pooler a second session may have to wait for the first: nothing is asked there.
    fn ask_beside(&self) -> Pin<Box<dyn Future<Output = Result<(), PgError>> + Send + '_>> {
        let backend = self.meter.backend();
        let sql = format!(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity \
             WHERE pid OPERATOR(pg_catalog.=) {backend}"
        );
        Box::pin(async move {
            if self.pooled.load(Ordering::Relaxed) {
                return Ok(());
            }
            let limit = self.spec.answer_timeout;
            let asked = async {
                let (other, _) = find(&self.spec, &self.dbname, BESIDE).await?;
                let answer = other.ask(&sql, &CancellationToken::new()).await;
                other.close().await;
                answer
            };
            match timeout(limit, asked).await {
                Ok(Ok(count)) if count == "0" => {
                    Err(PgError::new(Class::Connection, "the server has ended the session")
                        .with_hint("what lies in between has not passed that on"))
                }
                Ok(Err(error)) if error.sqlstate().is_none() => Err(error),
                Ok(_) => Ok(()),
                Err(_) => Err(self.silent(limit)),
            }
        })
    }
}
