//! One counter: what is spent, what is held, and what a hold adds to both.

use crate::limit::{Counter, Hold, Verdict};

/// The greatest number that a counter stores: a double of Lua is exact up to it. Sums end there.
pub const MOST: u64 = (1 << 53) - 1;

/// The time after which a client may retry where only holds of other requests leave no room, in
/// microseconds. Holds end when their requests do, which is not known before.
pub const HELD_RETRY: u64 = 1_000_000;

/// The state of one counter. One that is not stored is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Tokens or requests that are spent; of a bucket its theoretical arrival time
    /// ([`reference`](mod@crate::limit::reference)), which the spent tokens have moved.
    pub spent: u64,
    /// Units that are held.
    pub held: u64,
}

/// What one reservation adds to one counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Tokens or requests.
    pub spent: u64,
    /// Units that are set aside.
    pub held: u64,
}

impl Share {
    /// Returns the share of a hold while its request runs: what is used so far is spent, and the
    /// rest of the hold is held.
    pub const fn running(hold: &Hold, used: u64) -> Self {
        match hold.counter {
            Counter::Bucket { .. } | Counter::Budget { .. } | Counter::Cost { .. } => {
                Self { spent: used, held: hold.amount.saturating_sub(used) }
            }
            Counter::Requests { .. } | Counter::Rate { .. } => Self { spent: hold.amount, held: 0 },
            Counter::Slots { .. } => Self { spent: 0, held: hold.amount },
        }
    }

    /// Returns the share of a hold that has ended, with so many units charged.
    pub const fn ended(hold: &Hold, units: u64) -> Self {
        match hold.counter {
            Counter::Requests { .. } | Counter::Rate { .. } => Self { spent: hold.amount, held: 0 },
            _ => Self { spent: hold.charge_of(units), held: 0 },
        }
    }
}

/// A counter in its own unit: a bucket in microseconds, the others in tokens, requests or slots.
#[derive(Clone, Copy)]
struct Level {
    unit: u64,
    limit: u64,
    spent: u64,
    held: u64,
    amount: u64,
}

impl Count {
    /// Tries to hold. If the verdict admits, it is that of the counter with the hold.
    pub fn try_hold(self, hold: &Hold, now: u64) -> Verdict {
        let level = self.level(hold, now);
        let Level { unit, limit, spent, held, amount } = level;
        if spent + held + amount <= limit {
            return level.verdict(hold, now, amount);
        }
        let retry_after = match hold.counter {
            _ if amount > limit => u64::MAX,
            // Exact, unless a hold ends before.
            Counter::Bucket { .. } | Counter::Rate { .. } if held + amount <= limit => {
                spent + held + amount - limit
            }
            Counter::Bucket { .. } | Counter::Rate { .. } => {
                (spent + amount).saturating_sub(limit).max(HELD_RETRY)
            }
            Counter::Budget { ends, .. }
            | Counter::Cost { ends, .. }
            | Counter::Requests { ends, .. }
                if spent + amount > limit =>
            {
                ends.micros().saturating_sub(now).max(1)
            }
            _ => HELD_RETRY,
        };
        let remaining = limit.saturating_sub(spent + held) / unit;
        Verdict { admitted: false, remaining, retry_after, reset: level.reset(hold, now, 0) }
    }

    /// Returns the verdict of a counter with room whose check another counter refused, or that
    /// holds already: nothing is added.
    pub fn peek(self, hold: &Hold, now: u64) -> Verdict {
        self.level(hold, now).verdict(hold, now, 0)
    }

    /// Replaces what one reservation adds to the counter.
    ///
    /// Tokens that were spent are never returned to a bucket: it has refilled them since.
    pub fn replace(&mut self, hold: &Hold, old: Share, new: Share, now: u64) {
        self.held = self.held.saturating_sub(old.held).saturating_add(new.held).min(MOST);
        let more = new.spent.saturating_sub(old.spent);
        self.spent = match hold.counter {
            Counter::Bucket { .. } | Counter::Rate { .. } if more == 0 => self.spent,
            Counter::Bucket { interval, .. } | Counter::Rate { interval, .. } => {
                self.spent.max(now).saturating_add(more.saturating_mul(interval))
            }
            _ => {
                self.spent.saturating_add(more).saturating_sub(old.spent.saturating_sub(new.spent))
            }
        }
        .min(MOST);
    }

    fn level(self, hold: &Hold, now: u64) -> Level {
        let (unit, limit, spent) = match hold.counter {
            Counter::Bucket { interval, burst } | Counter::Rate { interval, burst } => {
                let interval = interval.max(1);
                (interval, interval.saturating_mul(burst), self.spent.saturating_sub(now))
            }
            Counter::Budget { limit, .. }
            | Counter::Cost { limit, .. }
            | Counter::Requests { limit, .. }
            | Counter::Slots { limit } => (1, limit, self.spent),
        };
        let of = |units: u64| units.saturating_mul(unit).min(MOST);
        let spent = spent.min(MOST);
        Level { unit, limit: limit.min(MOST), spent, held: of(self.held), amount: of(hold.amount) }
    }
}

impl Level {
    fn verdict(self, hold: &Hold, now: u64, amount: u64) -> Verdict {
        let remaining = self.limit.saturating_sub(self.spent + self.held + amount) / self.unit;
        Verdict { admitted: true, remaining, retry_after: 0, reset: self.reset(hold, now, amount) }
    }

    /// The time until the counter is empty again, if all that is held is spent.
    fn reset(self, hold: &Hold, now: u64, amount: u64) -> u64 {
        let level = self.spent + self.held + amount;
        match hold.counter {
            Counter::Bucket { .. } | Counter::Rate { .. } => level,
            Counter::Budget { ends, .. }
            | Counter::Cost { ends, .. }
            | Counter::Requests { ends, .. } => ends.micros().saturating_sub(now),
            Counter::Slots { .. } => level.min(1) * HELD_RETRY,
        }
    }
}
