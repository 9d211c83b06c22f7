//! One JSON object, written as it comes. A line per check is too often to describe each to a serializer first.

use std::{io::Write as _, net::IpAddr};

use tollgate_core::text::is_printable_without;

use super::line::capped;

/// An object that is being written: every field ends in a comma, and the last comma becomes the end.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Object<'o> {
    pub(super) fn open(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out }
    }

    pub(super) fn close(self) {
        match self.out.last_mut() {
            Some(comma @ b',') => *comma = b'}',
            _ => self.out.push(b'}'),
        }
    }

    /// A name that JSON needs not escape.
    #[inline]
    fn name(&mut self, name: &'static str) {
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Text that JSON needs not escape, as `write` appends it.
    #[inline]
    pub(super) fn written(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        self.name(name);
        self.out.push(b'"');
        write(self.out);
        self.out.extend_from_slice(b"\",");
    }

    /// Text that JSON needs not escape.
    #[inline]
    pub(super) fn plain(&mut self, name: &'static str, text: &[u8]) {
        self.written(name, |out| out.extend_from_slice(text));
    }

    /// Text from outside: cut to `most` bytes as they stand here, and escaped.
    pub(super) fn text(&mut self, name: &'static str, bytes: &[u8], most: usize) {
        if bytes.len() <= most && is_printable_without(bytes, [b'"', b'\\']) {
            return self.plain(name, bytes);
        }
        self.name(name);
        // Writing into memory does not fail.
        let _ = serde_json::to_writer(&mut *self.out, &capped(bytes, most));
        self.out.push(b',');
    }

    /// A number.
    #[inline]
    pub(super) fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self.out.push(b',');
    }

    /// An address.
    pub(super) fn address(&mut self, name: &'static str, address: IpAddr) {
        self.written(name, |out| match address {
            IpAddr::V4(address) => {
                let [first, rest @ ..] = address.octets();
                out.extend_from_slice(itoa::Buffer::new().format(first).as_bytes());
                for octet in rest {
                    out.push(b'.');
                    out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
                }
            }
            // Writing into memory does not fail.
            IpAddr::V6(address) => drop(write!(out, "{address}")),
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_written_is_json() {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.plain("a", b"b");
        object.text("quote", b"\"\\\n", 100);
        object.text("wide", "é\u{9b}".as_bytes(), 100);
        object.text("broken", b"\xff", 100);
        object.text("cut", &[b'x'; 20], 10);
        object.number("zero", 0);
        object.number("most", u64::MAX);
        object.address("v4", "192.0.2.10".parse().unwrap());
        object.address("v6", "2001:db8::1".parse().unwrap());
        object.close();
        let expected = json!({
            "a": "b", "quote": "\"\\\n", "wide": "é\u{fffd}", "broken": "\u{fffd}", "cut": "xxxxxxx…", "zero": 0, "most": u64::MAX,
            "v4": "192.0.2.10", "v6": "2001:db8::1",
        });
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
        let mut empty = Vec::new();
        Object::open(&mut empty).close();
        assert_eq!(empty, b"{}");
    }
}
