//! What is told of series that are not this host's.

use crate::domain::{
    Timestamp,
    failure::{Class, Failure},
    finding::{CheckName, Finding, Severity},
    manifest::Owner,
    name::RepositoryName,
    owner::{Adoption, Stranger, Written},
    target::Target,
};

/// Why a series is not this host's, in words that go on after its name.
fn reason(stranger: &Stranger, owner: &Owner) -> String {
    let Owner { machine_id, host } = owner;
    match stranger {
        Stranger::Machine => {
            format!("belong to another host, {host} (machine id {machine_id})")
        }
        Stranger::Host => format!(
            "were written by {host}, which has this host's machine id ({machine_id}) and another \
             name, and this state directory does not know of it"
        ),
        Stranger::Past(_) => format!(
            "were written by {host} (machine id {machine_id}) when the server was where this one never was"
        ),
    }
}

/// What a person has to do before this host may write the series whose newest backup `newest` is.
fn hint(stranger: &Stranger, newest: &Written, now: Timestamp) -> String {
    let Owner { machine_id, host } = &newest.owner;
    let (takes_over, adoption) = match stranger {
        Stranger::Machine => (format!("takes over from {host}"), machine_id.clone()),
        Stranger::Host => {
            (format!("was {host}, or takes over from it"), Adoption::of(newest, now).to_string())
        }
        Stranger::Past(_) => (
            "or its server was set back on purpose, or takes over".to_owned(),
            Adoption::of(newest, now).to_string(),
        ),
    };
    format!(
        "if this host {takes_over}, write adopt = [\"{adoption}\"] in [daemon] and run `pgkeep \
         reload`; if it is a copy of {host}, give it a repository, a prefix or a server name of its own"
    )
}

/// What is told of series in a repository that are not this host's; `consequence` is what comes of it.
pub fn finding(
    repository: &RepositoryName,
    series: &str,
    (stranger, newest): (&Stranger, &Written),
    consequence: &str,
    now: Timestamp,
) -> Finding {
    let severity = match stranger {
        Stranger::Machine => Severity::Warning,
        Stranger::Host | Stranger::Past(_) => Severity::Critical,
    };
    let reason = reason(stranger, &newest.owner);
    Finding::new(
        CheckName("backup-owner"),
        severity,
        format!("{repository}: {series} {reason}, and {consequence}"),
    )
    .hint(hint(stranger, newest, now))
    .about(Target::repository(repository).with_object(newest.owner.machine_id.clone()))
}

/// Why nothing is added to a series.
#[derive(Debug)]
pub enum Refusal {
    /// Its newest backup is another host's.
    Stranger(Stranger, Box<Written>, Failure),
    /// The repository does not say whose it is, or the task was cancelled.
    Unknown(Failure),
}

impl Refusal {
    /// What is reported.
    pub const fn failure(&self) -> &Failure {
        match self {
            Self::Stranger(_, _, failure) | Self::Unknown(failure) => failure,
        }
    }
}

/// Why nothing is added to a series whose newest backup is `newest`.
pub fn refusal(
    stranger: &Stranger,
    newest: &Written,
    doing: impl Into<String>,
    now: Timestamp,
) -> Failure {
    let mut what = format!("the backups there {}", reason(stranger, &newest.owner));
    if let Stranger::Past(why) = stranger {
        what = format!("{what}: of the newest, {}, {why}", newest.id);
    }
    Failure::new(Class::Configuration, doing, what).hint(hint(stranger, newest, now))
}
