//! The reasons why Redis cannot be used, in words for the operator. None of them contains a secret.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    sync::Arc,
};

use ::redis::{ErrorKind, RedisError};
use thiserror::Error;
use tollgate_core::admission::Outage;

use super::keys::{FORMAT, FORMAT_ERROR};
use crate::{bounded_file::FileError, error_text::describe, secrets::SecretError};

/// The reason why there is no connection, or why a call failed.
#[derive(Clone, Debug, Error)]
pub(super) enum ConnectionError {
    /// There is no connection.
    #[error("cannot connect to {address}: {cause}")]
    Connect { address: Arc<str>, cause: String },
    /// The server does not complete a new connection in time.
    #[error("cannot connect to {address}: no answer within 1s")]
    ConnectTimeout { address: Arc<str> },
    /// The connection ended.
    #[error("the connection to {address} was closed")]
    Closed { address: Arc<str> },
    /// The server does not answer in time.
    #[error("{address} did not answer within the deadline")]
    Timeout { address: Arc<str> },
    /// This process had no time to connect.
    #[error(
        "this process was too busy to connect to {address}; checks are refused as overloaded until \
         it is connected"
    )]
    Starved { address: Arc<str> },
    /// This process has no descriptor or no memory for a connection.
    #[error(
        "this process cannot open a connection to {address}: {cause}; raise its limit of open files"
    )]
    Exhausted { address: Arc<str>, cause: String },
    /// The server answers with an error.
    #[error("{address} refuses: {cause}")]
    Refused { address: Arc<str>, cause: String },
    /// The server is a replica.
    #[error("{address} refuses: it is a read-only replica (READONLY)")]
    ReadOnly { address: Arc<str> },
    /// The node of a cluster does not have the keys any more, and names the one that has.
    #[error("{address} does not have the keys any more, {to} has (MOVED)")]
    Moved { address: Arc<str>, to: String },
    /// A replica has become the primary.
    #[error("{address} is no longer the primary; the sentinels name {by}")]
    Replaced { address: Arc<str>, by: String },
    /// The server to connect to cannot be found.
    #[error("cannot find {servers}: {cause}")]
    Undiscovered { servers: Arc<str>, cause: String },
    /// A stored value has no meaning for Tollgate.
    #[error("{address} has a bucket or a revocation whose value is not a number")]
    Malformed { address: Arc<str> },
    /// The password cannot be read.
    #[error("store.redis.password: {0}")]
    Password(Arc<PasswordError>),
}

/// The reason why the password cannot be used.
#[derive(Debug, Error)]
pub enum PasswordError {
    /// The file cannot be read, is empty or too large.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The password is not text.
    #[error("the password is not UTF-8")]
    Encoding,
}

impl PasswordError {
    /// Whether this process has no descriptor to read the file with.
    fn is_exhaustion(&self) -> bool {
        match self {
            Self::Secret(SecretError::File(FileError::Unreadable { error, .. })) => {
                is_exhaustion(error)
            }
            Self::Secret(_) | Self::Encoding => false,
        }
    }
}

/// Whether an error is caused by a limit of this process or of its machine: open files (`EMFILE`,
/// `ENFILE`), buffers (`ENOBUFS`) or memory. Connections of clients can use them up.
fn is_exhaustion(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    error.kind() == io::ErrorKind::OutOfMemory
        || matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS))
}

impl ConnectionError {
    /// The error of a socket that could not be opened.
    pub(super) fn connect(address: &Arc<str>, error: &io::Error) -> Self {
        let address = Arc::clone(address);
        if is_exhaustion(error) {
            return Self::Exhausted { address, cause: describe(error) };
        }
        Self::Connect { address, cause: socket_cause(error) }
    }

    /// The error of a host name that does not resolve. The system's resolver does not tell when it
    /// cannot open a socket, so that is tried here.
    pub(super) fn unresolved(address: &Arc<str>) -> Self {
        if let Err(error) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            && is_exhaustion(&error)
        {
            return Self::connect(address, &error);
        }
        let cause = "the name does not resolve".to_owned();
        Self::Connect { address: Arc::clone(address), cause }
    }

