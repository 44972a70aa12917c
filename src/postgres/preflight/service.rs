//! Managed services, told apart by the roles and databases that they keep for themselves. Only hints
//! depend on it: a dump of such a server, restored elsewhere, may have brought a role along.

use super::super::{PgError, column::only, queries::Queries};

/// A managed service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    pub name: &'static str,
    role: &'static str,
    /// Databases that nobody else may read.
    pub databases: &'static [&'static str],
}

/// From the services' manuals, on roles and predefined databases.
const KNOWN: &[Service] = &[
    Service { name: "Amazon RDS or Aurora", role: "rds_superuser", databases: &["rdsadmin"] },
    Service { name: "Google Cloud SQL", role: "cloudsqlsuperuser", databases: &["cloudsqladmin"] },
    Service { name: "Google AlloyDB", role: "alloydbsuperuser", databases: &["alloydbadmin"] },
    Service {
        name: "Azure Database for PostgreSQL",
        role: "azure_pg_admin",
        databases: &["azure_maintenance", "azure_sys"],
    },
    Service { name: "DigitalOcean", role: "doadmin", databases: &["_dodb"] },
    Service { name: "Aiven", role: "avnadmin", databases: &["_aiven"] },
    Service { name: "Supabase", role: "supabase_admin", databases: &[] },
    Service { name: "Neon", role: "neon_superuser", databases: &[] },
];

/// Which service the server belongs to, if any that is known.
pub(super) async fn find(ask: Queries<'_>) -> Result<Option<Service>, PgError> {
    let names: Vec<&str> =
        KNOWN.iter().flat_map(|it| it.databases.iter().chain([&it.role])).copied().collect();
    let sql = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1::text[]) \
               UNION ALL SELECT datname::text FROM pg_database WHERE datname = ANY($1::text[])";
    let found: Vec<String> = ask.list(sql, &[&names], only).await?;
    let is_there = |it: &&Service| {
        found.iter().any(|name| name == it.role || it.databases.contains(&name.as_str()))
    };
    Ok(KNOWN.iter().find(is_there).copied())
}
