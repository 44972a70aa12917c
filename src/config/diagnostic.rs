//! What is wrong with a configuration, all of it at once, each with its place and a hint.
//!
//! Every pass adds to one [`Diagnostics`]; wiring prints them once. It holds the files' text as it
//! may be shown, with secrets masked, so that nothing else of a message can leak one but its words.

use std::{ops::Range, path::PathBuf, sync::Arc};

use annotate_snippets::{AnnotationKind, Group, Level as Title, Renderer, Snippet};
use serde_json::json;

use super::mask;
use crate::domain::text;

/// Diagnostics that are shown; a file with more is of another kind altogether.
const SHOWN_MAX: usize = 100;

/// Classes of diagnostics: stable words that documentation and `--json` use.
pub mod class {
    /// The text is not TOML.
    pub const SYNTAX: &str = "syntax";
    /// A key or a table that does not exist.
    pub const UNKNOWN: &str = "unknown";
    /// A key that has to be there.
    pub const MISSING: &str = "missing";
    /// A value of the wrong type.
    pub const TYPE: &str = "type";
    /// A value that cannot be used.
    pub const VALUE: &str = "value";
    /// The name of something that is not configured.
    pub const REFERENCE: &str = "reference";
    /// Two things where one is allowed.
    pub const CONFLICT: &str = "conflict";
    /// A variable that is not set, or cannot be read.
    pub const ENVIRONMENT: &str = "environment";
    /// A file that others may change or read.
    pub const PERMISSIONS: &str = "permissions";
    /// A file that cannot be read.
    pub const FILE: &str = "file";
}

/// A place in one of the files that were read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Span {
    /// The file: an index into [`Sources`].
    pub file: usize,
    pub range: Range<usize>,
}

impl Span {
    /// The bytes `range` of file number `file`.
    pub const fn new(file: usize, range: Range<usize>) -> Self {
        Self { file, range }
    }
}

impl From<&Span> for Option<Span> {
    fn from(span: &Span) -> Self {
        Some(span.clone())
    }
}

/// A value with the place where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    pub value: T,
    pub span: Span,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The configuration is refused.
    Error,
    /// It is taken, but probably not what was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub level: Level,
    /// One of [`class`].
    pub class: &'static str,
    /// Where; `None` where no file is at fault, or it could not be read.
    pub span: Option<Span>,
    /// What is wrong, in one line without secrets.
    pub what: String,
    pub hint: Option<String>,
    /// Another place that has to do with it, and what it is.
    pub related: Option<(Span, String)>,
}

impl Diagnostic {
    /// Sets the class; [`class::VALUE`] without.
    pub fn class(&mut self, class: &'static str) -> &mut Self {
        self.class = class;
        self
    }

    /// Says what to do about it.
    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what to do about it, if that is known.
    pub fn maybe_hint(&mut self, hint: Option<String>) -> &mut Self {
        self.hint = hint;
        self
    }

    /// Points at another place as well.
    pub fn related(&mut self, span: &Span, what: impl Into<String>) -> &mut Self {
        self.related = Some((span.clone(), what.into()));
        self
    }
}

/// A file that was read.
#[derive(Debug)]
pub struct Source {
    /// Its path, as it was opened.
    pub path: PathBuf,
    /// Its text with every secret masked; lengths are those of the file.
    pub shown: String,
}

impl Source {
    /// Line and column of a byte, both from 1; a column counts characters.
    pub fn position(&self, at: usize) -> (usize, usize) {
        let before = &self.shown[..self.shown.floor_char_boundary(at)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// The files that were read. Cheap to clone.
pub type Sources = Vec<Arc<Source>>;

/// Everything that is wrong, with the files that it is wrong in.
#[derive(Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    sources: Sources,
}

impl Diagnostics {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a TOML file; the answer is its number in spans.
    pub fn add_toml(&mut self, path: PathBuf, text: &str) -> usize {
        self.add_source(Source { path, shown: mask::mask_toml(text) })
    }

    /// Registers an environment file; the answer is its number in spans.
    pub fn add_environment(&mut self, path: PathBuf, text: &str) -> usize {
        self.add_source(Source { path, shown: mask::mask_environment(text) })
    }

    fn add_source(&mut self, source: Source) -> usize {
        self.sources.push(Arc::new(source));
        self.sources.len() - 1
    }

    /// The files that were read.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Adds an error; the answer takes a class and a hint.
    pub fn error(
        &mut self,
        span: impl Into<Option<Span>>,
        what: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Level::Error, span.into(), what.into())
    }

    /// Adds a warning; the answer takes a class and a hint.
    pub fn warning(
        &mut self,
        span: impl Into<Option<Span>>,
        what: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Level::Warning, span.into(), what.into())
    }

