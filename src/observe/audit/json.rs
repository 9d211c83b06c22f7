//! One JSON object, written as it comes. A line per check is too often to describe each to a serializer first.

use super::line::capped;

/// An object that is being written.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    opened: bool,
}

impl<'o> Object<'o> {
    pub(super) fn open(out: &'o mut Vec<u8>) -> Self {
        Self { out, opened: false }
    }

    pub(super) fn close(self) {
        self.out.extend_from_slice(if self.opened { b"}" } else { b"{}" });
    }

    /// A name that JSON needs not escape.
    fn name(&mut self, name: &'static str) {
        self.out.extend_from_slice(if self.opened { b",\"" } else { b"{\"" });
        self.opened = true;
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Text that JSON needs not escape.
    pub(super) fn plain(&mut self, name: &'static str, text: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(text);
        self.out.push(b'"');
    }

    /// Text from outside: cut to `most` bytes as they stand here, and escaped.
    pub(super) fn text(&mut self, name: &'static str, bytes: &[u8], most: usize) {
        let plain = |byte: &u8| matches!(byte, b' '..=b'~') & (*byte != b'"') & (*byte != b'\\');
        if bytes.len() <= most && bytes.iter().all(plain) {
            return self.plain(name, bytes);
        }
        self.name(name);
        // Writing into memory does not fail.
        let _ = serde_json::to_writer(&mut *self.out, &capped(bytes, most));
    }

    /// A number.
    pub(super) fn number(&mut self, name: &'static str, mut number: u64) {
        self.name(name);
        let from = self.out.len();
        loop {
            let [digit, ..] = (number % 10).to_le_bytes();
            self.out.push(b'0' + digit);
            number /= 10;
            if number == 0 {
                break;
            }
        }
        if let Some(digits) = self.out.get_mut(from..) {
            digits.reverse();
        }
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
        object.close();
        let expected = json!({
            "a": "b", "quote": "\"\\\n", "wide": "é\u{fffd}", "broken": "\u{fffd}", "cut": "xxxxxxx…", "zero": 0, "most": u64::MAX,
        });
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
        let mut empty = Vec::new();
        Object::open(&mut empty).close();
        assert_eq!(empty, b"{}");
    }
}
