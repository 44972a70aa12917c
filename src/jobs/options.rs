//! Options that several kinds have.

use std::sync::Arc;

use crate::{
    config::{Diagnostics, Located, Options},
    domain::{
        name::RepositoryName,
        pattern::{DatabasePatterns, Glob, PatternError},
        relation::RelationPattern,
    },
    repository::handle::Handle,
};

use super::Resources;

/// The repositories that `key` lists: at least one, each once.
pub(super) fn repositories(
    o: &mut Options<'_>,
    key: &'static str,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Vec<Arc<Handle>>> {
    let names = o.require::<Vec<Located<RepositoryName>>>(key, d)?;
    if names.value.is_empty() {
        d.error(&names.span, "the job needs a repository").hint("name one: [\"local\"]");
        return None;
    }
    let mut handles: Vec<Arc<Handle>> = Vec::new();
    let mut whole = true;
    for name in &names.value {
        match resources.repository(name, d) {
            Some(handle) if handles.iter().any(|known| known.name() == handle.name()) => {
                d.error(&name.span, format!("repository {} is named twice", name.value));
            }
            Some(handle) => handles.push(handle),
            None => whole = false,
        }
    }
    whole.then_some(handles)
}

/// Databases by `databases` and `exclude`; all of them where nothing is said.
pub(super) fn patterns(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<DatabasePatterns> {
    let include = globs(o, "databases", &["*"], d);
    if let Some(span) = o.given("databases").filter(|_| include.as_ref().is_some_and(Vec::is_empty))
    {
        d.error(&span, "`databases` names none").hint("leave it out for all, or write [\"*\"]");
    }
    let exclude = globs(o, "exclude", &[], d);
    Some(DatabasePatterns { include: include?, exclude: exclude? })
}

/// A list of patterns; each one that is wrong is reported at its place.
pub(super) fn globs(
    o: &mut Options<'_>,
    key: &'static str,
    default: &[&str],
    d: &mut Diagnostics,
) -> Option<Vec<Glob>> {
    if o.given(key).is_none() {
        return default.iter().map(|text| text.parse().ok()).collect();
    }
    list(o, key, d, pattern).map(|list| list.value)
}

/// A list that is read item by item, so that each one that is wrong is reported at its place.
pub(super) fn list<T>(
    o: &mut Options<'_>,
    key: &'static str,
    d: &mut Diagnostics,
    read: impl Fn(&Located<String>, &mut Diagnostics) -> Option<T>,
) -> Option<Located<Vec<T>>> {
    let texts = o.take::<Vec<Located<String>>>(key, d)?;
    // All of them, before the first that is wrong ends it.
    let read: Vec<Option<T>> = texts.value.iter().map(|text| read(text, d)).collect();
    let value = read.into_iter().collect::<Option<_>>()?;
    Some(Located { value, span: texts.span })
}

/// A pattern that is a key.
pub(super) fn pattern(text: &Located<String>, d: &mut Diagnostics) -> Option<Glob> {
    let refused = |error: PatternError| {
        d.error(&text.span, error.to_string());
    };
    text.value.parse().map_err(refused).ok()
}

/// Patterns of tables; each one that is wrong is reported at its place.
pub(super) fn relations(
    o: &mut Options<'_>,
    key: &'static str,
    default: &[&str],
    d: &mut Diagnostics,
) -> Option<Vec<RelationPattern>> {
    if o.given(key).is_none() {
        return default.iter().map(|text| text.parse().ok()).collect();
    }
    let patterns = list(o, key, d, |text, d| match text.value.parse() {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            d.error(&text.span, format!("`{key}`: {error}"));
            None
        }
    })?;
    if patterns.value.is_empty() && !default.is_empty() {
        d.error(&patterns.span, format!("`{key}` names no table"))
            .hint("leave the key out for all");
        return None;
    }
    Some(patterns.value)
}
