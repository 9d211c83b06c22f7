//! Reading the revocations and the bans: all of them once, and then each change.
//!
//! Every change is an entry of a stream that keeps the last ten thousand. While the entry that was
//! read last is still in the stream, no later one was missed. When it is not (more changes than
//! that, or an emptied Redis), everything is read again.

use std::time::Duration;

use ::redis::{FromRedisValue, Value, aio::MultiplexedConnection, cmd, pipe};
use tokio::time::timeout;
use tollgate_core::{admission::Outage, time::Timestamp};

use super::{
    CALL_DEADLINE, Redis,
    connection::Driver,
    entry,
    error::outage,
    keys::{CHANGES, FORMAT_KEY, INDEX, Key, check_format},
};
use crate::store::Entry;

/// The most changes, or entries, in one reply: a longer one would delay checks.
pub(in crate::store) const BATCH: usize = 500;

/// The entry of the stream that was read last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Cursor(pub(super) Option<String>);

impl Cursor {
    /// Whether the stream had no entry when it was read.
    pub(in crate::store) fn is_before_all(&self) -> bool {
        self.0.is_none()
    }
}

/// One change of the revocations or of the bans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Change {
    /// This entry was added or strengthened.
    Add(Entry),
    /// The entry of this key was removed.
    Remove(String),
    /// This ban was added or extended.
    Ban(Entry),
    /// The ban of this key was lifted.
    Lift(String),
}

/// Some changes, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct ChangeBatch {
    /// The cursor after these changes.
    pub(in crate::store) cursor: Cursor,
    pub(in crate::store) changes: Vec<Change>,
    /// Whether Redis had no more changes.
    pub(in crate::store) complete: bool,
}

/// A connection on which Redis announces the entries of a stream.
pub(in crate::store) struct ChangeSubscription {
    connection: MultiplexedConnection,
    stream: &'static str,
    /// Closes the socket when it is dropped.
    _driver: Driver,
}

impl ChangeSubscription {
    /// Waits for a change after `cursor`, for `most` at most.
    ///
    /// # Errors
    /// The connection is lost, or the user lacks the permission to wait.
    pub(in crate::store) async fn wait_for_change(
        &mut self,
        cursor: &Cursor,
        most: Duration,
    ) -> Result<(), Outage> {
        let block = u64::try_from(most.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut read = cmd("XREAD");
        read.arg("BLOCK").arg(block).arg("COUNT").arg(1);
        read.arg("STREAMS").arg(self.stream).arg(cursor.0.as_deref().unwrap_or("0"));
        match timeout(most + CALL_DEADLINE, read.query_async(&mut self.connection)).await {
            Ok(answer) => answer.map(|_: Value| ()).map_err(|error| match error.code() {
                // Another server has the stream now, or has it soon.
                Some(
                    "MOVED" | "ASK" | "READONLY" | "UNBLOCKED" | "LOADING" | "CLUSTERDOWN"
                    | "MASTERDOWN",
                ) => Outage::Unreachable,
                _ => outage(&error),
            }),
            Err(_elapsed) => Err(Outage::Deadline),
        }
    }
}

/// An entry of a stream: its id and its fields.
pub(super) type Row<T> = (String, Vec<T>);

/// Some entries of a stream, in order.
pub(super) struct Rows<T> {
    pub(super) rows: Vec<Row<T>>,
    /// Whether the stream has no more.
    pub(super) complete: bool,
}

/// A page of the index: the next cursor, and members with their ends.
type ScanPage = (u64, Vec<(String, f64)>);

impl Redis {
    /// Opens a subscription to the changes of revocations; `None` when a connection cannot be made
    /// now.
    pub(in crate::store) async fn subscribe(&self) -> Option<ChangeSubscription> {
        self.subscribe_to(CHANGES).await
    }

    /// Opens a subscription to a stream.
    pub(super) async fn subscribe_to(&self, stream: &'static str) -> Option<ChangeSubscription> {
        let dialled = timeout(CALL_DEADLINE, self.home.dialer.dial()).await.ok()?.ok()?;
        Some(ChangeSubscription { connection: dialled.redis, stream, _driver: dialled.driver })
    }

    /// The cursor of the newest entry of a stream.
    pub(super) async fn newest_entry(&self, stream: &'static str) -> Result<Cursor, Outage> {
        let newest: Vec<Row<Vec<u8>>> = self
            .call(|mut connection| async move {
                let mut last = cmd("XREVRANGE");
                last.arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
                last.query_async(&mut connection).await
            })
            .await?;
        Ok(Cursor(newest.into_iter().next().map(|(id, _)| id)))
    }

