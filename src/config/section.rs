//! One table of the configuration, and the reader that takes its options.
//!
//! [`Options`] remembers every key that was asked for: whoever takes the keys of a table declares
//! them by that, and [`Options::finish`] reports what is left over. All errors of a table are found
//! in one pass, since [`Options::take`] reports and goes on.

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    diagnostic::{Diagnostics, Located, Span, class},
    from_toml::{FromToml, Ranged},
    suggest,
    value::{Entry, Item, Table, Value},
};

/// What all sections of one load share.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// systemd's `$CREDENTIALS_DIRECTORY`, where there is one.
    pub credentials: Option<PathBuf>,
}

/// One table: `[job.nightly]`, `[daemon]`.
#[derive(Debug, Clone)]
pub struct Section {
    pub(super) path: String,
    pub(super) span: Span,
    pub(super) table: Table,
    pub(super) context: Arc<Context>,
}

impl Section {
    /// The table's path: `job.nightly`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where its header stands.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// A reader of its options.
    pub fn options(&self) -> Options<'_> {
        Options { section: self, asked: BTreeSet::new() }
    }
}

/// Takes options out of a section.
#[must_use = "call finish: it reports the keys that nobody asked for"]
#[derive(Debug)]
pub struct Options<'a> {
    section: &'a Section,
    asked: BTreeSet<String>,
}

impl<'a> Options<'a> {
    /// Where the section's header stands.
    pub fn span(&self) -> Span {
        self.section.span.clone()
    }

    /// The section's path: `job.nightly`.
    pub fn section(&self) -> &str {
        &self.section.path
    }

