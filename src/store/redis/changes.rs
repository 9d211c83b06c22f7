//! Reading the revocations as a whole, and then what changed since: for replication.
//!
//! Every change is an entry of a stream that keeps the last ten thousand. While the entry read last is still in it, nothing
//! after it was missed; when it is gone (more changes than that, or an emptied Redis), everything is read again.

use std::time::Duration;

use ::redis::{Value, aio::MultiplexedConnection, cmd, pipe};
use tokio::time::timeout;

use super::{
    CHANGES, Entry, INDEX, Key, Outage, Redis, UNHURRIED,
    dial::{Driver, outage},
    entry,
};

/// Most changes, or entries, read in one call: a script or a reply that is too long would hold up checks.
const BATCH: usize = 500;

/// Up to where the changes have been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Cursor(Option<String>);

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Change {
    /// This entry holds from now on.
    Add(Entry),
    /// The entry of this key was taken back.
    Remove(String),
}

/// Some changes, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct News {
    pub(in crate::store) read: Cursor,
    pub(in crate::store) changes: Vec<Change>,
    /// Whether there were no more when Redis was asked.
    pub(in crate::store) complete: bool,
}

/// A connection that waits for changes.
pub(in crate::store) struct Ear {
    connection: MultiplexedConnection,
    /// Closes the socket with this value.
    _driver: Driver,
}

impl Ear {
    /// Waits for something after `cursor`, `most` at most.
    ///
    /// # Errors
    /// The connection is lost, or this user may not wait.
    pub(in crate::store) async fn wait(
        &mut self,
        cursor: &Cursor,
        most: Duration,
    ) -> Result<(), Outage> {
        let mut read = cmd("XREAD");
        read.arg("BLOCK")
            .arg(u64::try_from(most.as_millis()).unwrap_or(u64::MAX).max(1))
            .arg("COUNT")
            .arg(1);
        read.arg("STREAMS").arg(CHANGES).arg(cursor.0.as_deref().unwrap_or("0"));
        match timeout(most + UNHURRIED, read.query_async(&mut self.connection)).await {
            Ok(answer) => answer.map(|_: Value| ()).map_err(|error| outage(&error)),
            Err(_elapsed) => Err(Outage::Deadline),
        }
    }
}

type Row = (String, Vec<String>);

impl Redis {
    /// A connection that waits for changes; `None` when it cannot be made now.
    pub(in crate::store) async fn listen(&self) -> Option<Ear> {
        let (connection, driver) = timeout(UNHURRIED, self.dialer.dial()).await.ok()?.ok()?;
        Some(Ear { connection, _driver: driver })
    }

    /// Reads all revocations. An entry that changes meanwhile may come in either form, or twice: its change comes after the
    /// cursor.
    pub(in crate::store) async fn revocations(
        &self,
        mut add: impl FnMut(Entry),
    ) -> Result<Cursor, Outage> {
        let newest: Vec<Row> = self
            .unhurried(|mut connection| async move {
                cmd("XREVRANGE")
                    .arg(CHANGES)
                    .arg("+")
                    .arg("-")
                    .arg("COUNT")
                    .arg(1)
                    .query_async(&mut connection)
                    .await
            })
            .await?;
        let mut from = 0_u64;
        loop {
            let (next, page) = self.scan(from).await?;
            page.into_iter().for_each(&mut add);
            match next {
                0 => return Ok(Cursor(newest.into_iter().next().map(|(id, _)| id))),
                next => from = next,
            }
        }
    }

    async fn scan(&self, from: u64) -> Result<(u64, Vec<Entry>), Outage> {
        self.unhurried(|mut connection| async move {
            let mut scan = cmd("ZSCAN");
            scan.arg(INDEX).arg(from).arg("COUNT").arg(BATCH);
            let (next, ends): (u64, Vec<(String, f64)>) = scan.query_async(&mut connection).await?;
            if ends.is_empty() {
                return Ok((next, Vec::new()));
            }
            let mut details = pipe();
            details.cmd("MGET");
            for (key, _) in &ends {
                details.arg(Key::revoked(key));
            }
            let (moments,): (Vec<Option<u64>>,) = details.query_async(&mut connection).await?;
            let rows = ends.into_iter().zip(moments);
            Ok((
                next,
                rows.filter_map(|((key, ends), at)| Some(entry(key, at?, ends, None))).collect(),
            ))
        })
        .await
    }

    /// What changed after `cursor`, a batch at a time, in order; `None` where that is not known any more.
    pub(in crate::store) async fn changes(&self, cursor: &Cursor) -> Result<Option<News>, Outage> {
        let from = cursor.0.as_deref().unwrap_or("-");
        let rows: Vec<Row> = self
            .unhurried(|mut connection| async move {
                cmd("XRANGE")
                    .arg(CHANGES)
                    .arg(from)
                    .arg("+")
                    .arg("COUNT")
                    .arg(BATCH)
                    .query_async(&mut connection)
                    .await
            })
            .await?;
        let complete = rows.len() < BATCH;
        let mut rows = rows.into_iter();
        let last_read = rows.next().map(|(id, _)| id);
        if last_read != cursor.0 {
            return Ok(None);
        }
        let mut read = cursor.clone();
        let mut changes = Vec::new();
        for (id, fields) in rows {
            let Some(change) = change(&fields) else { return Ok(None) };
            changes.push(change);
            read = Cursor(Some(id));
        }
        Ok(Some(News { read, changes, complete }))
    }
}

/// A change as `revoke.lua` and `reinstate.lua` write it.
fn change(fields: &[String]) -> Option<Change> {
    match fields {
        [sign, key, ..] if sign == "-" => Some(Change::Remove(key.clone())),
        [sign, key, _, at, _, ends] if sign == "+" => {
            Some(Change::Add(entry(key.clone(), at.parse().ok()?, ends.parse().ok()?, None)))
        }
        _ => None,
    }
}
