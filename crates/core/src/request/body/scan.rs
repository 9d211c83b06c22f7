//! A scanner for the tokens of JSON: keys, strings, numbers and words, each checked against RFC 8259.

mod elements;
mod key;
mod number;
mod scalars;
mod scanner;
mod skip;
mod string;
mod structure;

pub(super) use self::{
    key::RawKey,
    number::is_exact,
    scanner::Scanner,
    skip::{Skipping, Syntax},
    string::RawString,
    structure::Structure,
};
