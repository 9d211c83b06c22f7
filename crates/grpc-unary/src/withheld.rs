//! What the connections of one peer have begun to send and not finished.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts the calls and the bytes of messages that one peer has announced and not sent yet. All
/// connections of the peer share it.
#[derive(Debug, Default)]
pub struct Withheld {
    calls: AtomicUsize,
    bytes: AtomicUsize,
}

/// A part of a call that has not arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingPart {
    /// The length of the message.
    Length,
    /// A message of so many bytes.
    Message(usize),
}

/// A missing part, counted until this is dropped.
#[derive(Debug)]
#[must_use = "the part counts until this is dropped"]
pub struct CountedPart {
    withheld: Arc<Withheld>,
    part: MissingPart,
}

impl Withheld {
    /// Counts a missing part. Returns `None` if the peer would withhold more than `most`, in calls
    /// or in bytes; the first part is always counted.
    pub fn count(self: Arc<Self>, part: MissingPart, most: usize) -> Option<CountedPart> {
        let (counter, units) = self.counter(part);
        let before = counter.fetch_add(units, Ordering::Relaxed);
        let counted = CountedPart { withheld: self, part };
        // A part that is dropped here is no longer counted.
        (before == 0 || before.saturating_add(units) <= most).then_some(counted)
    }

    fn counter(&self, part: MissingPart) -> (&AtomicUsize, usize) {
        match part {
            MissingPart::Length => (&self.calls, 1),
            MissingPart::Message(bytes) => (&self.bytes, bytes),
        }
    }
}

impl Drop for CountedPart {
    fn drop(&mut self) {
        let (counter, units) = self.withheld.counter(self.part);
        counter.fetch_sub(units, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_withholds_no_more_than_it_may() {
        let peer = Arc::new(Withheld::default());
        let count = |part, most| Arc::clone(&peer).count(part, most);
        let first = count(MissingPart::Length, 0);
        assert!(first.is_some(), "the first part");
        assert!(count(MissingPart::Length, 1).is_none());
        let second = count(MissingPart::Length, 2);
        assert!(second.is_some());
        assert!(count(MissingPart::Message(100), 10).is_some(), "bytes are counted apart");
        drop((first, second));
        assert!(count(MissingPart::Length, 0).is_some(), "all parts were returned");
    }
}
