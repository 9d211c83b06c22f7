//! Networks in CIDR notation.

mod list;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use thiserror::Error;

pub use self::list::{Networks, NetworksError};

/// A range of addresses with a common prefix.
///
/// An IPv4 address is compared as the IPv6 address that it maps to (RFC 4291 section 2.5.5.2), so
/// `::ffff:10.0.0.1` is in `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    base: u128,
    /// The number of leading bits that all addresses share, counted in 128 bits for IPv4 too.
    length: u8,
}

/// A text that is not a [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// The text is not an address and a prefix length.
    #[error("`{0}` is no network; write an address and a length, such as `10.0.0.0/8`")]
    Malformed(String),
    /// The address has bits after the prefix.
    #[error("`{0}` has bits behind its length; write the first address of the network")]
    HostBits(String),
}

/// The IPv6 address that 0.0.0.0 maps to.
const MAPPED: u128 = 0xffff_0000_0000;

/// The length of the prefix that all mapped IPv4 addresses share.
const MAPPED_LENGTH: u8 = 96;

/// The prefix of 96 bits of the IPv6 addresses that stand for IPv4 addresses behind a translator:
/// `64:ff9b::/96` (RFC 6052 section 2.1). Every client of IPv4 has one of them there.
const TRANSLATED: u128 = 0x0064_ff9b << 96;

/// Whether an address has an IPv4 address in its last 32 bits.
fn has_ipv4(bits: u128) -> bool {
    matches!(bits & mask(MAPPED_LENGTH), MAPPED | TRANSLATED)
}

/// Returns the bits of an address, mapped to IPv6.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

/// Returns a mask of the first `length` of 128 bits.
fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(length))).unwrap_or(0)
}

