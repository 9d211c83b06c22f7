//! Origins of pages, as browsers write them (RFC 6454 section 6.2).

/// The reason why a text is not the origin of a page whose requests are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OriginError {
    /// The text is not an origin in lower case.
    #[error("not an origin")]
    Form,
    /// The text has the default port of its scheme.
    #[error("the default port is not part of an origin")]
    DefaultPort,
    /// The scheme is http, and the host is not this machine.
    #[error("not https")]
    Insecure,
}

/// The host and the port of an origin; `None` for a text that is none.
fn authority(text: &str) -> Option<&str> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let is_host = |byte: u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || matches!(byte, b'.' | b'-' | b':' | b'[' | b']')
    };
    (!host.is_empty() && host.bytes().all(is_host)).then_some(host)
}

/// Whether a text is an origin.
pub(crate) fn is_origin(text: &str) -> bool {
    authority(text).is_some()
}

/// Checks that a text is an origin that only its own pages have.
pub(crate) fn check_page_origin(text: &str) -> Result<(), OriginError> {
    let host = authority(text).ok_or(OriginError::Form)?;
    let is_https = text.starts_with("https://");
    if host.ends_with(if is_https { ":443" } else { ":80" }) {
        return Err(OriginError::DefaultPort);
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    if name.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(OriginError::Form);
    }
    if is_https || matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        Ok(())
    } else {
        Err(OriginError::Insecure)
    }
}