    /// The entry of a key, which now counts as known.
    pub(super) fn entry(&mut self, key: &str) -> Option<&'a Entry> {
        self.asked.insert(key.to_owned());
        self.section.table.get(key)
    }

    pub(super) fn context(&self) -> &'a Context {
        &self.section.context
    }

    /// Where a key is set; `None` if it is not. It counts as known afterwards.
    pub fn given(&mut self, key: &str) -> Option<Span> {
        self.entry(key).map(|entry| entry.key.clone())
    }

    /// A value, if the key is there and the value can be read; what is wrong with it is reported.
    pub fn take<T: FromToml>(
        &mut self,
        key: &'static str,
        d: &mut Diagnostics,
    ) -> Option<Located<T>> {
        let item: &Item = &self.entry(key)?.item;
        let value = T::from_toml(item, key, d)?;
        Some(Located { value, span: item.span.clone() })
    }

    /// A value, or `default` where the key is absent (or wrong, which is reported).
    pub fn take_or<T: FromToml>(
        &mut self,
        key: &'static str,
        default: T,
        d: &mut Diagnostics,
    ) -> T {
        self.take(key, d).map_or(default, |located| located.value)
    }

    /// The tables below a key, each with its name, in the order in which they stand:
    /// `[job.nightly.database.shop]`. Whoever takes them finishes the options of each.
    pub fn tables(
        &mut self,
        key: &'static str,
        d: &mut Diagnostics,
    ) -> Vec<(Located<String>, Section)> {
        let path = format!("{}.{key}", self.section.path);
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let (mut tables, mut wrong) = (Vec::new(), Vec::new());
        match &entry.item.value {
            Value::Broken => {}
            Value::Table(names) => {
                for (name, entry) in names {
                    let Value::Table(table) = &entry.item.value else {
                        wrong.push(&entry.key);
                        continue;
                    };
                    let section = Section {
                        path: format!("{path}.{}", toml_key(name)),
                        span: entry.item.span.clone(),
                        table: table.clone(),
                        context: Arc::clone(&self.section.context),
                    };
                    let name = Located { value: name.clone(), span: entry.key.clone() };
                    tables.push((name, section));
                }
            }
            _ => wrong.push(&entry.key),
        }
        for key in wrong {
            d.error(key, format!("[{path}] needs a table with a name"))
                .class(class::TYPE)
                .hint(format!("write [{path}.NAME], and its options below"));
        }
        tables.sort_by_key(|(name, _)| name.span.range.start);
        tables
    }

    /// A value that has to be there.
    pub fn require<T: FromToml>(
        &mut self,
        key: &'static str,
        d: &mut Diagnostics,
    ) -> Option<Located<T>> {
        if self.entry(key).is_none() {
            d.error(self.span(), format!("[{}] needs `{key}`", self.section()))
                .class(class::MISSING);
        }
        self.take(key, d)
    }

    /// A value within a range.
    pub fn take_in<T: Ranged>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
        d: &mut Diagnostics,
    ) -> Option<Located<T>> {
        let located = self.take::<T>(key, d)?;
        if range.contains(&located.value) {
            return Some(located);
        }
        let (least, most) = (range.start().show(), range.end().show());
        let hint = if located.value < *range.start() {
            format!("at least {least}")
        } else {
            format!("at most {most}")
        };
        d.error(&located.span, format!("`{key}` is out of range: {}", located.value.show()))
            .hint(hint);
        None
    }

    /// A value within a range, or `default` where the key is absent (or wrong, which is reported).
    pub fn take_in_or<T: Ranged>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
        default: T,
        d: &mut Diagnostics,
    ) -> T {
        self.take_in(key, range, d).map_or(default, |located| located.value)
    }

    /// One of the named choices.
    pub fn one_of<V: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, V)],
        d: &mut Diagnostics,
    ) -> Option<Located<V>> {
        let written = self.take::<String>(key, d)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == written.value) {
            return Some(Located { value: *value, span: written.span });
        }
        let names = || choices.iter().map(|(name, _)| *name);
        let hint = suggest::did_you_mean(&written.value, names())
            .unwrap_or_else(|| format!("write {}", suggest::listed(names())));
        d.error(&written.span, format!("`{key}` does not know this value")).hint(hint);
        None
    }

    /// A path that starts at the root: a daemon has no working folder to speak of.
    pub fn absolute_path(
        &mut self,
        key: &'static str,
        d: &mut Diagnostics,
    ) -> Option<Located<PathBuf>> {
        let located = self.take::<PathBuf>(key, d)?;
        check_absolute(key, &located.value, &located.span, d).then_some(located)
    }

    /// Reports all but the first of the keys that are set together and exclude each other; the
    /// answer is whether at most one is.
    pub fn at_most_one(&mut self, keys: &[&'static str], d: &mut Diagnostics) -> bool {
        let given: Vec<(&str, Span)> =
            keys.iter().filter_map(|key| Some((*key, self.given(key)?))).collect();
        only_first(&given, "exclude each other", d)
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self, d: &mut Diagnostics) {
        let known: Vec<&str> = self.asked.iter().map(String::as_str).collect();
        for (key, entry) in &self.section.table {
            if self.asked.contains(key) {
                continue;
            }
            let free = known.iter().copied().filter(|k| !self.section.table.contains_key(*k));
            let hint = suggest::did_you_mean(key, free).or_else(|| suggest::hint(key, &known));
            d.error(&entry.key, format!("[{}] has no option `{key}`", self.section.path))
                .class(class::UNKNOWN)
                .maybe_hint(hint);
        }
    }
}

/// A key as TOML has it.
fn toml_key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { format!("{name:?}") }
}

/// Reports all but the first of what was given, and why; the answer is whether there are no others.
pub(super) fn only_first(given: &[(&str, Span)], why: &str, d: &mut Diagnostics) -> bool {
    let Some(((first, first_span), others)) = given.split_first() else { return true };
    for (other, span) in others {
        d.error(span, format!("`{other}` and `{first}` {why}"))
            .class(class::CONFLICT)
            .related(first_span, format!("`{first}` is set here"))
            .hint("keep one of them");
    }
    others.is_empty()
}

pub(super) fn check_absolute(key: &str, path: &Path, span: &Span, d: &mut Diagnostics) -> bool {
    if path.is_absolute() {
        return true;
    }
    d.error(span, format!("`{key}` must be an absolute path"))
        .hint("begin it with \"/\"; \"~\" and relative paths depend on who starts the daemon");
    false
}
