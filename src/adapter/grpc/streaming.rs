//! Bodies between h2 and the servers that tonic generates.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::Response;
use http_body::{Body as _, Frame};
use tonic::{Status, body::Body};

/// What a peer sends.
#[derive(Debug)]
pub(super) struct Received(RecvStream);

impl Received {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self(stream)
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match ready!(self.0.poll_data(cx)) {
            Some(data) => data.map(|data| {
                // The peer may send as much again. With a stream that has ended there is nobody to tell, and h2 gives the
                // connection its part when the stream is dropped.
                if !self.0.is_end_stream() {
                    let _ = self.0.flow_control().release_capacity(data.len());
                }
                Frame::data(data)
            }),
            None => match ready!(self.0.poll_trailers(cx)) {
                Ok(Some(trailers)) => Ok(Frame::trailers(trailers)),
                Ok(None) => return Poll::Ready(None),
                Err(error) => Err(error),
            },
        };
        Poll::Ready(Some(frame.map_err(broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// The peer broke off.
fn broken(error: h2::Error) -> Status {
    Status::from_error(error.into())
}

/// Sends an answer as the peer reads it, until it ends or the peer wants no more.
pub(super) async fn send(
    answer: Response<Body>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = answer.into_parts();
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
            // An answer of tonic's ends with trailers, so this one is incomplete: dropping the stream resets it.
            Some(Err(_)) | None => return Ok(()),
        }
    }
}

/// Sends as much at a time as the peer has room for.
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
