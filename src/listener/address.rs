//! The address of a listener, as it is written in the file.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

/// The longest path that fits in a socket address on Linux, without its closing NUL (`unix(7)`).
const MAX_PATH: usize = 107;

/// The address of a TCP or Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `127.0.0.1:9000`, `[::]:9000` or `localhost:9000`. Port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A Unix socket, such as `unix:/run/tollgate/authz.sock`.
    Unix(PathBuf),
}

/// Text that is not the address of a listener.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// Text in neither form.
    #[error(
        "`{0}` is not an address to listen on: write an IP address and a port such as \
         `127.0.0.1:9000`, `[::1]:9000` or `0.0.0.0:9000`, or `unix:` and an absolute path"
    )]
    Unknown(String),
    /// A path that depends on the working directory.
    #[error("`{0}` needs an absolute path after `unix:`")]
    RelativePath(String),
    /// A path that the system cannot bind.
    #[error("the path in `{0}` is longer than the {MAX_PATH} bytes a Unix socket may have")]
    LongPath(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match Path::new(path) {
                path if !path.is_absolute() => Err(AddressError::RelativePath(text.to_owned())),
                path if path.as_os_str().len() > MAX_PATH => {
                    Err(AddressError::LongPath(text.to_owned()))
                }
                path => Ok(Self::Unix(path.to_owned())),
            };
        }
        // No other name is resolved: the address of a listener must not depend on DNS.
        let address = match text.strip_prefix("localhost:").map(str::parse) {
            Some(Ok(port)) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            _ => text.parse().ok(),
        };
        address.map(Self::Tcp).ok_or_else(|| AddressError::Unknown(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_displayed_as_written() {
        for text in ["127.0.0.1:9000", "[::]:0", "0.0.0.0:65535", "unix:/run/tollgate/authz.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("localhost:9000".parse(), "127.0.0.1:9000".parse::<Address>());
    }

    #[test]
    fn any_other_text_is_refused() {
        let long = format!("unix:/{}", "x".repeat(MAX_PATH));
        let rows = [
            ("", "nothing"),
            ("9000", "a port alone"),
            (":9000", "no host"),
            ("127.0.0.1", "no port"),
            ("127.0.0.1:65536", "a port out of range"),
            ("::1:9000", "IPv6 without brackets"),
            ("authz.internal:9000", "a name"),
            ("http://127.0.0.1:9000", "a URL"),
            ("unix:", "no path"),
            ("unix:authz.sock", "a relative path"),
            ("unix:@authz", "an abstract socket"),
            (long.as_str(), "a path too long"),
        ];
        for (text, why) in rows {
            assert!(text.parse::<Address>().is_err(), "{why}: `{text}`");
        }
    }
}
