//! Tables whose keys are hashes already.

use std::hash::{BuildHasherDefault, Hasher};

/// For keys that write one `u64`, which is their hash.
pub(super) type Prehashed = BuildHasherDefault<Given>;

/// Takes what it is given.
#[derive(Default)]
pub(super) struct Given(u64);

impl Hasher for Given {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
