//! Reading the revocations as a whole, and then what changed since: for replication.
//!
//! Every change is an entry of a stream that keeps the last ten thousand. While the entry read last is still in it, nothing
//! after it was missed; when it is gone (more changes than that, or an emptied Redis), everything is read again.

use ::redis::{cmd, pipe};

use super::{CHANGES, Entry, INDEX, Key, Outage, Redis, entry};

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

type Row = (String, Vec<String>);

impl Redis {
    /// All revocations. An entry that changes meanwhile may come in either form, or twice: its change comes after the cursor.
    pub(in crate::store) async fn revocations(&self) -> Result<(Cursor, Vec<Entry>), Outage> {
        let newest: Vec<Row> = self
            .unhurried(|mut connection| async move {
                cmd("XREVRANGE").arg(CHANGES).arg("+").arg("-").arg("COUNT").arg(1).query_async(&mut connection).await
            })
            .await?;
        let mut entries = Vec::new();
        let mut from = 0_u64;
        loop {
            let (next, mut page) = self.scan(from).await?;
            entries.append(&mut page);
            match next {
                0 => return Ok((Cursor(newest.into_iter().next().map(|(id, _)| id)), entries)),
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
            Ok((next, rows.filter_map(|((key, ends), at)| Some(entry(key, at?, ends, None))).collect()))
        })
        .await
    }

    /// What changed after `cursor`, a batch at a time, in order; `None` where that is not known any more.
    pub(in crate::store) async fn changes(&self, cursor: &Cursor) -> Result<Option<(Cursor, Vec<Change>)>, Outage> {
        let from = cursor.0.as_deref().unwrap_or("-");
        let rows: Vec<Row> = self
            .unhurried(|mut connection| async move {
                cmd("XRANGE").arg(CHANGES).arg(from).arg("+").arg("COUNT").arg(BATCH).query_async(&mut connection).await
            })
            .await?;
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
        Ok(Some((read, changes)))
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
