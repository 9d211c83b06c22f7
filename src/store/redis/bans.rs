//! Adding, lifting, listing and finding bans.

use ::redis::{cmd, pipe};
use tollgate_core::{admission::Outage, ban::Target, time::Timestamp};

use super::{
    Redis,
    keys::{
        BAN_ENDS, BAN_MARKER, BAN_NOTES, BANS, CHANGES, FORMAT_KEY, REPEAT_NUMBERS, REPEATS,
        check_format,
    },
    pages::{Listed, MemberPage},
    replication::BATCH,
};
use crate::store::{
    AutomaticBan, BanQuery, BegunBan, Entry, NewBan, Page, Position, ban::MOST_REPEATS,
};

/// The keys of the script that adds a ban, in the order of `ban.lua`.
const KEYS: [&str; 6] = [BANS, BAN_ENDS, BAN_NOTES, BAN_MARKER, CHANGES, FORMAT_KEY];

/// The keys of the scripts that know of earlier automatic bans, in the order of
/// `ban_automatically.lua`.
const KEYS_WITH_REPEATS: [&str; 8] =
    [BANS, BAN_ENDS, BAN_NOTES, BAN_MARKER, CHANGES, REPEATS, REPEAT_NUMBERS, FORMAT_KEY];

/// The list of bans, by their ends in seconds.
const LISTED: Listed = Listed { key: BANS, unit: 1_000_000, ends: true };

/// A page of the index: the next cursor, and keys with their ends.
type ScanPage = (u64, Vec<(String, f64)>);

impl Redis {
    pub(super) async fn add_ban(&self, ban: &NewBan) -> Result<Entry, Outage> {
        let entry = ban.entry();
        let (ends, reason): (u64, String) = self
            .call(|mut connection| {
                let entry = &entry;
                async move {
                    let reply = self.scripts.ban.run(&mut connection, KEYS.len(), |cmd| {
                        cmd.arg(&KEYS).arg(&entry.key).arg(entry.at.secs()).arg(entry.ends.secs());
                        cmd.arg(entry.note.as_deref().unwrap_or_default());
                    });
                    reply.await
                }
            })
            .await?;
        let note = Some(reason).filter(|reason| !reason.is_empty());
        Ok(Entry { ends: Timestamp::from_secs(ends), note, ..entry })
    }

    pub(super) async fn add_automatic_ban(&self, ban: &AutomaticBan) -> Result<BegunBan, Outage> {
        let key = ban.key();
        let durations = [ban.durations.first, ban.durations.longest, ban.durations.remember];
        let durations = durations.map(|span| span.secs());
        let (is_new, ends, number): (bool, u64, u32) = self
            .call(|mut connection| {
                let key = &key;
                async move {
                    let script = &self.scripts.ban_automatically;
                    let reply = script.run(&mut connection, KEYS_WITH_REPEATS.len(), |cmd| {
                        cmd.arg(&KEYS_WITH_REPEATS).arg(key).arg(&ban.reason);
                        cmd.arg(&durations).arg(MOST_REPEATS);
                    });
                    reply.await
                }
            })
            .await?;
        Ok(BegunBan { until: Timestamp::from_secs(ends), number, is_new })
    }

    pub(super) async fn lift_ban(&self, target: &Target) -> Result<bool, Outage> {
        let keys = target.keys();
        self.call(|mut connection| async move {
            let script = &self.scripts.lift;
            let reply = script.run(&mut connection, KEYS_WITH_REPEATS.len(), |cmd| {
                cmd.arg(&KEYS_WITH_REPEATS).arg(&keys);
            });
            reply.await
        })
        .await
    }

    pub(super) async fn ban_page(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Page, Outage> {
        let MemberPage { rows, total, next } = self.members(LISTED, after, limit).await?;
        if rows.is_empty() {
            return Ok(Page { entries: Vec::new(), total, next });
        }
        let rows = &rows;
        let notes: Vec<Option<String>> = self
            .call(|mut connection| async move {
                let mut details = cmd("HMGET");
                details.arg(BAN_NOTES);
                for (key, _) in rows {
                    details.arg(key);
                }
                details.query_async(&mut connection).await
            })
            .await?;
        let entries = rows.iter().zip(notes).map(|((key, ends), note)| {
            let key = String::from_utf8_lossy(key).into_owned();
            entry(key, Timestamp::from_secs(*ends), note)
        });
        Ok(Page { entries: entries.collect(), total, next })
    }

    pub(super) async fn find_bans(&self, query: &BanQuery) -> Result<Vec<Entry>, Outage> {
        let keys = query.keys();
        self.call(|mut connection| async move {
            let now = self.format_and_time(&mut connection).await?;
            let mut lookup = pipe();
            for hash in [BAN_ENDS, BAN_NOTES] {
                lookup.cmd("HMGET").arg(hash).arg(&keys);
            }
            let (ends, notes): (Vec<Option<u64>>, Vec<Option<String>>) =
                lookup.query_async(&mut connection).await?;
            let rows = keys.into_iter().zip(ends).zip(notes);
            let found = rows.filter_map(|((key, ends), note)| {
                Some(entry(key, Timestamp::from_secs(ends?), note)).filter(|ban| ban.ends > now)
            });
            Ok(found.collect())
        })
        .await
    }

    /// Reads the keys and the ends of all bans. A ban that changes meanwhile may be read in either
    /// form, or twice.
    pub(in crate::store) async fn all_bans(
        &self,
        mut add: impl FnMut(Entry),
    ) -> Result<(), Outage> {
        let mut from = 0_u64;
        loop {
            let (next, page) = self
                .call(|mut connection| async move {
                    let mut scan = pipe();
                    scan.cmd("GET").arg(FORMAT_KEY);
                    scan.cmd("ZSCAN").arg(BANS).arg(from).arg("COUNT").arg(BATCH);
                    let (format, page): (Option<String>, ScanPage) =
                        scan.query_async(&mut connection).await?;
                    check_format(format)?;
                    Ok(page)
                })
                .await?;
            page.into_iter().for_each(|(key, ends)| add(entry(key, seconds(ends), None)));
            match next {
                0 => return Ok(()),
                next => from = next,
            }
        }
    }
}

/// A moment in seconds, which an f64 holds exactly.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an f64 below 2^53; the cast saturates"
)]
fn seconds(ends: f64) -> Timestamp {
    Timestamp::from_secs(ends as u64)
}

/// An entry of the list. `note` is as `ban.lua` writes it: the moment, a space, the reason.
fn entry(key: String, ends: Timestamp, note: Option<String>) -> Entry {
    let note = note.unwrap_or_default();
    let (at, reason) = note.split_once(' ').unwrap_or_default();
    let at = Timestamp::from_secs(at.parse().unwrap_or(0));
    Entry { key, at, ends, note: Some(reason.to_owned()).filter(|reason| !reason.is_empty()) }
}
