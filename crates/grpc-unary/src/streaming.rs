//! Responses of the servers that tonic generates, sent as the peer reads them.

use std::{future::poll_fn, pin::Pin, task::Poll};

use bytes::Bytes;
use h2::{SendStream, server::SendResponse};
use http::Response;
use http_body::Body as _;
use tonic::body::Body;

/// Sends a response until it ends or the peer resets the stream.
pub(crate) async fn send(
    response: Response<Body>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = response.into_parts();
    let mut stream = respond.send_response(Response::from_parts(head, ()), body.is_end_stream())?;
    if body.is_end_stream() {
        return Ok(());
    }
    loop {
        let frame = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Pending => stream.poll_reset(cx).map(|_| None),
            frame => frame,
        });
        match frame.await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => send_data(&mut stream, data).await?,
                Err(frame) => {
                    return stream.send_trailers(frame.into_trailers().unwrap_or_default());
                }
            },
            // tonic ends a response with trailers, so this one is incomplete. Dropping the stream
            // resets it.
            Some(Err(_)) | None => return Ok(()),
        }
    }
}

/// Sends data in parts as large as the flow control window.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(room) => stream.send_data(data.split_to(room?.min(data.len())), false)?,
            None => return Ok(()),
        }
    }
    Ok(())
}
