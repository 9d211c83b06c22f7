//! The bans that would be in force if `mode` were not `shadow`.

use std::collections::HashMap;

use tollgate_core::{ban::BanDurations, network::Network, time::Timestamp};

/// The most networks that are remembered.
const MOST: usize = 10_000;

/// A ban that would have begun.
#[derive(Clone, Copy, Debug)]
struct WouldBan {
    number: u32,
    until: Timestamp,
    forgotten_at: Timestamp,
}

/// The bans that would have begun, so that each is logged once and they grow as others do.
#[derive(Debug, Default)]
pub(super) struct ShadowBans(HashMap<Network, WouldBan>);

impl ShadowBans {
    /// Begins a ban that is not enforced. Returns its end and its number; `None` where one would be in
    /// force, or there is no room.
    pub(super) fn begin(
        &mut self,
        network: Network,
        durations: &BanDurations,
        now: Timestamp,
    ) -> Option<(Timestamp, u32)> {
        let before = self.0.get(&network).filter(|before| now < before.forgotten_at);
        if before.is_some_and(|before| now < before.until) {
            return None;
        }
        let number = before.map_or(0, |before| before.number).saturating_add(1);
        if self.0.len() >= MOST {
            self.0.retain(|_, ban| now < ban.forgotten_at);
        }
        if self.0.len() >= MOST && !self.0.contains_key(&network) {
            return None;
        }
        let after = |from: Timestamp, micros: u64| {
            Timestamp::from_micros(from.micros().saturating_add(micros))
        };
        let until = after(now, durations.of(number).micros());
        let forgotten_at = after(until, durations.remember.micros());
        self.0.insert(network, WouldBan { number, until, forgotten_at });
        Some((until, number))
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::time::Span;

    use super::*;

    #[test]
    fn bans_in_shadow_are_begun_once_and_grow() {
        let durations = BanDurations {
            first: Span::from_secs(10),
            longest: Span::from_secs(100),
            remember: Span::from_secs(50),
        };
        let mut bans = ShadowBans::default();
        let network = Network::host([192, 0, 2, 7].into());
        let mut begin = |now: u64| {
            let begun = bans.begin(network, &durations, Timestamp::from_secs(now));
            begun.map(|(until, number)| (until.secs() - now, number))
        };
        assert_eq!(begin(1000), Some((10, 1)));
        assert_eq!(begin(1009), None);
        assert_eq!(begin(1010), Some((20, 2)));
        assert_eq!(begin(1030 + 49), Some((40, 3)));
        assert_eq!(begin(1119 + 50), Some((10, 1)));
    }
}
