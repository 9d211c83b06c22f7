//! Writes a message once, front to back.

use super::{FIXED64, LENGTH_DELIMITED};

/// Appends the fields of a message to a buffer. Messages nest: each is written into the same
/// buffer, and its length is put in front of it afterwards, so that nothing is measured first.
///
/// Field numbers are below 16.
///
/// ```
/// use tollgate_grpc_unary::wire::MessageWriter;
///
/// let mut writer = MessageWriter::default();
/// writer.message(1, |status| status.number(1, 7));
/// writer.bytes(2, b"denied");
/// assert_eq!(writer.finish(), b"\x0a\x02\x08\x07\x12\x06denied");
/// ```
#[derive(Debug, Default)]
pub struct MessageWriter(Vec<u8>);

impl MessageWriter {
    /// Appends to `buffer`.
    #[must_use]
    pub fn new(buffer: Vec<u8>) -> Self {
        Self(buffer)
    }

    /// Returns the buffer.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// Writes a string or bytes.
    #[inline]
    pub fn bytes(&mut self, field: u8, bytes: &[u8]) {
        self.bytes_with(field, |buffer| buffer.extend_from_slice(bytes));
    }

    /// Writes a string or bytes that `write` appends.
    #[inline]
    pub fn bytes_with(&mut self, field: u8, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.open(field);
        write(&mut self.0);
        self.close(start);
    }

    /// Writes a number below 16384.
    #[inline]
    pub fn number(&mut self, field: u8, number: u16) {
        match number.to_le_bytes() {
            [low @ 0..=0x7f, 0] => self.0.extend_from_slice(&[field << 3, low]),
            [low, _] => {
                self.0.extend_from_slice(&[field << 3, low | 0x80, (number >> 7).to_le_bytes()[0]])
            }
        }
    }

    /// Writes a number in floating point.
    pub fn double(&mut self, field: u8, number: f64) {
        self.0.push(field << 3 | FIXED64);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Writes a message whose fields `write` writes.
    #[inline]
    pub fn message(&mut self, field: u8, write: impl FnOnce(&mut Self)) {
        let start = self.open(field);
        write(self);
        self.close(start);
    }

    /// As [`message`](Self::message), for contents of 128 bytes to 16 KiB: room is left for a length
    /// of two bytes, so that contents of such a size are not moved.
    #[inline]
    pub fn long_message(&mut self, field: u8, write: impl FnOnce(&mut Self)) {
        let start = self.open(field);
        self.0.push(0);
        write(self);
        match (self.0.len() - start - 1, self.0.get_mut(start - 1..=start)) {
            (length @ 0x80..0x4000, Some([low, high])) => {
                *low = length.to_le_bytes()[0] | 0x80;
                *high = (length >> 7).to_le_bytes()[0];
            }
            _ => {
                self.0.remove(start);
                self.close(start);
            }
        }
    }

    /// Writes a tag and one byte for the length, and returns where the contents start.
    #[inline]
    fn open(&mut self, field: u8) -> usize {
        self.0.extend_from_slice(&[field << 3 | LENGTH_DELIMITED, 0]);
        self.0.len()
    }

    /// Writes the length of the contents that start at `start`, the innermost first.
    #[inline]
    fn close(&mut self, start: usize) {
        let length = self.0.len() - start;
        match self.0.get_mut(start - 1) {
            Some(byte) if length < 0x80 => *byte = length.to_le_bytes()[0],
            _ => self.close_long(start, length),
        }
    }

    /// Moves contents of 128 bytes or more, to make room for their length.
    #[inline(never)]
    fn close_long(&mut self, start: usize, length: usize) {
        let mut varint = [0; 10];
        let (mut bytes, mut left) = (0, length);
        for byte in &mut varint {
            *byte = left.to_le_bytes()[0] | 0x80;
            (bytes, left) = (bytes + 1, left >> 7);
            if left == 0 {
                *byte &= 0x7f;
                break;
            }
        }
        let more = bytes - 1;
        self.0.resize(start + length + more, 0);
        self.0.copy_within(start..start + length, start + more);
        if let (Some(place), Some(varint)) =
            (self.0.get_mut(start - 1..start + more), varint.get(..bytes))
        {
            place.copy_from_slice(varint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Around every length at which a nested length needs another byte.
    #[test]
    fn nested_messages_of_any_length_are_read_back() {
        for length in (0..300).chain(16_300..16_400).chain([2_097_151, 2_097_152]) {
            let text = vec![b'x'; length];
            let mut writer = MessageWriter::default();
            writer.message(1, |outer| {
                outer.number(9, 300);
                outer.message(2, |inner| inner.bytes_with(3, |bytes| bytes.extend(&text)));
                outer.long_message(5, |inner| inner.bytes(3, &text));
                outer.bytes(4, b"after");
            });
            let written = writer.finish();
            let fields = |message| super::super::Fields::of(message).map(Result::unwrap);
            let outer: Vec<_> = fields(&written).collect();
            let [(1, outer)] = outer[..] else { panic!("{length}: {outer:?}") };
            let parts: Vec<_> = fields(outer).collect();
            let [(2, inner), (5, long), (4, b"after")] = parts[..] else {
                panic!("{length}: {parts:?}")
            };
            assert_eq!(inner, long, "{length}");
            assert_eq!(fields(inner).collect::<Vec<_>>(), [(3, &text[..])], "{length}");
        }
    }
}
