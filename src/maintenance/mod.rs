//! Maintenance of databases: what vacuums them and rebuilds their indexes, each a linear story with the SQL
//! that only it uses.

pub mod reindex;
pub mod vacuum;