    /// The error of a call.
    pub(super) fn call(address: &Arc<str>, error: &RedisError) -> Self {
        let address = Arc::clone(address);
        if let (Some("MOVED"), Some((to, _))) = (error.code(), error.redirect_node()) {
            return Self::Moved { address, to: to.to_owned() };
        }
        if is_read_only(error) {
            return Self::ReadOnly { address };
        }
        match outage(error) {
            Outage::Unreachable => Self::Closed { address },
            _ => Self::Refused { address, cause: refusal(error) },
        }
    }

    /// The error of a login. Servers quote what they were sent, so that only words are shown that are
    /// known to have no password in them.
    pub(super) fn login(address: &Arc<str>, error: &RedisError) -> Self {
        match Self::call(address, error) {
            Self::Refused { address, .. } => Self::Refused { address, cause: login_refusal(error) },
            other => other,
        }
    }

    /// The error of a query to a Sentinel.
    pub(super) fn sentinel(address: &Arc<str>, error: &RedisError) -> Self {
        match error.detail() {
            Some(detail) if is_unknown(detail, "sentinel") => {
                let cause = "it is no Sentinel; a Redis server has the URL `redis://`".to_owned();
                Self::Refused { address: Arc::clone(address), cause }
            }
            _ => Self::call(address, error),
        }
    }

    /// The error of a query about a cluster.
    pub(super) fn cluster(address: &Arc<str>, error: &RedisError) -> Self {
        match error.detail() {
            Some(detail) if detail.contains("cluster support disabled") => {
                let cause =
                    "it is not a node of a Redis Cluster; one server has the URL `redis://`"
                        .to_owned();
                Self::Refused { address: Arc::clone(address), cause }
            }
            _ => Self::call(address, error),
        }
    }

    /// Whether another server has the keys, so that it is worth to connect at once.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Moved { .. } | Self::Replaced { .. } | Self::ReadOnly { .. })
    }

    /// The outage that checks see.
    pub(super) fn outage(&self) -> Outage {
        match self {
            Self::Connect { .. }
            | Self::Closed { .. }
            | Self::Replaced { .. }
            | Self::Undiscovered { .. } => Outage::Unreachable,
            Self::ConnectTimeout { .. } | Self::Timeout { .. } => Outage::Deadline,
            Self::Starved { .. } | Self::Exhausted { .. } => Outage::Starved,
            Self::Password(error) if error.is_exhaustion() => Outage::Starved,
            Self::Refused { .. }
            | Self::ReadOnly { .. }
            | Self::Moved { .. }
            | Self::Malformed { .. }
            | Self::Password(_) => Outage::Refused,
        }
    }
}

/// Whether the server is a replica. Redis before 7 has the code of a script's error inside of its text.
pub(super) fn is_read_only(error: &RedisError) -> bool {
    let in_script = |detail: &str| {
        detail.starts_with("Error running script") && detail.contains(": -READONLY ")
    };
    error.code() == Some("READONLY")
        || error.code() == Some("ERR") && error.detail().is_some_and(in_script)
}

/// Returns the outage of an error: the connection failed, or the server answered.
pub(super) fn outage(error: &RedisError) -> Outage {
    if error.kind() == ErrorKind::Io { Outage::Unreachable } else { Outage::Refused }
}

