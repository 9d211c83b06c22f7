//! The ledger: one record for each settled request, numbered and chained.
//!
//! A chain is written by one process at a time. Each entry has the number after that of the entry
//! before it, the MAC of that entry, and a MAC of its own, so that an entry that was changed, removed,
//! repeated or moved is found with the key. Some entries are checkpoints: they sum up all
//! entries before them, and a chain is trimmed up to one of them.
//!
//! This module has the texts, the keys and the verification. The store keeps the texts.

pub mod calendar;
pub mod config;
pub mod day_sums;
pub mod entry;
pub mod export_mark;
pub mod keys;
pub mod person;
pub mod report;
pub mod rows;
pub mod verify;
pub mod writer;
