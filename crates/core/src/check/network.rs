//! The part of a check that asks whether the client's network is banned.

use std::net::IpAddr;

use super::hooks::CheckHooks;
use crate::{
    ban::{Ban, Kind},
    denial::{Denial, Reason},
    policy::Policy,
    request::Request,
    time::{Span, Timestamp},
};

/// A client whose network is banned automatically.
#[derive(Debug)]
pub(super) struct BannedClient {
    pub(super) address: IpAddr,
    pub(super) ban: Ban,
}

impl BannedClient {
    /// The denial of a credential of the client that is not verified.
    pub(super) fn unverified(&self, now: Timestamp) -> Denial {
        let cause = format!("banned by {}; the credential is new here and not verified", self.ban);
        of_network(self.ban, cause, now)
    }
}

/// Refuses a request from a network that an operator has banned. Returns the client where its network
/// is banned automatically, and the policy enforces that: its credential decides.
pub(super) fn check_network(
    request: &Request<'_>,
    policy: &Policy,
    now: Timestamp,
    hooks: &impl CheckHooks,
) -> Result<Option<BannedClient>, Denial> {
    let Some(address) = request.address else { return Ok(None) };
    match hooks.network_ban(address, now) {
        None => Ok(None),
        Some(ban) if ban.kind == Kind::AutomaticNetwork => {
            let section = policy.automatic_bans.as_ref();
            let applies = section.is_some_and(|section| section.applies_to(address));
            Ok(applies.then_some(BannedClient { address, ban }))
        }
        Some(ban) => Err(denial(ban, now)),
    }
}

/// The denial of a banned request. It is refused for as long as the ban holds, so that only the end
/// of a ban of a network is a time to retry: an identity gets a 403.
pub(super) fn denial(ban: Ban, now: Timestamp) -> Denial {
    let cause = format!("banned by {ban}");
    match ban.kind {
        Kind::Network | Kind::AutomaticNetwork => of_network(ban, cause, now),
        Kind::Subject | Kind::Client | Kind::Tenant | Kind::Key | Kind::Actor => {
            Denial::new(Reason::Banned, cause)
                .with_message("the holder of this credential is banned")
        }
    }
}

fn of_network(ban: Ban, cause: String, now: Timestamp) -> Denial {
    let denial = Denial { is_network_banned: true, ..Denial::new(Reason::Banned, cause) }
        .with_message("requests from this network are banned");
    match ban.until {
        Some(until) => denial.with_retry_after(Span::from_micros(
            until.micros().saturating_sub(now.micros()).max(1_000_000),
        )),
        None => denial,
    }
}
