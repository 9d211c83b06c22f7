//! The arithmetic of a lease: how many units a replica requests, takes and returns, moment by moment.

use tollgate_core::limit::{
    Verdict,
    lease::{Lease, LeaseGrant, LeaseOutcome, LeaseTerms},
};

const TERMS: LeaseTerms = LeaseTerms { slice: 8, life: 1000 };

fn admitted(remaining: u64, reset: u64) -> Verdict {
    Verdict { admitted: true, remaining, retry_after: 0, reset }
}

fn grant(requested: u64, granted: u64, consumed: u64) -> LeaseGrant {
    LeaseGrant { requested, granted, consumed }
}

#[test]
fn a_lease_is_filled_while_requests_come_and_not_after_a_pause() {
    let mut lease = Lease::default();
    assert_eq!(lease.take(0, 1, TERMS), LeaseOutcome::Request(1), "for the check only");
    lease.grant(0, grant(1, 1, 1), admitted(20, 500), TERMS);
    assert_eq!(lease.held(), 0);
    assert_eq!(lease.take(10, 1, TERMS), LeaseOutcome::Request(8), "up to the slice");
    assert_eq!(lease.take(11, 1, TERMS), LeaseOutcome::Request(1), "others are on their way");
    lease.grant(10, grant(8, 6, 1), admitted(14, 600), TERMS);
    lease.grant(11, grant(1, 1, 1), admitted(13, 650), TERMS);
    assert_eq!(lease.held(), 5);

    // What is left is what the replica holds, and what the bucket had at its last answer.
    assert_eq!(lease.take(12, 1, TERMS), LeaseOutcome::Taken(admitted(17, 649), 0));
    assert_eq!(lease.take(13, 1, TERMS), LeaseOutcome::Taken(admitted(16, 648), 0));
    // A quarter of the slice is left: the rest is requested, without what may come back.
    assert_eq!(lease.take(14, 1, TERMS), LeaseOutcome::Taken(admitted(15, 647), 3));
    assert_eq!(lease.take(15, 1, TERMS), LeaseOutcome::Taken(admitted(14, 646), 0));
    lease.forget(3);
    for spent in [true, true, true, false] {
        lease.settle(1, spent);
    }
    assert_eq!(lease.held(), 2);

    // A check that costs more than is held.
    assert_eq!(lease.take(16, 3, TERMS), LeaseOutcome::Request(6));
    lease.forget(6);
    assert_eq!(lease.take(16, 9, TERMS), LeaseOutcome::Request(9));
    lease.forget(9);
    lease.request(5);
    assert_eq!(lease.take(16, 3, TERMS), LeaseOutcome::Request(3));
    lease.forget(8);

    // The units expire with the life of the last grant.
    assert_eq!(lease.reclaim(1010, false), 0);
    assert_eq!(lease.take(1010, 2, TERMS), LeaseOutcome::Taken(admitted(13, 0), 6));
    lease.forget(6);
    lease.settle(2, false);
    assert_eq!(lease.take(1011, 2, TERMS), LeaseOutcome::Request(2), "a pause");
    lease.forget(2);
    assert!(!lease.is_idle(1011));
    assert_eq!((lease.reclaim(1011, false), lease.held()), (2, 0));
    assert!(lease.is_idle(1011) && !lease.is_idle(1010));
}

#[test]
fn all_units_are_returned_when_the_replica_closes() {
    let mut lease = Lease::default();
    lease.put_back(3);
    assert_eq!((lease.reclaim(0, true), lease.held()), (3, 0));
    // What a check has taken is not the lease's to return.
    lease.grant(0, grant(2, 2, 0), admitted(0, 0), TERMS);
    assert!(matches!(lease.take(1, 2, TERMS), LeaseOutcome::Taken(..)));
    assert_eq!((lease.reclaim(1, true), lease.held()), (0, 2));
    lease.forget(6);
    assert!(!lease.is_idle(5000), "two are taken");
    lease.settle(2, true);
    assert!(lease.is_idle(5000));
    lease.request(1);
    assert!(!lease.is_idle(5000), "one is on its way");
}

#[test]
fn nothing_is_requested_while_the_bucket_is_known_to_be_empty() {
    let refused =
        |retry_after, reset| Verdict { admitted: false, remaining: 0, retry_after, reset };
    let mut lease = Lease::default();
    assert_eq!(lease.take(100, 4, TERMS), LeaseOutcome::Request(4));
    lease.refuse(100, 4, refused(50, 300));
    assert_eq!(lease.take(149, 1, TERMS), LeaseOutcome::Refused(refused(1, 251)));
    assert!(!lease.is_idle(149) && lease.is_idle(150));
    assert_eq!(lease.take(150, 1, TERMS), LeaseOutcome::Request(1));

    // Units that are held are spent meanwhile, and none is requested ahead.
    lease.grant(150, grant(1, 3, 1), admitted(4, 250), TERMS);
    lease.refuse(160, 0, refused(50, 240));
    assert_eq!(lease.take(209, 1, TERMS), LeaseOutcome::Taken(admitted(1, 191), 0));
    assert_eq!(lease.take(210, 1, TERMS), LeaseOutcome::Taken(admitted(0, 190), 6));
    // An answer that grants ends the refusal.
    lease.refuse(300, 6, refused(50, 240));
    lease.grant(301, grant(0, 0, 0), admitted(2, 9), TERMS);
    assert_eq!(lease.take(302, 1, TERMS), LeaseOutcome::Request(6), "two are taken");
}

#[test]
fn the_bucket_is_known_as_of_the_last_request() {
    let mut lease = Lease::default();
    let mut seen = |sent, remaining, reset| {
        lease.grant(sent, grant(1, 1, 1), admitted(remaining, reset), TERMS);
        let verdict = lease.verdict(20, true);
        (verdict.remaining, verdict.reset)
    };
    assert_eq!(seen(20, 5, 100), (5, 100));
    assert_eq!(seen(10, 9, 500), (5, 100), "an answer that arrives late");
    assert_eq!(seen(20, 7, 110), (5, 110), "two of one moment: the worse of both");
    assert_eq!(seen(20, 3, 90), (3, 110));
    assert_eq!(seen(21, 8, 50), (8, 51));
}

#[test]
fn a_return_that_was_not_taken_is_never_below_zero() {
    let mut lease = Lease::default();
    lease.forget(3);
    lease.settle(2, true);
    lease.grant(0, grant(5, 1, 4), admitted(0, 0), TERMS);
    assert_eq!(lease.held(), 0);
    assert_eq!(lease.take(1, 1, TERMS), LeaseOutcome::Request(8));
}
