//! A JSON object that is written field by field. One line per check is too frequent for a
//! serializer.

use std::{io::Write as _, net::IpAddr};

use tollgate_core::text::is_printable_without;

use super::line::truncated;

/// The name of a field with its quotes, the colon and the opening quote, as [`name!`] makes it.
#[derive(Clone, Copy)]
pub(super) struct Name(pub(super) &'static str);

/// Makes a name that JSON does not escape.
macro_rules! name {
    ($name:literal) => {
        $crate::observe::audit::json::Name(concat!("\"", $name, "\":\""))
    };
}
pub(super) use name;

/// An object that is being written. Every field ends in a comma; the last comma becomes the closing
/// brace.
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

    /// Adds text that JSON does not escape; `write` appends it.
    #[inline]
    pub(super) fn written(&mut self, name: Name, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(name.0.as_bytes());
        write(self.out);
        self.out.extend_from_slice(b"\",");
    }

    /// Adds text that JSON does not escape.
    #[inline]
    pub(super) fn plain(&mut self, name: Name, text: &[u8]) {
        self.written(name, |out| out.extend_from_slice(text));
    }

    /// Adds untrusted text, truncated to `most` escaped bytes.
    pub(super) fn text(&mut self, name: Name, bytes: &[u8], most: usize) {
        if bytes.len() <= most && is_printable_without(bytes, [b'"', b'\\']) {
            return self.plain(name, bytes);
        }
        self.unquoted(name);
        // Writing into memory does not fail.
        let _ = serde_json::to_writer(&mut *self.out, &truncated(bytes, most));
        self.out.push(b',');
    }

    /// Adds a number.
    #[inline]
    pub(super) fn number(&mut self, name: Name, number: u64) {
        self.unquoted(name);
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self.out.push(b',');
    }

    /// Adds JSON that `write` appends.
    pub(super) fn json(&mut self, name: Name, write: impl FnOnce(&mut Vec<u8>)) {
        self.unquoted(name);
        write(self.out);
        self.out.push(b',');
    }

    /// Adds a name whose value has quotes of its own, or none.
    #[inline]
    fn unquoted(&mut self, name: Name) {
        self.out.extend_from_slice(name.0.as_bytes());
        self.out.pop();
    }

    /// Adds an IP address.
    pub(super) fn address(&mut self, name: Name, address: IpAddr) {
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
        object.plain(name!("a"), b"b");
        object.text(name!("quote"), b"\"\\\n", 100);
        object.text(name!("wide"), "é\u{9b}".as_bytes(), 100);
        object.text(name!("broken"), b"\xff", 100);
        object.text(name!("cut"), &[b'x'; 20], 10);
        object.number(name!("zero"), 0);
        object.number(name!("most"), u64::MAX);
        object.address(name!("v4"), "192.0.2.10".parse().unwrap());
        object.address(name!("v6"), "2001:db8::1".parse().unwrap());
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
