//! Requests that were admitted from escrows, until the store has them.

use crate::{
    limit::{
        counters::MOST,
        reservation::{Reservation, ReservationId},
        settlement::{Settlement, Usage},
        usage_report::UsageReport,
    },
    room::Group,
};

/// A reservation that escrows cover.
#[derive(Clone, Debug)]
pub struct Covered {
    /// The reservation with the replica's own counters in place of those of the store.
    pub local: Reservation,
    /// The escrows that cover it.
    pub(super) escrows: Vec<ReservationId>,
    /// The group whose room the request takes.
    pub(super) group: Option<Group>,
}

/// A request that was admitted from escrows, and that the store does not have yet.
#[derive(Clone, Debug)]
pub(super) struct LocalRequest {
    reservation: Reservation,
    covered: Covered,
    usage: Usage,
    /// What was reported of its end.
    report: Option<UsageReport>,
    /// Whether its usage has changed since it was last reported.
    has_changed: bool,
}

impl LocalRequest {
    pub(super) fn new(reservation: Reservation, covered: Covered) -> Self {
        Self { reservation, covered, usage: Usage::Running(0), report: None, has_changed: true }
    }

    /// Notes a report of usage. Returns the same report for the replica's own counters.
    pub(super) fn settle(&mut self, usage: Usage, report: Option<UsageReport>) -> Settlement {
        self.has_changed = true;
        let unsent = (usage == Usage::Released).then_some(UsageReport::NOT_SENT);
        let own = Settlement { reservation: self.covered.local.clone(), usage, report };
        self.usage = merged(self.usage, usage, own.is_counted());
        self.report = self.report.or(report).or(unsent);
        own
    }

    /// Returns the report of the request for the store.
    pub(super) fn report(&mut self) -> Settlement {
        self.has_changed = false;
        Settlement { reservation: self.reservation.clone(), usage: self.usage, report: self.report }
    }

    /// Whether the last report has all that is known.
    pub(super) fn is_reported(&self) -> bool {
        !self.has_changed
    }

    /// The group whose room the request takes.
    pub(super) fn group(&self) -> Option<Group> {
        self.covered.group
    }

    pub(super) fn escrows(&self) -> &[ReservationId] {
        &self.covered.escrows
    }
}

/// Returns one report that charges what two of them charge, one after the other.
fn merged(known: Usage, usage: Usage, is_counted: bool) -> Usage {
    let Usage::Running(used) = known else { return known };
    match usage {
        Usage::Final(tokens) if is_counted => Usage::Final(tokens.min(MOST)),
        Usage::Running(tokens) => Usage::Running(tokens.min(MOST).max(used)),
        Usage::Final(tokens) => Usage::Final(tokens.min(MOST).max(used)),
        Usage::Unreported(tokens) => Usage::Unreported(tokens.min(MOST).max(used)),
        Usage::Released if used > 0 => Usage::Final(used),
        Usage::Released => Usage::Released,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_charges_what_several_do() {
        use Usage::{Final, Released, Running, Unreported};
        for (known, usage, expected) in [
            (Running(0), Running(5), Running(5)),
            (Running(5), Running(3), Running(5)),
            (Running(5), Final(3), Final(3)),
            (Running(5), Final(u64::MAX), Final(MOST)),
            (Running(5), Unreported(0), Unreported(5)),
            (Running(5), Released, Final(5)),
            (Running(0), Released, Released),
            (Final(5), Final(9), Final(5)),
            (Released, Final(9), Released),
        ] {
            assert_eq!(merged(known, usage, true), expected, "{known:?}, {usage:?}");
        }
        assert_eq!(merged(Running(5), Final(3), false), Final(5), "an estimate");
    }
}
