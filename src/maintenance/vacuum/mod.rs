//! VACUUM and ANALYZE by SQL, table by table: what vacuumdb does, with an outcome for each table.
//!
//! vacuumdb ends at the first database that fails, and exits with 0 where tables were left out for
//! want of a lock or of a right. Here each table is a statement of its own, and has its own
//! outcome.
//!
//! What can still go wrong: the server says in words alone that it left a table out, in its own
//! language. So every statement is VERBOSE: a table that was done has lines of INFO, one that was
//! left out has none.

mod database;
mod facts;
mod horizon;
mod outcome;
mod output;
mod statement;
mod watch;

pub use database::{DatabaseOutcome, Orders, Settings, database};
pub use horizon::{ages, horizon};
pub use outcome::TableOutcome;
pub use statement::StatementOptions;
