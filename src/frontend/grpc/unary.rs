//! The answer to a call with one message: a head, the message behind its prefix, and the status in the trailers.

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use tonic::{Status, metadata::GRPC_CONTENT_TYPE};

/// A flag that says the message is not compressed, and four bytes of length.
const PREFIX: usize = 5;

/// Sends an answer. A failed call has no message, and its head is also its trailers.
pub(super) fn send(answer: Result<Bytes, Status>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let message = match answer {
        Ok(message) => message,
        Err(status) => return respond.send_response(status.into_http::<()>(), true).map(drop),
    };
    let mut head = Response::new(());
    head.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(framed(message), false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

fn framed(message: Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    // An answer has a few KiB.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}
