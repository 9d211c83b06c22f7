//! The messages about one response, and their answers.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::watch::{Watch, mark_of_cut};
use crate::{
    adapter::access_log::report::{self, Refused},
    engine::{
        check::Checker,
        settler::{ReportProblem, Settler},
    },
    proto::envoy::{
        config::core::v3::{HeaderMap, Metadata},
        service::ext_proc::v3::{
            BodyMutation, BodyResponse, CommonResponse, HeadersResponse, HttpBody,
            ProcessingRequest, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
            body_mutation::Mutation, processing_request::Request, processing_response::Response,
        },
    },
};

/// What is known of one response.
pub(super) struct Exchange {
    settler: Arc<Settler>,
    checker: Arc<Checker>,
    /// Whether the response is forwarded piece by piece: its head was sent here.
    is_streamed: bool,
    watch: Option<Watch>,
}

/// What follows a message and its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next message.
    Message,
    /// The end of the stream: the response has ended, or is left as it is.
    End,
}

impl Exchange {
    /// Begins with nothing known.
    pub(super) fn new(settler: Arc<Settler>, checker: Arc<Checker>) -> Self {
        Self { settler, checker, is_streamed: false, watch: None }
    }

    pub(super) fn count_problem(&self, problem: ReportProblem) {
        self.settler.count_problem(problem);
    }

    /// Adds the answers to a message.
    pub(super) async fn answer(
        &mut self,
        request: ProcessingRequest,
        answers: &mut VecDeque<ProcessingResponse>,
    ) -> Next {
        let ProcessingRequest { request, metadata_context } = request;
        let Some(request) = request else { return Next::End };
        let response = match request {
            Request::RequestHeaders(_) => Response::RequestHeaders(HeadersResponse::default()),
            Request::RequestBody(_) => Response::RequestBody(BodyResponse::default()),
            Request::RequestTrailers(_) => Response::RequestTrailers(TrailersResponse::default()),
            Request::ResponseHeaders(head) => {
                self.is_streamed = true;
                if let Some(metadata) = &metadata_context {
                    self.begin(metadata, head.headers.as_ref());
                }
                Response::ResponseHeaders(HeadersResponse::default())
            }
            Request::ResponseBody(body) if self.is_streamed => {
                return self.forward(body, metadata_context.as_ref(), answers).await;
            }
            Request::ResponseBody(_) => Response::ResponseBody(BodyResponse::default()),
            Request::ResponseTrailers(_) => {
                let rest = self.watch.take().map(|mut watch| watch.rest()).unwrap_or_default();
                if !rest.is_empty() {
                    answers.push_back(piece(rest, false));
                }
                if let Some(metadata) = &metadata_context {
                    self.settle(metadata).await;
                }
                Response::ResponseTrailers(TrailersResponse::default())
            }
        };
        answers.push_back(of(response));
        Next::Message
    }

    /// Waits for what ends without a message: the credential of the stream, and the time for which a
    /// part of an event is held.
    pub(super) async fn wait(&mut self, answers: &mut VecDeque<ProcessingResponse>) -> Next {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        match watch.wait().await {
            Some(reason) => {
                answers.push_back(last(watch.last_event(reason).into()));
                Next::End
            }
            None => {
                answers.push_back(piece(watch.release(), false));
                Next::Message
            }
        }
    }

    /// Reads the head of a response.
    fn begin(&mut self, metadata: &Metadata, headers: Option<&HeaderMap>) {
        let header = |name: &str| {
            let list = headers.into_iter().flat_map(|headers| &headers.headers);
            let found = list.into_iter().find(|header| header.key.eq_ignore_ascii_case(name))?;
            let raw = &found.raw_value;
            Some(if raw.is_empty() { found.value.as_bytes() } else { raw.as_slice() })
        };
        let kind = header("content-type").unwrap_or_default();
        let is_encoded = header("content-encoding").is_some_and(|coding| coding != b"identity");
        let keys = self.settler.keys();
        self.watch = Watch::start(&self.checker, metadata, keys.as_deref(), kind, is_encoded);
    }

    /// Forwards a piece of the body, up to the end of an event where the stream may be cut. The last
    /// one is forwarded when the request is settled.
    async fn forward(
        &mut self,
        body: HttpBody,
        metadata: Option<&Metadata>,
        answers: &mut VecDeque<ProcessingResponse>,
    ) -> Next {
        let HttpBody { body, end_of_stream } = body;
        if let Some(metadata) = metadata.filter(|_| end_of_stream) {
            self.settle(metadata).await;
        }
        if end_of_stream {
            // Nothing cuts a response that has arrived as a whole, and nothing may follow its last piece.
            let held = self.watch.take().map(|mut watch| watch.rest()).unwrap_or_default();
            answers.push_back(piece(joined(held, body.into()), true));
            return Next::Message;
        }
        let Some(watch) = &mut self.watch else {
            answers.push_back(piece(body.into(), false));
            return Next::Message;
        };
        let (whole, reason) = watch.read(&body);
        if let Some(reason) = reason {
            answers.push_back(last(joined(whole, watch.last_event(reason).into())));
            return Next::End;
        }
        if !whole.is_empty() {
            answers.push_back(piece(whole, false));
        }
        Next::Message
    }

    /// Settles a response that has arrived as a whole, where its usage is known. Everything else is
    /// left to its entry in the access log, which knows more; so is what the store does not answer,
    /// and what is odd about a report.
    async fn settle(&self, metadata: &Metadata) {
        let Some(keys) = self.settler.keys() else {
            return self.count_problem(ReportProblem::NoSecret);
        };
        match report::complete(metadata, &keys) {
            Ok(Some(settlement)) => drop(self.settler.settle(vec![settlement]).await),
            Ok(None) | Err(Refused::NoReservation | Refused::OtherEvent) => {}
            Err(Refused::Reservation(_)) => self.count_problem(ReportProblem::Forged),
        }
    }
}

fn joined(first: Bytes, second: Bytes) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut both = BytesMut::from(first);
    both.extend_from_slice(&second);
    both.freeze()
}

const fn of(response: Response) -> ProcessingResponse {
    ProcessingResponse { response: Some(response), dynamic_metadata: None }
}

/// A piece of the body that Envoy forwards.
fn piece(body: Bytes, end_of_stream: bool) -> ProcessingResponse {
    let streamed = StreamedBodyResponse { body: body.into(), end_of_stream };
    let mutation = BodyMutation { mutation: Some(Mutation::StreamedResponse(streamed)) };
    let response = CommonResponse { body_mutation: Some(mutation) };
    of(Response::ResponseBody(BodyResponse { response: Some(response) }))
}

/// The last piece of a body that is cut.
fn last(body: Bytes) -> ProcessingResponse {
    ProcessingResponse { dynamic_metadata: Some(mark_of_cut()), ..piece(body, true) }
}
