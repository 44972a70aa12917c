//! The log: one line per event on standard error, as text or JSON.
//!
//! Only pgkeep's own events follow the configured level; dependencies say warnings and errors. The
//! variable `PGKEEP_LOG` (a level, or directives such as `pgkeep=debug,aws_config=info`) overrides it.
//! No directive gets below `debug` for a dependency: at `trace` some print requests with their
//! credentials. What can still go wrong: an event of our own that is handed a secret as plain text;
//! secrets are kept in types that do not print.

mod line;

use std::{
    io,
    os::fd::AsFd,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::{Dispatch, Level};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::{LevelFilter, filter_fn},
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    reload,
};

use self::line::Line;
use crate::{config::LogFormat, domain::text};

/// The variable that overrides the level.
pub const VARIABLE: &str = "PGKEEP_LOG";
/// This crate, as events name it.
const OWN_TARGET: &str = "pgkeep";

/// What the log is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    pub format: LogFormat,
    pub level: Level,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: Level::INFO }
    }
}

/// Why there is no log, or why a level was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `PGKEEP_LOG` cannot be read.
    #[error("{VARIABLE}={text:?} is neither a level nor a list of directives")]
    Directives {
        text: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("the log is set up already")]
    Twice,
    #[error("the level of the log cannot be changed")]
    Gone(#[source] reload::Error),
}

#[derive(Debug)]
struct Chosen {
    level: Level,
    debug: bool,
}

/// Changes the level while the process runs.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    directives: Option<String>,
    chosen: Arc<Mutex<Chosen>>,
}

impl LogHandle {
    /// Takes the level of a configuration that was loaded again. While debug is switched on, it
    /// takes effect once that is switched off.
    pub fn set_level(&self, level: Level) -> Result<(), LogError> {
        let mut chosen = self.lock();
        chosen.level = level;
        self.put(&chosen)
    }

    /// Switches debug on, or off again; returns whether it is on now.
    pub fn toggle_debug(&self) -> Result<bool, LogError> {
        let mut chosen = self.lock();
        chosen.debug = !chosen.debug;
        self.put(&chosen)?;
        Ok(chosen.debug)
    }

    fn lock(&self) -> MutexGuard<'_, Chosen> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, chosen: &Chosen) -> Result<(), LogError> {
        let filter = if chosen.debug {
            // The variable may name a level for pgkeep: the switch is stronger.
            filter(chosen.level, self.directives.as_deref(), Some(Level::DEBUG))?
        } else {
            filter(chosen.level, self.directives.as_deref(), None)?
        };
        self.filter.reload(filter).map_err(LogError::Gone)
    }
}

/// `stronger` goes after everything else, so that it wins for pgkeep.
fn filter(
    level: Level,
    directives: Option<&str>,
    stronger: Option<Level>,
) -> Result<EnvFilter, LogError> {
    let mut parts = vec![format!("warn,{OWN_TARGET}={level}")];
    if let Some(given) = directives {
        parts.push(match LevelFilter::from_str(given) {
            Ok(only) => format!("{OWN_TARGET}={only}"),
            Err(_) => given.to_owned(),
        });
    }
    parts.extend(stronger.map(|level| format!("{OWN_TARGET}={level}")));
    EnvFilter::builder().parse(parts.join(",")).map_err(|source| LogError::Directives {
        text: directives.unwrap_or_default().into(),
        source,
    })
}

/// A log that writes to `writer`. `directives` is what `PGKEEP_LOG` says; `journal` is whether the
/// lines go to the systemd journal, which has a time of its own and reads `<N>` as the priority.
pub fn build<W>(
    settings: LogSettings,
    directives: Option<&str>,
    journal: bool,
    writer: W,
) -> Result<(Dispatch, LogHandle), LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let directives = directives.map(str::trim).filter(|text| !text.is_empty());
    let (changeable, handle) = reload::Layer::new(filter(settings.level, directives, None)?);
    let no_trace =
        filter_fn(|event| event.target().starts_with(OWN_TARGET) || *event.level() < Level::TRACE);
    let lines = match settings.format {
        LogFormat::Text => fmt::layer().with_writer(writer).event_format(Line { journal }).boxed(),
        LogFormat::Json => {
            fmt::layer().with_writer(SafeJson(writer)).json().flatten_event(true).boxed()
        }
    };
    let subscriber = tracing_subscriber::registry().with(changeable).with(no_trace).with(lines);
    let chosen = Arc::new(Mutex::new(Chosen { level: settings.level, debug: false }));
    let directives = directives.map(str::to_owned);
    Ok((Dispatch::new(subscriber), LogHandle { filter: handle, directives, chosen }))
}

/// Events as JSON that is safe on a terminal. The layer writes each event at once.
#[derive(Debug)]
struct SafeJson<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for SafeJson<W> {
    type Writer = SafeJson<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        SafeJson(self.0.make_writer())
    }
}