    fn add(&mut self, level: Level, span: Option<Span>, what: String) -> &mut Diagnostic {
        let class = class::VALUE;
        let new = Diagnostic { level, class, span, what, hint: None, related: None };
        let index = self.list.len();
        self.list.push(new);
        &mut self.list[index]
    }

    /// Whether the configuration is to be refused.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.level == Level::Error)
    }

    /// How many errors there are: whoever reads a part compares it before and after.
    pub fn error_count(&self) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.level == Level::Error).count()
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, sorted by file and place; those without a place come first.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<&Diagnostic> = self.list.iter().collect();
        sorted.sort_by_key(|one| one.span.as_ref().map(|span| (span.file, span.range.start)));
        sorted
    }

    /// All of them as text: class, place, the line with a caret, the hint. Colours only if asked
    /// for.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        let sorted = self.sorted();
        let mut blocks: Vec<String> = sorted
            .iter()
            .take(SHOWN_MAX)
            .map(|diagnostic| renderer.render(&[self.group(diagnostic)]))
            .collect();
        if let Some(more) = sorted.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
            blocks.push(format!("and {more} more"));
        }
        let mut text = blocks.join("\n\n");
        if !text.is_empty() {
            text.push('\n');
        }
        safe(&text)
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let title = match diagnostic.level {
            Level::Error => Title::ERROR,
            Level::Warning => Title::WARNING,
        };
        let title = title.primary_title(diagnostic.what.as_str()).id(diagnostic.class);
        let mut group = Group::with_title(title);
        let related = diagnostic.related.as_ref();
        if let Some((source, span)) = diagnostic.span.as_ref().and_then(|span| self.locate(span)) {
            let mut shown = snippet(source).annotation(AnnotationKind::Primary.span(span));
            let beside = related.filter(|(other, _)| {
                diagnostic.span.as_ref().is_some_and(|span| span.file == other.file)
            });
            if let Some((other, what)) = beside
                && let Some((_, range)) = self.locate(other)
            {
                shown = shown.annotation(AnnotationKind::Context.span(range).label(what.as_str()));
            }
            group = group.element(shown);
            if let Some((other, what)) = related.filter(|_| beside.is_none())
                && let Some((source, range)) = self.locate(other)
            {
                let note = AnnotationKind::Context.span(range).label(what.as_str());
                group = group.element(snippet(source).annotation(note));
            }
        }
        match &diagnostic.hint {
            Some(hint) => group.element(Title::HELP.message(hint.as_str())),
            None => group,
        }
    }

    /// The file, and the bytes of it cut to what it has.
    fn locate(&self, span: &Span) -> Option<(&Source, Range<usize>)> {
        let source = self.sources.get(span.file)?;
        let start = source.shown.floor_char_boundary(span.range.start);
        let end = source.shown.ceil_char_boundary(span.range.end).max(start);
        Some((source, start..end))
    }

    /// All of them as a JSON array of objects: `level`, `class`, `what`, and where known `hint`,
    /// `file`, `line`, `column`.
    pub fn to_json(&self) -> serde_json::Value {
        let one = |diagnostic: &&Diagnostic| {
            let level = match diagnostic.level {
                Level::Error => "error",
                Level::Warning => "warning",
            };
            let mut object =
                json!({"level": level, "class": diagnostic.class, "what": diagnostic.what});
            if let Some(hint) = &diagnostic.hint {
                object["hint"] = json!(hint);
            }
            if let Some((source, range)) = diagnostic.span.as_ref().and_then(|s| self.locate(s)) {
                let (line, column) = source.position(range.start);
                object["file"] = json!(source.path.to_string_lossy());
                object["line"] = json!(line);
                object["column"] = json!(column);
            }
            object
        };
        self.sorted().iter().map(one).collect()
    }
}

/// Rendered text in which nothing does anything to a terminal but the renderer's own colours.
fn safe(rendered: &str) -> String {
    const BEGIN: &str = "\u{1b}[";
    let mut parts = rendered.split(BEGIN);
    let mut safe = text::lines(parts.next().unwrap_or_default());
    for part in parts {
        let numbers = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        let begin = if numbers.starts_with('m') { BEGIN.to_owned() } else { text::line(BEGIN) };
        safe = safe + &begin + &text::lines(part);
    }
    safe
}

fn snippet(source: &Source) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
    Snippet::source(source.shown.as_str()).path(source.path.to_string_lossy().into_owned())
}
