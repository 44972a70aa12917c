//! Questions to the catalogue.

use tokio_postgres::{Row, types::ToSql};
use tokio_util::sync::CancellationToken;

use super::{
    PgError, Session,
    column::{Column, only},
};

/// A session, and what cancels the questions that are asked in it.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    pub(super) session: &'a Session,
    pub(super) cancel: &'a CancellationToken,
}

/// Values of the parameters `$1`, `$2`, …
type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    /// Questions in this session, until `cancel`.
    pub fn queries<'a>(&'a self, cancel: &'a CancellationToken) -> Queries<'a> {
        Queries { session: self, cancel }
    }
}

impl Queries<'_> {
    /// All rows.
    pub async fn rows(self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        self.session.query(sql, values, self.cancel).await
    }

    /// The only row.
    pub async fn row(self, sql: &str, values: Values<'_>) -> Result<Row, PgError> {
        self.session.query_one(sql, values, self.cancel).await
    }

    /// The only column of the only row.
    pub async fn value<T: Column>(self, sql: &str, values: Values<'_>) -> Result<T, PgError> {
        only(&self.row(sql, values).await?)
    }

    /// What `read` makes of each row; [`only`] takes its only column.
    pub async fn list<T>(
        self,
        sql: &str,
        values: Values<'_>,
        read: impl Fn(&Row) -> Result<T, PgError>,
    ) -> Result<Vec<T>, PgError> {
        self.rows(sql, values).await?.iter().map(read).collect()
    }
}
