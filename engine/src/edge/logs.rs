//! Logs: on standard error, for people or as JSON. Nothing is logged per request.

use super::config::{Config, ConfigError, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging as the configuration says.
///
/// # Errors
/// [`ConfigError::Invalid`] when the filter is malformed.
pub fn start(config: &Config) -> Result<(), ConfigError> {
    let filter = EnvFilter::builder()
        .parse(&config.log)
        .map_err(|e| ConfigError::Invalid(format!("log is \"{}\": {e}", config.log)))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Human => logs.with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(())
}
