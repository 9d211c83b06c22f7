//! Splits the data of a gRPC stream into messages, of bounded size.

use bytes::{Buf as _, Bytes, BytesMut};

/// The flag and the length in front of each message.
const PREFIX: usize = 5;

/// A part of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A message as it was sent.
    Message(Bytes),
    /// A message that is not kept: it is too long, or compressed. Its bytes are skipped.
    Skipped,
}

/// The data of a stream that is not read yet.
#[derive(Debug)]
pub(crate) struct Messages {
    data: BytesMut,
    /// Bytes of a skipped message that have not arrived.
    skip: usize,
    most: usize,
}

impl Messages {
    /// Returns an empty stream, whose messages have at most `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { data: BytesMut::new(), skip: 0, most }
    }

    /// Adds data that arrived.
    pub(crate) fn push(&mut self, data: &[u8]) {
        let skipped = self.skip.min(data.len());
        self.skip -= skipped;
        self.data.extend_from_slice(data.get(skipped..).unwrap_or_default());
    }

    /// Removes the next message that has arrived as a whole.
    pub(crate) fn next(&mut self) -> Option<Part> {
        let (&[flag, a, b, c, d], rest) = self.data.split_first_chunk::<PREFIX>()?;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if flag != 0 || length > self.most {
            let arrived = length.min(rest.len());
            self.data.advance(PREFIX + arrived);
            self.skip = length - arrived;
            return Some(Part::Skipped);
        }
        if rest.len() < length {
            return None;
        }
        self.data.advance(PREFIX);
        Some(Part::Message(self.data.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flag][..], &length, message].concat()
    }

    #[test]
    fn messages_are_split_wherever_the_data_is() {
        let data = [framed(0, b"one"), framed(0, b""), framed(0, b"three")].concat();
        for size in 1..data.len() {
            let mut messages = Messages::new(5);
            let mut found = Vec::new();
            for piece in data.chunks(size) {
                messages.push(piece);
                found.extend(std::iter::from_fn(|| messages.next()));
            }
            let expected = [&b"one"[..], b"", b"three"].map(|text| Part::Message(text.into()));
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_or_compressed_is_skipped_and_not_kept() {
        let data = [framed(0, b"longer"), framed(1, b"zip"), framed(0, b"three")].concat();
        for size in 1..data.len() {
            let mut messages = Messages::new(5);
            let mut found = Vec::new();
            for piece in data.chunks(size) {
                messages.push(piece);
                found.extend(std::iter::from_fn(|| messages.next()));
                assert!(messages.data.len() < PREFIX + 5 + size);
            }
            let expected = [Part::Skipped, Part::Skipped, Part::Message("three".into())];
            assert_eq!(found, expected, "{size}");
        }
    }
}