/// The answer of a server to a login, in words.
///
/// INVARIANT: nothing of the answer is shown but a known code. A server without the command `AUTH`
/// answers with its arguments.
fn login_refusal(error: &RedisError) -> String {
    let detail = error.detail().unwrap_or_default().to_ascii_lowercase();
    let is_any = |words: &[&str]| words.iter().any(|words| detail.contains(words));
    match error.code() {
        Some("WRONGPASS" | "NOPERM" | "LOADING" | "MISCONF" | "CLUSTERDOWN") => refusal(error),
        Some("ERR") if is_unknown(&detail, "auth") => {
            "it has no command AUTH; remove `store.redis.password`, or permit the command"
                .to_owned()
        }
        Some("ERR") if is_any(&["without any password configured", "no password is set"]) => {
            "it has no password; remove `store.redis.password`".to_owned()
        }
        Some("ERR") if is_any(&["wrong number of arguments"]) => {
            "it has no users; remove `store.redis.username`".to_owned()
        }
        Some("ERR") if is_any(&["invalid password"]) => "the password is wrong".to_owned(),
        _ => "it refuses the login; see its own log".to_owned(),
    }
}

/// The answer of a server in words, with the code that Redis documents.
fn refusal(error: &RedisError) -> String {
    // That of a pipeline is in the first of its errors.
    let errors = error.clone().into_server_errors();
    let first = errors.as_deref().and_then(<[_]>::first).and_then(|(_, error)| error.details());
    let detail = error.detail().or(first).unwrap_or_default().trim_end_matches('.');
    // The arguments of a command are those of this process.
    let detail = detail.split(", with args beginning with").next().unwrap_or_default();
    match error.code() {
        Some(FORMAT_ERROR) => format!(
            "its data have format {detail}, which a newer version of tollgate wrote, and this version reads format {FORMAT}; run that version (docs/operations.md, Versions side by side)"
        ),
        Some("WRONGPASS") => "the username or the password is wrong (WRONGPASS)".to_owned(),
        Some("NOAUTH") => "it requires a password; set `store.redis.password` (NOAUTH)".to_owned(),
        Some("NOPERM") => format!("the ACL user lacks a permission: {detail} (NOPERM)"),
        Some("OOM") => "its memory is full; raise `maxmemory` (OOM)".to_owned(),
        Some("LOADING") => "it is loading its data (LOADING)".to_owned(),
        Some("MISCONF") => "it cannot write to its disk (MISCONF)".to_owned(),
        Some(code @ ("MOVED" | "CROSSSLOT")) => {
            format!("it is a node of a Redis Cluster; write `redis+cluster://` ({code})")
        }
        Some(code @ ("ASK" | "TRYAGAIN")) => {
            format!("the keys are being moved to another node; checks go on when all are there ({code})")
        }
        Some("CLUSTERDOWN") => {
            "the cluster has no node for the keys, or this node is separated from the others (CLUSTERDOWN)"
                .to_owned()
        }
        Some(_) if is_unknown(detail, "TIME") => {
            "it is no Redis server, perhaps a Sentinel; write `redis+sentinel://`".to_owned()
        }
        Some(code) if detail.is_empty() => format!("it answers {code}"),
        Some(code) => format!("{detail} ({code})"),
        None => match error.kind() {
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                "its answer is not one of Redis".to_owned()
            }
            _ => error.to_string(),
        },
    }
}

/// Whether an error text is that of a server that does not have a command.
fn is_unknown(detail: &str, command: &str) -> bool {
    let detail = detail.to_ascii_lowercase().replace('`', "'");
    detail.contains(&format!("unknown command '{}'", command.to_lowercase()))
}

