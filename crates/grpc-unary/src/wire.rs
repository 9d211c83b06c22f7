//! The wire format of protocol buffers, as far as checks need it: fields are read in place, and
//! messages are written once, front to back.
//!
//! Benchmark row: "Tollgate, public route" in `docs/benchmarks.md`. The simple form is the code
//! that prost generates, which decodes a message into owned maps and strings; that costs more than
//! the decision about it. Both directions are tested against it.

mod reader;
mod writer;

pub use self::{
    reader::{Fields, Malformed, two_short_fields},
    writer::MessageWriter,
};

/// The wire type of a number of eight bytes.
const FIXED64: u8 = 1;
/// The wire type of strings, bytes and messages.
const LENGTH_DELIMITED: u8 = 2;
