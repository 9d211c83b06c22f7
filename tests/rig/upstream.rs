//! A server in the place of the inference server: it answers every request and records it.

use std::sync::{Arc, Mutex, mpsc};

use super::http::{Answer, Reply, Request, Server};

/// The events of a streamed answer.
pub(crate) const EVENTS: usize = 4;

/// An upstream that records its requests.
pub(crate) struct Upstream {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        Self::answering(|request| {
            if String::from_utf8_lossy(&request.body).contains("\"stream\":true") {
                let (events, stream) = mpsc::channel();
                for event in (0..EVENTS).map(|n| n.to_string()).chain(["[DONE]".to_owned()]) {
                    events.send(event).unwrap();
                }
                return Answer::Events(stream);
            }
            Answer::Whole(
                Reply::new(200, r#"{"ok":true}"#).header("content-type", "application/json"),
            )
        })
    }

    /// Starts one in front of a real server: it records the requests and forwards them.
    pub(crate) fn before(port: u16) -> Self {
        Self::answering(move |request| {
            let framing = ["content-length", "transfer-encoding", "connection"];
            let request =
                framing.iter().fold(request.clone(), |request, name| request.without(name));
            let mut reply = request.send(port);
            reply
                .headers
                .retain(|(name, _)| !framing.contains(&name.to_ascii_lowercase().as_str()));
            Answer::Whole(reply)
        })
    }

    /// Starts one with answers of its own.
    pub(crate) fn answering(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let server = Server::start(move |request| {
            record.lock().unwrap().push(request.clone());
            answer(&request)
        });
        Self { port: server.port, seen }
    }

    /// The requests that arrived since the last call.
    pub(crate) fn taken(&self) -> Vec<Request> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// The one request that arrived since the last call.
    pub(crate) fn only(&self) -> Request {
        let mut taken = self.taken();
        assert_eq!(taken.len(), 1, "{taken:?}");
        taken.remove(0)
    }
}
