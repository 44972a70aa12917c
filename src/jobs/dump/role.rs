//! Primary or standby: whether the run works here at all, and whether the standby is fit for it. Asked at the
//! start of each attempt: a server may have changed its role since the last.

use std::time::Duration;

use crate::{
    config::{Diagnostics, Options},
    domain::{
        failure::{Class, During, Failure},
        finding::{CheckName, Finding, Severity},
        standby::OnlyOn,
    },
    postgres::{Session, catalog::ServerFacts, replay::replay},
    sys::task::Task,
};

/// How far a standby may be behind before it is told, where the job sets no limit.
const TOLD_FROM: Duration = Duration::from_hours(1);

/// What the job asks of the server's role.
#[derive(Debug, Clone, Copy)]
pub(super) struct Role {
    only_on: OnlyOn,
    max_replay_lag: Option<Duration>,
}

impl Role {
    pub(super) fn read(o: &mut Options<'_>, d: &mut Diagnostics) -> Self {
        let only_on = o.one_of("only_on", &OnlyOn::CHOICES, d).map(|choice| choice.value);
        let only_on = only_on.unwrap_or_default();
        let lags = Duration::from_secs(1)..=Duration::from_hours(24 * 366);
        let max_replay_lag = o.take_in("max_replay_lag", lags, d);
        if only_on == OnlyOn::Primary
            && let Some(lag) = &max_replay_lag
        {
            d.warning(&lag.span, "`max_replay_lag` does nothing with `only_on = \"primary\"`");
        }
        Self { only_on, max_replay_lag: max_replay_lag.map(|lag| lag.value) }
    }

    /// Whether there are servers on which the run is left out.
    pub(super) fn may_skip(&self) -> bool {
        self.only_on != OnlyOn::Any
    }

    /// Why the run is left out on this server; none where it is not.
    pub(super) fn skips(&self, facts: &ServerFacts) -> Option<String> {
        let is = if facts.in_recovery { "a standby" } else { "a primary" };
        let skips = !self.only_on.admits(facts.in_recovery);
        skips.then(|| format!("the server is {is}, and the job has only_on = \"{}\"", self.only_on))
    }

    /// Whether a standby can be dumped from as it stands; gives what is to be told of it.
    ///
    /// # Errors
    /// Where it is too far behind, or `deferrable` is asked for: there are no serializable transactions on
    /// a standby.
    pub(super) async fn check(
        &self,
        session: &Session,
        facts: &ServerFacts,
        deferrable: bool,
        task: &Task,
    ) -> Result<Option<Finding>, Failure> {
        if !facts.in_recovery {
            return Ok(None);
        }
        if deferrable {
            let what = "deferrable = true needs a primary, and the server is a standby";
            return Err(task
                .failure(Class::Configuration, what)
                .hint("dump from the primary, or do without deferrable"));
        }
        let max = self.max_replay_lag.unwrap_or(TOLD_FROM);
        let replay = replay(session.queries(&task.cancel), max).await.during(task)?;
        match replay.exceeds(max) {
            // The backup counts as fresh: its time is that of the clock.
            Some(what) if self.max_replay_lag.is_none() => {
                let what = format!("the backup is older than its time says: {what}");
                Ok(Some(
                    Finding::new(CheckName("replay-lag"), Severity::Warning, what)
                        .hint("set max_replay_lag in the job to refuse such a backup"),
                ))
            }
            Some(what) => Err(task.failure(Class::Standby, what).hint(
                "look at pg_stat_wal_receiver and pg_last_xact_replay_timestamp() there: is the \
                 connection to the primary up, does a long query hold replay up?",
            )),
            None => Ok(None),
        }
    }
}
