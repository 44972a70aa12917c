//! One metric with all its series, and their text for the scrape.
//!
//! The crate's own vectors find a series by a hash over its label values written one after the
//! other, without a separator: `("a", "bc")` and `("ab", "c")` are one series there. Names of
//! servers and databases are not ours to choose, so the series are kept here under their label
//! values, which also is what removing those of a vanished job needs. The text is made by the crate's
//! encoder and kept until a value changes: most metrics do not move between two scrapes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::{TextEncoder, proto};

use super::PREFIX;
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
    Cap,
}

#[derive(Debug, Default)]
struct Series {
    values: BTreeMap<Labels, f64>,
    /// The text of all of them, unless one has changed since.
    text: Option<String>,
}

/// One metric and its series.
#[derive(Debug)]
pub(super) struct Family {
    desc: MetricDesc,
    /// All label names: for a metric of a job kind with `job_name` and `kind` before its own.
    names: Vec<&'static str>,
    cap: usize,
    series: Mutex<Series>,
}

impl Family {
    /// A metric without series. `before` are labels that go before those of `desc`; `cap` bounds
    /// the series of a metric that has the label `datname`.
    pub(super) fn new(desc: MetricDesc, before: &[&'static str], cap: usize) -> Self {
        let names: Vec<_> = before.iter().chain(desc.labels).copied().collect();
        let cap = if names.contains(&CAPPED_LABEL) { cap } else { usize::MAX };
        Self { desc, names, cap, series: Mutex::default() }
    }

    pub(super) fn desc(&self) -> &MetricDesc {
        &self.desc
    }

    fn lock(&self) -> MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, labels: Labels, new: impl FnOnce(Option<f64>) -> f64) -> Result<(), NotTaken> {
        if labels.len() != self.names.len() {
            return Err(NotTaken::Labels);
        }
        let mut series = self.lock();
        let old = series.values.get(&labels).copied();
        let value = new(old);
        let goes_back = self.desc.kind == MetricKind::Counter && value < old.unwrap_or(0.0);
        if !value.is_finite() || goes_back {
            return Err(NotTaken::Value);
        }
        if old.is_none() && series.values.len() >= self.cap {
            return Err(NotTaken::Cap);
        }
        if old.map(f64::to_bits) != Some(value.to_bits()) {
            series.values.insert(labels, value);
            series.text = None;
        }
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
        let mut series = self.lock();
        let before = series.values.len();
        series.values.retain(|labels, _| keep(labels));
        if series.values.len() != before {
            series.text = None;
        }
    }

    /// Whether there is that series.
    pub(super) fn has(&self, labels: &[String]) -> bool {
        self.lock().values.contains_key(labels)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().values.len()
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

    fn encode(&self, values: &BTreeMap<Labels, f64>) -> Result<String, prometheus::Error> {
        let mut family = proto::MetricFamily::default();
        family.set_name(format!("{PREFIX}_{}", self.desc.name));
        family.set_help(self.desc.help.to_owned());
        family.set_field_type(match self.desc.kind {
            MetricKind::Counter => proto::MetricType::COUNTER,
            _ => proto::MetricType::GAUGE,
        });
        family.set_metric(values.iter().map(|(labels, v)| self.proto_metric(labels, *v)).collect());
        TextEncoder::new().encode_to_string(&[family])
    }

    /// Writes the series in the text format; nothing where there are none.
    pub(super) fn render(&self, out: &mut String) -> Result<(), prometheus::Error> {
        let mut series = self.lock();
        if series.values.is_empty() {
            return Ok(());
        }
        if series.text.is_none() {
            series.text = Some(self.encode(&series.values)?);
        }
        out.push_str(series.text.as_deref().unwrap_or_default());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(kind: MetricKind, labels: &'static [&'static str], cap: usize) -> Family {
        Family::new(MetricDesc { name: "x", help: "X.", kind, labels }, &[], cap)
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
    fn the_text_follows_every_change() {
        let family = family(MetricKind::Gauge, &["a"], 1);
        let text = || {
            let mut text = String::new();
            family.render(&mut text).unwrap();
            text
        };
        assert_eq!(text(), "");
        family.set(labels(&["x"]), 1.0).unwrap();
        let head = "# HELP pgkeep_x X.\n# TYPE pgkeep_x gauge\n";
        assert_eq!(text(), format!("{head}pgkeep_x{{a=\"x\"}} 1\n"));
        family.set(labels(&["x"]), 2.0).unwrap();
        assert_eq!(text(), format!("{head}pgkeep_x{{a=\"x\"}} 2\n"));
        family.retain(|_| false);
        assert_eq!(text(), "");
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
