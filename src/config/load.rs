//! From files to sections: TOML, variables, one name one table.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use toml::de::{DeTable, DeValue};

use super::{
    Config, Daemon,
    diagnostic::{Diagnostics, Span, class},
    env_file,
    expand::Environment,
    files::{Document, FILE_MAX, read_all},
    secret::report_untrusted,
    section::{Context, Section},
    suggest,
    value::{Item, Reader, Table, Value},
};
use crate::{domain::name::NameError, sys::trust};

/// Tables that hold named tables.
const NAMED: [&str; 5] = ["server", "repository", "retention", "notify", "job"];
const TOP_LEVEL: [&str; 6] = ["daemon", "server", "repository", "retention", "notify", "job"];

/// Reads `path` and then `conf.d/*.toml` beside it, in the order of their names.
///
/// Everything that is wrong goes into `d`. The answer is `None` where nothing could be made of the
/// files (they cannot be read, or are not TOML). Otherwise it is there for further checks, and
/// may only be used if [`Diagnostics::has_errors`] is false at their end.
///
/// `env` looks up a variable of the process; tests pass their own.
pub fn load(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    d: &mut Diagnostics,
) -> Option<Config> {
    let documents = read_all(path, d)?;
    build(&documents, env, d)
}

/// The `runtime_dir` of a file of which nothing else may be made: to ask the daemon that runs on an
/// older state of it. `None` where the file does not say (`conf.d` is not searched).
pub fn runtime_dir_of(path: &Path) -> Option<PathBuf> {
    let text = trust::read(path, FILE_MAX).ok()?.text;
    let (table, _errors) = DeTable::parse_recoverable(&text);
    let DeValue::Table(daemon) = table.get_ref().get("daemon")?.get_ref() else { return None };
    let dir = PathBuf::from(daemon.get("runtime_dir")?.get_ref().as_str()?);
    dir.is_absolute().then_some(dir)
}

/// As [`load`], from text that stands in no file: for tests of whoever reads options.
#[cfg(any(test, feature = "test-util"))]
pub fn load_text(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    d: &mut Diagnostics,
) -> Option<Config> {
    let path = PathBuf::from("pgkeep.toml");
    let number = d.add_toml(path.clone(), text);
    build(&[Document { number, path, text: text.to_owned(), exposed: false }], env, d)
}

fn build(
    documents: &[Document],
    env: &dyn Fn(&str) -> Option<String>,
    d: &mut Diagnostics,
) -> Option<Config> {
    let mut parsed = Vec::new();
    let mut broken = false;
    for document in documents {
        match parse(document, d) {
            Some(table) => parsed.push((document, table)),
            None => broken = true,
        }
    }
    if broken {
        return None;
    }
    let environment = environment(&parsed, env, d);
    let mut sections = Sections {
        context: Arc::new(Context { credentials: env("CREDENTIALS_DIRECTORY").map(PathBuf::from) }),
        daemon: None,
        named: BTreeMap::new(),
    };
    for (document, table) in &parsed {
        let (file, text) = (document.number, document.text.as_str());
        let reader = Reader { file, text, exposed: document.exposed, environment: &environment };
        sections.add(reader.table(table, d), d);
    }
    Some(sections.into_config(d))
}

/// Parses one file. A key that is set twice is reported and does not hide what else is wrong.
fn parse<'a>(document: &'a Document, d: &mut Diagnostics) -> Option<DeTable<'a>> {
    /// What the parser calls it.
    const DUPLICATE: &str = "duplicate key";
    let text = document.text.strip_prefix('\u{feff}').unwrap_or(&document.text);
    if text.len() < document.text.len() {
        let what = format!("{} begins with a byte order mark", document.path.display());
        d.error(Span::new(document.number, 0..0), what)
            .class(class::SYNTAX)
            .hint("save the file as UTF-8 without it");
        return None;
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut usable = true;
    for error in errors {
        let span = error.span().map(|range| Span::new(document.number, range));
        if error.message() == DUPLICATE {
            d.error(span, "this is set or defined a second time")
                .class(class::CONFLICT)
                .hint("keep one of them");
        } else {
            usable = false;
            d.error(span, error.message()).class(class::SYNTAX);
        }
    }
    usable.then(|| table.into_inner())
}

