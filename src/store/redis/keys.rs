//! The names of keys in Redis, and the format of the data under them.

use std::{io::Write as _, sync::Arc};

use ::redis::{RedisError, RedisWrite, ToRedisArgs, make_extension_error};
use tollgate_core::ledger::rows::Period;

use super::slot::{SLOTS, slot_of};

/// The format of the data that this version reads and writes. A new kind of key does not change
/// it; a new meaning of an existing key does. See docs/operations.md, "Versions side by side".
pub(super) const FORMAT: &str = "1";

/// The hash tag of every key that is not one of a shard. On a cluster the keys of one tag are in one
/// slot, so on one node, and one script may use them all.
const HOME: &str = "{tollgate}";

/// The format marker: the format of the data. Without it the format is 1.
pub(super) const FORMAT_KEY: &str = "{tollgate}:format";

/// The error code of data in another format, as `preamble.lua` returns it.
pub(super) const FORMAT_ERROR: &str = "TOLLGATEFORMAT";

/// All revocations by the moment they end, in milliseconds.
pub(super) const INDEX: &str = "{tollgate}:revocations";

/// The notes of revocations that have one.
pub(super) const NOTES: &str = "{tollgate}:revocations:notes";

/// The latest additions and removals of revocations, for replication.
pub(super) const CHANGES: &str = "{tollgate}:revocations:changes";

/// The kinds of revocations with no key of their own in checks of which there are some, such as
/// `actor kid`; it expires with the last of them.
pub(super) const REVOKED_KINDS: &str = "{tollgate}:revocations:kinds";

/// All bans by the moment they end, in seconds.
pub(super) const BANS: &str = "{tollgate}:bans";

/// The ends of all bans, in seconds, by their key.
pub(super) const BAN_ENDS: &str = "{tollgate}:bans:ends";

/// The moments and reasons of all bans.
pub(super) const BAN_NOTES: &str = "{tollgate}:bans:notes";

/// How many bans there are; missing without bans. Format: `bans.lua`.
pub(super) const BAN_MARKER: &str = "{tollgate}:bans:marker";

/// The networks with earlier automatic bans, by the moment when these are forgotten, in seconds.
pub(super) const REPEATS: &str = "{tollgate}:bans:repeats";

/// The numbers of these bans, and the same moments.
pub(super) const REPEAT_NUMBERS: &str = "{tollgate}:bans:repeats:numbers";

/// The ids of all API keys by the moment of their creation, in seconds.
pub(super) const API_KEYS: &str = "{tollgate}:keys";

/// The ids of API keys of foreign formats, by their digest.
pub(super) const API_KEY_DIGESTS: &str = "{tollgate}:keys:digests";

/// The latest changes of API keys, for replication.
pub(super) const API_KEY_CHANGES: &str = "{tollgate}:keys:changes";

/// The processes that write chains of the ledger, by the numbers of these.
pub(super) const LEDGER_OWNERS: &str = "{tollgate}:ledger:owners";

/// The numbers and MACs of the last entries of chains.
pub(super) const LEDGER_ENDS: &str = "{tollgate}:ledger:ends";

/// The signed marks of what was exported of chains.
pub(super) const LEDGER_EXPORTED: &str = "{tollgate}:ledger:exported";

/// The time zone of the days of the ledger.
pub(super) const LEDGER_TIME_ZONE: &str = "{tollgate}:ledger:time-zone";

/// Pending records that could not be read.
pub(super) const LEDGER_UNREADABLE: &str = "{tollgate}:ledger:unreadable";

/// The names that the records of persons have, by those that the key of the ledger gives them.
pub(super) const LEDGER_NAMES: &str = "{tollgate}:ledger:names";

/// The random parts of the keys of persons, by the names that their records have.
pub(super) const LEDGER_PERSONS: &str = "{tollgate}:ledger:persons";

/// The last month that is closed.
pub(super) const LEDGER_CLOSED: &str = "{tollgate}:ledger:closed";

/// The sums of months that are closed.
pub(super) const LEDGER_MONTHS: &str = "{tollgate}:ledger:months";

/// A key of the ledger that has a number or a date.
pub(super) struct Ledger(String);

impl Ledger {
    /// The entries of a chain.
    pub(super) fn chain(chain: u32) -> Self {
        Self(format!("{HOME}:ledger:chain:{chain}"))
    }

    /// The pending records of a chain.
    pub(super) fn pending(chain: u32) -> Self {
        Self(format!("{HOME}:ledger:pending:{chain}"))
    }

    /// The sums of an hour or a day.
    pub(super) fn sums(period: Period) -> Self {
        Self(match period {
            Period::Hour(hour) => format!("{HOME}:ledger:hour:{hour}"),
            Period::Day(day) => format!("{HOME}:ledger:day:{day}"),
        })
    }

    /// The key as a text.
    pub(super) fn text(self) -> String {
        self.0
    }
}

impl ToRedisArgs for Ledger {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        self.0.write_redis_args(out);
    }
}

/// Checks a format marker that was read without a script.
///
/// # Errors
/// A newer version wrote the data, and this version would misread them.
pub(super) fn check_format(marker: Option<String>) -> Result<(), RedisError> {
    match marker {
        Some(format) if format != FORMAT => {
            Err(make_extension_error(FORMAT_ERROR.to_owned(), Some(format)))
        }
        _ => Ok(()),
    }
}

/// The hash tag of the keys of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag(Arc<str>);

