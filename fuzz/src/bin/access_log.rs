//! The splitter of the stream of Envoy's access log: the parts are the same wherever the data is
//! split, and no more than one message is kept.
#![no_main]

use libfuzzer_sys::fuzz_target;
use messages::{Messages, Part};

/// The file of the server, which is not compiled here.
#[path = "../../../src/adapter/access_log/messages.rs"]
mod messages;

const MOST: usize = 64;

fn parts<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Part> {
    let mut messages = Messages::new(MOST);
    let mut found = Vec::new();
    for piece in pieces {
        messages.push(piece);
        while let Some(part) = messages.next() {
            if let Part::Message(message) = &part {
                assert!(message.len() <= MOST);
            }
            found.push(part);
        }
    }
    found
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, data)) = input.split_first() else { return };
    let whole = parts(std::iter::once(data));
    assert_eq!(whole, parts(data.chunks(usize::from(size).max(1))));
});