impl<W: io::Write> io::Write for SafeJson<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(text::json(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Sets up the log of the process, on standard error.
pub fn init(settings: LogSettings) -> Result<LogHandle, LogError> {
    let directives = std::env::var(VARIABLE).ok();
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let journal = stream.is_some_and(|stream| is_stream(&stream, io::stderr()));
    let (dispatch, handle) = build(settings, directives.as_deref(), journal, io::stderr)?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| LogError::Twice)?;
    Ok(handle)
}

/// Whether `JOURNAL_STREAM` (`device:inode`) is about this descriptor: a child whose standard
/// error was redirected inherits the variable all the same. See systemd.exec(5).
fn is_stream(variable: &str, descriptor: impl AsFd) -> bool {
    rustix::fs::fstat(descriptor)
        .is_ok_and(|stat| variable == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn log(
        format: LogFormat,
        directives: Option<&str>,
        journal: bool,
    ) -> (Captured, Dispatch, LogHandle) {
        let captured = Captured::default();
        let writer = captured.clone();
        let settings = LogSettings { format, level: Level::INFO };
        let (dispatch, handle) =
            build(settings, directives, journal, move || writer.clone()).unwrap();
        (captured, dispatch, handle)
    }

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let (captured, dispatch, _handle) = log(LogFormat::Text, None, true);
        tracing::dispatcher::with_default(&dispatch, || {
            let span = tracing::info_span!("run", job = "nightly");
            let _in = span.enter();
            tracing::warn!(database = "a\n<0>forged\u{1b}[2J", "two\nlines");
        });
        assert_eq!(
            captured.text(),
            "<4>WARN run{job=\"nightly\"}: two\\nlines database=\"a\\n<0>forged\\u{1b}[2J\"\n"
        );
    }

    #[test]
    fn text_outside_the_journal_has_a_time_and_no_priority() {
        let (captured, dispatch, _handle) = log(LogFormat::Text, None, false);
        tracing::dispatcher::with_default(&dispatch, || tracing::info!("up"));
        let line = captured.text();
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert_eq!(rest, "INFO up\n");
    }

    #[test]
    fn json_lines_are_objects() {
        let (captured, dispatch, _handle) = log(LogFormat::Json, None, true);
        tracing::dispatcher::with_default(&dispatch, || tracing::info!(job = "nightly", "a\nb"));
        let value: serde_json::Value = serde_json::from_str(&captured.text()).unwrap();
        assert_eq!(value["job"], "nightly");
        assert_eq!(value["message"], "a\nb");
        assert_eq!(value["level"], "INFO");
    }

    #[test]
    fn dependencies_are_quiet_and_never_trace() {
        let (captured, dispatch, _handle) = log(LogFormat::Text, Some("trace,aws_x=trace"), true);
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::trace!("own");
            tracing::info!(target: "hyper::proto", "chatter");
            tracing::debug!(target: "aws_x", "asked for");
            tracing::trace!(target: "aws_x", "authorization: secret");
        });
        let text = captured.text();
        assert!(text.contains("asked for") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_bare_level_is_for_pgkeep_alone() {
        let (captured, dispatch, _handle) = log(LogFormat::Text, Some("debug"), true);
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::debug!("own");
            tracing::info!(target: "hyper::proto", "chatter");
        });
        assert_eq!(captured.text(), "<7>DEBUG pgkeep::telemetry::logging::tests: own\n");
    }

    #[test]
    fn debug_can_be_switched_on_and_off() {
        let (captured, dispatch, handle) = log(LogFormat::Text, Some("pgkeep=warn"), true);
        tracing::dispatcher::with_default(&dispatch, || {
            assert!(handle.toggle_debug().unwrap());
            tracing::debug!("one");
            assert!(!handle.toggle_debug().unwrap());
            tracing::debug!("two");
            tracing::warn!("three");
        });
        let text = captured.text();
        assert!(text.contains("one") && !text.contains("two") && text.contains("three"), "{text}");
    }

    #[test]
    fn the_level_of_a_new_configuration_is_taken() {
        let (captured, dispatch, handle) = log(LogFormat::Text, None, true);
        tracing::dispatcher::with_default(&dispatch, || {
            handle.set_level(Level::ERROR).unwrap();
            tracing::warn!("one");
            tracing::error!("two");
        });
        assert_eq!(captured.text(), "<3>ERROR two\n");
    }

    #[test]
    fn directives_that_cannot_be_read_are_refused() {
        let settings = LogSettings::default();
        assert!(build(settings, Some("pgkeep=loud"), false, io::sink).is_err());
    }

    #[test]
    fn the_journals_stream_is_recognised_by_its_inode() {
        let file = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        assert!(is_stream(&format!("{}:{}", stat.st_dev, stat.st_ino), &file));
        assert!(!is_stream("8:1", &file));
        assert!(!is_stream("", &file));
    }
}
