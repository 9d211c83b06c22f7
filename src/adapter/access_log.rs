//! Envoy's access log over gRPC: `envoy.service.accesslog.v3.AccessLogService`.
//!
//! ```text
//! StreamAccessLogs -> messages -> entries -> report -> Settler -> the store
//! ```
//!
//! `ending` reads how a request ended, `usage` what it used, and `report` decides the settlement of
//! its reservation. The stream is read as fast as it arrives and never waits for the store: Envoy
//! would keep what is not read in its memory, without a bound.

pub(super) mod ending;
pub(super) mod messages;
pub(super) mod report;
pub(super) mod usage;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tollgate_grpc_unary::Services;
use tonic::{Status, body::Body};

use self::{
    messages::{Messages, Part},
    report::Refused,
};
use crate::{
    engine::settler::{ReportProblem, Settler},
    proto::envoy::{
        data::accesslog::v3::HttpAccessLogEntry, service::accesslog::v3::StreamAccessLogsMessage,
    },
};

/// The path of the only method.
pub const STREAM_PATH: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// The size of the largest message, in bytes. With the shipped configuration each has one entry, of
/// some KiB. A client may ask `SGLang` for log probabilities, which are beside its usage in an object
/// of up to 10 MiB: a report that is not read would free what its request holds while it runs.
const MAX_MESSAGE: usize = 12 << 20;

/// The most streams. Each worker thread of a proxy opens one.
const MAX_STREAMS: usize = 256;

/// Adds the service to `services`. Its streams end when `stop` is cancelled and what has arrived is
/// read.
#[must_use]
pub fn add(services: Services, settler: Arc<Settler>, stop: CancellationToken) -> Services {
    let streams = Arc::new(Semaphore::new(MAX_STREAMS));
    let charge = move || Arc::clone(&streams).try_acquire_owned().ok();
    // The answer ends with the stream, because its body reads the stream.
    let answer = move |stream: Body| {
        Body::new(Answer::Reading(Box::pin(read(stream, Arc::clone(&settler), stop.clone()))))
    };
    services.streaming(STREAM_PATH, answer, charge)
}

/// The body of the answer: it reads the stream to its end, and is an empty message and a status.
enum Answer {
    Reading(BoxFuture<'static, Result<(), Status>>),
    Trailers(HeaderMap),
    Sent,
}

/// An empty message behind its prefix.
const EMPTY_MESSAGE: Bytes = Bytes::from_static(&[0; 5]);

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Reading(reading) => {
                let mut trailers = HeaderMap::with_capacity(2);
                let frame = match ready!(reading.as_mut().poll(cx)) {
                    Ok(()) => {
                        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                        let frame = Frame::data(EMPTY_MESSAGE);
                        *self = Self::Trailers(trailers);
                        frame
                    }
                    Err(status) => {
                        status.add_header(&mut trailers)?;
                        *self = Self::Sent;
                        Frame::trailers(trailers)
                    }
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Self::Trailers(trailers) => {
                let trailers = std::mem::take(trailers);
                *self = Self::Sent;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Self::Sent => Poll::Ready(None),
        }
    }
}

/// Reads a stream until the peer ends it, or until `stop` and nothing more has arrived.
async fn read(
    mut body: Body,
    settler: Arc<Settler>,
    stop: CancellationToken,
) -> Result<(), Status> {
    let mut messages = Messages::new(MAX_MESSAGE);
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = stop.cancelled() => return Ok(()),
        };
        let Some(frame) = frame else { return Ok(()) };
        let Ok(data) = frame?.into_data() else { continue };
        messages.push(&data);
        while let Some(part) = messages.next() {
            match part {
                Part::Message(message) => take_message(&message, &settler),
                Part::Skipped => settler.count_problem(ReportProblem::TooLarge),
            }
        }
    }
}

/// Settles the requests of one message.
fn take_message(message: &[u8], settler: &Settler) {
    match StreamAccessLogsMessage::decode(message) {
        Ok(message) => {
            let entries = message.http_logs.into_iter().flat_map(|logs| logs.log_entry);
            entries.for_each(|entry| take_entry(&entry, settler));
        }
        Err(_) => settler.count_problem(ReportProblem::Malformed),
    }
}

fn take_entry(entry: &HttpAccessLogEntry, settler: &Settler) {
    let Some(keys) = settler.keys() else {
        return settler.count_problem(ReportProblem::NoSecret);
    };
    match report::read(entry, &keys, |history| settler.histories().learnt(history)) {
        Ok(report) => report.submit(settler),
        Err(Refused::NoReservation) => settler.count_problem(ReportProblem::NoReservation),
        Err(Refused::OtherEvent) => settler.count_problem(ReportProblem::OtherEvent),
        Err(Refused::Reservation(_)) => settler.count_problem(ReportProblem::Forged),
    }
}

/// Reads one message as the service does, and returns the number of its entries that are reports.
/// For a fuzzer.
#[doc(hidden)]
pub fn read_message(
    message: &[u8],
    keys: &tollgate_core::limit::reservation::ReservationKeys,
) -> usize {
    let Ok(message) = StreamAccessLogsMessage::decode(message) else { return 0 };
    let entries = message.http_logs.into_iter().flat_map(|logs| logs.log_entry);
    entries.filter(|entry| report::read(entry, keys, |_| None).is_ok()).count()
}

#[cfg(test)]
mod tests;
