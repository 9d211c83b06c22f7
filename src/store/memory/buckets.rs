//! Buckets in memory: the reference model over a table. Beside them the counters of holds and the
//! reservations, as the core has them.
//!
//! A bucket whose TAT has passed is full, which is the same as a missing one, so it may be removed.
//! A bucket that is not full is never removed: a client that could displace it would have refilled
//! it.
//!
//! Room is shared fairly. Limits that do not count by the credential have a table of their own, as
//! clients without a credential choose its keys (addresses). In the other table one principal has a
//! sixteenth of the room at most. In both, the buckets of one issuer, one tenant or one network are
//! seven times as many as are free at most ([`tollgate_core::room`]): beyond it a new bucket
//! admits nothing, and no client takes the room of another tenant. Counters of holds and open
//! reservations are bounded likewise, and as many settled reservations are remembered.

mod reserve;
mod table;

use std::sync::{Mutex, PoisonError};

use tollgate_core::{
    admission::{AdmitRequest, Outage},
    limit::{
        Charge, Verdict,
        counters::Counters,
        reference::{peek, try_take},
    },
    time::Timestamp,
};

use self::table::BucketTable;
use crate::store::requester::{ClientGroups, Requester};

/// The number of principals who fill a table.
const PARTS: usize = 16;

/// The number of buckets that a principal may have in a table of any size: its limits, models and
/// routes.
const LEAST_PART: usize = 64;

/// All buckets, behind one lock. A check with two charges holds it for a tenth of a microsecond and
/// takes a hundred times that in all, so that cores do not wait for the lock.
#[derive(Debug)]
pub(in crate::store) struct Buckets {
    /// The most buckets in each table.
    most: usize,
    groups: ClientGroups,
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    /// The buckets of limits that count by the credential.
    owned: BucketTable,
    /// The buckets of the other limits.
    open: BucketTable,
    /// The counters of holds, and the reservations.
    counters: Counters,
}

impl Tables {
    fn of(&self, charge: &Charge) -> &BucketTable {
        if charge.by_principal { &self.owned } else { &self.open }
    }

    /// The number under which the entries of a principal are counted, if there is one.
    fn owner(&self, from: Requester<'_>) -> Option<u16> {
        from.principal().map(|principal| self.owned.owner(principal))
    }

    fn of_mut(&mut self, charge: &Charge) -> &mut BucketTable {
        if charge.by_principal { &mut self.owned } else { &mut self.open }
    }
}

