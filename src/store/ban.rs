//! Bans as an operator adds and finds them.

mod automatic;

use std::net::IpAddr;

use thiserror::Error;
use tollgate_core::{
    ban::{Target, automatic_key, network_key},
    network::Network,
    time::Timestamp,
};

pub use self::automatic::{AutomaticBan, BegunBan};
pub(super) use self::automatic::{MOST_REPEATS, Repeats};
use super::{Entry, InvalidRevocation, TTL_MAX, check_note};

/// The end of a ban until it is lifted: the first moment of the year 10000.
pub const NEVER: Timestamp = Timestamp::from_secs(253_402_300_800);

/// A ban to add, with values that every store accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBan {
    target: Target,
    since: Timestamp,
    until: Option<Timestamp>,
    reason: Option<String>,
}

/// The reason why a ban is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidBan {
    /// The end has passed or is too far away.
    #[error("a ban ends after now and within 3653d; without an end it holds until it is lifted")]
    End,
    /// The reason is empty, too long or not one line.
    #[error(transparent)]
    Reason(#[from] InvalidRevocation),
}

impl NewBan {
    /// Creates a ban of `target` from `now` until a moment, which is rounded up to whole seconds, or
    /// until it is lifted. `reason` is for the operator.
    ///
    /// # Errors
    /// `until` or `reason` is out of bounds.
    pub fn new(
        target: Target,
        now: Timestamp,
        until: Option<Timestamp>,
        reason: Option<String>,
    ) -> Result<Self, InvalidBan> {
        let latest = now.micros().saturating_add(TTL_MAX.micros());
        if until.is_some_and(|until| until <= now || until.micros() > latest) {
            return Err(InvalidBan::End);
        }
        let until = until.map(|until| Timestamp::from_secs(until.micros().div_ceil(1_000_000)));
        reason.as_deref().map_or(Ok(()), check_note)?;
        Ok(Self { target, since: Timestamp::from_secs(now.secs()), until, reason })
    }

    /// What is banned.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The moment when the ban ends; `None`: when it is lifted.
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// The operator's reason.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The entry of the list that this ban becomes if its target is not banned yet.
    pub fn entry(&self) -> Entry {
        Entry {
            key: self.target.key(),
            at: self.since,
            ends: self.until.unwrap_or(NEVER),
            note: self.reason.clone(),
        }
    }
}

/// Returns the moment when a listed ban ends; `None`: when it is lifted.
pub fn until(entry: &Entry) -> Option<Timestamp> {
    Some(entry.ends).filter(|ends| *ends < NEVER)
}

/// A question for the bans that hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BanQuery {
    /// The ban of exactly this target; of a network also the automatic one.
    Target(Target),
    /// The bans of the networks that contain an address.
    Address(IpAddr),
}

impl BanQuery {
    /// The keys of the bans that would answer the question: 258 at most.
    pub(super) fn keys(&self) -> Vec<String> {
        match self {
            Self::Target(target) => target.keys(),
            Self::Address(address) => Network::around(*address)
                .flat_map(|network| [network_key(network), automatic_key(network)])
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::ban::parse_network;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    #[test]
    fn ends_and_reasons_are_bounded() {
        let new = |until: Option<u64>, reason: Option<&str>| {
            let target = Target::Tenant { tenant: "acme".into() };
            let until = until.map(|after| Timestamp::from_micros(NOW.micros() + after));
            NewBan::new(target, NOW, until, reason.map(str::to_owned))
        };
        let ends = |ban: Result<NewBan, InvalidBan>| ban.map(|ban| until(&ban.entry()));
        assert_eq!(ends(new(None, None)), Ok(None));
        let rounded = Some(Timestamp::from_secs(NOW.secs() + 1));
        assert_eq!(ends(new(Some(1), Some("scraper"))), Ok(rounded));
        assert_eq!(ends(new(Some(0), None)), Err(InvalidBan::End));
        let longest = 3653 * 86_400 * 1_000_000;
        assert!(new(Some(longest), None).is_ok());
        assert_eq!(ends(new(Some(longest + 1), None)), Err(InvalidBan::End));
        for reason in ["", "a\nb", "\u{1b}[2J", &"x".repeat(257)] {
            let expected = Err(InvalidBan::Reason(InvalidRevocation::Note));
            assert_eq!(ends(new(None, Some(reason))), expected, "{reason:?}");
        }
    }

    #[test]
    fn the_keys_of_a_question_are_those_of_bans() {
        let tenant = Target::Tenant { tenant: "acme".into() };
        assert_eq!(BanQuery::Target(tenant.clone()).keys(), [tenant.key()]);
        let keys = BanQuery::Address("192.0.2.7".parse().unwrap()).keys();
        for network in ["192.0.2.7", "192.0.2.0/24", "128.0.0.0/1"] {
            let network = parse_network(network).unwrap();
            assert!(keys.contains(&network_key(network)), "{network}");
            assert!(keys.contains(&automatic_key(network)), "{network}");
        }
        assert_eq!(keys.len(), 2 * 32);
    }
}
