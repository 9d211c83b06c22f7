//! Whole events of a stream: what is forwarded ends where an event ends, so that another event can
//! follow.

use bytes::{Bytes, BytesMut};

/// Bytes of an event above which it is forwarded in pieces.
const MAX_EVENT: usize = 1 << 20;

/// The end of a stream that has arrived and is no whole event.
#[derive(Debug, Default)]
pub(super) struct Events {
    held: BytesMut,
    /// Whether a part of the event that is held was forwarded.
    is_cut: bool,
}

impl Events {
    /// Adds a piece, and returns the whole events that have arrived.
    pub(super) fn push(&mut self, piece: &[u8]) -> Bytes {
        let searched = self.held.len().saturating_sub(3);
        self.held.extend_from_slice(piece);
        let rest = self.held.get(searched..).unwrap_or_default();
        let Some(end) = last_end(rest).map(|end| searched + end) else {
            if self.held.len() > MAX_EVENT {
                return self.release();
            }
            return Bytes::new();
        };
        self.is_cut = false;
        self.held.split_to(end).freeze()
    }

    /// Removes what is held, which is forwarded before its event has ended.
    pub(super) fn release(&mut self) -> Bytes {
        self.is_cut = !self.held.is_empty();
        self.take()
    }

    /// Whether a part of an event is held.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Removes what is held.
    pub(super) fn take(&mut self) -> Bytes {
        self.held.split().freeze()
    }

    /// Whether another event may follow what was forwarded.
    pub(super) fn is_between(&self) -> bool {
        !self.is_cut
    }
}

/// Returns the place behind the last blank line. A line ends with a line feed, a carriage return, or
/// both, each line as it likes; of a carriage return at the end, the line feed may follow.
fn last_end(bytes: &[u8]) -> Option<usize> {
    let ends: [&[u8]; 3] = [b"\n\n", b"\n\r\n", b"\r\r"];
    let found = ends.into_iter().filter_map(|end| {
        let at = bytes.windows(end.len()).rposition(|window| window == end)?;
        Some(at + end.len())
    });
    found.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_events_are_forwarded_wherever_the_pieces_end() {
        for ends in ["\n\n", "\r\n\r\n", "\r\r", "\n\r\n"] {
            let text =
                format!("data: one{ends}event: a\ndata: two{ends}: comment{ends}data: three");
            for size in 1..text.len() {
                let mut events = Events::default();
                let mut forwarded = Vec::new();
                for piece in text.as_bytes().chunks(size) {
                    let whole = events.push(piece);
                    assert!(whole.is_empty() || whole.ends_with(ends.as_bytes()), "{whole:?}");
                    forwarded.extend_from_slice(&whole);
                }
                assert!(events.is_between());
                assert_eq!(events.take(), "data: three", "{size}");
                let expected = text.strip_suffix("data: three").unwrap();
                assert_eq!(String::from_utf8(forwarded).unwrap(), expected, "{size}");
            }
        }
    }

    #[test]
    fn an_event_that_is_too_large_is_forwarded_in_pieces() {
        let mut events = Events::default();
        let large = vec![b'a'; MAX_EVENT + 1];
        assert_eq!(events.push(&large).len(), MAX_EVENT + 1);
        assert!(!events.is_between());
        assert_eq!(events.push(b"a\n\nb"), "a\n\n");
        assert!(events.is_between());
    }
}
