//! Networks in CIDR notation.

use std::net::{IpAddr, Ipv6Addr};

use thiserror::Error;

/// A range of addresses with a common prefix.
///
/// An IPv4 address is compared as the IPv6 address that it maps to (RFC 4291 section 2.5.5.2), so
/// `::ffff:10.0.0.1` is in `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    base: u128,
    mask: u128,
}

/// A text that is not a [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum NetworkError {
    /// The text is not an address and a prefix length.
    #[error("`{0}` is no network; write an address and a length, such as `10.0.0.0/8`")]
    Malformed(String),
    /// The address has bits after the prefix.
    #[error("`{0}` has bits behind its length; write the first address of the network")]
    HostBits(String),
}

/// Returns the bits of an address, mapped to IPv6.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

impl Network {
    /// Parses `10.0.0.0/8` or `fd00::/8`.
    pub(super) fn parse(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError::Malformed(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (most, before) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let digits = length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u32 =
            length.parse().ok().filter(|length| digits && *length <= most).ok_or_else(wrong)?;
        let mask = u128::MAX.checked_shl(128 - before - length).unwrap_or(0);
        let base = bits(address);
        if base & !mask != 0 {
            return Err(NetworkError::HostBits(text.to_owned()));
        }
        Ok(Self { base, mask })
    }

    /// Whether the network contains an address.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses_only() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::10.1.2.3", false),
            ("192.168.1.7/32", "192.168.1.7", true),
            ("192.168.1.7/32", "192.168.1.6", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "1.2.3.4", true),
        ] {
            assert_eq!(
                Network::parse(network).unwrap().contains(address.parse().unwrap()),
                expected,
                "{address} in {network}"
            );
        }
    }

    #[test]
    fn malformed_networks_are_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10/8",
            "::/129",
            "fd00::1/8",
            "x/8",
        ] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
    }
}
