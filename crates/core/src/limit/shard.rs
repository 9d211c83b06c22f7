//! Shards: the parts that the counters of a store are divided into, each of which is on one server.
//!
//! Everything that one check counts has to be in one shard, or it could not be charged in one atomic
//! step. What is counted for a tenant is in the shard of the tenant, or what is counted for a subject
//! in that of the subject. A limit that counts for several of them is in no shard.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BucketId;
use crate::revocation::Keys;

/// The attribute of a credential that decides the shard of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShardBy {
    /// The tenant of the credential.
    Tenant,
    /// Issuer and subject.
    Subject,
}

/// A part of all shards: a store with fewer shards puts neighbouring ones together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shard(u16);

/// Whether everything that is counted in one counter belongs to one tenant, or to one subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountedWithin {
    /// Whether it belongs to one tenant.
    pub tenant: bool,
    /// Whether it belongs to one subject.
    pub subject: bool,
}

impl ShardBy {
    /// Returns the shard of a credential. Credentials without the attribute have one in common.
    ///
    /// INVARIANT: the shard of a request is derived here and nowhere else, so that what one check
    /// counts, holds and remembers is on one server.
    pub fn shard(self, keys: &Keys) -> Shard {
        let attribute = match self {
            Self::Tenant => keys.tenant(),
            Self::Subject => Some(keys.subject()),
        };
        attribute.map_or(Shard(0), |entry| {
            let [first, second, ..] = BucketId::from(entry.fingerprint()).bytes();
            Shard(u16::from_be_bytes([first, second]))
        })
    }

    /// Whether a counter is in the shard of the requests that it counts.
    pub fn has(self, within: CountedWithin) -> bool {
        match self {
            Self::Tenant => within.tenant,
            Self::Subject => within.subject,
        }
    }

    /// The name in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Subject => "subject",
        }
    }
}

impl Shard {
    /// Returns the number of the shard in a store with `count` of them.
    pub fn index(self, count: usize) -> usize {
        (usize::from(self.0) * count) >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_divided_evenly() {
        for count in [1, 2, 3, 12, 64] {
            let mut sizes = vec![0_u32; count];
            for shard in 0..=u16::MAX {
                sizes[Shard(shard).index(count)] += 1;
            }
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(most - least <= 1, "{count}: {sizes:?}");
        }
    }
}
