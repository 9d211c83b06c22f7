//! Pages of sorted sets: of revocations and bans by their ends, of API keys by their creation.

use tollgate_core::{admission::Outage, time::Timestamp};

use super::{Redis, keys::FORMAT_KEY};
use crate::store::Position;

/// The latest moment of a position, which has 18 digits.
const LATEST: u64 = 999_999_999_999_999_999;

/// A sorted set, and the meaning of its scores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    /// The key of the set.
    pub(super) key: &'static str,
    /// The microseconds in a unit of the scores.
    pub(super) unit: u64,
    /// Whether a score is the moment when the member ends. A member that has ended is not listed.
    pub(super) ends: bool,
}

/// Some members of a sorted set.
#[derive(Debug)]
pub(super) struct MemberPage {
    /// The members with their scores, in whole units.
    pub(super) rows: Vec<(Vec<u8>, u64)>,
    /// The number of all members that are listed.
    pub(super) total: u64,
    /// The position after which the next page begins; `None` on the last one.
    pub(super) next: Option<Position>,
}

impl Redis {
    /// Reads the members of a set after a position: `limit` of them.
    pub(super) async fn members(
        &self,
        listed: Listed,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<MemberPage, Outage> {
        let Listed { key, unit, ends } = listed;
        let score = after.map_or(String::new(), |after| (after.at().micros() / unit).to_string());
        // One more than the page has, to know whether there is a next one.
        let most = if limit == 0 { 0 } else { limit + 1 };
        let (total, flat): (u64, Vec<Vec<u8>>) = self
            .call(|mut connection| {
                let score = &score;
                async move {
                    let reply = self.scripts.page.run(&mut connection, 2, |call| {
                        call.arg(key).arg(FORMAT_KEY);
                        call.arg(if ends { unit } else { 0 }).arg(score);
                        call.arg(after.map(Position::key).unwrap_or_default()).arg(most);
                    });
                    reply.await
                }
            })
            .await?;
        let (pairs, _) = flat.as_chunks::<2>();
        let mut rows: Vec<_> =
            pairs.iter().map(|[member, score]| (member.clone(), whole(score))).collect();
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| !is_last).map(|(member, score)| {
            let at = score.saturating_mul(unit).min(LATEST);
            Position::new(Timestamp::from_micros(at), member)
        });
        Ok(MemberPage { rows, total, next })
    }
}

/// Reads a score, which is a whole number below 2^53.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an f64 below 2^53; the cast saturates"
)]
fn whole(score: &[u8]) -> u64 {
    let score = std::str::from_utf8(score).ok().and_then(|text| text.parse::<f64>().ok());
    score.unwrap_or_default() as u64
}
