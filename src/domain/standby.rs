//! On which of primary and standby a run works, and how far a standby may be behind.

use std::{fmt, time::Duration};

use super::units::format_duration;

/// Where a run works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnlyOn {
    Primary,
    Standby,
    #[default]
    Any,
}

impl OnlyOn {
    /// As it stands in the configuration.
    pub const CHOICES: [(&'static str, Self); 3] =
        [("primary", Self::Primary), ("standby", Self::Standby), ("any", Self::Any)];

    /// Whether a run works on a server that is in recovery, or is not.
    pub const fn admits(self, in_recovery: bool) -> bool {
        match self {
            Self::Primary => !in_recovery,
            Self::Standby => in_recovery,
            Self::Any => true,
        }
    }
}

impl fmt::Display for OnlyOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::CHOICES.iter().find(|(_, choice)| choice == self);
        f.write_str(named.map_or("any", |(name, _)| name))
    }
}

/// How a standby stands, by itself: it cannot ask the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// Whether a WAL receiver runs (`pg_stat_wal_receiver`): only then is what was received what there is.
    pub receiving: bool,
    /// Whether all that was received is replayed.
    pub caught_up: bool,
    /// Time since the commit that was replayed last, by the standby's clock and the primary's.
    pub last_commit: Option<Duration>,
}

impl Replay {
    /// How far replay is behind; none where nothing tells. On an idle primary the last commit may be hours
    /// old: whoever receives WAL and has replayed all of it is not behind.
    pub fn lag(&self) -> Option<Duration> {
        if self.receiving && self.caught_up { Some(Duration::ZERO) } else { self.last_commit }
    }

    /// Why the standby is too far behind for `max`; none where it is not.
    pub fn exceeds(&self, max: Duration) -> Option<String> {
        let max_text = format_duration(max);
        let receiving = if self.receiving {
            ""
        } else {
            "; it receives no WAL, so that this may be all there is"
        };
        match self.lag() {
            None => Some(format!(
                "the standby has replayed no transaction since it was started: whether it is within \
                 max_replay_lag = {max_text} cannot be told{receiving}"
            )),
            Some(lag) if lag > max => {
                let lag = format_duration(Duration::from_secs(lag.as_secs()));
                Some(format!("the standby is {lag} behind, more than {max_text}{receiving}"))
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_works_where_it_is_to() {
        for (only_on, primary, standby) in [
            (OnlyOn::Primary, true, false),
            (OnlyOn::Standby, false, true),
            (OnlyOn::Any, true, true),
        ] {
            assert_eq!((only_on.admits(false), only_on.admits(true)), (primary, standby));
        }
        assert_eq!(OnlyOn::Standby.to_string(), "standby");
    }

    #[test]
    fn an_idle_primary_makes_no_lag_and_a_cut_line_does() {
        let hours = Some(Duration::from_hours(5));
        let max = Duration::from_mins(5);
        let of = |receiving, caught_up, last_commit| Replay { receiving, caught_up, last_commit };
        assert_eq!(of(true, true, hours).exceeds(max), None, "the primary is idle");
        assert_eq!(of(true, true, None).exceeds(max), None);
        let behind = of(true, false, hours).exceeds(max).unwrap();
        assert!(behind.contains("5h behind, more than 5m"), "{behind}");
        // Nobody sends: what was received says nothing of what the primary has.
        let cut = of(false, true, hours).exceeds(max).unwrap();
        assert!(cut.contains("receives no WAL"), "{cut}");
        assert!(of(false, true, None).exceeds(max).unwrap().contains("cannot be told"));
        assert_eq!(of(false, true, Some(Duration::from_secs(9))).exceeds(max), None);
        assert_eq!(of(true, false, Some(max)).exceeds(max), None);
    }
}
