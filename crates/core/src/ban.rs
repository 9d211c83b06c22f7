//! Bans: who may not send requests at all, until a moment or until the ban is lifted.
//!
//! A revocation of a subject stops the credentials that were issued before its moment. A ban also
//! stops those that are issued later, and it can be of a network.

mod automatic;
mod network_key;

use std::fmt;

use thiserror::Error;

pub use self::{
    automatic::{AutomaticBans, AutomaticBansConfig, BanDurations},
    network_key::{automatic_key, automatic_network_of_key, network_key, network_of_key},
};
use crate::{
    credential::api_key::ISSUER,
    identity::KeyId,
    network::{Network, NetworkError},
    revocation::{self, EntryKey},
    time::{Timestamp, rfc3339::Rfc3339},
};

/// The kind of a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A ban of a network: [`Target::Network`].
    Network,
    /// A ban of a subject: [`Target::Subject`].
    Subject,
    /// A ban of a client: [`Target::Client`].
    Client,
    /// A ban of a tenant: [`Target::Tenant`].
    Tenant,
    /// A ban of an API key: [`Target::Key`].
    Key,
    /// A ban of an agent: [`Target::Actor`].
    Actor,
    /// A ban of a network that began by itself: [`AutomaticBans`]. Credentials that were verified
    /// before, and API keys, still pass.
    AutomaticNetwork,
}

impl Kind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Self; 7] = [
        Self::Network,
        Self::Subject,
        Self::Client,
        Self::Tenant,
        Self::Key,
        Self::Actor,
        Self::AutomaticNetwork,
    ];

    /// Returns the word for the kind: `network`, `subject`, `client`, `tenant`, `key`, `actor`,
    /// `automatic_network`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Subject => "subject",
            Self::Client => "client",
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Actor => "actor",
            Self::AutomaticNetwork => "automatic_network",
        }
    }

    /// Returns the kind of a ban with this key; `None` for another text.
    pub fn of_key(key: &str) -> Option<Self> {
        let word = key.split(':').next()?;
        let entry = revocation::Kind::ALL.into_iter().find(|kind| kind.label() == word);
        match entry {
            Some(entry) => Self::of_entry(entry),
            None => network_of_key(key)
                .map(|_| Self::Network)
                .or_else(|| automatic_network_of_key(key).map(|_| Self::AutomaticNetwork)),
        }
    }

    /// Returns the kind of a ban under the same key as a revocation; `None` for a revocation of one
    /// token without an id or of a signing key, which are not banned but revoked. The id of an API
    /// key is its `jti`.
    pub const fn of_entry(kind: revocation::Kind) -> Option<Self> {
        match kind {
            revocation::Kind::Subject => Some(Self::Subject),
            revocation::Kind::Client => Some(Self::Client),
            revocation::Kind::Tenant => Some(Self::Tenant),
            revocation::Kind::Jti => Some(Self::Key),
            revocation::Kind::Actor => Some(Self::Actor),
            revocation::Kind::Token | revocation::Kind::Kid => None,
        }
    }
}

/// A ban in force that applies to a request. It names neither the holder nor the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// What is banned.
    pub kind: Kind,
    /// The moment when the ban ends; `None`: when it is lifted.
    pub until: Option<Timestamp>,
}

impl Ban {
    /// Returns the ban that ends last; of two that end together the first one.
    #[must_use]
    pub fn longer(self, other: Self) -> Self {
        match (self.until, other.until) {
            (Some(end), Some(of_other)) if of_other > end => other,
            (Some(_), None) => other,
            _ => self,
        }
    }

    /// Returns the ban of several that ends last.
    pub fn longest(bans: impl IntoIterator<Item = Self>) -> Option<Self> {
        bans.into_iter().reduce(Self::longer)
    }
}

impl fmt::Display for Ban {
    /// Writes the kind and the end: `subject until 2026-01-01T00:00:00.000000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.label();
        match self.until {
            Some(until) => write!(f, "{kind} until {}", Rfc3339(until)),
            None => write!(f, "{kind} until it is lifted"),
        }
    }
}

