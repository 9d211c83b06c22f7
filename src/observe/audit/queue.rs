//! Lines that wait to be written: one piece of text, which the thread takes whole. A line is copied into it, and nothing is allocated
//! by one thread and freed by another.

use std::{
    mem,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread,
    time::Duration,
};

use super::Dropped;

/// Bytes that are kept for the next lines once a batch is written: what a pause of the collector took is given back.
const KEPT_CAPACITY: usize = 1 << 20;

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    lines: Mutex<Lines>,
    /// There are lines, or there will be no more.
    changed: Condvar,
    /// Places that are free. A line holds its own until it is written.
    free: AtomicUsize,
    closing: AtomicBool,
    full: AtomicU64,
    write: AtomicU64,
}

/// Lines, one after the other.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) text: Vec<u8>,
    pub(super) count: usize,
    /// No more are taken.
    ended: bool,
}

/// A slot in the queue. One that is dropped unused is free again.
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
        }
    }

    /// Takes a slot, if one is free.
    pub(super) fn reserve(&self) -> Option<Slot<'_>> {
        self.free
            .fetch_update(Acquire, Relaxed, |free| free.checked_sub(1))
            .ok()
            .map(|_| Slot(Some(self)))
    }

    /// Places that are free.
    pub(super) fn free_slots(&self) -> usize {
        self.free.load(Relaxed)
    }

    /// Counts a line that found no slot.
    pub(super) fn count_full(&self) {
        self.full.fetch_add(1, Relaxed);
    }

    /// Counts lines that could not be written.
    pub(super) fn count_lost(&self, lines: usize) {
        self.write.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn dropped(&self) -> Dropped {
        Dropped { full: self.full.load(Relaxed), write: self.write.load(Relaxed) }
    }

    /// Adds a line, its line break included, that has a slot; drops and counts it when no more are taken.
    pub(super) fn push(&self, mut slot: Slot<'_>, line: &[u8]) {
        let mut lines = self.lines();
        if lines.ended {
            drop(lines);
            return self.count_full();
        }
        let first = lines.count == 0;
        lines.text.extend_from_slice(line);
        lines.count += 1;
        // The thread frees the slot when the line was written.
        slot.0 = None;
        drop(lines);
        if first {
            self.changed.notify_one();
        }
    }

    /// Waits for lines, and `gather` longer for those that follow the first, then takes all of them for `written`, whose slots are
    /// free again. `false` when there are none and will be none.
    pub(super) fn next(&self, written: &mut Lines, gather: Option<Duration>) -> bool {
        self.free.fetch_add(mem::take(&mut written.count), Release);
        written.text.clear();
        written.text.shrink_to(KEPT_CAPACITY);
        let waits = |lines: &mut Lines| lines.count == 0 && !lines.ended;
        let mut lines =
            self.changed.wait_while(self.lines(), waits).unwrap_or_else(PoisonError::into_inner);
        if let Some(gather) = gather.filter(|_| !lines.ended) {
            drop(lines);
            thread::sleep(gather);
            lines = self.lines();
        }
        mem::swap(&mut lines.text, &mut written.text);
        mem::swap(&mut lines.count, &mut written.count);
        written.count > 0
    }

    /// Takes no more lines, and waits for nothing any more.
    pub(super) fn close(&self) {
        self.closing.store(true, Release);
        self.end();
    }

    /// Whether the end was asked for: what cannot be written now is given up.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Acquire)
    }

    /// Takes no more lines.
    pub(super) fn end(&self) {
        self.lines().ended = true;
        self.changed.notify_one();
    }

    /// Nothing panics while it is held.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
