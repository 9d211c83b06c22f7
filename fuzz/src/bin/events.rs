//! The splitter of a stream that may be cut: no byte is lost, and what is forwarded ends where an event
//! ends.
#![no_main]

use events::Events;
use libfuzzer_sys::fuzz_target;

/// The file of the server, which is not compiled here.
#[path = "../../../src/adapter/ext_proc/events.rs"]
mod events;

fuzz_target!(|input: &[u8]| {
    let Some((&size, data)) = input.split_first() else { return };
    let (mut events, mut forwarded) = (Events::default(), Vec::new());
    for piece in data.chunks(usize::from(size).max(1)) {
        let whole = events.push(piece);
        let ends = [&b"\n\n"[..], b"\n\r\n", b"\r\r"];
        assert!(whole.is_empty() || ends.iter().any(|end| whole.ends_with(end)));
        forwarded.extend_from_slice(&whole);
    }
    assert!(events.is_between());
    forwarded.extend_from_slice(&events.take());
    assert_eq!(forwarded, data);
});