/// The target of a ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every address of a network: see [`parse_network`].
    Network(Network),
    /// A subject of an issuer.
    Subject {
        /// The credentials' issuer.
        issuer: String,
        /// The subject's name.
        subject: String,
    },
    /// A client of an issuer.
    Client {
        /// The credentials' issuer.
        issuer: String,
        /// The client's id.
        client: String,
    },
    /// A tenant of any issuer.
    Tenant {
        /// The tenant's name.
        tenant: String,
    },
    /// An API key with all of its secrets, those of later rotations included.
    Key {
        /// The id of the key.
        id: KeyId,
    },
    /// An agent: every credential that it holds, as its subject or its client, or acts in.
    Actor {
        /// The issuer of the agent's name.
        issuer: String,
        /// The agent's name.
        actor: String,
    },
}

/// The reason why a ban of everyone is refused.
const PART: &str = "a ban is of a part of the clients, and closes no service";

/// A network that cannot be banned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidNetwork {
    /// The text is neither an address nor a network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Every client would be banned.
    #[error("`{0}` contains every address; {PART}")]
    Everyone(String),
    /// Every client with an IPv4 address would be banned.
    #[error("`{0}` contains every IPv4 address; {PART}")]
    EveryoneOfIpv4(String),
}

/// Parses an address or a network that can be banned.
///
/// # Errors
/// The text is neither, has bits after its prefix, or contains every IPv4 address.
pub fn parse_network(text: &str) -> Result<Network, InvalidNetwork> {
    let network = match text.parse() {
        Ok(address) => Network::host(address),
        Err(_) => Network::parse(text)?,
    };
    if network.length() == 0 {
        return Err(InvalidNetwork::Everyone(text.to_owned()));
    }
    if network.contains_all_ipv4() {
        return Err(InvalidNetwork::EveryoneOfIpv4(text.to_owned()));
    }
    Ok(network)
}

impl Target {
    /// Returns the key of the ban, which starts with its kind. Names that a client or an issuer
    /// controls are hashed, as in the key of a revocation of the same target.
    pub fn key(&self) -> String {
        let issued = match self {
            Self::Network(network) => return network_key(*network),
            Self::Subject { issuer, subject } => {
                revocation::Target::Subject { issuer: issuer.clone(), subject: subject.clone() }
            }
            Self::Client { issuer, client } => {
                revocation::Target::Client { issuer: issuer.clone(), client: client.clone() }
            }
            Self::Tenant { tenant } => revocation::Target::Tenant { tenant: tenant.clone() },
            Self::Key { id } => {
                revocation::Target::Jti { issuer: ISSUER.into(), jti: id.as_str().to_owned() }
            }
            Self::Actor { issuer, actor } => {
                revocation::Target::Actor { issuer: issuer.clone(), actor: actor.clone() }
            }
        };
        issued.key()
    }

    /// Returns the keys of the bans of the target: its [`key`](Self::key), and that of the automatic
    /// ban of a network. Both are found and lifted together.
    pub fn keys(&self) -> Vec<String> {
        let automatic = match self {
            Self::Network(network) => Some(automatic_key(*network)),
            _ => None,
        };
        std::iter::once(self.key()).chain(automatic).collect()
    }

    /// Returns the issuer within which the target is named; `None` for others.
    pub fn issuer(&self) -> Option<&str> {
        match self {
            Self::Subject { issuer, .. }
            | Self::Client { issuer, .. }
            | Self::Actor { issuer, .. } => Some(issuer),
            Self::Tenant { .. } | Self::Network(_) | Self::Key { .. } => None,
        }
    }

    /// Returns the kind of the ban.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Network(_) => Kind::Network,
            Self::Subject { .. } => Kind::Subject,
            Self::Client { .. } => Kind::Client,
            Self::Tenant { .. } => Kind::Tenant,
            Self::Key { .. } => Kind::Key,
            Self::Actor { .. } => Kind::Actor,
        }
    }
}