    /// The cursor of the newest change. What changes after it may be read in either form, or twice,
    /// by [`revocations`](Self::revocations) and [`all_bans`](Self::all_bans).
    pub(in crate::store) async fn newest_change(&self) -> Result<Cursor, Outage> {
        self.newest_entry(CHANGES).await
    }

    /// Reads all revocations.
    pub(in crate::store) async fn revocations(
        &self,
        mut add: impl FnMut(Entry),
    ) -> Result<(), Outage> {
        let mut from = 0_u64;
        loop {
            let (next, page) = self.scan(from).await?;
            page.into_iter().for_each(&mut add);
            match next {
                0 => return Ok(()),
                next => from = next,
            }
        }
    }

    async fn scan(&self, from: u64) -> Result<(u64, Vec<Entry>), Outage> {
        self.call(|mut connection| async move {
            let mut scan = pipe();
            scan.cmd("GET").arg(FORMAT_KEY);
            scan.cmd("ZSCAN").arg(INDEX).arg(from).arg("COUNT").arg(BATCH);
            let (format, (next, ends)): (Option<String>, ScanPage) =
                scan.query_async(&mut connection).await?;
            check_format(format)?;
            if ends.is_empty() {
                return Ok((next, Vec::new()));
            }
            let mut details = cmd("MGET");
            for (key, _) in &ends {
                details.arg(Key::revoked(key));
            }
            let moments: Vec<Option<u64>> = details.query_async(&mut connection).await?;
            // An entry without a moment has just ended.
            let entries = ends.into_iter().zip(moments);
            let entries = entries.filter_map(|((key, ends), at)| Some(entry(key, at?, ends, None)));
            Ok((next, entries.collect()))
        })
        .await
    }

    /// Reads the entries of a stream after `cursor`, one batch, in order; `None` if the stream no
    /// longer has all of them.
    pub(super) async fn rows_after<T: FromRedisValue>(
        &self,
        stream: &'static str,
        cursor: &Cursor,
    ) -> Result<Option<Rows<T>>, Outage> {
        let from = cursor.0.as_deref().unwrap_or("-");
        let rows: Vec<Row<T>> = self
            .call(|mut connection| async move {
                let mut range = pipe();
                range.cmd("GET").arg(FORMAT_KEY);
                range.cmd("XRANGE").arg(stream).arg(from).arg("+").arg("COUNT").arg(BATCH);
                let (format, rows): (Option<String>, Vec<Row<T>>) =
                    range.query_async(&mut connection).await?;
                check_format(format)?;
                Ok(rows)
            })
            .await?;
        let complete = rows.len() < BATCH;
        let mut rows = rows.into_iter();
        let last_read = rows.next().map(|(id, _)| id);
        if last_read != cursor.0 {
            return Ok(None);
        }
        Ok(Some(Rows { rows: rows.collect(), complete }))
    }

    /// Reads the changes after `cursor`, one batch, in order; `None` if the stream no longer has
    /// all of them.
    pub(in crate::store) async fn changes(
        &self,
        cursor: &Cursor,
    ) -> Result<Option<ChangeBatch>, Outage> {
        let Some(Rows { rows, complete }) = self.rows_after(CHANGES, cursor).await? else {
            return Ok(None);
        };
        let mut cursor = cursor.clone();
        let mut changes = Vec::new();
        for (id, fields) in rows {
            let Some(change) = parse_change(&fields) else { return Ok(None) };
            changes.push(change);
            cursor = Cursor(Some(id));
        }
        Ok(Some(ChangeBatch { cursor, changes, complete }))
    }
}

/// Parses a change as `revoke.lua`, `reinstate.lua`, `ban.lua` and `lift.lua` write it.
fn parse_change(fields: &[String]) -> Option<Change> {
    match fields {
        [sign, key, ..] if sign == "-" => Some(match key.strip_prefix("ban:") {
            Some(key) => Change::Lift(key.to_owned()),
            None => Change::Remove(key.clone()),
        }),
        [sign, key, _, at, _, ends] if sign == "+" => Some(match key.strip_prefix("ban:") {
            Some(key) => {
                let at = Timestamp::from_secs(at.parse().ok()?);
                let ends = Timestamp::from_secs(ends.parse().ok()?);
                Change::Ban(Entry { key: key.to_owned(), at, ends, note: None })
            }
            None => Change::Add(entry(key.clone(), at.parse().ok()?, ends.parse().ok()?, None)),
        }),
        _ => None,
    }
}
