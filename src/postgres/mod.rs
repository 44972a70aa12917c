//! PostgreSQL: how to connect (as libpq would), sessions whose statements can be cancelled, facts
//! from the catalogue, and the client programs with their command lines.

pub mod blocking;
pub mod catalog;
pub mod column;
pub mod command;
pub mod configuration;
mod connect;
pub mod error;
mod guard;
pub mod ident;
pub mod indexes;
pub mod locale;
pub mod locks;
pub mod notice;
pub mod params;
pub mod passfile;
pub mod pooler;
pub mod preflight;
pub mod queries;
pub mod replay;
pub mod scope;
pub mod server;
pub mod service;
pub mod session;
pub mod snapshot;
pub mod spec;
pub mod startup;
mod target;
pub mod tls;
pub mod tools;
pub mod wal;
mod x509;

pub use error::{FOREIGN_HINT, PgError};
pub use notice::Notice;
pub use server::Server;
pub use session::Session;
pub use spec::{ConnSpec, Endpoint};
