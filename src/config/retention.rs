//! `[retention.NAME]`: which backups of a series stay.
//!
//! What the rules mean stands in `domain::retention`. All policies are read, used or not: one that
//! keeps nothing is refused before a job names it.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::{
    daemon::Daemon,
    diagnostic::{Diagnostics, class},
    from_toml::FromToml,
    section::{Options, Section},
    value::{Item, Value},
};
use crate::domain::retention::{Limit, Policy, RULES, Rule};

/// What stands for "all of them", as in restic.
const UNLIMITED: &str = "unlimited";
/// A second is the least that ids of backups tell apart.
const WITHIN_MIN: Duration = Duration::from_secs(1);
/// Longer ago than any backup.
const WITHIN_MAX: Duration = Duration::from_hours(24 * 366 * 100);

/// A number of spans.
struct Count(Limit);

impl FromToml for Count {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        if let Value::String(text) = &item.value {
            if text.text.trim() == UNLIMITED {
                return Some(Self(Limit::Unlimited));
            }
            if !text.expanded {
                d.error(&item.span, format!("`{key}` must be a whole number"))
                    .class(class::TYPE)
                    .hint(format!("without quotation marks; or {UNLIMITED:?}"));
                return None;
            }
        }
        u32::from_toml(item, key, d).map(|count| Self(Limit::Count(count)))
    }
}

/// Reads a policy. Its days are those of its own `timezone`, or else of the daemon's.
///
/// A policy without a rule, or whose rules keep nothing, is an error.
pub fn read_policy(section: &Section, daemon: &Daemon, d: &mut Diagnostics) -> Option<Policy> {
    let mut o = section.options();
    let is_given = RULES.iter().any(|(key, ..)| o.given(key).is_some());
    let zone = o.take::<TimeZone>("timezone", d).map(|zone| zone.value);
    let rules = rules(&mut o, d);
    let name = section.path();
    o.finish(d);
    let policy = Policy::new(rules.clone()?, zone.unwrap_or_else(|| daemon.timezone.clone()));
    if policy.is_err() {
        let class = if is_given { class::VALUE } else { class::MISSING };
        d.error(section.span(), format!("[{name}] keeps nothing"))
            .class(class)
            .hint("say what stays: keep_last = 3, keep_daily = 14, …");
    }
    policy.ok()
}

/// The rules that are given; none where one of them is wrong.
fn rules(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<Vec<Rule>> {
    let mut rules = Vec::new();
    for (key, period, within) in RULES {
        if o.given(key).is_none() {
            continue;
        }
        let limit = if within {
            o.take_in(key, WITHIN_MIN..=WITHIN_MAX, d).map(|limit| Limit::Within(limit.value))
        } else {
            o.take::<Count>(key, d).map(|count| count.value.0)
        };
        rules.push(limit.map(|limit| Rule { period, limit }));
    }
    rules.into_iter().collect()
}
