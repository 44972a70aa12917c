//! An event as one line of text.
//!
//! Control characters are written as escapes: the name of a database can neither forge a line nor
//! drive a terminal.

use std::fmt::{self, Write as _};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::{LookupSpan, Scope},
};

use crate::domain::text;

/// Writes `time LEVEL spans: message fields`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    /// The line goes to the systemd journal: no time, and `<N>` before it.
    pub(super) journal: bool,
}

/// The priority in the journal, as sd-daemon(3) has it.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.journal {
            write!(out, "<{}>", priority(level))?;
        } else {
            SystemTime.format_time(&mut out)?;
            out.write_char(' ')?;
        }
        let mut text = format!("{level} ");
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            text.push_str(span.name());
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(text, "{{{fields}}}")?;
            }
            text.push_str(": ");
        }
        let target = event.metadata().target();
        if level > Level::INFO || !target.starts_with(super::OWN_TARGET) {
            write!(text, "{target}: ")?;
        }
        context.format_fields(Writer::new(&mut text), event)?;
        writeln!(out, "{}", text::line(&text))
    }
}
