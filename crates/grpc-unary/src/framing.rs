//! The response of a unary call: a head, the message behind its prefix, the status in the trailers.

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use tonic::{Status, metadata::GRPC_CONTENT_TYPE};

/// A flag for "not compressed", and four bytes of length.
const PREFIX: [u8; 5] = [0; 5];

/// A message behind its length prefix, as it is sent.
#[derive(Clone, Debug)]
pub struct FramedMessage(Bytes);

impl FramedMessage {
    /// Returns a buffer with room for the prefix and a message of up to `bytes`. The caller appends
    /// the message.
    #[must_use]
    pub fn buffer(bytes: usize) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(PREFIX.len() + bytes);
        buffer.extend_from_slice(&PREFIX);
        buffer
    }

    /// Frames a message of less than 4 GiB that was appended to a [`buffer`](Self::buffer). The
    /// prefix is written in place and the message is not moved.
    #[must_use]
    pub fn new(mut buffer: Vec<u8>) -> Self {
        let length = buffer.len().saturating_sub(PREFIX.len());
        if let Some((prefix, _)) = buffer.split_first_chunk_mut() {
            let [.., a, b, c, d] = length.to_be_bytes();
            *prefix = [0, a, b, c, d];
        }
        Self(buffer.into())
    }

    /// The message without its prefix.
    #[must_use]
    pub fn message(&self) -> Bytes {
        self.0.slice(PREFIX.len().min(self.0.len())..)
    }
}

impl From<&[u8]> for FramedMessage {
    fn from(message: &[u8]) -> Self {
        let mut buffer = Self::buffer(message.len());
        buffer.extend_from_slice(message);
        Self::new(buffer)
    }
}

/// Sends a response. The head of a failed call is also its trailers, and it has no message.
pub(crate) fn send(
    response: Result<FramedMessage, Status>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let message = match response {
        Ok(FramedMessage(message)) => message,
        Err(status) => return respond.send_response(status.into_http::<()>(), true).map(drop),
    };
    let mut head = Response::new(());
    head.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(message, false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_follows_its_length() {
        for length in [0, 1, 300, 70_000] {
            let message: Vec<u8> = (0..length).map(|at: usize| at as u8).collect();
            let framed = FramedMessage::from(&message[..]);
            assert_eq!(framed.0[..5], [&[0][..], &(length as u32).to_be_bytes()].concat());
            assert_eq!(framed.message(), message);
        }
    }
}
