//! The series of servers, fed by probes: scraping runs no SQL.

use std::sync::PoisonError;

use jiff::Timestamp;

use super::{Metrics, core, seconds};
use crate::domain::name::ServerName;

impl Metrics {
    /// Makes the series of the servers that are probed now, and removes those of what is no longer.
    pub fn configure_servers(&self, servers: &[ServerName]) {
        let _gate = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        for desc in [
            &core::SERVER_LAST_PROBE,
            &core::SERVER_LAST_PROBE_SUCCESS,
            &core::DATABASES_UNPROTECTED,
        ] {
            self.retain(desc.name, |labels| servers.iter().any(|name| name.as_str() == labels[0]));
        }
        for name in servers {
            self.ensure(&core::SERVER_LAST_PROBE, vec![name.to_string()]);
            self.ensure(&core::SERVER_LAST_PROBE_SUCCESS, vec![name.to_string()]);
        }
    }

    /// A server was asked for its databases; `unprotected` are those without a job, or nothing
    /// where it could not be asked. What was seen of one that is no longer configured is not taken.
    pub fn server_probed(&self, server: &ServerName, at: Timestamp, unprotected: Option<usize>) {
        let _gate = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        let own = || vec![server.to_string()];
        if !self.has(&core::SERVER_LAST_PROBE, &own()) {
            return;
        }
        self.set(&core::SERVER_LAST_PROBE, own(), seconds(at));
        let Some(unprotected) = unprotected else {
            self.retain(core::DATABASES_UNPROTECTED.name, |labels| labels[0] != server.as_str());
            return;
        };
        self.set(&core::SERVER_LAST_PROBE_SUCCESS, own(), seconds(at));
        self.set(&core::DATABASES_UNPROTECTED, own(), unprotected as f64);
    }
}
