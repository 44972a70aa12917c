//! How a job kind declares its metrics, and what becomes of a value that a later run does not
//! measure.
//!
//! A metric is declared once, by [`metrics!`]: the constant makes its samples. A kind declares the labels
//! of its own only; `job_name` and `kind` are put before them. What can
//! still go wrong: a gauge declared [`MetricKind::Last`] although it states how things are now goes
//! on saying so when nobody measures it any more.

use std::fmt::Display;

use super::report::Sample;

/// What sort of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// How things were when they were last measured. A run that does not measure it removes the
    /// series: what could not be measured has no sample.
    Gauge,
    /// A gauge about each thing that the job covers (an objective, a state that is known by name): a
    /// run that did something replaces them all, so that what is gone has none; one that failed
    /// altogether leaves them, since it has not looked.
    Covered,
    /// A gauge about a finished thing (time, size or duration of the last …): it stays until a later
    /// run replaces it.
    Last,
    /// A sum since the process started. The value of a sample is what the run adds.
    Counter,
}

impl MetricKind {
    /// The type's name in the text format of Prometheus.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gauge | Self::Covered | Self::Last => "gauge",
            Self::Counter => "counter",
        }
    }

    /// Whether it states a value, and not a sum.
    pub const fn is_gauge(self) -> bool {
        !matches!(self, Self::Counter)
    }

    /// Whether a value stays that the newest run did not bring. `looked`: the run did something.
    pub const fn stays(self, looked: bool) -> bool {
        match self {
            Self::Last | Self::Counter => true,
            Self::Covered => !looked,
            Self::Gauge => false,
        }
    }
}

/// One metric: what docs/METRICS.md says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MetricDesc {
    /// The name without the `pgkeep_` prefix, in base units; a counter's ends in `_total`.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [&'static str],
}

impl MetricDesc {
    /// Whether name and labels keep to the rules: snake case, `_total` for counters and for nothing
    /// else, no label twice.
    pub fn is_well_formed(&self) -> bool {
        let snake = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase())
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let unique =
            self.labels.iter().enumerate().all(|(at, label)| !self.labels[..at].contains(label));
        snake(self.name)
            && self.labels.iter().all(|label| snake(label))
            && unique
            && self.name.ends_with("_total") == (self.kind == MetricKind::Counter)
    }
}

/// A metric with so many labels, as it is declared: a value for each is all that a sample needs.
#[derive(Debug, Clone, Copy)]
pub struct Metric<const LABELS: usize>(pub MetricDesc);

impl<const LABELS: usize> Metric<LABELS> {
    /// The declaration.
    pub const fn new(
        kind: MetricKind,
        name: &'static str,
        labels: &'static [&'static str; LABELS],
        help: &'static str,
    ) -> Self {
        Self(MetricDesc { name, help, kind, labels })
    }

    /// A value of it.
    pub fn sample(&self, labels: [&dyn Display; LABELS], value: f64) -> Sample {
        let labels = labels.iter().map(ToString::to_string).collect();
        Sample { metric: self.0.name.to_owned(), labels, value }
    }
}

/// Declares metrics: a constant for each, and a list of them all for docs/METRICS.md and the scrape.
macro_rules! metrics {
    ($(#[$doc:meta])* $vis:vis $all:ident:
     $($name:ident = $kind:ident $text:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = $help]
            $vis const $name: $crate::domain::metric::Metric<{ <[&str]>::len(&[$($label),*]) }> =
                $crate::domain::metric::Metric::new(
                    $crate::domain::metric::MetricKind::$kind, $text, &[$($label),*], $help,
                );
        )+

        $(#[$doc])*
        $vis const $all: &[$crate::domain::metric::MetricDesc] = &[$($name.0),+];
    };
}
pub(crate) use metrics;

/// Carries the samples that a job is remembered by over one more run: gauges are replaced whole,
/// [`MetricKind::Covered`] too if the run `looked` (did something), [`MetricKind::Last`] one by one;
/// counters and unknown metrics are not remembered.
pub fn carry_over(
    known: &mut Vec<Sample>,
    fresh: &[Sample],
    looked: bool,
    kind_of: impl Fn(&str) -> Option<MetricKind>,
) {
    known.retain(|sample| kind_of(&sample.metric).is_some_and(|kind| kind.stays(looked)));
    for sample in fresh {
        let kind = kind_of(&sample.metric);
        if !kind.is_some_and(MetricKind::is_gauge) {
            continue;
        }
        match known.iter_mut().find(|old| old.is_of_series(sample)) {
            Some(old) => old.value = sample.value,
            None => known.push(sample.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(metric: &str, label: &str, value: f64) -> Sample {
        Sample { metric: metric.to_owned(), labels: vec![label.to_owned()], value }
    }

    #[test]
    fn gauges_are_replaced_whole_and_last_values_stay() {
        let kind_of = |name: &str| match name {
            "now" => Some(MetricKind::Gauge),
            "last" => Some(MetricKind::Last),
            "covered" => Some(MetricKind::Covered),
            "sum_total" => Some(MetricKind::Counter),
            _ => None,
        };
        let mut known =
            vec![sample("now", "a", 1.0), sample("last", "a", 1.0), sample("last", "b", 1.0)];
        known.push(sample("covered", "a", 1.0));
        let fresh = [
            sample("now", "b", 2.0),
            sample("last", "b", 2.0),
            sample("sum_total", "a", 2.0),
            sample("unknown", "a", 2.0),
        ];
        carry_over(&mut known, &fresh, false, kind_of);
        let last = [sample("last", "a", 1.0), sample("last", "b", 2.0)];
        let mut all = last.to_vec();
        all.extend([sample("covered", "a", 1.0), sample("now", "b", 2.0)]);
        assert_eq!(known, all, "a run that failed has not looked at what it covers");
        carry_over(&mut known, &[], true, kind_of);
        assert_eq!(known, last);
    }

    #[test]
    fn names_keep_to_the_rules() {
        let desc = |name, kind, labels| MetricDesc { name, help: "", kind, labels };
        assert!(desc("rows_total", MetricKind::Counter, &["a", "b"]).is_well_formed());
        assert!(!desc("rows", MetricKind::Counter, &[]).is_well_formed());
        assert!(!desc("rows_total", MetricKind::Gauge, &[]).is_well_formed());
        assert!(!desc("Rows", MetricKind::Gauge, &[]).is_well_formed());
        assert!(!desc("rows", MetricKind::Gauge, &["a", "a"]).is_well_formed());
    }
}
