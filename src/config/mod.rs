//! The configuration: from text to sections with diagnostics.
//!
//! This layer knows files, tables, values, places and who may write them. It knows no kind of job
//! and no kind of repository: those read their own options through [`Options`], and report into the
//! same [`Diagnostics`], so that a person sees everything that is wrong at once. Reading does no
//! network I/O. What can still go wrong: a value that is right here and wrong for the server that it
//! is meant for.

mod daemon;
mod diagnostic;
mod env_file;
mod expand;
mod files;
mod from_toml;
mod job;
mod load;
mod mask;
mod program;
mod retention;
mod secret;
mod section;
mod share;
mod suggest;
mod value;

use std::collections::BTreeMap;

#[cfg(any(test, feature = "test-util"))]
pub use self::load::load_text;
pub use self::{
    daemon::{Daemon, LogFormat, RUNTIME_DIR},
    diagnostic::{Diagnostic, Diagnostics, Level, Located, Source, Sources, Span, class},
    expand::Text,
    from_toml::{FromToml, Ranged},
    job::{JobCommon, RETRY_BACKOFF_MAX, check_order},
    load::{load, runtime_dir_of},
    retention::read_policy,
    secret::Secret,
    section::{Options, Section},
    suggest::{did_you_mean, listed},
    value::{Entry, Item, Table, Value},
};
use crate::domain::name::{JobName, NotifyName, RepositoryName, RetentionName, ServerName};

/// What the files say, table by table.
#[derive(Debug)]
pub struct Config {
    pub daemon: Daemon,
    pub servers: BTreeMap<ServerName, Section>,
    pub repositories: BTreeMap<RepositoryName, Section>,
    pub retention: BTreeMap<RetentionName, Section>,
    pub notify: BTreeMap<NotifyName, Section>,
    pub jobs: BTreeMap<JobName, Section>,
    /// The files, in the order in which they were read.
    pub sources: Sources,
}

macro_rules! reference {
    ($(#[$doc:meta])* $function:ident, $map:ident, $name:ty, $what:literal) => {
        $(#[$doc])*
        pub fn $function(&self, name: &Located<$name>, d: &mut Diagnostics) -> Option<&Section> {
            let found = self.$map.get(&name.value);
            if found.is_none() {
                let known: Vec<&str> = self.$map.keys().map(<$name>::as_str).collect();
                let hint = suggest::hint(name.value.as_str(), &known)
                    .unwrap_or_else(|| format!("add a table [{}.{}]", $what, name.value));
                d.error(&name.span, format!("there is no [{}.{}]", $what, name.value))
                    .class(class::REFERENCE)
                    .hint(hint);
            }
            found
        }
    };
}

impl Config {
    reference!(
        /// The server of that name; one that is not configured is reported.
        server, servers, ServerName, "server"
    );
    reference!(
        /// The repository of that name; one that is not configured is reported.
        repository, repositories, RepositoryName, "repository"
    );
    reference!(
        /// The retention policy of that name; one that is not configured is reported.
        retention, retention, RetentionName, "retention"
    );
    reference!(
        /// The receiver of notifications of that name; one that is not configured is reported.
        notifier, notify, NotifyName, "notify"
    );
    reference!(
        /// The job of that name; one that is not configured is reported.
        job, jobs, JobName, "job"
    );
}
