//! The room of a bounded table, shared by the groups of clients that fill it.
//!
//! A group has at most seven times as many entries as are free. One group alone takes seven eighths
//! of a table, and of N groups that take what they can at the same time each one 7/(7N+1): what is
//! left is never nothing, so that no group keeps another one out. A group consists of smaller ones,
//! the tenants of an issuer or the networks of a provider, which share its room by the same rule: one
//! tenant of one issuer takes three quarters of a table.

use std::collections::HashMap;

use foldhash::fast::FixedState;

/// How many entries a group may have for each one that is free.
const PER_FREE: usize = 7;

/// A group, and the smaller one within it. Both are hashes under a secret of the table: no client
/// can choose whose room it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// An issuer, or the network of a provider.
    pub outer: u32,
    /// A tenant of the issuer, or a network of the provider: different in two outer groups.
    pub inner: u32,
}

/// Numbers of entries by the hashes of groups. They are secret, and need no secret hasher.
type Counts = HashMap<u32, u32, FixedState>;

/// The number of entries of each group.
#[derive(Clone, Debug, Default)]
pub struct SharedRoom {
    len: usize,
    outer: Counts,
    inner: Counts,
}

impl SharedRoom {
    /// The number of entries of all groups.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a table of `most` entries is so full that groups may have used up their parts. Until
    /// then [`has`](Self::has) is true for all of them.
    pub const fn is_crowded(&self, most: usize, more: usize) -> bool {
        let all = self.len.saturating_add(more);
        let free = most.saturating_sub(all);
        // The part of an inner group, if it had all entries.
        all.saturating_mul(1 + 2 * PER_FREE) > free.saturating_mul(PER_FREE * PER_FREE)
    }

    /// Whether a table of `most` entries has room for `more` entries of a group. Without a group only
    /// the size of the table counts: clients do not choose such entries.
    pub fn has(&self, most: usize, group: Option<Group>, more: usize) -> bool {
        let Some(free) = most.checked_sub(self.len.saturating_add(more)) else { return false };
        let Some(Group { outer, inner }) = group else { return true };
        if !self.is_crowded(most, more) {
            return true;
        }
        let count = |counts: &Counts, group| {
            counts.get(&group).map_or(0, |count| *count as usize).saturating_add(more)
        };
        let part = free.saturating_mul(PER_FREE);
        let Some(rest) = part.checked_sub(count(&self.outer, outer)) else { return false };
        // An entry takes one from what is free, and so eight from the rest of the outer group.
        count(&self.inner, inner).saturating_mul(1 + PER_FREE) <= rest.saturating_mul(PER_FREE)
    }

    /// Counts an entry.
    pub fn add(&mut self, group: Option<Group>) {
        self.len = self.len.saturating_add(1);
        if let Some(Group { outer, inner }) = group {
            for (counts, group) in [(&mut self.outer, outer), (&mut self.inner, inner)] {
                let count = counts.entry(group).or_default();
                *count = count.saturating_add(1);
            }
        }
    }

    /// Counts an entry no more that was counted for the same group.
    pub fn remove(&mut self, group: Option<Group>) {
        self.len = self.len.saturating_sub(1);
        if let Some(Group { outer, inner }) = group {
            for (counts, group) in [(&mut self.outer, outer), (&mut self.inner, inner)] {
                match counts.get_mut(&group) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => {
                        counts.remove(&group);
                    }
                }
            }
        }
        if self.len == 0 {
            // An attack is over: what its groups took is given back.
            self.outer.shrink_to_fit();
            self.inner.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(outer: u32, inner: u32) -> Option<Group> {
        Some(Group { outer, inner: outer * 10_000 + inner })
    }

    /// Adds entries of a group while there is room, `most` at most. Returns how many.
    fn fill(room: &mut SharedRoom, table: usize, group: Option<Group>, most: usize) -> usize {
        let taken = (0..most).take_while(|_| {
            let has = room.has(table, group, 1);
            if has {
                room.add(group);
            }
            has
        });
        taken.count()
    }

    #[test]
    fn one_group_alone_takes_most_of_a_table_and_leaves_room() {
        let mut room = SharedRoom::default();
        // 49/64 by the rule for a group within a group.
        assert_eq!(fill(&mut room, 6400, group(1, 1), 9999), 4900);
        assert!(!room.has(6400, group(1, 1), 1));
        let other = fill(&mut room, 6400, group(2, 1), 9999);
        assert!(other > 1000, "a stranger finds room: {other}");
        assert!(room.len() < 6400);
    }

    #[test]
    fn tenants_of_one_issuer_share_its_room() {
        let mut room = SharedRoom::default();
        let first = fill(&mut room, 10_000, group(1, 1), 99_999);
        let second = fill(&mut room, 10_000, group(1, 2), 99_999);
        let third = fill(&mut room, 10_000, group(1, 3), 99_999);
        assert!(first > 7600 && second > 900 && third > 100, "{first} {second} {third}");
        // An issuer that invents tenants does not keep out another issuer.
        for tenant in 4..2000 {
            fill(&mut room, 10_000, group(1, tenant), 99);
        }
        let other = fill(&mut room, 10_000, group(2, 1), 99_999);
        assert!(other > 500, "{other}");
    }

    #[test]
    fn entries_without_a_group_take_the_last_place() {
        let mut room = SharedRoom::default();
        fill(&mut room, 100, group(1, 1), 999);
        let rest = 100 - room.len();
        assert_eq!(fill(&mut room, 100, None, 999), rest);
        assert!(!room.has(100, None, 1) && !room.has(100, group(2, 1), 1));
        room.remove(None);
        assert!(room.has(100, None, 1));
    }

    proptest! {
        /// The quick test is right: what is not crowded has room for every group.
        #[test]
        fn a_table_that_is_not_crowded_has_room_for_every_group(
            counts in proptest::collection::vec((0..3_u32, 0..3_u32), 0..200),
            most in 0..300_usize,
            more in 0..5_usize,
        ) {
            let mut room = SharedRoom::default();
            counts.iter().for_each(|(outer, inner)| room.add(group(*outer, *inner)));
            let slow = |one: Option<Group>| {
                let of = |same: &dyn Fn(Group) -> bool| {
                    let mine = counts.iter().filter(|(o, i)| group(*o, *i).is_some_and(same));
                    mine.count() + more
                };
                let free = most.checked_sub(counts.len() + more)?;
                let outer = of(&|two| Some(two.outer) == one.map(|g| g.outer));
                let rest = (7 * free).checked_sub(outer)?;
                (8 * of(&|two| Some(two.inner) == one.map(|g| g.inner)) <= 7 * rest).then_some(())
            };
            for outer in 0..3 {
                for inner in 0..3 {
                    let one = group(outer, inner);
                    prop_assert_eq!(room.has(most, one, more), slow(one).is_some());
                }
            }
            // All of it goes again.
            counts.iter().for_each(|(outer, inner)| room.remove(group(*outer, *inner)));
            prop_assert!(room.is_empty() && room.outer.is_empty() && room.inner.is_empty());
        }
    }
}
