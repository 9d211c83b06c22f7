//! The queue of audit lines: every line is written once, or counted as dropped, whatever the order of
//! checks, the writing thread and the end of the log.

#[path = "../../../src/observe/audit/queue.rs"]
#[allow(dead_code, unreachable_pub, reason = "a model uses a part of the file")]
mod queue;

use loom::{sync::Arc, thread};

use self::queue::{Lines, Queue};
use crate::explore;

/// What a check does with its line: `true` where the queue took it, or counted it as dropped.
fn check(queue: &Queue, line: &[u8]) {
    match queue.reserve() {
        Some(slot) => queue.push(slot, line),
        None => queue.count_full(),
    }
}

/// The writing thread: returns the lines in their order.
fn write(queue: &Queue) -> Vec<u8> {
    let (mut lines, mut written) = (Lines::default(), Vec::new());
    while queue.next(&mut lines, None) {
        assert_eq!(lines.text.iter().filter(|byte| **byte == b'\n').count(), lines.count);
        written.extend_from_slice(&lines.text);
    }
    written
}

/// Asserts that each of the lines was written whole and once, or is counted.
fn assert_complete(queue: &Queue, written: &[u8], slots: usize, lines: &[&[u8]]) {
    let mut found = 0;
    for line in written.split_inclusive(|byte| *byte == b'\n') {
        assert!(lines.contains(&line), "{}", line.escape_ascii());
        found += 1;
    }
    for line in lines {
        let times =
            written.split_inclusive(|byte| *byte == b'\n').filter(|one| one == line).count();
        assert!(times <= 1, "{} is written {times} times", line.escape_ascii());
    }
    let dropped = queue.dropped();
    assert_eq!((found + dropped.full, dropped.write), (lines.len() as u64, 0));
    assert_eq!(queue.free_slots(), slots, "a slot is lost");
}

#[test]
fn two_checks_and_the_writing_thread() {
    for slots in [1, 2] {
        explore(&format!("audit queue, {slots} slots, two checks"), 2, 20, move || {
            let queue = Arc::new(Queue::new(slots));
            let checks = [b"a\n", b"b\n"].map(|line| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || check(&queue, line))
            });
            let writer = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || write(&queue))
            };
            for check in checks {
                check.join().unwrap();
            }
            queue.end();
            let written = writer.join().unwrap();
            assert_complete(&queue, &written, slots, &[b"a\n", b"b\n"]);
        });
    }
}

#[test]
fn checks_while_the_log_is_closed() {
    explore("audit queue, closed meanwhile", 2, 20, || {
        let queue = Arc::new(Queue::new(2));
        let checks = [b"a\n", b"b\n"].map(|line| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || check(&queue, line))
        });
        let writer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || write(&queue))
        };
        queue.close();
        assert!(queue.is_closing());
        for check in checks {
            check.join().unwrap();
        }
        let written = writer.join().unwrap();
        assert_complete(&queue, &written, 2, &[b"a\n", b"b\n"]);
    });
}

#[test]
fn one_check_sends_line_after_line_into_a_full_queue() {
    explore("audit queue, one slot, three lines", 3, 10, || {
        let queue = Arc::new(Queue::new(1));
        let writer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || write(&queue))
        };
        for line in [b"a\n", b"b\n", b"c\n"] {
            check(&queue, line);
        }
        queue.end();
        let written = writer.join().unwrap();
        assert_complete(&queue, &written, 1, &[b"a\n", b"b\n", b"c\n"]);
        assert!(written.starts_with(b"a\n"), "the first line found a free slot");
    });
}

#[test]
fn a_slot_that_is_given_up_is_free_for_another_check() {
    explore("audit queue, a slot given up", 4, 2, || {
        let queue = Arc::new(Queue::new(1));
        let other = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.reserve().is_some())
        };
        let had = queue.reserve().is_some();
        let other_had = other.join().unwrap();
        assert!(had || other_had, "the slot was free for one of them");
        assert_eq!(queue.free_slots(), 1);
        assert!(queue.reserve().is_some());
    });
}
