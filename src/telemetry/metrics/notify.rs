//! The series of those who are told: `[notify.NAME]`.

use std::sync::PoisonError;

use jiff::Timestamp;

use super::{Metrics, builtin, seconds};
use crate::domain::{name::NotifyName, named::named};

named! {
    /// What became of a notification.
    pub enum Notified {
        Sent = "sent",
        Failed = "failed",
        /// It had to make room.
        Dropped = "dropped",
    }
}

impl Metrics {
    /// Makes the series of those who are told now, and removes those of all others.
    pub fn configure_notifiers<'a>(&self, names: impl Iterator<Item = &'a NotifyName>) {
        let mut known = self.notifiers.write().unwrap_or_else(PoisonError::into_inner);
        *known = names.cloned().collect();
        self.retain_by("notify", |name| known.contains(name));
        for name in &*known {
            for outcome in Notified::ALL {
                self.ensure(&builtin::NOTIFICATIONS, [name, outcome]);
            }
            self.ensure(&builtin::NOTIFY_LAST_SUCCESS, [name]);
            self.ensure(&builtin::NOTIFY_LAST_FAILURE, [name]);
        }
    }

    /// A notification was sent or given up; counts nothing for one that is no longer configured.
    pub fn notified(&self, name: &NotifyName, outcome: Notified, at: Timestamp) {
        let known = self.notifiers.read().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(name) {
            return;
        }
        let last = match outcome {
            Notified::Sent => &builtin::NOTIFY_LAST_SUCCESS,
            Notified::Failed | Notified::Dropped => &builtin::NOTIFY_LAST_FAILURE,
        };
        self.add(&builtin::NOTIFICATIONS, [name, &outcome], 1.0);
        self.set(last, [name], seconds(at));
    }
}
