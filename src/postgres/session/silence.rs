//! When a server counts as silent.

use std::{future::Future, pin::Pin, sync::atomic::Ordering, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::domain::{
    failure::{Class, IntoFailure},
    units::format_duration,
};

use super::{
    super::{connect::find, error::PgError, target::Target},
    Session,
};

/// `application_name` of a session that asks whether another one's server is there.
const BESIDE: &str = "pgkeep";
/// So many looks have to fail in a row. A single one fails for what is soon over: a connection that takes its time, a
/// firewall that reads its rules anew.
const MISSES_MAX: u32 = 3;

/// What a look from a second session brings.
#[derive(Debug)]
enum Look {
    There,
    /// What failed is on this side: nothing is known of the server.
    NotKnown,
    /// It has no answer.
    Missed(PgError),
    /// It answers, and does not have the session any more.
    Gone(PgError),
}

impl Look {
    fn failed(error: PgError) -> Self {
        if error.sqlstate().is_some() {
            return Self::There;
        }
        // A failure knows by its text where there is no descriptor left.
        match error.clone().into_failure(BESIDE).class {
            Class::Connection => Self::Missed(error),
            _ => Self::NotKnown,
        }
    }

    /// Why the statement ends, after `missed` misses in a row.
    fn ends(self, missed: &mut u32) -> Option<PgError> {
        match self {
            Self::There => *missed = 0,
            Self::NotKnown => {}
            Self::Gone(error) => return Some(error),
            Self::Missed(error) => {
                *missed += 1;
                return (*missed >= MISSES_MAX).then_some(error);
            }
        }
        None
    }
}

impl Session {
    /// Ends when the server counts as silent: after `limit`, or when second sessions have no answer either.
    pub(super) async fn silence(&self, limit: Option<Duration>) -> PgError {
        if let Some(limit) = limit {
            tokio::time::sleep(limit).await;
            return self.silent(limit);
        }
        let mut missed = 0;
        loop {
            tokio::time::sleep(self.spec.answer_timeout).await;
            if let Some(error) = self.ask_beside().await.ends(&mut missed) {
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

    /// Whether the server still has the backend, asked in a second session at the same address. What it refuses it
    /// has answered. Behind a pooler a second session may have to wait for the first: nothing is asked there.
    fn ask_beside(&self) -> Pin<Box<dyn Future<Output = Look> + Send + '_>> {
        let backend = self.meter.backend();
        let sql = format!(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity \
             WHERE pid OPERATOR(pg_catalog.=) {backend}"
        );
        Box::pin(async move {
            if self.pooled.load(Ordering::Relaxed) {
                return Look::There;
            }
            let limit = self.spec.answer_timeout;
            let mut spec = self.spec.clone();
            spec.endpoints = vec![self.endpoint.clone()];
            // It may have become another since, and is there all the same.
            spec.target = Target::Any;
            let asked = async {
                let (other, _) = find(&spec, &self.dbname, BESIDE).await?;
                let answer = other.ask(&sql, &CancellationToken::new()).await;
                other.close().await;
                answer
            };
            match timeout(limit, asked).await {
                Ok(Ok(count)) if count == "0" => Look::Gone(
                    PgError::new(Class::Connection, "the server has ended the session")
                        .with_hint("what lies in between has not passed that on"),
                ),
                Ok(Ok(_)) => Look::There,
                Ok(Err(error)) => Look::failed(error),
                Err(_) => Look::Missed(self.silent(limit)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Look {
        Look::failed(PgError::new(Class::Connection, "connection to x port 1 failed: no answer"))
    }

    #[test]
    fn only_misses_in_a_row_end_a_statement() {
        let mut missed = 0;
        for look in [away(), away(), Look::There, away(), Look::NotKnown, away()] {
            assert!(look.ends(&mut missed).is_none(), "{missed}");
        }
        assert!(away().ends(&mut missed).is_some());
        let gone = Look::Gone(PgError::new(Class::Connection, "the server has ended the session"));
        assert!(gone.ends(&mut 0).is_some());
    }

    #[test]
    fn what_fails_on_this_side_is_no_miss() {
        for error in [
            PgError::new(Class::Connection, "connection to x port 1 failed: x (os error 24)"),
            PgError::new(Class::Configuration, "/etc/root.crt holds no certificate"),
            PgError::new(Class::Authentication, "password missing"),
        ] {
            assert!(matches!(Look::failed(error), Look::NotKnown));
        }
        assert!(matches!(away(), Look::Missed(_)));
    }
}
