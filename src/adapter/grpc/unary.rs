//! The answer to a call with one message: a head, the message behind its prefix, and the status in the trailers.

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use tonic::{Status, metadata::GRPC_CONTENT_TYPE};

/// A flag that says the message is not compressed, and four bytes of length.
const PREFIX: [u8; 5] = [0; 5];

/// A message behind its prefix, as it is sent.
#[derive(Clone, Debug)]
pub struct Framed(Bytes);

impl Framed {
    /// A buffer with room for the prefix and a message of up to `bytes`, which is to be appended.
    #[must_use]
    pub fn buffer(bytes: usize) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(PREFIX.len() + bytes);
        buffer.extend_from_slice(&PREFIX);
        buffer
    }

    /// What was appended to such a buffer, less than 4 GiB of it.
    #[must_use]
    pub fn new(mut buffer: Vec<u8>) -> Self {
        let length = buffer.len().saturating_sub(PREFIX.len());
        if let Some((prefix, _)) = buffer.split_first_chunk_mut() {
            let [.., a, b, c, d] = length.to_be_bytes();
            *prefix = [0, a, b, c, d];
        }
        Self(buffer.into())
    }

    /// The message alone.
    #[must_use]
    pub fn message(&self) -> Bytes {
        self.0.slice(PREFIX.len().min(self.0.len())..)
    }
}

impl From<&[u8]> for Framed {
    fn from(message: &[u8]) -> Self {
        let mut buffer = Self::buffer(message.len());
        buffer.extend_from_slice(message);
        Self::new(buffer)
    }
}

/// Sends an answer. A failed call has no message, and its head is also its trailers.
pub(super) fn send(
    answer: Result<Framed, Status>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let message = match answer {
        Ok(Framed(message)) => message,
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
    fn a_message_stands_behind_its_length() {
        for length in [0, 1, 300, 70_000] {
            let message: Vec<u8> = (0..length).map(|at: usize| at as u8).collect();
            let framed = Framed::from(&message[..]);
            assert_eq!(framed.0[..5], [&[0][..], &(length as u32).to_be_bytes()].concat());
            assert_eq!(framed.message(), message);
        }
    }
}