/// Returns the keys under which the holder of a credential can be banned, of those under which the
/// credential can be revoked.
pub fn holder_entries(keys: &revocation::Keys) -> impl Iterator<Item = (Kind, EntryKey<'_>)> {
    let entries = keys.exact_entries().chain(keys.before_entries()).chain(keys.agent_entries());
    entries.filter_map(|entry| Some((Kind::of_entry(entry.kind())?, entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(kind: Kind, until: Option<u64>) -> Ban {
        Ban { kind, until: until.map(Timestamp::from_secs) }
    }

    #[test]
    fn of_several_bans_the_last_to_end_is_reported() {
        let (soon, late) = (ban(Kind::Subject, Some(10)), ban(Kind::Client, Some(20)));
        let lifted = ban(Kind::Tenant, None);
        for (bans, expected) in [
            (vec![], None),
            (vec![soon], Some(soon)),
            (vec![soon, late], Some(late)),
            (vec![late, soon], Some(late)),
            (vec![soon, lifted, late], Some(lifted)),
            (vec![lifted, ban(Kind::Subject, None)], Some(lifted)),
            (vec![soon, ban(Kind::Client, Some(10))], Some(soon)),
        ] {
            assert_eq!(Ban::longest(bans.clone()), expected, "{bans:?}");
        }
    }

    #[test]
    fn a_ban_is_written_with_its_kind_and_its_end() {
        let until = ban(Kind::Subject, Some(1_767_225_600));
        assert_eq!(until.to_string(), "subject until 2026-01-01T00:00:00.000000Z");
        assert_eq!(ban(Kind::Network, None).to_string(), "network until it is lifted");
    }

    #[test]
    fn networks_that_can_be_banned() {
        for (text, expected) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:DB8::1", "2001:db8::1/128"),
            ("0.0.0.0/1", "0.0.0.0/1"),
        ] {
            let network = parse_network(text).unwrap();
            assert_eq!(network.to_string(), expected);
            let key = network_key(network);
            assert_eq!(network_of_key(&key), Some(network), "{key}");
        }
        for text in [
            "0.0.0.0/0",
            "::/0",
            "::/64",
            "::ffff:0:0/96",
            "192.0.2.7/24",
            "2001:db8::1/32",
            "192.0.2.0/33",
            "192.0.2",
            "192.0.2.0/",
            "192.0.2.0/+8",
            "fe80::1%eth0",
            "",
            "example.com",
        ] {
            assert!(parse_network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_ban_and_a_revocation_of_a_target_have_the_same_key() {
        let issuer = || "i".to_owned();
        let subject = Target::Subject { issuer: issuer(), subject: "s".into() };
        let revoked = revocation::Target::Subject { issuer: issuer(), subject: "s".into() };
        assert_eq!((subject.key(), subject.kind()), (revoked.key(), Kind::Subject));
        let names = revocation::Names {
            issuer: &revocation::issuer_digest("i"),
            token: [7; 32],
            jti: Some("j"),
            subject: "s",
            subject_is_client: false,
            client: Some("c"),
            tenant: Some("t"),
        };
        let keys = revocation::Keys::new(names, 0, Vec::new());
        let entries: Vec<_> =
            holder_entries(&keys).map(|(kind, entry)| (kind, entry.key())).collect();
        for target in [&subject, &Target::Key { id: "7Jk2mN4pQ8rT".parse().unwrap() }] {
            assert_eq!(Kind::of_key(&target.key()), Some(target.kind()));
        }
        let key = format!("network:{:032x}/1", 0);
        assert_eq!(Kind::of_key(&key), Some(Kind::Network));
        let key = automatic_key(parse_network("192.0.2.7").unwrap());
        assert_eq!(Kind::of_key(&key), Some(Kind::AutomaticNetwork));
        for key in ["token:00", "kid:00", "network:0", "automatic:0"] {
            assert_eq!(Kind::of_key(key), None, "{key}");
        }
        // The id of a credential is that of a key; no token is banned by it, as no issuer of tokens
        // is that of the keys.
        let of_key = (Kind::Key, revocation::Target::Jti { issuer: issuer(), jti: "j".into() });
        let targets = [
            subject,
            Target::Client { issuer: issuer(), client: "c".into() },
            Target::Tenant { tenant: "t".into() },
            Target::Actor { issuer: issuer(), actor: "s".into() },
            Target::Actor { issuer: issuer(), actor: "c".into() },
        ];
        let expected = [(of_key.0, of_key.1.key())];
        let expected: Vec<_> = expected
            .into_iter()
            .chain(targets.map(|target| (target.kind(), target.key())))
            .collect();
        assert_eq!(entries, expected);
    }
}
