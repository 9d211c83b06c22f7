//! Forward proxies: which one a fetch uses, and the tunnel through it.
//!
//! The rules of `HTTPS_PROXY` and `NO_PROXY` are those of hyper-util, as of most clients in Rust.

use std::error::Error as StdError;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::{
    client::proxy::matcher::{Intercept, Matcher},
    rt::TokioIo,
};
use thiserror::Error;
use tokio::net::TcpStream;
use tollgate_core::secret::Secret;

use super::guard::Target;
use crate::error_text::describe;

/// Most bytes of the head of a proxy's answer.
const MAX_HEAD: usize = 64 * 1024;

/// The reason why a proxy cannot be used. No text contains its user or password.
#[derive(Debug, Error)]
pub(in crate::credential) enum ProxyError {
    /// The text is not the address of a proxy.
    #[error("`proxy` is not an address such as `http://proxy.example:3128`")]
    NotAnAddress,
    /// The address has a scheme other than http.
    #[error("the proxy `{0}` is not an http:// address, and no other kind is supported")]
    Scheme(String),
    /// The connection to the proxy broke, or its answer is not HTTP.
    #[error("no whole answer from the proxy `{0}`: {1}")]
    Exchange(String, String),
    /// The proxy refused the tunnel.
    #[error("the proxy `{proxy}` answered {status} to CONNECT `{to}`{hint}")]
    Refused {
        /// The address of the proxy.
        proxy: String,
        /// The status of its answer.
        status: StatusCode,
        /// The host and port that the tunnel is for.
        to: String,
        /// The remedy, where the status has one.
        hint: &'static str,
    },
}

/// A forward proxy over plain http.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    authorization: Option<HeaderValue>,
}

/// The proxy of the environment, as the variables name it.
#[derive(Debug)]
pub(super) struct Environment(Matcher);

impl Environment {
    /// Reads `HTTPS_PROXY` and `NO_PROXY`, or their names in lower case.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let one = |upper: &str, lower: &str| variable(upper).or_else(|| variable(lower));
        let https = one("HTTPS_PROXY", "https_proxy").unwrap_or_default();
        let no = one("NO_PROXY", "no_proxy").unwrap_or_default();
        Self(Matcher::builder().https(https).no(no).build())
    }

    /// Returns the proxy for a target.
    ///
    /// # Errors
    /// [`ProxyError::Scheme`].
    pub(super) fn proxy(&self, target: &Target) -> Result<Option<Proxy>, ProxyError> {
        target.to_string().parse().ok().and_then(|uri| self.0.intercept(&uri)).map(of).transpose()
    }
}

impl Proxy {
    /// Reads the address of a proxy.
    ///
    /// # Errors
    /// [`ProxyError::NotAnAddress`], [`ProxyError::Scheme`].
    pub(super) fn parse(text: &Secret) -> Result<Self, ProxyError> {
        let text = std::str::from_utf8(text.expose()).map_err(|_| ProxyError::NotAnAddress)?;
        let matcher = Matcher::builder().all(text.trim().to_owned()).build();
        let any = Uri::from_static("https://any.example");
        matcher.intercept(&any).ok_or(ProxyError::NotAnAddress).and_then(of)
    }

    /// Returns the host and the port, as `host:port`.
    pub(super) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// The value of `Proxy-Authorization`, where the proxy needs one.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Opens a tunnel to a target through a connection to the proxy (RFC 9110 section 9.3.6).
    ///
    /// # Errors
    /// [`ProxyError::Exchange`], [`ProxyError::Refused`].
    pub(super) async fn tunnel(
        &self,
        stream: TcpStream,
        target: &Target,
    ) -> Result<TokioIo<hyper::upgrade::Upgraded>, ProxyError> {
        let broken = |error: &(dyn StdError + 'static)| {
            ProxyError::Exchange(self.authority(), describe(error))
        };
        let to = authority(&target.host, target.port);
        let mut request =
            Request::builder().method(Method::CONNECT).uri(&to).header(header::HOST, &to);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::PROXY_AUTHORIZATION, authorization.clone());
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| broken(&error))?;
        let opening =
            http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = opening.map_err(|error| broken(&error))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = answer.status();
            if !status.is_success() {
                let hint = match status {
                    StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                        "; it needs a user and a password, `http://user:password@host:port`"
                    }
                    _ => "",
                };
                return Err(ProxyError::Refused { proxy: self.authority(), status, to, hint });
            }
            hyper::upgrade::on(answer).await.map(TokioIo::new).map_err(|error| broken(&error))
        };
        // The connection moves the bytes until it becomes the tunnel.
        let driven = async {
            let _ended = connection.with_upgrades().await;
            std::future::pending().await
        };
        tokio::select! {
            answer = answer => answer,
            never = driven => match never {},
        }
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy({})", self.authority())
    }
}

fn of(found: Intercept) -> Result<Proxy, ProxyError> {
    let uri = found.uri();
    let host = uri.host().ok_or(ProxyError::NotAnAddress)?;
    if uri.scheme_str() != Some("http") {
        return Err(ProxyError::Scheme(host.to_owned()));
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let mut authorization = found.basic_auth().cloned();
    if let Some(authorization) = &mut authorization {
        authorization.set_sensitive(true);
    }
    Ok(Proxy { host: bare.to_owned(), port: uri.port_u16().unwrap_or(80), authorization })
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(https: &str, no: &str, target: &str) -> Option<String> {
        let environment = Environment::read(|name| match name {
            "https_proxy" => Some(https.to_owned()),
            "NO_PROXY" => Some(no.to_owned()),
            _ => None,
        });
        let proxy = environment.proxy(&Target::parse(target).unwrap()).unwrap();
        proxy.map(|proxy| proxy.authority())
    }

    #[test]
    fn the_environment_names_a_proxy_for_https_and_the_hosts_without() {
        let (proxy, no) = ("http://proxy.example:3128", "corp.example,10.0.0.0/8,.svc");
        for (target, expected) in [
            ("https://idp.example/keys", Some("proxy.example:3128")),
            ("https://idp.corp.example/keys", None),
            ("https://corp.example/keys", None),
            ("https://notcorp.example/keys", Some("proxy.example:3128")),
            ("https://10.1.2.3/keys", None),
            ("https://11.1.2.3/keys", Some("proxy.example:3128")),
            ("https://kubernetes.default.svc/openid/v1/jwks", None),
            ("http://idp.example/keys", None),
        ] {
            assert_eq!(chosen(proxy, no, target).as_deref(), expected, "{target}");
        }
        assert_eq!(chosen("", "", "https://idp.example/"), None);
        assert_eq!(chosen(proxy, "*", "https://idp.example/"), None);
        assert_eq!(
            chosen("proxy.example", "", "https://idp.example/").as_deref(),
            Some("proxy.example:80"),
            "without a scheme and a port"
        );
    }

    #[test]
    fn a_proxy_has_an_address_and_its_password_does_not_print() {
        let parse = |text: &str| Proxy::parse(&Secret::new(text));
        let proxy = parse("http://bob:hunter2@proxy.example:3128\n").unwrap();
        assert_eq!(format!("{proxy:?}"), "Proxy(proxy.example:3128)");
        let authorization = proxy.authorization().unwrap();
        // printf bob:hunter2 | base64
        assert_eq!(authorization, "Basic Ym9iOmh1bnRlcjI=");
        assert!(authorization.is_sensitive());
        assert_eq!(parse("http://[::1]:3128").unwrap().authority(), "[::1]:3128");
        for text in ["", "http://", "::::", "https://bob:hunter2@proxy.example", "socks5://a:1"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }
}
