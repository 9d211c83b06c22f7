//! Reads the fields of a message in place.

use super::LENGTH_DELIMITED;

/// Bytes that are not a message: a tag, a number or a length is cut off, or the wire type is none
/// of proto3's. Groups count as malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a protocol buffers message")]
pub struct Malformed;

/// The fields of a message that hold strings, bytes or messages, in the order in which they occur:
/// their numbers and contents. Fields with numbers are checked and skipped.
///
/// After an error the iterator has no defined items; callers stop at the first.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Reads the fields of `message`.
    #[must_use]
    pub fn of(message: &'a [u8]) -> Self {
        Self(message)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // The usual field: contents shorter than 128 bytes, with a number below 16.
        match self.0 {
            [] => None,
            [tag @ 0..=0x7f, length @ 0..=0x7f, rest @ ..] if tag & 7 == LENGTH_DELIMITED => {
                let Some((contents, rest)) = rest.split_at_checked(usize::from(*length)) else {
                    return Some(Err(Malformed));
                };
                self.0 = rest;
                Some(Ok((u64::from(tag >> 3), contents)))
            }
            _ => next_of_any_form(&mut self.0).transpose(),
        }
    }
}

/// The next length-delimited field, of any size.
#[inline(never)]
fn next_of_any_form<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u64, &'a [u8])>, Malformed> {
    while !bytes.is_empty() {
        let tag = varint(bytes)?;
        match tag & 7 {
            0 => drop(varint(bytes)?),
            1 => drop(split(bytes, 8)?),
            2 => {
                let length = usize::try_from(varint(bytes)?).map_err(|_| Malformed)?;
                return split(bytes, length).map(|contents| Some((tag >> 3, contents)));
            }
            5 => drop(split(bytes, 4)?),
            _ => return Err(Malformed),
        }
    }
    Ok(None)
}

/// Removes `length` bytes from the front.
#[inline]
fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (front, rest) = bytes.split_at_checked(length).ok_or(Malformed)?;
    *bytes = rest;
    Ok(front)
}

/// Removes one base-128 number of at most ten bytes from the front.
#[inline]
fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    // The usual number has one byte or two.
    match **bytes {
        [byte @ 0..=0x7f, ref rest @ ..] => {
            *bytes = rest;
            Ok(u64::from(byte))
        }
        [low, high @ 0..=0x7f, ref rest @ ..] => {
            *bytes = rest;
            Ok(u64::from(low & 0x7f) | u64::from(high) << 7)
        }
        _ => long_varint(bytes),
    }
}

#[cold]
fn long_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(Malformed)?;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// Returns the contents of a message that consists of the field `first` followed by the field
/// `second`, both shorter than 128 bytes, which is the usual form of a header. `None` for a message
/// of any other form, valid or not.
#[inline]
#[must_use]
pub fn two_short_fields(message: &[u8], first: u8, second: u8) -> Option<(&[u8], &[u8])> {
    let [tag, length @ 0..=0x7f, rest @ ..] = message else { return None };
    let (one, rest) = rest.split_at_checked(usize::from(*length))?;
    let [next_tag, length @ 0..=0x7f, two @ ..] = rest else { return None };
    let is_whole = (*tag, *next_tag, usize::from(*length))
        == (first << 3 | LENGTH_DELIMITED, second << 3 | LENGTH_DELIMITED, two.len());
    is_whole.then_some((one, two))
}

#[cfg(test)]
mod tests {
    use super::{super::MessageWriter, *};

    #[test]
    fn what_is_written_is_read() {
        for (length, varint) in
            [(0, 1), (1, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (100_000, 3)]
        {
            let mut writer = MessageWriter::default();
            writer.number(3, 300);
            writer.bytes(15, &vec![7; length]);
            writer.number(4, 1);
            let written = writer.finish();
            assert_eq!(written.len(), 3 + 1 + varint + length + 2, "{length}");
            let fields: Vec<_> = Fields::of(&written).map(Result::unwrap).collect();
            assert_eq!(fields, [(15, &vec![7; length][..])], "the numbers are skipped");
        }
    }

    #[test]
    fn fields_of_fixed_width_are_skipped() {
        let message =
            [b"\x09\x01\x02\x03\x04\x05\x06\x07\x08", &b"\x0a\x01x\x0d\x01\x02\x03\x04"[..]];
        let fields: Vec<_> = Fields::of(&message.concat()).map(|field| field.unwrap().0).collect();
        assert_eq!(fields, [1]);
    }

    #[test]
    fn bytes_that_are_no_message_are_malformed() {
        for bytes in [
            &[0x0b, 0x0c][..],
            &[0xff; 11],
            &[0x0a, 0x05, 0x00],
            &[0x0a],
            &[0x08],
            &[0x09, 1, 2],
            &[0x0d, 1],
        ] {
            assert_eq!(Fields::of(bytes).next(), Some(Err(Malformed)), "{bytes:?}");
        }
    }
}