impl Network {
    /// Parses `10.0.0.0/8` or `fd00::/8`.
    ///
    /// # Errors
    /// The text is not a network, or its address has bits after the prefix.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError::Malformed(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (most, before) = if address.is_ipv4() { (32, MAPPED_LENGTH) } else { (128, 0) };
        let digits = length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 =
            length.parse().ok().filter(|length| digits && *length <= most).ok_or_else(wrong)?;
        let network = Self { base: bits(address), length: before + length };
        if network.base & !mask(network.length) != 0 {
            return Err(NetworkError::HostBits(text.to_owned()));
        }
        Ok(network)
    }

    /// The network of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { base: bits(address), length: 128 }
    }

    /// Whether the network contains an address.
    pub fn contains(self, address: IpAddr) -> bool {
        bits(address) & mask(self.length) == self.base
    }

    /// Whether the network contains every IPv4 address, as `0.0.0.0/0` and `::/0` do.
    pub fn contains_all_ipv4(self) -> bool {
        self.length <= MAPPED_LENGTH && MAPPED & mask(self.length) == self.base
    }

    /// The number of leading bits that all addresses share, counted in 128 bits: that of
    /// `10.0.0.0/8` is 104.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// The first address, in the 128 bits of IPv6.
    pub const fn first(self) -> u128 {
        self.base
    }

    /// Returns the network with this [`first`](Self::first) address and
    /// [`length`](Self::length); `None` if the address has bits after the prefix.
    pub fn from_bits(base: u128, length: u8) -> Option<Self> {
        (length <= 128 && base & !mask(length) == 0).then_some(Self { base, length })
    }

    /// Returns the network by which a client is recognised: the first 24 bits of IPv4, and
    /// the first 48 of IPv6, which one site has.
    pub fn of_client(address: IpAddr) -> Self {
        Self::of_prefix(address, 24, 48)
    }

    /// Returns the network of an address with this many leading bits: `v4` of an IPv4 address, also of
    /// one in a translated IPv6 address (RFC 6052), `v6` of another IPv6 address.
    pub fn of_prefix(address: IpAddr, v4: u8, v6: u8) -> Self {
        let address = bits(address);
        let length = if has_ipv4(address) { MAPPED_LENGTH.saturating_add(v4) } else { v6 }.min(128);
        Self { base: address & mask(length), length }
    }

    /// Whether every address of the network is one of IPv4, or translates one (RFC 6052).
    pub fn is_ipv4(self) -> bool {
        self.length >= MAPPED_LENGTH && has_ipv4(self.base)
    }

    /// Whether some address is in both networks: one of them contains the other.
    pub fn overlaps(self, other: Self) -> bool {
        let mask = mask(self.length.min(other.length));
        self.base & mask == other.base & mask
    }

    /// Returns the first address: an IPv4 address of a network of IPv4.
    pub fn first_address(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(self.base)).to_canonical()
    }

    /// Returns every network that contains an address and not all of IPv4, the widest first: 32 for
    /// an IPv4 address, and 129 for an IPv6 address.
    pub fn around(address: IpAddr) -> impl Iterator<Item = Self> {
        let address = bits(address);
        let is_v4 = address & mask(MAPPED_LENGTH) == MAPPED;
        let widest = if is_v4 { MAPPED_LENGTH + 1 } else { 0 };
        (widest..=128).map(move |length| Self { base: address & mask(length), length })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.base);
        match (address.to_ipv4_mapped(), self.length.checked_sub(MAPPED_LENGTH)) {
            (Some(address), Some(length)) => write!(f, "{address}/{length}"),
            _ => write!(f, "{address}/{}", self.length),
        }
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
    fn the_network_of_a_client_is_that_of_its_site() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.0/24"),
            ("::ffff:192.0.2.255", "192.0.2.0/24"),
            ("64:ff9b::192.0.2.255", "64:ff9b::c000:200/120"),
            ("64:ff9b:1::192.0.2.255", "64:ff9b:1::/48"),
            ("2001:db8:1:2::3", "2001:db8:1::/48"),
            ("::1", "::/48"),
        ] {
            let network = Network::of_client(address.parse().unwrap());
            assert_eq!(network.to_string(), expected, "{address}");
        }
    }

    #[test]
    fn networks_overlap_where_one_contains_the_other() {
        for (one, other, expected) in [
            ("192.0.2.0/24", "192.0.2.7/32", true),
            ("192.0.2.0/24", "192.0.0.0/16", true),
            ("192.0.2.0/24", "192.0.3.0/24", false),
            ("::ffff:0:0/96", "192.0.2.0/24", true),
            ("2001:db8::/32", "2001:db8:1::/48", true),
            ("2001:db8::/32", "192.0.2.0/24", false),
        ] {
            let (one, other) = (Network::parse(one).unwrap(), Network::parse(other).unwrap());
            assert_eq!((one.overlaps(other), other.overlaps(one)), (expected, expected));
        }
        for text in ["192.0.2.0/24", "2001:db8::/32", "::/0"] {
            let network = Network::parse(text).unwrap();
            assert!(network.contains(network.first_address()), "{text}");
            let address = text.split_once('/').unwrap().0;
            assert_eq!(network.first_address().to_string(), address);
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

    #[test]
    fn a_network_is_written_in_the_notation_of_its_family() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::ffff:0:0/95", ""),
            ("::fffe:0:0/95", "::fffe:0:0/95"),
        ] {
            let shown = Network::parse(text).map_or(String::new(), |network| network.to_string());
            assert_eq!(shown, expected, "{text}");
        }
        assert_eq!(Network::host("192.0.2.1".parse().unwrap()).to_string(), "192.0.2.1/32");
        assert_eq!(Network::host("::1".parse().unwrap()).to_string(), "::1/128");
    }

    #[test]
    fn the_networks_around_an_address_are_those_that_contain_it() {
        for (address, count) in
            [("192.0.2.7", 32), ("::ffff:192.0.2.7", 32), ("2001:db8::1", 129), ("::", 129)]
        {
            let address = address.parse().unwrap();
            let networks: Vec<_> = Network::around(address).collect();
            assert_eq!(networks.len(), count);
            assert!(networks.iter().all(|network| network.contains(address)));
            assert!(networks.is_sorted_by(|wide, narrow| wide.length < narrow.length));
            assert_eq!(networks.last(), Some(&Network::host(address)));
            for network in networks {
                assert_eq!(Network::parse(&network.to_string()), Ok(network));
                assert_eq!(Network::from_bits(network.first(), network.length()), Some(network));
            }
        }
        assert_eq!(Network::from_bits(1, 127), None);
        assert_eq!(Network::from_bits(0, 129), None);
    }

    #[test]
    fn what_contains_all_of_ipv4_is_found() {
        for (text, expected) in [
            ("0.0.0.0/0", true),
            ("::/0", true),
            ("::/64", true),
            ("::ffff:0:0/96", true),
            ("0.0.0.0/1", false),
            ("2001:db8::/32", false),
            ("::/96", false),
        ] {
            assert_eq!(Network::parse(text).unwrap().contains_all_ipv4(), expected, "{text}");
        }
    }
}
