//! Lists of whole numbers, and of addresses, in MessagePack, which Redis' Lua reads and writes (`cmsgpack`).
//!
//! A number that is an argument or a reply of its own costs more, here and in Redis, than
//! everything else that is done with it.

use std::io::Write as _;

use ::redis::{RedisWrite, ToRedisArgs};

/// A list that a script reads with `cmsgpack.unpack`.
#[derive(Debug, Default)]
pub(super) struct PackedList {
    count: u32,
    numbers: Vec<u8>,
}

impl PackedList {
    /// An empty list with room for `numbers` numbers.
    pub(super) fn with_capacity(numbers: usize) -> Self {
        Self { count: 0, numbers: Vec::with_capacity(9 * numbers) }
    }

    /// A list that begins with the number of a chain of the ledger.
    pub(super) fn of_chain(chain: u32) -> Self {
        let mut list = Self::default();
        list.push(u64::from(chain));
        list
    }

    /// Appends a number.
    pub(super) fn push(&mut self, number: u64) {
        self.count += 1;
        match u8::try_from(number) {
            Ok(small @ ..0x80) => self.numbers.push(small),
            _ => {
                self.numbers.push(0xcf);
                self.numbers.extend_from_slice(&number.to_be_bytes());
            }
        }
    }

    /// Appends 32 ASCII characters.
    pub(super) fn push_text<const N: usize>(&mut self, text: &[u8; N]) {
        const { assert!(N < 256, "the length is one byte") };
        self.count += 1;
        self.numbers.extend_from_slice(&[0xd9, u8::try_from(N).unwrap_or(u8::MAX)]);
        self.numbers.extend_from_slice(text);
    }

    /// Appends 16 bytes, which the script reads as a text.
    pub(super) fn push_bytes(&mut self, bytes: [u8; 16]) {
        self.count += 1;
        self.numbers.push(0xb0);
        self.numbers.extend_from_slice(&bytes);
    }

    /// Appends a text.
    pub(super) fn push_str(&mut self, text: &str) {
        self.count += 1;
        self.numbers.push(0xdb);
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.numbers.extend_from_slice(&length.to_be_bytes());
        self.numbers.extend_from_slice(text.as_bytes());
    }

    /// Appends a count.
    pub(super) fn push_count(&mut self, count: usize) {
        self.push(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

impl ToRedisArgs for PackedList {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let Self { count, numbers } = self;
        let mut arg = out.writer_for_next_arg();
        for part in [&[0xdd], &count.to_be_bytes()[..], numbers] {
            // Writing into memory does not fail.
            let _written = arg.write_all(part);
        }
    }
}

/// The numbers of a list that a script wrote with `cmsgpack.pack`. They end early at a value that
/// is not a number.
pub(super) struct PackedNumbers<'a>(&'a [u8]);

impl<'a> PackedNumbers<'a> {
    /// The numbers of `reply`; there are none if it is not a list.
    pub(super) fn new(reply: &'a [u8]) -> Self {
        let head = match reply.first() {
            Some(0x90..=0x9f) => 1,
            Some(0xdc) => 3,
            Some(0xdd) => 5,
            _ => reply.len(),
        };
        Self(reply.get(head..).unwrap_or_default())
    }
}

impl Iterator for PackedNumbers<'_> {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        let (tag, rest) = self.0.split_first()?;
        let width = match tag {
            0x00..=0x7f | 0xe0..=0xff => 0,
            0xcc => 1,
            0xcd => 2,
            0xce => 4,
            0xcf => 8,
            _ => return None,
        };
        let (number, rest) = rest.split_at_checked(width)?;
        self.0 = rest;
        if width == 0 {
            return Some(i64::from(tag.cast_signed()));
        }
        i64::try_from(number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))).ok()
    }
}

#[cfg(test)]
mod tests {
    use ::redis::Cmd;

    use super::*;

    #[test]
    fn a_list_is_written_in_messagepack() {
        let mut list = PackedList::default();
        for number in [0, 127, 128, u64::MAX] {
            list.push(number);
        }
        list.push_count(3);
        let mut cmd = Cmd::new();
        cmd.arg(&list);
        let (small, large) = (
            &[0xcf, 0, 0, 0, 0, 0, 0, 0, 128][..],
            &[0xcf, 255, 255, 255, 255, 255, 255, 255, 255][..],
        );
        let expected = [&[0xdd, 0, 0, 0, 5, 0, 127], small, large, &[3]].concat();
        assert_eq!(cmd.args_iter().next(), Some(::redis::Arg::Simple(&*expected)));
    }

    #[test]
    fn a_list_is_read_as_lua_writes_it() {
        let read = |reply: &[u8]| PackedNumbers::new(reply).collect::<Vec<_>>();
        let numbers = [
            &[0, 127, 0xff][..],
            &[0xcc, 200],
            &[0xcd, 1, 0],
            &[0xce, 1, 0, 0, 0],
            &[0xcf, 0, 0x1f, 255, 255, 255, 255, 255, 255],
        ];
        let numbers = numbers.concat();
        let expected = [0, 127, -1, 200, 256, 1 << 24, (1 << 53) - 1];
        for head in [&[0x97][..], &[0xdc, 0, 7], &[0xdd, 0, 0, 0, 7]] {
            assert_eq!(read(&[head, &numbers].concat()), expected);
        }
        for none in [&[][..], b"x", &[0xdc, 0], &[0xdd, 0, 0], &[0x80]] {
            assert!(read(none).is_empty(), "{none:?}");
        }
        for cut in [
            &[0x92, 7][..],
            &[0x92, 7, 0xcd, 1],
            &[0x92, 7, 0xc0],
            &[0x92, 7, 0xcf, 255, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(read(cut), [7], "{cut:?}");
        }
    }
}