/// The variables: the process's, and those of `env_file` in `[daemon]`, which is read each time.
fn environment<'a>(
    parsed: &[(&Document, DeTable<'_>)],
    process: &'a dyn Fn(&str) -> Option<String>,
    d: &mut Diagnostics,
) -> Environment<'a> {
    let mut environment = Environment { process, file: BTreeMap::new(), exposed: None };
    let found = parsed.iter().find_map(|(document, table)| {
        let DeValue::Table(daemon) = table.get("daemon")?.get_ref() else { return None };
        let value = daemon.get("env_file")?;
        let raw = value.get_ref().as_str()?;
        Some((raw, Span::new(document.number, value.span())))
    });
    let Some((raw, span)) = found else { return environment };
    // What is wrong with the value itself is reported when [daemon] is read.
    let Some(path) = environment.expand(raw, None).ok().map(|text| PathBuf::from(text.text)) else {
        return environment;
    };
    if !path.is_absolute() {
        return environment;
    }
    let contents = match trust::read(&path, FILE_MAX) {
        Ok(contents) => contents,
        Err(error) => {
            report_untrusted(&error, &span, d);
            return environment;
        }
    };
    if let Err(error) = trust::check_own(&path, &contents.metadata) {
        report_untrusted(&error, &span, d);
    }
    let number = d.add_environment(path, &contents.text);
    environment.exposed = trust::is_exposed(&contents.metadata).then_some(number);
    environment.file = env_file::parse(&contents.text, number, d);
    environment
}

/// The tables of all files.
struct Sections {
    context: Arc<Context>,
    daemon: Option<Section>,
    /// By kind and name, with the place of the name.
    named: BTreeMap<(&'static str, String), (Span, Section)>,
}

impl Sections {
    fn add(&mut self, top: Table, d: &mut Diagnostics) {
        for (key, entry) in top {
            if key == "daemon" {
                self.add_daemon(&entry.key, entry.item, d);
            } else if let Some(kind) = NAMED.into_iter().find(|kind| *kind == key) {
                self.add_named(kind, entry.item, d);
            } else {
                d.error(&entry.key, format!("there is no table or option `{key}` at this level"))
                    .class(class::UNKNOWN)
                    .hint(top_level_hint(&key));
            }
        }
    }

    fn section(&self, path: String, table: Table, span: Span) -> Section {
        Section { path, span, table, context: Arc::clone(&self.context) }
    }

    fn add_daemon(&mut self, key: &Span, item: Item, d: &mut Diagnostics) {
        let Value::Table(table) = item.value else {
            d.error(&item.span, "`daemon` must be a table").class(class::TYPE).hint("[daemon]");
            return;
        };
        if let Some(first) = &self.daemon {
            twice("daemon", key, &first.span, d);
            return;
        }
        self.daemon = Some(self.section("daemon".to_owned(), table, item.span));
    }

    fn add_named(&mut self, kind: &'static str, item: Item, d: &mut Diagnostics) {
        let Value::Table(names) = item.value else {
            not_named(kind, &item, d);
            return;
        };
        for (name, entry) in names {
            let Value::Table(table) = entry.item.value else {
                not_named(kind, &Item { span: entry.key, ..entry.item }, d);
                continue;
            };
            let path = format!("{kind}.{name}");
            let section = self.section(path.clone(), table, entry.item.span);
            match self.named.entry((kind, name)) {
                std::collections::btree_map::Entry::Occupied(first) => {
                    twice(&path, &section.span, &first.get().1.span, d);
                }
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert((entry.key, section));
                }
            }
        }
    }

    fn take<N: Ord + FromStr<Err = NameError>>(
        &mut self,
        wanted: &str,
        d: &mut Diagnostics,
    ) -> BTreeMap<N, Section> {
        let mut taken = BTreeMap::new();
        for ((_, name), (span, section)) in
            self.named.extract_if(.., |(kind, _), _| *kind == wanted)
        {
            match N::from_str(&name) {
                Ok(name) => {
                    taken.insert(name, section);
                }
                Err(error) => {
                    d.error(span, error.to_string());
                }
            }
        }
        taken
    }

    fn into_config(mut self, d: &mut Diagnostics) -> Config {
        let section = self.daemon.take().unwrap_or_else(|| {
            // Without a table there is nothing to point at.
            self.section("daemon".to_owned(), Table::new(), Span::new(usize::MAX, 0..0))
        });
        let daemon = Daemon::read(section.options(), d);
        Config {
            daemon,
            servers: self.take("server", d),
            repositories: self.take("repository", d),
            retention: self.take("retention", d),
            notify: self.take("notify", d),
            jobs: self.take("job", d),
            sources: d.sources().clone(),
        }
    }
}

fn twice(path: &str, span: &Span, first: &Span, d: &mut Diagnostics) {
    d.error(span, format!("[{path}] is defined a second time"))
        .class(class::CONFLICT)
        .related(first, "it is defined here first")
        .hint("one table stands in one file; give one of them another name or remove it");
}

fn not_named(kind: &str, item: &Item, d: &mut Diagnostics) {
    d.error(&item.span, format!("a {kind} needs a table with a name"))
        .class(class::TYPE)
        .hint(format!("write [{kind}.NAME], and its options below"));
}

fn top_level_hint(key: &str) -> String {
    match suggest::nearest(key, TOP_LEVEL) {
        Some("daemon") => "did you mean [daemon]?".to_owned(),
        Some(near) => format!("did you mean [{near}.NAME]?"),
        None => "the tables are [daemon], [server.NAME], [repository.NAME], [retention.NAME], \
                 [notify.NAME] and [job.NAME]"
            .to_owned(),
    }
}
