//! A key server with scripted answers, down to the bytes.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

/// The answer to one request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// 200 with a key set of these names.
    Keys(&'static [&'static str]),
    /// 200 with this body.
    Body(String),
    /// This status, these header lines, this body.
    Whole(u16, Vec<(&'static str, String)>, String),
    /// 304 if the request has this ETag, else 200 with the keys and the ETag.
    Tagged(&'static str, &'static [&'static str]),
    /// These bytes, and the end of the connection.
    Raw(Vec<u8>),
    /// No answer at all.
    Hang,
    /// A head, and then single bytes.
    Trickle,
    /// A body without length and end.
    Endless,
    /// The end of the connection.
    Close,
}

/// Returns a redirect to a location.
pub(crate) fn redirect(location: impl Into<String>) -> Answer {
    Answer::Whole(302, vec![("location", location.into())], String::new())
}

/// Returns a JWK of this name.
pub(crate) fn jwk(kid: &str) -> String {
    // RFC 8037 appendix A.2.
    format!(
        r#"{{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"{kid}"}}"#
    )
}

/// Returns a key set of these names.
pub(crate) fn key_set(kids: &[&str]) -> String {
    let keys: Vec<String> = kids.iter().map(|kid| jwk(kid)).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

#[derive(Debug, Default)]
struct Shared {
    /// The answers of each path; the last one repeats.
    scripts: Mutex<HashMap<String, Vec<Answer>>>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
}

/// A request that was received.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The path and the query.
    pub(crate) path: String,
    /// The whole head.
    pub(crate) head: String,
}

/// A running server. Dropping it closes the port; open connections end with the test.
#[derive(Debug)]
pub(crate) struct KeyServer {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeyServer {
    /// Starts a server over plain http.
    pub(crate) async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0)).await
    }

    /// As [`Self::start`], at this address.
    pub(crate) async fn start_at(address: impl Into<SocketAddr>) -> Self {
        Self::serve(TcpListener::bind(address.into()).await.unwrap(), None)
    }

    /// Starts a server over TLS.
    pub(crate) async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::serve(TcpListener::bind(("127.0.0.1", 0)).await.unwrap(), Some(acceptor))
    }

    fn serve(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let for_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (shared, tls) = (Arc::clone(&for_task), tls.clone());
                tokio::spawn(async move {
                    let open = Open::new(&shared);
                    // Clients break connections in these tests, so errors do not matter here.
                    match tls {
                        None => drop(open.answer(stream).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(open.answer(stream).await);
                            }
                        }
                    }
                });
            }
        })
        .abort_handle();
        Self { address, scheme, shared, task }
    }

    /// Sets the answers of `path`, in order; the last one repeats.
    pub(crate) fn script(&self, path: &str, answers: impl Into<Vec<Answer>>) {
        let mut answers: Vec<Answer> = answers.into();
        answers.reverse();
        self.shared.scripts.lock().unwrap().insert(path.to_owned(), answers);
    }

    /// Sets the only answer of `/keys`.
    pub(crate) fn answer(&self, answer: Answer) {
        self.script("/keys", [answer]);
    }

    /// The address of `/keys`.
    pub(crate) fn url(&self) -> String {
        self.at("/keys")
    }

    /// The address of a path.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The number of requests so far, of any path.
    pub(crate) fn hits(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// The number of open connections.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

/// Counts one open connection.
struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }

    async fn answer(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let shown_etag =
            head.lines().find_map(|line| line.strip_prefix("if-none-match: ")).map(str::to_owned);
        self.0.requests.lock().unwrap().push(Request { path: path.clone(), head });
        match self.next(path.split('?').next().unwrap()) {
            Answer::Keys(kids) => whole(&mut stream, 200, &[], &key_set(kids)).await?,
            Answer::Body(body) => whole(&mut stream, 200, &[], &body).await?,
            Answer::Whole(status, headers, body) => {
                whole(&mut stream, status, &headers, &body).await?
            }
            Answer::Tagged(etag, _) if shown_etag.as_deref() == Some(etag) => {
                whole(&mut stream, 304, &[], "").await?
            }
            Answer::Tagged(etag, kids) => {
                whole(&mut stream, 200, &[("etag", etag.to_owned())], &key_set(kids)).await?
            }
            Answer::Raw(bytes) => stream.write_all(&bytes).await?,
            Answer::Hang => gone(&mut stream).await,
            Answer::Trickle => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?;
                let mut pace = tokio::time::interval(Duration::from_millis(20));
                loop {
                    pace.tick().await;
                    stream.write_all(b" ").await?;
                    stream.flush().await?;
                }
            }
            Answer::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                loop {
                    stream.write_all(&[b' '; 16 * 1024]).await?;
                }
            }
            Answer::Close => {}
        }
        stream.shutdown().await
    }

    fn next(&self, path: &str) -> Answer {
        let mut scripts = self.0.scripts.lock().unwrap();
        match scripts.get_mut(path) {
            None => Answer::Whole(404, Vec::new(), "no such page".into()),
            Some(answers) if answers.len() > 1 => answers.pop().unwrap(),
            Some(answers) => answers.first().unwrap().clone(),
        }
    }
}

/// Waits until the client closes the connection.
async fn gone(stream: &mut (impl AsyncRead + Unpin)) {
    let mut nothing = [0; 64];
    while matches!(stream.read(&mut nothing).await, Ok(1..)) {}
}

async fn whole(
    stream: &mut (impl AsyncWrite + Unpin),
    status: u16,
    headers: &[(&'static str, String)],
    body: &str,
) -> std::io::Result<()> {
    let mut answer = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str("\r\n");
    answer.push_str(body);
    stream.write_all(answer.as_bytes()).await
}