impl Tag {
    /// The tag of everything that is not in a shard.
    pub(super) fn home() -> Self {
        Self(HOME.into())
    }

    /// The tag of the shard `index` of `count`: `{tollgate.N}` with the smallest N whose slot is in
    /// the middle half of this part of all slots. Primaries that have equal parts of the slots have
    /// equally many shards, if their number divides `count`.
    pub(super) fn shard(index: usize, count: usize) -> Self {
        let part = 4 * usize::from(SLOTS);
        let is_inside = |tag: &str| {
            // All slots are `count` parts, so that a slot is 4 * `count` long.
            let place = 4 * count * usize::from(slot_of(tag.as_bytes()));
            (index * part + part / 4..(index + 1) * part - part / 4).contains(&place)
        };
        let mut tags = (0_u32..).map(|n| format!("{{tollgate.{n}}}"));
        Self(tags.find(|tag| is_inside(tag)).unwrap_or_default().into())
    }

    /// The slot of the keys with this tag.
    pub(super) fn slot(&self) -> u16 {
        slot_of(self.0.as_bytes())
    }

    /// The key of the format marker.
    pub(super) fn format(&self) -> Key<'_> {
        Key(&self.0, ":format", b"")
    }

    /// The key of the marker of bans. Only the home has one.
    pub(super) fn ban_marker(&self) -> Key<'_> {
        Key(&self.0, ":bans:marker", b"")
    }

    /// The key of the kinds of revocations. Only the home has them.
    pub(super) fn revoked_kinds(&self) -> Key<'_> {
        Key(&self.0, ":revocations:kinds", b"")
    }

    /// The key of the ends of bans. Only the home has them.
    pub(super) fn ban_ends(&self) -> Key<'_> {
        Key(&self.0, ":bans:ends", b"")
    }

    /// The key of the index of open reservations, by the moment they expire in microseconds.
    pub(super) fn reservations(&self) -> Key<'_> {
        Key(&self.0, ":reservations", b"")
    }

    /// The key of a reservation.
    pub(super) fn reservation<'a>(&'a self, id: &'a str) -> Key<'a> {
        Key(&self.0, ":reservation:", id.as_bytes())
    }

    /// The key of a set of settled reservations.
    pub(super) fn settled<'a>(&'a self, hour_and_slice: &'a str) -> Key<'a> {
        Key(&self.0, ":settled:", hour_and_slice.as_bytes())
    }

    /// The key of a bucket, or of a counter of holds.
    pub(super) fn bucket<'a>(&'a self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Key<'a> {
        Key(&self.0, ":", key.as_ref())
    }

    /// The key of the proofs that a holder used.
    pub(super) fn proofs<'a>(&'a self, holder: &'a [u8; 32]) -> Key<'a> {
        Key(&self.0, ":proofs:", holder)
    }

    /// The key of a revocation.
    pub(super) fn revoked<'a>(&'a self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Key<'a> {
        Key(&self.0, ":revoked:", key.as_ref())
    }
}

/// A key below a tag and a prefix, written without concatenating them first.
pub(super) struct Key<'a>(&'a str, &'static str, &'a [u8]);

impl<'a> Key<'a> {
    /// The key of a revocation.
    pub(super) fn revoked(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self(HOME, ":revoked:", key.as_ref())
    }

    /// The key of the record of an API key.
    pub(super) fn api_key(id: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self(HOME, ":key:", id.as_ref())
    }

    /// The key of the uses of an API key.
    pub(super) fn api_key_use(id: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self(HOME, ":key-use:", id.as_ref())
    }
}

impl ToRedisArgs for Key<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let Self(tag, prefix, key) = self;
        let mut arg = out.writer_for_next_arg();
        for part in [tag.as_bytes(), prefix.as_bytes(), key] {
            // Writing into memory does not fail.
            let _written = arg.write_all(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_this_module_name_the_same_format() {
        let preamble = include_str!("../scripts/preamble.lua");
        assert!(preamble.contains(&format!("format ~= '{FORMAT}'")));
        assert!(preamble.contains(&format!("error_reply('{FORMAT_ERROR} ' .. format)")));
        assert!(
            include_str!("../scripts/revoke.lua")
                .contains(&format!("redis.call('SET', KEYS[6], '{FORMAT}')"))
        );
    }

    #[test]
    fn the_tags_of_shards_are_a_contract_and_divide_the_slots_evenly() {
        let tags =
            |count: usize| -> Vec<Tag> { (0..count).map(|n| Tag::shard(n, count)).collect() };
        let names: Vec<_> = tags(3).iter().map(|tag| tag.0.to_string()).collect();
        assert_eq!(names, ["{tollgate.13}", "{tollgate.0}", "{tollgate.1}"]);
        for (count, primaries) in [(12, 3), (12, 4), (12, 12), (64, 16), (2, 2)] {
            let mut shards = vec![0; primaries];
            for tag in tags(count) {
                shards[usize::from(tag.slot()) * primaries / usize::from(SLOTS)] += 1;
            }
            assert_eq!(shards, vec![count / primaries; primaries], "{count} on {primaries}");
        }
    }

    #[test]
    fn data_of_another_format_are_refused() {
        assert!(check_format(None).is_ok());
        assert!(check_format(Some(FORMAT.to_owned())).is_ok());
        for other in ["2", "0", "", "1 ", "x"] {
            let error = check_format(Some(other.to_owned())).unwrap_err();
            assert_eq!(error.code(), Some(FORMAT_ERROR), "{other}");
        }
    }
}
