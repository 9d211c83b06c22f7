//! The program's own log, on stderr. Checks are not logged here: the audit log describes them.
//!
//! The configured level is that of Tollgate. Libraries never log below `warn`: at `debug`, some of
//! them print the frames and headers they handle, with tokens in them.

mod json;

use std::{io, panic, str::FromStr};

use schemars::JsonSchema;
use serde::Deserialize;
use thiserror::Error;
use tracing::{Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer as _, Registry, filter::Targets, fmt::MakeWriter, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// The environment variable that overrides the level of the file, to look closer at one process
/// without changing its configuration.
pub const LEVEL_VARIABLE: &str = "TOLLGATE_LOG";

/// The section `log`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// `error`, `warn`, `info` or `debug`; the environment variable `TOLLGATE_LOG` overrides it.
    /// Default `info`: a line for each start, reload and failure, none for a check. Libraries never
    /// log below `warn`.
    #[serde(default)]
    pub level: LogLevel,
    /// `text` or `json`. Default `text`, for people; `json` is for collectors, with `time`, `level`,
    /// `target`, `message` and the fields of the event in one object.
    #[serde(default)]
    pub format: LogFormat,
}

/// The section `log.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Only what needs an operator.
    Error,
    /// Also what may need an operator soon.
    Warn,
    /// Also what has changed.
    #[default]
    Info,
    /// Also what was tried.
    Debug,
}

/// The section `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// The reason why the log cannot be set up.
#[derive(Debug, Error)]
pub enum LogError {
    /// The environment variable holds no level.
    #[error("`{0}` in {LEVEL_VARIABLE} is not a level; write `error`, `warn`, `info` or `debug`")]
    Level(String),
    /// The process has a log already.
    #[error("the log was set up twice")]
    Twice,
}

impl FromStr for LogLevel {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        Ok(match text {
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            _ => return Err(LogError::Level(text.to_owned())),
        })
    }
}

impl LogLevel {
    const fn level(self) -> Level {
        match self {
            Self::Error => Level::ERROR,
            Self::Warn => Level::WARN,
            Self::Info => Level::INFO,
            Self::Debug => Level::DEBUG,
        }
    }
}

/// Sets up the log of the process, and a panic hook that logs where a panic happened. The hook does
/// not log the message: that of a failed string operation quotes the string, which may be a token.
/// `variable` is the value of [`LEVEL_VARIABLE`]. Only the command line and the Envoy module call
/// this, which have a standard library of their own: a library must not install global hooks.
///
/// # Errors
/// Returns [`LogError`] where the variable holds no level, or the log was set up before.
pub fn init(config: LogConfig, variable: Option<&str>) -> Result<(), LogError> {
    let level = variable.filter(|value| !value.is_empty()).map_or(Ok(config.level), str::parse)?;
    subscriber(LogConfig { level, ..config }, io::stderr)
        .try_init()
        .map_err(|_| LogError::Twice)?;
    panic::set_hook(Box::new(|info| {
        let location = info.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        tracing::error!(%location, "a panic was caught; please report its location");
    }));
    Ok(())
}

fn subscriber<W>(config: LogConfig, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = LevelFilter::from_level(config.level.level());
    let libraries = level.min(LevelFilter::WARN);
    let filter = Targets::new().with_default(libraries).with_target("tollgate", level);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    Registry::default().with(match config.format {
        LogFormat::Text => layer.with_filter(filter).boxed(),
        LogFormat::Json => layer.event_format(json::JsonFormat).with_filter(filter).boxed(),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::log_list::LogList;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(level: LogLevel, format: LogFormat, events: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        tracing::subscriber::with_default(
            subscriber(LogConfig { level, format }, move || writer.clone()),
            events,
        );
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn libraries_stay_quiet_at_every_level() {
        let text = written(LogLevel::Debug, LogFormat::Text, || {
            tracing::debug!("ours");
            tracing::debug!(target: "h2::proto", "a frame with a token");
            tracing::info!(target: "hyper", "a header");
            tracing::warn!(target: "redis", "theirs");
        });
        assert!(text.contains("ours") && text.contains("theirs"), "{text}");
        assert!(!text.contains("token") && !text.contains("header"), "{text}");
        let text = written(LogLevel::Error, LogFormat::Text, || {
            tracing::warn!("ours");
            tracing::warn!(target: "redis", "theirs");
        });
        assert_eq!(text, "");
    }

    #[test]
    fn json_is_one_object_per_event() {
        let text = written(LogLevel::Info, LogFormat::Json, || {
            tracing::info!(issuer = "https://a\n\"b", "keys loaded");
            tracing::debug!("not this");
        });
        let event: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!((&event["level"], &event["message"]), (&"INFO".into(), &"keys loaded".into()));
        assert_eq!(event["issuer"], "https://a\n\"b");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn json_has_types_lists_and_the_time_of_audit_lines() {
        let addresses = [SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([0; 8], 2))];
        let (listed, none) = (LogList::of(addresses), LogList::of([""; 0]));
        let odd = LogList::of(["a \"quoted\" one", "\u{1b}[31m", "é"]);
        let text = written(LogLevel::Info, LogFormat::Json, || {
            tracing::info!(
                http = listed.value(),
                none = none.value(),
                odd = odd.value(),
                keys = 2_usize,
                up = true,
                share = 0.5,
                shown = %"[\"no list\"]",
                time = "of the event",
                "listening"
            );
        });
        let mut event: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        let time = event["time"].take();
        assert!(crate::observe::rfc3339::parse(time.as_str().unwrap()).is_ok(), "{time}");
        assert_eq!(time.as_str().unwrap().len(), 27, "as in audit lines");
        assert_eq!(
            event,
            serde_json::json!({
                "time": null,
                "level": "INFO",
                "target": "tollgate::observe::log::tests",
                "message": "listening",
                "http": ["127.0.0.1:1", "[::]:2"],
                "none": [],
                "odd": ["a \"quoted\" one", "\u{1b}[31m", "é"],
                "keys": 2,
                "up": true,
                "share": 0.5,
                "shown": "[\"no list\"]",
                "time_": "of the event",
            })
        );
        let text = written(LogLevel::Info, LogFormat::Text, || {
            tracing::info!(http = listed.value(), "listening");
        });
        assert!(text.ends_with("listening http=[\"127.0.0.1:1\", \"[::]:2\"]\n"), "{text}");
    }

    #[test]
    fn a_level_that_does_not_exist_is_refused() {
        assert_eq!("debug".parse::<LogLevel>().ok(), Some(LogLevel::Debug));
        let message = "loud".parse::<LogLevel>().unwrap_err().to_string();
        assert_eq!(
            message,
            "`loud` in TOLLGATE_LOG is not a level; write `error`, `warn`, `info` or `debug`"
        );
    }
}
