//! Networks in CIDR notation.

use std::net::{IpAddr, Ipv6Addr};

/// Addresses whose first `length` bits are those of `base`. An IPv4 address is compared as the IPv6 address it maps to (RFC 4291
/// section 2.5.5.2), so `::ffff:10.0.0.1` lies in `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    base: u128,
    mask: u128,
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

impl Network {
    /// Reads `10.0.0.0/8` or `fd00::/8`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is no network; write an address and a length, such as `10.0.0.0/8`")
        };
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (most, before) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let digits = length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u32 =
            length.parse().ok().filter(|length| digits && *length <= most).ok_or_else(wrong)?;
        let mask = u128::MAX.checked_shl(128 - before - length).unwrap_or(0);
        let base = bits(address);
        if base & !mask != 0 {
            return Err(format!(
                "`{text}` has bits behind its length; write the first address of the network"
            ));
        }
        Ok(Self { base, mask })
    }

    /// Whether an address lies in it.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_a_network_or_not() {
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
    fn what_is_no_network_is_refused() {
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
