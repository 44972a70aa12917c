//! The series of servers, fed by probes: scraping runs no SQL.

use std::sync::PoisonError;

use jiff::Timestamp;

use super::{Metrics, core, seconds};
use crate::domain::{name::ServerName, protection::Protection, scope::Coverage};

impl Metrics {
    /// Makes the series of the servers that are probed now, and removes those of what is no longer.
    pub fn configure_servers(&self, servers: &[ServerName]) {
        let _gate = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        for desc in [
            &core::SERVER_LAST_PROBE,
            &core::SERVER_LAST_PROBE_SUCCESS,
            &core::DATABASES_UNPROTECTED,
            &core::DATABASES_IN_PART,
        ] {
            self.retain(desc.name, |labels| servers.iter().any(|name| name.as_str() == labels[0]));
        }
        for name in servers {
            self.ensure(&core::SERVER_LAST_PROBE, vec![name.to_string()]);
            self.ensure(&core::SERVER_LAST_PROBE_SUCCESS, vec![name.to_string()]);
        }
    }

    /// A server was asked for its databases, or could not be asked. What was seen of one that is no
    /// longer configured is not taken.
    pub fn server_probed(&self, server: &ServerName, at: Timestamp, found: Option<&Protection>) {
        let _gate = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        let own = || vec![server.to_string()];
        if !self.has(&core::SERVER_LAST_PROBE, &own()) {
            return;
        }
        self.set(&core::SERVER_LAST_PROBE, own(), seconds(at));
        let Some(found) = found else {
            for desc in [&core::DATABASES_UNPROTECTED, &core::DATABASES_IN_PART] {
                self.retain(desc.name, |labels| labels[0] != server.as_str());
            }
            return;
        };
        self.set(&core::SERVER_LAST_PROBE_SUCCESS, own(), seconds(at));
        self.set(&core::DATABASES_UNPROTECTED, own(), found.none.len() as f64);
        for coverage in [Coverage::Only, Coverage::AllBut] {
            let labels = vec![server.to_string(), coverage.as_str().to_owned()];
            self.set(&core::DATABASES_IN_PART, labels, found.count(coverage) as f64);
        }
    }
}