fn socket_cause(error: &io::Error) -> String {
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => "the connection is refused; no server listens there",
        io::ErrorKind::NotFound => "the socket does not exist",
        io::ErrorKind::PermissionDenied => "permission denied",
        io::ErrorKind::TimedOut => "no answer",
        io::ErrorKind::HostUnreachable => "the host is unreachable",
        io::ErrorKind::NetworkUnreachable => "the network is unreachable",
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            "the server closed the connection"
        }
        // Errors of TLS, and rare ones.
        _ => return describe(error),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use ::redis::make_extension_error;
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn refusals_are_words_with_a_remedy() {
        let address = Arc::from("redis:6379");
        for (code, detail, expected) in [
            (
                FORMAT_ERROR,
                "2",
                "redis:6379 refuses: its data have format 2, which a newer version of tollgate wrote, and this version reads format 1; run that version (docs/operations.md, Versions side by side)",
            ),
            (
                "OOM",
                "command not allowed when used memory > 'maxmemory'.",
                "redis:6379 refuses: its memory is full; raise `maxmemory` (OOM)",
            ),
            ("BUSY", "Redis is busy.", "redis:6379 refuses: Redis is busy (BUSY)"),
            (
                "ERR",
                "Error running script (call to f_7): @user_script:9: @user_script: 9: -READONLY You can't write against a read only replica. ",
                "redis:6379 refuses: it is a read-only replica (READONLY)",
            ),
        ] {
            let error = make_extension_error(code.to_owned(), Some(detail.to_owned()));
            let error = ConnectionError::call(&address, &error);
            assert_eq!((error.to_string().as_str(), error.outage()), (expected, Outage::Refused));
        }
    }

    #[test]
    fn the_error_of_a_login_quotes_nothing_that_was_sent() {
        let address = Arc::from("redis:6379");
        for (code, detail, expected) in [
            (
                "ERR",
                "unknown command 'AUTH', with args beginning with: 'user' 'hunter2' ",
                "redis:6379 refuses: it has no command AUTH; remove `store.redis.password`, or permit the command",
            ),
            (
                "ERR",
                "unknown command `AUTH`, with args beginning with: `hunter2`, ",
                "redis:6379 refuses: it has no command AUTH; remove `store.redis.password`, or permit the command",
            ),
            (
                "ERR",
                "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                "redis:6379 refuses: it has no password; remove `store.redis.password`",
            ),
            (
                "ERR",
                "wrong number of arguments for 'auth' command",
                "redis:6379 refuses: it has no users; remove `store.redis.username`",
            ),
            (
                "WRONGPASS",
                "invalid username-password pair or user is disabled.",
                "redis:6379 refuses: the username or the password is wrong (WRONGPASS)",
            ),
            ("HUNTER2", "hunter2", "redis:6379 refuses: it refuses the login; see its own log"),
            ("ERR", "hunter2", "redis:6379 refuses: it refuses the login; see its own log"),
        ] {
            let error = make_extension_error(code.to_owned(), Some(detail.to_owned()));
            let error = ConnectionError::login(&address, &error).to_string();
            assert_eq!(error, expected, "{detail}");
            assert!(!error.to_lowercase().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn errors_of_sockets_are_words() {
        let address = Arc::from("redis:6379");
        let tls = |error: CertificateError| io::Error::other(rustls::Error::from(error));
        for (error, expected) in [
            (
                io::ErrorKind::ConnectionRefused.into(),
                "cannot connect to redis:6379: the connection is refused; no server listens there",
            ),
            (io::Error::from_raw_os_error(13), "cannot connect to redis:6379: permission denied"),
            (
                tls(CertificateError::UnknownIssuer),
                "cannot connect to redis:6379: the certificate is signed by an authority that is not trusted",
            ),
            (
                tls(CertificateError::Expired),
                "cannot connect to redis:6379: the certificate has expired",
            ),
        ] {
            let error = ConnectionError::connect(&address, &error);
            assert_eq!(
                (error.to_string().as_str(), error.outage()),
                (expected, Outage::Unreachable)
            );
        }
    }

    #[test]
    fn a_limit_of_this_process_is_no_outage_of_the_store() {
        let address = Arc::from("redis:6379");
        for code in [23, 24, 105, 12] {
            let error = io::Error::from_raw_os_error(code);
            let error = ConnectionError::connect(&address, &error);
            assert_eq!(error.outage(), Outage::Starved, "{error}");
        }
        for (code, expected) in [(24, Outage::Starved), (13, Outage::Refused)] {
            let error = Arc::new(io::Error::from_raw_os_error(code));
            let secret = SecretError::File(FileError::Unreadable { path: "/p".into(), error });
            let error = ConnectionError::Password(Arc::new(PasswordError::Secret(secret)));
            assert_eq!(error.outage(), expected);
        }
    }
}
