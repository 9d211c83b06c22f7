//! The wire format of protocol buffers, as far as checks need it: fields are visited where they lie, and written once.
//!
//! Decoding a message into owned maps and strings costs more than everything that is decided about it; see
//! `docs/benchmarks.md`.

/// What stands in one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Text, bytes, or a message.
    Bytes(&'a [u8]),
    /// A number of any other kind. None of those that are read here is looked at.
    Number,
}

/// Calls `visit` with the number and the value of every field, in order. `None` when `visit` gave up or when `bytes` is not a
/// message; groups, which no version of these messages has, count as that.
#[inline]
pub(super) fn fields<'a>(
    mut bytes: &'a [u8],
    mut visit: impl FnMut(u64, Value<'a>) -> Option<()>,
) -> Option<()> {
    while !bytes.is_empty() {
        let (number, value, rest) = field(bytes)?;
        bytes = rest;
        visit(number, value)?;
    }
    Some(())
}

/// The first field, and what comes after it.
#[inline]
fn field(bytes: &[u8]) -> Option<(u64, Value<'_>, &[u8])> {
    // Nearly all of them: text with a number below 16, shorter than 128 bytes.
    match bytes {
        [key @ 0..=0x7f, length @ 0..=0x7f, rest @ ..] if key & 7 == 2 => {
            let (value, rest) = rest.split_at_checked(usize::from(*length))?;
            Some((u64::from(key >> 3), Value::Bytes(value), rest))
        }
        _ => any_field(bytes),
    }
}

#[inline(never)]
fn any_field(mut bytes: &[u8]) -> Option<(u64, Value<'_>, &[u8])> {
    let key = varint(&mut bytes)?;
    let (value, rest) = match key & 7 {
        0 => {
            varint(&mut bytes)?;
            (Value::Number, bytes)
        }
        1 => (Value::Number, bytes.get(8..)?),
        2 => {
            let length = usize::try_from(varint(&mut bytes)?).ok()?;
            let (value, rest) = bytes.split_at_checked(length)?;
            (Value::Bytes(value), rest)
        }
        5 => (Value::Number, bytes.get(4..)?),
        _ => return None,
    };
    Some((key >> 3, value, rest))
}

/// The two texts of a message that is nothing but the field `first` and then the field `second`, both shorter than 128 bytes: what
/// nearly every header is. `None` says only that this message is not.
#[inline]
pub(super) fn pair(message: &[u8], first: u8, second: u8) -> Option<(&[u8], &[u8])> {
    let [key, length @ 0..=0x7f, rest @ ..] = message else { return None };
    let (one, rest) = rest.split_at_checked(usize::from(*length))?;
    let [other, length @ 0..=0x7f, two @ ..] = rest else { return None };
    let whole =
        (*key, *other, usize::from(*length)) == (first << 3 | 2, second << 3 | 2, two.len());
    whole.then_some((one, two))
}

/// Takes one base-128 number of at most ten bytes off the front.
#[inline]
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    // Nearly all of them have one byte or two.
    match **bytes {
        [byte @ 0..=0x7f, ref rest @ ..] => {
            *bytes = rest;
            Some(u64::from(byte))
        }
        [low, high @ 0..=0x7f, ref rest @ ..] => {
            *bytes = rest;
            Some(u64::from(low & 0x7f) | u64::from(high) << 7)
        }
        _ => long_varint(bytes),
    }
}

#[cold]
fn long_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Writes a message, front to back. The length of what is in it is put in front when it is known: nothing is measured first.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Appends to a buffer.
    pub(super) fn new(buffer: Vec<u8>) -> Self {
        Self(buffer)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    /// Text or bytes.
    #[inline]
    pub(super) fn bytes(&mut self, field: u8, bytes: &[u8]) {
        let length = bytes.len();
        if length >= 0x80 {
            return self.message(field, |writer| writer.0.extend_from_slice(bytes));
        }
        self.0.extend_from_slice(&[field << 3 | 2, length.to_le_bytes()[0]]);
        self.0.extend_from_slice(bytes);
    }

    /// A number below 16384.
    #[inline]
    pub(super) fn number(&mut self, field: u8, number: u16) {
        match number.to_le_bytes() {
            [low @ 0..=0x7f, 0] => self.0.extend_from_slice(&[field << 3, low]),
            [low, _] => {
                self.0.extend_from_slice(&[field << 3, low | 0x80, (number >> 7).to_le_bytes()[0]])
            }
        }
    }

    /// A message within this one, whose fields `write` writes.
    #[inline]
    pub(super) fn message(&mut self, field: u8, write: impl FnOnce(&mut Self)) {
        let from = self.open(field);
        write(self);
        self.close(from);
    }

    /// Opens a message, or text that is written as it is made, and says where it begins.
    #[inline]
    pub(super) fn open(&mut self, field: u8) -> usize {
        // Nearly all lengths have one byte.
        self.0.extend_from_slice(&[field << 3 | 2, 0]);
        self.0.len()
    }

    /// Closes what was opened at `from`: the innermost first.
    #[inline]
    pub(super) fn close(&mut self, from: usize) {
        let length = self.0.len() - from;
        match self.0.get_mut(from - 1) {
            Some(byte) if length < 0x80 => *byte = length.to_le_bytes()[0],
            _ => self.widen(from, length),
        }
    }

    /// The bytes so far: for text that was opened, and for frames whose lengths are known.
    #[inline]
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Makes room for a length of more than one byte in front of what begins at `from`.
    fn widen(&mut self, from: usize, length: usize) {
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
        self.0.resize(from + length + more, 0);
        self.0.copy_within(from..from + length, from + more);
        if let (Some(place), Some(varint)) =
            (self.0.get_mut(from - 1..from + more), varint.get(..bytes))
        {
            place.copy_from_slice(varint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (length, varint) in
            [(0, 1), (1, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (100_000, 3)]
        {
            let mut writer = Writer::default();
            writer.bytes(15, &vec![7; length]);
            writer.number(3, 300);
            let written = writer.finish();
            assert_eq!(written.len(), 1 + varint + length + 3, "{length}");
            let mut seen = Vec::new();
            fields(&written, |number, value| {
                seen.push((number, matches!(value, Value::Bytes(bytes) if bytes.len() == length)));
                Some(())
            })
            .unwrap();
            assert_eq!(seen, [(15, true), (3, false)]);
        }
    }

    #[test]
    fn what_is_not_a_message_ends_the_visit() {
        for bytes in [
            &[0x0b, 0x0c][..],
            &[0xff; 11],
            &[0x0a, 0x05, 0x00],
            &[0x08],
            &[0x09, 1, 2],
            &[0x0d, 1],
        ] {
            assert_eq!(fields(bytes, |_, _| Some(())), None, "{bytes:?}");
        }
        assert_eq!(fields(&[0x0a, 0], |_, _| None), None, "the visitor gave up");
    }
}
