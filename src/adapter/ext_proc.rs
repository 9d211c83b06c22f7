//! Envoy's external processing: `envoy.service.ext_proc.v3.ExternalProcessor`.
//!
//! ```text
//! Process -> messages -> exchange -> Settler, answered by the store -> answer
//! ```
//!
//! The access log settles requests and is not acknowledged. Where Envoy sends the trailers of a
//! response here, the request is settled before its client sees the end of the response. Both settle
//! the same reservation: the second one changes nothing. Where Envoy sends the body here, in the mode
//! `FULL_DUPLEX_STREAMED`, a stream of events can be cut. Envoy opens a stream for each response.

mod events;
mod exchange;
mod watch;

use std::{collections::VecDeque, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use tokio::sync::Semaphore;
use tollgate_grpc_unary::Services;
use tonic::{Status, body::Body};

use self::exchange::{Exchange, Next};
use super::access_log::messages::{Messages, Part};
use crate::{
    engine::{
        check::Checker,
        settler::{ReportProblem, Settler},
    },
    proto::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse},
};

/// The path of the only method.
pub const PROCESS_PATH: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// The size of the largest message, in bytes. Metadata may have what a client asked for beside its
/// usage.
const MAX_MESSAGE: usize = 12 << 20;

/// The most responses at a time.
const MAX_STREAMS: usize = 16_384;

/// Adds the service to `services`.
#[must_use]
pub fn add(services: Services, settler: Arc<Settler>, checker: Arc<Checker>) -> Services {
    let streams = Arc::new(Semaphore::new(MAX_STREAMS));
    let charge = move || Arc::clone(&streams).try_acquire_owned().ok();
    let answer = move |body: Body| {
        let stream = Stream {
            body,
            messages: Messages::new(MAX_MESSAGE),
            exchange: Exchange::new(Arc::clone(&settler), Arc::clone(&checker)),
            answers: VecDeque::new(),
            state: State::Open,
        };
        let frames = stream::unfold(stream, |mut stream| async move {
            let frame = stream.next().await?;
            Some((Ok::<_, Status>(frame), stream))
        });
        Body::new(StreamBody::new(frames))
    };
    services.streaming(PROCESS_PATH, answer, charge)
}

/// One stream: the messages of Envoy, and the answers to them.
struct Stream {
    body: Body,
    messages: Messages,
    exchange: Exchange,
    /// Answers that are not sent yet.
    answers: VecDeque<ProcessingResponse>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The answers are sent, and then the trailers.
    Ending,
    Ended,
}

impl Stream {
    /// Returns the next frame of the response.
    async fn next(&mut self) -> Option<Frame<Bytes>> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Some(Frame::data(framed(&answer)));
            }
            match self.state {
                State::Open => self.receive().await,
                State::Ending => {
                    self.state = State::Ended;
                    let mut trailers = HeaderMap::with_capacity(1);
                    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                    return Some(Frame::trailers(trailers));
                }
                State::Ended => return None,
            }
        }
    }

    /// Receives some messages, and answers them. A stream that ends cleanly leaves a response as it is.
    async fn receive(&mut self) {
        while let Some(part) = self.messages.next() {
            let Part::Message(message) = part else {
                self.exchange.count_problem(ReportProblem::TooLarge);
                return self.state = State::Ending;
            };
            let Ok(request) = ProcessingRequest::decode(message) else {
                self.exchange.count_problem(ReportProblem::Malformed);
                return self.state = State::Ending;
            };
            if self.exchange.answer(request, &mut self.answers).await == Next::End {
                return self.state = State::Ending;
            }
        }
        if !self.answers.is_empty() {
            return;
        }
        let frame = tokio::select! {
            biased;
            frame = self.body.frame() => frame,
            next = self.exchange.wait(&mut self.answers) => {
                if next == Next::End {
                    self.state = State::Ending;
                }
                return;
            }
        };
        match frame {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.messages.push(&data);
                }
            }
            Some(Err(_)) | None => self.state = State::Ending,
        }
    }
}

/// Returns a message behind its prefix.
fn framed(answer: &ProcessingResponse) -> Bytes {
    let length = answer.encoded_len();
    let mut framed = BytesMut::with_capacity(length + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    framed.put(&*answer.encode_to_vec());
    framed.freeze()
}
