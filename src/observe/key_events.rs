//! Events of API keys: a use from a new network, and the end of a key. Each has one audit line, one
//! count and one line in the log.

use tollgate_core::{
    credential::api_key::KeyRecord, identity::KeyId, network::Network, time::Timestamp,
};

use super::{Observer, audit::key_line::KeyLine, rfc3339::Rfc3339};

/// The kind of an event of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyEventKind {
    /// The key was used from a network that it was not used from before.
    NewNetwork,
    /// The key expires within the time of the warning.
    Expiring,
    /// The key has expired.
    Expired,
}

impl KeyEventKind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Self; 3] = [Self::NewNetwork, Self::Expiring, Self::Expired];

    /// The label of the kind: `new_network`, `expiring`, `expired`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NewNetwork => "new_network",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
        }
    }
}

/// An event of a key.
#[derive(Clone, Copy, Debug)]
pub struct KeyEvent<'a> {
    /// The kind of the event.
    pub kind: KeyEventKind,
    /// The moment of the event, or the one when it was found.
    pub time: Timestamp,
    /// The id of the key.
    pub id: KeyId,
    /// The record of the key; `None` where it was removed meanwhile.
    pub record: Option<&'a KeyRecord>,
    /// The end of the key.
    pub end: Option<Timestamp>,
    /// The new network.
    pub network: Option<Network>,
}

impl Observer {
    /// Records an event of a key.
    pub fn key_event(&self, event: &KeyEvent<'_>) {
        self.metrics().count_key_event(event.kind);
        let key = event.id.as_str();
        let end = event.end.map(|end| Rfc3339(end).to_string()).unwrap_or_default();
        match event.kind {
            KeyEventKind::NewNetwork => {
                let network = event.network.map(|network| network.to_string()).unwrap_or_default();
                tracing::info!(key, network, "an API key is used from a new network");
            }
            KeyEventKind::Expiring => {
                tracing::warn!(key, "an API key expires at {end}; rotate it");
            }
            KeyEventKind::Expired => {
                tracing::warn!(key, "an API key expired at {end}; rotate or revoke it");
            }
        }
        self.audit().write(None, |line| KeyLine(event).write(line));
    }
}
