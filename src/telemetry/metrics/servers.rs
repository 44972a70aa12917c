//! The series of servers, fed by probes: scraping runs no SQL.

use std::{fmt::Display, sync::PoisonError};

use jiff::Timestamp;

use super::{Metrics, builtin, seconds};
use crate::domain::{name::ServerName, protection::Protection, scope::Coverage};

impl Metrics {
    /// Makes the series of the servers that are probed now, and removes those of what is no longer.
    pub fn configure_servers(&self, servers: &[ServerName]) {
        let _gate = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        for desc in [
            builtin::SERVER_LAST_PROBE.0,
            builtin::SERVER_LAST_PROBE_SUCCESS.0,
            builtin::DATABASES_UNPROTECTED.0,
            builtin::DATABASES_IN_PART.0,
        ] {
            self.retain(desc.name, |labels| servers.iter().any(|name| name.as_str() == labels[0]));
        }
        for name in servers {
            self.ensure(&builtin::SERVER_LAST_PROBE, [name]);
            self.ensure(&builtin::SERVER_LAST_PROBE_SUCCESS, [name]);
        }
    }

    /// A server was asked for its databases, or could not be asked. What was seen of one that is no
    /// longer configured is not taken.
    pub fn server_probed(&self, server: &ServerName, at: Timestamp, found: Option<&Protection>) {
        let _gate = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        let own: [&dyn Display; 1] = [server];
        if !self.has(&builtin::SERVER_LAST_PROBE, own) {
            return;
        }
        self.set(&builtin::SERVER_LAST_PROBE, own, seconds(at));
        let Some(found) = found else {
            for desc in [builtin::DATABASES_UNPROTECTED.0, builtin::DATABASES_IN_PART.0] {
                self.retain(desc.name, |labels| labels[0] != server.as_str());
            }
            return;
        };
        self.set(&builtin::SERVER_LAST_PROBE_SUCCESS, own, seconds(at));
        self.set(&builtin::DATABASES_UNPROTECTED, own, found.none.len() as f64);
        for coverage in [Coverage::Only, Coverage::AllBut] {
            let count = found.count(coverage) as f64;
            self.set(&builtin::DATABASES_IN_PART, [server, &coverage.as_str()], count);
        }
    }
}
