//! The queue of audit lines: one buffer of text, which the writing thread takes whole. Lines are
//! copied into it, so that no thread frees what another has allocated.

use std::{
    mem,
    sync::{
        PoisonError,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
    thread,
    time::Duration,
};

use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard};

/// The capacity that is kept after a batch is written. Memory that a collector's pause took is
/// released.
const KEPT_CAPACITY: usize = 1 << 20;

/// The number of lines that were not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Lines that found the queue full or closed.
    pub full: u64,
    /// Lines whose writing failed.
    pub write: u64,
}

/// The queue of one audit log.
#[derive(Debug)]
pub(super) struct Queue {
    lines: Mutex<Lines>,
    /// Signals that lines arrived, or that no more will.
    changed: Condvar,
    /// The free slots. A line keeps its slot until it is written.
    free: AtomicUsize,
    closing: AtomicBool,
    full: AtomicU64,
    write: AtomicU64,
    /// Checks that found no free slot with `on_full: deny`.
    refused: AtomicU64,
}

/// Lines that wait, or that are being written.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) text: Vec<u8>,
    pub(super) count: usize,
    /// Whether further lines are rejected.
    ended: bool,
}

/// A slot in the queue, freed when it is dropped unused.
#[derive(Debug)]
#[must_use]
pub(crate) struct Slot<'q>(Option<&'q Queue>);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.free.fetch_add(1, Release);
        }
    }
}

impl Queue {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            lines: Mutex::default(),
            changed: Condvar::new(),
            free: AtomicUsize::new(slots),
            closing: AtomicBool::new(false),
            full: AtomicU64::new(0),
            write: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes a slot, if one is free.
    pub(super) fn reserve(&self) -> Option<Slot<'_>> {
        self.free
            .fetch_update(Acquire, Relaxed, |free| free.checked_sub(1))
            .ok()
            .map(|_| Slot(Some(self)))
    }

    /// The number of free slots.
    pub(super) fn free_slots(&self) -> usize {
        self.free.load(Relaxed)
    }

    /// Counts a line that found no free slot. It is logged at powers of two.
    pub(super) fn count_full(&self) {
        let count = self.full.fetch_add(1, Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(
                count,
                "audit lines are dropped: `audit.queue` is full, because the log is not written \
                 fast enough; start its reader, or find out why it is slow"
            );
        }
    }

    /// Counts a check that is denied because it found no free slot. It is logged at powers of two.
    pub(super) fn count_refused(&self) {
        let count = self.refused.fetch_add(1, Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(
                count,
                "checks are denied: `audit.queue` is full, because the log is not written fast \
                 enough, and `audit.on_full` is `deny`; start its reader, or find out why it is slow"
            );
        }
    }

    /// Counts lines that could not be written.
    pub(super) fn count_lost(&self, lines: usize) {
        self.write.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn dropped(&self) -> Dropped {
        Dropped { full: self.full.load(Relaxed), write: self.write.load(Relaxed) }
    }

    /// Adds a line, with its line break, that has a slot. A closed queue drops and counts it.
    pub(super) fn push(&self, mut slot: Slot<'_>, line: &[u8]) {
        let mut lines = self.lines();
        if lines.ended {
            drop(lines);
            return self.count_full();
        }
        let first = lines.count == 0;
        lines.text.extend_from_slice(line);
        lines.count += 1;
        // The writing thread frees the slot.
        slot.0 = None;
        drop(lines);
        if first {
            self.changed.notify_one();
        }
    }

    /// Waits for lines, and `gather` longer for those that follow the first, then moves all of them
    /// into `written` and frees the slots of the lines that were in it. Returns `false` when there
    /// are no lines and will be none.
    pub(super) fn next(&self, written: &mut Lines, gather: Option<Duration>) -> bool {
        self.free.fetch_add(mem::take(&mut written.count), Release);
        written.text.clear();
        written.text.shrink_to(KEPT_CAPACITY);
        let mut lines = self.lines();
        while lines.count == 0 && !lines.ended {
            lines = self.changed.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(gather) = gather.filter(|_| !lines.ended) {
            drop(lines);
            thread::sleep(gather);
            lines = self.lines();
        }
        mem::swap(&mut lines.text, &mut written.text);
        mem::swap(&mut lines.count, &mut written.count);
        written.count > 0
    }

    /// Rejects further lines, and stops retries.
    pub(super) fn close(&self) {
        self.closing.store(true, Release);
        self.end();
    }

    /// Whether the log is being closed: lines that cannot be written now are dropped.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Acquire)
    }

    /// Rejects further lines.
    pub(super) fn end(&self) {
        self.lines().ended = true;
        self.changed.notify_one();
    }

    /// Locks the lines. No code panics while it holds the lock.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
