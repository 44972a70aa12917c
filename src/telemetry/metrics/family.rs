//! One metric with all its series, as a collector of the prometheus crate.
//!
//! The crate's own vectors find a series by a hash over its label values written one after the
//! other, without a separator: `("a", "bc")` and `("ab", "c")` are one series there. Names of
//! servers and databases are not ours to choose, so the series are kept here under their label
//! values, which also is what removing those of a vanished job needs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::{
    core::{Collector, Desc},
    proto,
};

use crate::domain::metric::{MetricDesc, MetricKind};

/// The label whose values only PostgreSQL's users bound.
const CAPPED_LABEL: &str = "datname";

/// Values of labels, in the order of their names.
pub(super) type Labels = Vec<String>;

/// Why a sample was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// The number of label values differs from that of label names.
    Labels,
    /// The value is no finite number, or would make a counter go back.
    Value,
    /// The metric has as many series as it may.
    Cap,
}

/// One metric and its series.
#[derive(Debug)]
pub(super) struct Family {
    desc: MetricDesc,
    /// All label names: for a metric of a job kind with `job_name` and `kind` before its own.
    names: Vec<&'static str>,
    described: Desc,
    cap: usize,
    series: Mutex<BTreeMap<Labels, f64>>,
}

impl Family {
    /// A metric without series. `before` are labels that go before those of `desc`; `cap` bounds
    /// the series of a metric that has the label `datname`.
    pub(super) fn new(
        desc: MetricDesc,
        before: &[&'static str],
        cap: usize,
    ) -> Result<Self, prometheus::Error> {
        let names: Vec<_> = before.iter().chain(desc.labels).copied().collect();
        let owned = names.iter().map(|name| (*name).to_owned()).collect();
        let described =
            Desc::new(desc.name.to_owned(), desc.help.to_owned(), owned, HashMap::new())?;
        let cap = if names.contains(&CAPPED_LABEL) { cap } else { usize::MAX };
        Ok(Self { desc, names, described, cap, series: Mutex::default() })
    }

    pub(super) fn desc(&self) -> &MetricDesc {
        &self.desc
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Labels, f64>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, labels: Labels, new: impl FnOnce(Option<f64>) -> f64) -> Result<(), NotTaken> {
        if labels.len() != self.names.len() {
            return Err(NotTaken::Labels);
        }
        let mut series = self.lock();
        let old = series.get(&labels).copied();
        let value = new(old);
        let goes_back = self.desc.kind == MetricKind::Counter && value < old.unwrap_or(0.0);
        if !value.is_finite() || goes_back {
            return Err(NotTaken::Value);
        }
        if old.is_none() && series.len() >= self.cap {
            return Err(NotTaken::Cap);
        }
        series.insert(labels, value);
        Ok(())
    }

    /// Sets the value of a series, which is created where need be.
    pub(super) fn set(&self, labels: Labels, value: f64) -> Result<(), NotTaken> {
        self.change(labels, |_| value)
    }

    /// Adds to the value of a series, which is created where need be.
    pub(super) fn add(&self, labels: Labels, by: f64) -> Result<(), NotTaken> {
        self.change(labels, |old| old.unwrap_or(0.0) + by)
    }

    /// Creates a series with the value 0; one that is there stays as it is.
    pub(super) fn ensure(&self, labels: Labels) -> Result<(), NotTaken> {
        self.change(labels, |old| old.unwrap_or(0.0))
    }

    /// Removes the series that `keep` refuses.
    pub(super) fn retain(&self, keep: impl Fn(&[String]) -> bool) {
        self.lock().retain(|labels, _| keep(labels));
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn proto_metric(&self, labels: &[String], value: f64) -> proto::Metric {
        let pairs = self.names.iter().zip(labels).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value.clone());
            pair
        });
        let mut metric = proto::Metric::from_label(pairs.collect());
        if self.desc.kind == MetricKind::Counter {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }
}

/// What the registry holds of a [`Family`].
#[derive(Debug)]
pub(super) struct Registered(pub(super) std::sync::Arc<Family>);

impl Collector for Registered {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.described]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let family = &self.0;
        let mut out = proto::MetricFamily::default();
        out.set_name(family.desc.name.to_owned());
        out.set_help(family.desc.help.to_owned());
        out.set_field_type(match family.desc.kind {
            MetricKind::Counter => proto::MetricType::COUNTER,
            MetricKind::Gauge | MetricKind::Last => proto::MetricType::GAUGE,
        });
        let series = family.lock();
        out.set_metric(series.iter().map(|(labels, v)| family.proto_metric(labels, *v)).collect());
        vec![out]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(kind: MetricKind, labels: &'static [&'static str], cap: usize) -> Family {
        Family::new(MetricDesc { name: "x", help: "X.", kind, labels }, &[], cap).unwrap()
    }

    fn labels(values: &[&str]) -> Labels {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn series_whose_values_read_the_same_together_stay_apart() {
        let family = family(MetricKind::Gauge, &["server", "datname"], 10);
        family.set(labels(&["a", "bc"]), 1.0).unwrap();
        family.set(labels(&["ab", "c"]), 2.0).unwrap();
        assert_eq!(family.len(), 2);
    }

    #[test]
    fn the_cap_bounds_databases_and_nothing_else() {
        let capped = family(MetricKind::Gauge, &["datname"], 1);
        capped.set(labels(&["a"]), 1.0).unwrap();
        assert_eq!(capped.set(labels(&["b"]), 1.0), Err(NotTaken::Cap));
        capped.set(labels(&["a"]), 2.0).unwrap();
        let free = family(MetricKind::Gauge, &["check"], 1);
        free.set(labels(&["a"]), 1.0).unwrap();
        free.set(labels(&["b"]), 1.0).unwrap();
    }

    #[test]
    fn what_is_no_sample_is_refused() {
        let counter = family(MetricKind::Counter, &["a"], 1);
        assert_eq!(counter.add(labels(&["a"]), -1.0), Err(NotTaken::Value));
        assert_eq!(counter.add(labels(&["a"]), f64::NAN), Err(NotTaken::Value));
        assert_eq!(counter.add(labels(&[]), 1.0), Err(NotTaken::Labels));
        assert_eq!(counter.len(), 0);
    }
}
