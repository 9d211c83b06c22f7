//! The client that a request is from, whose room in bounded tables it takes.

use std::net::IpAddr;

use tollgate_core::{
    admission::AdmitRequest,
    revocation::{Fingerprint, Keys},
    room::Group,
};

use super::sharded_map::Sharding;
use crate::network_budget::network;

/// The client that a request is from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Requester<'r> {
    /// The keys of its credential.
    pub(super) keys: Option<&'r Keys>,
    /// The address of the client.
    pub(super) address: Option<IpAddr>,
}

impl<'r> Requester<'r> {
    /// The client of a request.
    pub(super) fn of(request: &'r AdmitRequest) -> Self {
        Self { keys: request.revocation.as_deref(), address: request.address }
    }

    /// The principal, by whom its own entries are counted.
    pub(super) fn principal(self) -> Option<Fingerprint> {
        self.keys.map(|keys| keys.subject().fingerprint())
    }
}

/// Tells the groups of clients apart, by hashes under a secret.
#[derive(Debug)]
pub(super) struct ClientGroups(Sharding);

impl Default for ClientGroups {
    fn default() -> Self {
        Self(Sharding::new(1))
    }
}

impl ClientGroups {
    /// The group for entries that count by the credential, or that of the address for the others.
    pub(super) fn of(&self, requester: Requester<'_>, by_principal: bool) -> Option<Group> {
        match requester.keys {
            Some(keys) if by_principal => Some(self.of_holder(keys)),
            _ => requester.address.map(|address| self.of_address(address)),
        }
    }

    /// The group of the holder of a credential: its tenant, within its issuer.
    pub(super) fn of_holder(&self, keys: &Keys) -> Group {
        let outer = self.0.hash(keys.issuer().halves());
        // What has no tenant is one more tenant of the issuer.
        let inner = keys.tenant_of_issuer().unwrap_or_else(|| keys.issuer());
        Group { outer, inner: self.0.hash(inner.halves()) }
    }

    /// The group of an address: a /24 within a /16 of IPv4, a /56 within a /32 of IPv6.
    fn of_address(&self, address: IpAddr) -> Group {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let hash = |kind, bits: u128| self.0.hash([kind | (bits >> 64) as u64, bits as u64]);
        let inner = network(address);
        let outer = match inner {
            IpAddr::V4(_) => bits(inner) >> 16 << 16,
            IpAddr::V6(_) => bits(inner) >> 96 << 96,
        };
        Group { outer: hash(1, outer), inner: hash(2, bits(inner)) }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::revocation::{Names, issuer_digest};

    use super::*;

    fn holder(groups: &ClientGroups, issuer: &str, tenant: Option<&str>, subject: &str) -> Group {
        let names = Names {
            issuer: &issuer_digest(issuer),
            token: [7; 32],
            jti: None,
            subject,
            subject_is_client: false,
            client: None,
            tenant,
        };
        groups.of_holder(&Keys::new(names, 0, Vec::new()))
    }

    #[test]
    fn a_tenant_is_a_group_within_its_issuer() {
        let groups = ClientGroups::default();
        let of = |issuer, tenant, subject| holder(&groups, issuer, tenant, subject);
        assert_eq!(of("i", Some("a"), "s"), of("i", Some("a"), "t"));
        let (a, b, none) = (of("i", Some("a"), "s"), of("i", Some("b"), "s"), of("i", None, "s"));
        assert!(a.outer == b.outer && a.outer == none.outer);
        assert!(a.inner != b.inner && a.inner != none.inner);
        let other = of("j", Some("a"), "s");
        assert!(a.outer != other.outer && a.inner != other.inner);
        assert_ne!(
            ClientGroups::default().of_holder(&keys()),
            ClientGroups::default().of_holder(&keys())
        );
    }

    fn keys() -> Keys {
        let names = Names {
            issuer: &issuer_digest("i"),
            token: [7; 32],
            jti: None,
            subject: "s",
            subject_is_client: false,
            client: None,
            tenant: None,
        };
        Keys::new(names, 0, Vec::new())
    }

    #[test]
    fn a_network_is_a_group_within_that_of_its_provider() {
        let groups = ClientGroups::default();
        let of = |address: &str| groups.of_address(address.parse().unwrap());
        for (one, other, outer, inner) in [
            ("192.0.2.1", "192.0.2.200", true, true),
            ("192.0.2.1", "::ffff:192.0.2.9", true, true),
            ("192.0.2.1", "192.0.3.1", true, false),
            ("192.0.2.1", "192.1.2.1", false, false),
            ("2001:db8::1", "2001:db8:0:ff::1", true, true),
            ("2001:db8::1", "2001:db8:0:100::1", true, false),
            ("2001:db8::1", "2001:db9::1", false, false),
        ] {
            let (one, other) = (of(one), of(other));
            assert_eq!((one.outer == other.outer, one.inner == other.inner), (outer, inner));
        }
    }
}
