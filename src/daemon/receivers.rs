//! Who is told of which job, from the configuration.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use crate::{
    config::{Config, Diagnostics, JobCommon},
    domain::{
        failure::{Class, Failure},
        name::{JobName, NotifyName},
        notice::Notice,
    },
    sys::{host, process::ChildSettings},
    telemetry::notify::{self, Notifier},
};

use super::{
    configured::Configured,
    control::{Reply, ReplySender},
};

/// Receivers of notifications by name.
pub type Notifiers = BTreeMap<NotifyName, Arc<Notifier>>;

/// The receivers of a job: those that it names, or else all that cover it.
pub(super) fn of(job: &JobCommon, notifiers: &Notifiers) -> Vec<NotifyName> {
    job.notify.clone().unwrap_or_else(|| {
        let covering = notifiers.values().filter(|notifier| notifier.covers(&job.name));
        covering.map(|notifier| notifier.name.clone()).collect()
    })
}

/// Reads every `[notify.NAME]`.
pub(super) fn build(config: &Config, children: &ChildSettings, d: &mut Diagnostics) -> Notifiers {
    let context = notify::Context { children: children.clone() };
    let mut notifiers = BTreeMap::new();
    for (name, section) in &config.notify {
        if let Some(notifier) = notify::build(name, section, config, &context, d) {
            notifiers.insert(name.clone(), Arc::new(notifier));
        }
    }
    notifiers
}

/// Sends a test to one of them, with a single attempt.
///
/// # Errors
/// Where it was not delivered, or there is no such receiver.
pub async fn test(notifiers: &Notifiers, name: &NotifyName, now: Timestamp) -> Result<(), Failure> {
    let Some(notifier) = notifiers.get(name) else {
        let what = format!("there is no [notify.{name}] in the configuration that runs");
        let failure = Failure::new(Class::Configuration, "look up the receiver", what);
        return Err(failure.hint("was it added since the last reload? `pgkeep reload`"));
    };
    notifier.try_once(&Notice::test(name, &host::hostname(), now)).await
}

/// Does it in the background; the answer goes to `reply`.
pub(super) fn start_test(
    notifiers: &Notifiers,
    name: NotifyName,
    now: Timestamp,
    reply: ReplySender,
) {
    let notifiers = notifiers.clone();
    tokio::spawn(async move {
        let answer = match test(&notifiers, &name, now).await {
            Ok(()) => Reply::Done("delivered".to_owned()),
            Err(failure) => Reply::Failed(failure),
        };
        reply.send(answer);
    });
}

/// Warns of what cannot have been meant.
pub(super) fn check(
    config: &Config,
    notifiers: &Notifiers,
    jobs: &BTreeMap<JobName, Arc<Configured>>,
    d: &mut Diagnostics,
) {
    for (name, notifier) in notifiers {
        let told = jobs.values().filter(|job| job.notify.contains(name));
        let told: Vec<&JobName> = told.map(|job| &job.common.name).collect();
        for named in notifier.jobs.iter().flatten().filter(|job| {
            // A job that could not be built has an error of its own, and nothing to say here.
            jobs.contains_key(&job.value) && !told.contains(&&job.value)
        }) {
            let what = format!("[job.{}] has a `notify` of its own, without {name}", named.value);
            d.warning(&named.span, what).hint("the job's own `notify` wins");
        }
        if let (true, Some(section)) =
            (notifier.kind.counts_runs && told.len() > 1, config.notify.get(name))
        {
            let what =
                format!("{} jobs tell [notify.{name}], which can follow only one", told.len());
            d.warning(section.span(), what).hint(format!("name the job: jobs = [\"{}\"]", told[0]));
        }
    }
}