impl Buckets {
    pub(in crate::store) fn new(most: u64) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Self {
            most,
            groups: ClientGroups::default(),
            tables: Mutex::new(Tables {
                owned: BucketTable::new(most),
                open: BucketTable::new(most),
                counters: Counters::default(),
            }),
        }
    }

    /// The number of buckets.
    pub(in crate::store) fn len(&self) -> u64 {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        (tables.owned.len() + tables.open.len()) as u64
    }

    /// Decides the charges and the reservation of a request: all of it is taken, or nothing.
    ///
    /// # Errors
    /// [`Outage::Full`] if a table has no room.
    pub(in crate::store) fn admit(
        &self,
        request: &AdmitRequest,
        now: Timestamp,
    ) -> Result<Vec<Verdict>, Outage> {
        let (charges, from) = (&request.charges, Requester::of(request));
        match &request.reservation {
            Some(reservation) => self.reserve(charges, reservation, from, now),
            None => self.charge(charges, from, now),
        }
    }

    /// The groups of clients, as the tables have them.
    pub(in crate::store) fn groups(&self) -> &ClientGroups {
        &self.groups
    }

    /// Takes all charges of a request, or none. Their keys differ, as the core refuses a
    /// route that lists a limit twice.
    ///
    /// # Errors
    /// [`Outage::Full`] if a table has no room.
    pub(in crate::store) fn charge(
        &self,
        charges: &[Charge],
        from: Requester<'_>,
        now: Timestamp,
    ) -> Result<Vec<Verdict>, Outage> {
        if charges.is_empty() {
            return Ok(Vec::new());
        }
        let now = now.micros();
        let tables = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = tables.owner(from);
        let mut verdicts = self.try_charges(tables, charges, owner, from, now);
        if is_admitted(charges, &verdicts) {
            self.take_all(tables, charges, &verdicts, (owner, from), now)?;
        } else {
            peek_admitted(tables, charges, &mut verdicts, now);
        }
        Ok(verdicts)
    }

    /// Returns the verdict on each charge, as if all of them are admitted.
    fn try_charges(
        &self,
        tables: &mut Tables,
        charges: &[Charge],
        owner: Option<u16>,
        from: Requester<'_>,
        now: u64,
    ) -> Vec<Verdict> {
        let owned = charges.iter().filter(|charge| charge.by_principal).count();
        tables.owned.sweep(now, owned);
        tables.open.sweep(now, charges.len() - owned);
        let has_owned_room = self.has_part(tables, charges, owner)
            && self.has_group_room(&mut tables.owned, charges, (from, true), now);
        let has_open_room = self.has_group_room(&mut tables.open, charges, (from, false), now);
        let verdict = |charge: &Charge| {
            let tat = tables.of(charge).get(charge.bucket);
            let has_room = if charge.by_principal { has_owned_room } else { has_open_room };
            if !has_room && !charge.is_shadow && tat.is_none() {
                // The denial is that of the limit, so that no `on_outage` lets it pass.
                let [interval, reset] = [charge.interval, charge.interval];
                return Verdict { admitted: false, remaining: 0, retry_after: interval, reset };
            }
            try_take(tat, now, charge.interval, charge.burst, charge.cost).verdict
        };
        charges.iter().map(verdict).collect()
    }

    /// Takes the charges that are admitted.
    fn take_all(
        &self,
        tables: &mut Tables,
        charges: &[Charge],
        verdicts: &[Verdict],
        from: (Option<u16>, Requester<'_>),
        now: u64,
    ) -> Result<(), Outage> {
        self.take(tables, charges, verdicts, from, now)?;
        if charges.iter().any(|charge| charge.is_shadow) {
            self.take_in_shadow(tables, charges, verdicts, from, now);
        }
        Ok(())
    }

    /// Takes the admitted charges of limits that are in shadow. Their buckets fill half of a table, and half
    /// of the part of a principal, so that those that are enforced have room. Beyond it they are left
    /// out.
    fn take_in_shadow(
        &self,
        tables: &mut Tables,
        charges: &[Charge],
        verdicts: &[Verdict],
        (owner, from): (Option<u16>, Requester<'_>),
        now: u64,
    ) {
        let taken = charges.iter().zip(verdicts);
        for (charge, verdict) in taken.filter(|(charge, one)| charge.is_shadow && one.admitted) {
            let table = tables.of_mut(charge);
            let has_part = |owner| table.stored_by(owner) < self.part() / 2;
            let has_room =
                table.len() < self.most / 2 && (!charge.by_principal || owner.is_none_or(has_part));
            if has_room || table.get(charge.bucket).is_some() {
                let group = || self.groups.of(from, charge.by_principal);
                let owner = owner.unwrap_or_default();
                table.set(charge.bucket, now + verdict.reset, owner, group);
            }
        }
    }

    /// Takes the admitted charges of limits that are enforced.
    fn take(
        &self,
        tables: &mut Tables,
        charges: &[Charge],
        verdicts: &[Verdict],
        (owner, from): (Option<u16>, Requester<'_>),
        now: u64,
    ) -> Result<(), Outage> {
        let taken = || {
            charges
                .iter()
                .zip(verdicts)
                .filter(|(charge, verdict)| !charge.is_shadow && verdict.admitted)
        };
        for by_principal in [true, false] {
            let mine =
                || taken().map(|(charge, _)| charge).filter(|one| one.by_principal == by_principal);
            let Some(first) = mine().next() else { continue };
            let table = tables.of_mut(first);
            if !table.has_room(mine().count()) {
                // A stored bucket that is full may be removed to make room, and is then a new one.
                let new = mine()
                    .filter(|charge| table.get(charge.bucket).is_none_or(|tat| tat <= now))
                    .count();
                if !table.make_room(now, new) {
                    return Err(Outage::Full);
                }
            }
        }
        for (charge, verdict) in taken() {
            // The bucket is full again after `reset`: that moment is its TAT.
            let tat = now + verdict.reset;
            let group = || self.groups.of(from, charge.by_principal);
            let owner = owner.unwrap_or_default();
            tables.of_mut(charge).set(charge.bucket, tat, owner, group);
        }
        Ok(())
    }

    /// Whether the group of a client has room in a table for the buckets that are not stored.
    fn has_group_room(
        &self,
        table: &mut BucketTable,
        charges: &[Charge],
        (from, by_principal): (Requester<'_>, bool),
        now: u64,
    ) -> bool {
        // Nearly always: the table is not that full.
        !table.is_crowded(charges.len()) || {
            let mine = charges
                .iter()
                .filter(|charge| charge.by_principal == by_principal && !charge.is_shadow);
            let new = mine.filter(|charge| table.get(charge.bucket).is_none()).count();
            let group = self.groups.of(from, by_principal);
            // A table without any room is an outage, which is noticed when the buckets are taken.
            new == 0
                || group.is_none()
                || table.make_room_for(now, group, new)
                || !table.has_room(new)
        }
    }

    /// The number of entries that one principal may have.
    fn part(&self) -> usize {
        (self.most / PARTS).max(LEAST_PART)
    }

    /// Whether the owner's part of the table has room for the buckets that are not stored. Those of
    /// its buckets that are full again count until they are swept.
    fn has_part(&self, tables: &Tables, charges: &[Charge], owner: Option<u16>) -> bool {
        let Some(owner) = owner else { return true };
        let part = self.part();
        let stored = tables.owned.stored_by(owner);
        // Nearly always true, without a look into the table.
        stored + charges.len() <= part || {
            let mine = charges.iter().filter(|charge| charge.by_principal && !charge.is_shadow);
            let new = mine.filter(|charge| tables.owned.get(charge.bucket).is_none());
            stored + new.count() <= part
        }
    }
}

/// Whether the request may pass: every charge of a limit that is enforced is admitted.
fn is_admitted(charges: &[Charge], verdicts: &[Verdict]) -> bool {
    Verdict::all_admit(verdicts, charges.iter().map(|charge| charge.is_shadow))
}

/// Replaces the verdicts that admit, after another one refused.
fn peek_admitted(tables: &Tables, charges: &[Charge], verdicts: &mut [Verdict], now: u64) {
    let admitted = charges.iter().zip(verdicts).filter(|(_, verdict)| verdict.admitted);
    for (charge, verdict) in admitted {
        let tat = tables.of(charge).get(charge.bucket);
        *verdict = peek(tat, now, charge.interval, charge.burst);
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::revocation::{Keys, Names, issuer_digest};

    use super::*;

    const SECOND: u64 = 1_000_000;

    const STRANGER: Requester<'static> = Requester { keys: None, address: None };

    fn charge(key: &str, interval: u64, burst: u64) -> Charge {
        Charge {
            limit: "l".into(),
            bucket: key.into(),
            interval,
            burst,
            cost: 1,
            by_principal: true,
            is_shadow: false,
            lease: None,
            within: tollgate_core::limit::shard::CountedWithin::default(),
        }
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn all_or_none() {
        let buckets = Buckets::new(10);
        let both = [charge("wide", SECOND, 3), charge("narrow", SECOND, 1)];
        assert!(
            buckets.charge(&both, STRANGER, at(1)).unwrap().iter().all(|verdict| verdict.admitted)
        );
        let verdicts = buckets.charge(&both, STRANGER, at(1)).unwrap();
        assert_eq!(
            (verdicts[0].admitted, verdicts[0].remaining),
            (true, 2),
            "not charged, as the other had no room"
        );
        assert!(!verdicts[1].admitted);
        let verdicts = buckets.charge(&both[..1], STRANGER, at(1)).unwrap();
        assert_eq!(verdicts[0].remaining, 1);
    }

    #[test]
    fn a_full_table_refuses_new_buckets_and_keeps_the_ones_it_has() {
        let buckets = Buckets::new(2);
        for key in ["a", "b"] {
            assert!(
                buckets.charge(&[charge(key, SECOND, 2)], STRANGER, at(1)).unwrap()[0].admitted
            );
        }
        assert_eq!(buckets.charge(&[charge("c", SECOND, 2)], STRANGER, at(2)), Err(Outage::Full));
        assert_eq!(
            buckets.charge(&[charge("a", SECOND, 2)], STRANGER, at(2)).unwrap()[0].remaining,
            0,
            "a live bucket stays as it was"
        );
        assert_eq!(
            buckets.charge(&[charge("b", SECOND, 2), charge("c", SECOND, 2)], STRANGER, at(2)),
            Err(Outage::Full)
        );
        assert_eq!(
            buckets.charge(&[charge("b", SECOND, 2)], STRANGER, at(2)).unwrap()[0].remaining,
            0,
            "nothing was taken"
        );
        // `a` and `b` are full again two seconds later.
        assert!(
            buckets.charge(&[charge("c", SECOND, 2)], STRANGER, at(2 * SECOND + 1)).unwrap()[0]
                .admitted
        );
    }

    #[test]
    fn a_bucket_that_is_full_again_fits_into_a_full_table() {
        let buckets = Buckets::new(2);
        let both = [charge("a", SECOND, 2), charge("b", SECOND, 2)];
        for now in [1, 2, SECOND + 1, 9 * SECOND, 20 * SECOND] {
            assert!(buckets.charge(&both, STRANGER, at(now)).is_ok(), "{now}");
            assert_eq!(buckets.len(), 2);
        }
        // Only `b` is full: there is room for itself, or for one other.
        buckets.charge(&both[..1], STRANGER, at(21 * SECOND)).unwrap();
        for (key, expected) in [("b", true), ("c", false)] {
            let two = [charge("a", SECOND, 5), charge(key, SECOND, 2)];
            assert_eq!(
                buckets.charge(&two, STRANGER, at(21 * SECOND + 1)).is_ok(),
                expected,
                "{key}"
            );
        }
        assert_eq!(buckets.len(), 2);
    }

    #[test]
    fn a_refusal_stores_no_bucket() {
        let buckets = Buckets::new(10);
        assert!(!buckets.charge(&[charge("a", SECOND, 0)], STRANGER, at(1)).unwrap()[0].admitted);
        assert_eq!(buckets.len(), 0);
    }

    #[test]
    fn full_buckets_are_removed_as_others_are_charged() {
        let buckets = Buckets::new(100_000);
        for n in 0..10_000 {
            buckets.charge(&[charge(&format!("k{n}"), SECOND, 5)], STRANGER, at(n)).unwrap();
        }
        // Half of them are charged again, so that they are full later.
        for n in 0..5_000 {
            buckets.charge(&[charge(&format!("k{n}"), SECOND, 5)], STRANGER, at(20_000)).unwrap();
        }
        assert_eq!(buckets.len(), 10_000);
        for n in 0..4_000 {
            buckets.charge(&[charge("other", 1, 5)], STRANGER, at(10 * SECOND + n)).unwrap();
        }
        assert_eq!(buckets.len(), 1);
    }

    /// The keys of a subject of a tenant.
    fn keys(tenant: &str, n: u64) -> Keys {
        let names = Names {
            issuer: &issuer_digest("i"),
            token: [7; 32],
            jti: None,
            subject: &n.to_string(),
            subject_is_client: false,
            client: None,
            tenant: Some(tenant),
        };
        Keys::new(names, 0, Vec::new())
    }

    fn client(keys: &Keys) -> Requester<'_> {
        Requester { keys: Some(keys), address: None }
    }

    #[test]
    fn one_principal_takes_a_part_of_the_table() {
        let buckets = Buckets::new(3200);
        let ask = |owner: u64, key: String, now| {
            let (keys, charges) = (keys("t", owner), [charge(&key, SECOND, 5)]);
            buckets.charge(&charges, client(&keys), at(now)).unwrap().remove(0)
        };
        let admitted = (0..5000).filter(|n| ask(1, format!("a{n}"), 1).admitted).count();
        assert_eq!(admitted, 200, "a sixteenth");
        let refused = ask(1, "a-new".into(), 2);
        assert!(!refused.admitted && refused.retry_after == SECOND, "{refused:?}");
        assert_eq!(ask(1, "a7".into(), 2).remaining, 3, "its own buckets work");
        // Nearly all others have their room. One in 4096 shares the part.
        let others = (2..102).filter(|n| ask(*n, format!("b{n}"), 3).admitted).count();
        assert!(others > 97, "{others}");
        // All are full later, and are swept as others are charged.
        for n in 0..5000 {
            ask(200, "c".into(), 60 * SECOND + n);
        }
        assert!(ask(1, "a-new".into(), 61 * SECOND).admitted);
    }

    #[test]
    fn a_charge_beyond_the_part_takes_nothing() {
        let buckets = Buckets::new(1024);
        let keys = keys("t", 1);
        let one = |key: &str| charge(key, SECOND, 5);
        for n in 0..63 {
            buckets.charge(&[one(&format!("k{n}"))], client(&keys), at(1)).unwrap();
        }
        let two = [one("x"), one("y"), one("k1")];
        let verdicts = buckets.charge(&two, client(&keys), at(1)).unwrap();
        assert_eq!(verdicts.iter().map(|v| v.admitted).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!((verdicts[2].remaining, buckets.len()), (4, 63));
        assert!(buckets.charge(&two[1..], client(&keys), at(1)).unwrap()[0].admitted);
    }

    #[test]
    fn strangers_fill_a_table_of_their_own() {
        let buckets = Buckets::new(100);
        let open = |n: u64| Charge { by_principal: false, ..charge(&format!("ip{n}"), SECOND, 5) };
        for n in 0..100 {
            assert!(buckets.charge(&[open(n)], STRANGER, at(1)).is_ok());
        }
        assert_eq!(buckets.charge(&[open(100)], STRANGER, at(1)), Err(Outage::Full));
        let keys = keys("t", 1);
        let own = charge("alice", SECOND, 5);
        assert!(
            buckets.charge(std::slice::from_ref(&own), client(&keys), at(1)).unwrap()[0].admitted
        );
        // Both kinds: all or none.
        assert_eq!(
            buckets.charge(&[own.clone(), open(100)], client(&keys), at(1)),
            Err(Outage::Full)
        );
        assert_eq!(buckets.charge(&[own], client(&keys), at(1)).unwrap()[0].remaining, 3);
    }

    /// Charges one new bucket for each of the keys. Returns how many were admitted.
    fn flood(buckets: &Buckets, of: Requester<'_>, by_principal: bool, keys: &[String]) -> usize {
        let one = |key: &String| {
            let charge = Charge { by_principal, ..charge(key, SECOND, 5) };
            buckets.charge(&[charge], of, at(1)).is_ok_and(|verdicts| verdicts[0].admitted)
        };
        keys.iter().filter(|key| one(key)).count()
    }

    #[test]
    fn a_tenant_of_many_subjects_leaves_the_other_tenants_their_room() {
        let buckets = Buckets::new(6400);
        let spent = keys("victim", 1);
        for remaining in (0..5).rev() {
            let verdicts = buckets.charge(&[charge("v", SECOND, 5)], client(&spent), at(1));
            assert_eq!(verdicts.unwrap()[0].remaining, remaining);
        }
        // A hundred subjects, each below its sixteenth.
        let hostile = (0..100).map(|subject| {
            let keys = keys("hostile", subject);
            let names: Vec<String> = (0..300).map(|n| format!("{subject}-{n}")).collect();
            flood(&buckets, client(&keys), true, &names)
        });
        let admitted: usize = hostile.sum();
        assert!((4800..=4900).contains(&admitted), "{admitted}");
        let refused = keys("hostile", 200);
        let refused = buckets.charge(&[charge("h", SECOND, 5)], client(&refused), at(1)).unwrap();
        assert!(!refused[0].admitted && refused[0].retry_after == SECOND, "no outage: {refused:?}");
        // What was spent is known, and others have room.
        let again = buckets.charge(&[charge("v", SECOND, 5)], client(&spent), at(1)).unwrap();
        assert!(!again[0].admitted);
        let others = (0..50).filter(|subject| {
            let keys = keys("other", *subject);
            flood(&buckets, client(&keys), true, &[format!("o{subject}")]) == 1
        });
        // Parts of the table are drawn at random, so that some of them may be those of the hostile ones.
        let admitted = others.count();
        assert!(admitted >= 40, "{admitted}");
        // Six seconds later all of it has gone.
        let late = keys("hostile", 300);
        assert!(
            buckets.charge(&[charge("h", SECOND, 5)], client(&late), at(9 * SECOND)).unwrap()[0]
                .admitted
        );
    }

    #[test]
    fn a_network_of_many_addresses_leaves_the_other_networks_their_room() {
        let buckets = Buckets::new(1000);
        let from =
            |address: &str| Requester { address: Some(address.parse().unwrap()), keys: None };
        let names = |label: &str| (0..2000).map(|n| format!("{label}{n}")).collect::<Vec<_>>();
        // The /64 networks of one /32.
        let mut admitted = 0;
        for (n, name) in names("a").iter().enumerate() {
            let from = from(&format!("2001:db8:{:x}:{:x}::1", n / 16, n % 16 * 256));
            admitted += flood(&buckets, from, false, std::slice::from_ref(name));
        }
        assert!((800..=875).contains(&admitted), "{admitted}");
        let others = flood(&buckets, from("192.0.2.7"), false, &names("b")[..20]);
        assert_eq!(others, 20);
        // A limit of a route is counted for every network that has room.
        assert_eq!(flood(&buckets, from("198.51.100.1"), false, &["route".into()]), 1);
        assert_eq!(flood(&buckets, from("2001:db8::1"), false, &["route".into()]), 1, "stored");
    }

    #[test]
    fn limits_in_shadow_take_no_room_of_those_that_are_enforced() {
        let buckets = Buckets::new(1024);
        let admits = |charges: &[Charge], from| {
            let verdicts = buckets.charge(charges, from, at(1))?;
            Ok(verdicts.iter().map(|verdict| verdict.admitted).collect::<Vec<_>>())
        };
        let open = |key: String, is_shadow| Charge {
            by_principal: false,
            is_shadow,
            ..charge(&key, SECOND, 5)
        };
        // They fill half of a table; beyond it they are left out.
        for n in 0..600 {
            assert_eq!(admits(&[open(format!("s{n}"), true)], STRANGER), Ok(vec![true]), "{n}");
        }
        assert_eq!(buckets.len(), 512);
        for n in 0..512 {
            let charges = [open(format!("t{n}"), true), open(format!("e{n}"), false)];
            assert_eq!(admits(&charges, STRANGER), Ok(vec![true, true]), "{n}");
        }
        assert_eq!(admits(&[open("more".into(), false)], STRANGER), Err(Outage::Full));
        let known = buckets.charge(&[open("s7".into(), true)], STRANGER, at(1)).unwrap();
        assert_eq!((known[0].remaining, buckets.len()), (3, 1024), "one that is stored counts on");

        // Half of the part of a principal, likewise.
        let keys = keys("own", 1);
        let own = |key: String, is_shadow| Charge { is_shadow, ..charge(&key, SECOND, 5) };
        for n in 0..100 {
            let charges = [own(format!("s{n}"), true)];
            assert_eq!(admits(&charges, client(&keys)), Ok(vec![true]), "{n}");
        }
        assert_eq!(buckets.len(), 1024 + 32);
        for n in 0..32 {
            let charges = [own(format!("t{n}"), true), own(format!("e{n}"), false)];
            assert_eq!(admits(&charges, client(&keys)), Ok(vec![true, true]), "{n}");
        }
        assert_eq!(admits(&[own("more".into(), false)], client(&keys)), Ok(vec![false]));
    }
}
