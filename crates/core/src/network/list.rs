//! Lists of addresses and networks.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{MAPPED_LENGTH, Network};

/// Addresses and networks, as `10.1.2.3` or `10.0.0.0/8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// Text that is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworksError {
    /// The text is no address and no network.
    #[error("`{0}` is neither an address nor a network; write `10.1.2.3` or `10.0.0.0/8`")]
    Unknown(String),
    /// `10.1.2.3/8` may mean the address or the network.
    #[error("`{0}` has bits beyond its prefix; write `{1}`, or the address without a prefix")]
    BitsBeyondPrefix(String, IpNet),
}

impl Networks {
    /// The networks of this machine's own processes.
    #[must_use]
    pub fn loopback() -> Self {
        let v4 = IpNet::from(IpAddr::from([127, 0, 0, 0]));
        let v4 = IpNet::new(v4.addr(), 8).unwrap_or(v4);
        Self(vec![v4, IpNet::from(IpAddr::from(std::net::Ipv6Addr::LOCALHOST))])
    }

    /// Whether the list has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` is in one of the networks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // The address of an IPv4 peer on an IPv6 socket is ::ffff:a.b.c.d.
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }

    /// Whether one of the networks contains every address of another one.
    #[must_use]
    pub fn contains_all_of(&self, other: &IpNet) -> bool {
        self.0.iter().any(|net| net.contains(other))
    }

    /// Whether some address is in one of the networks and in `network`.
    #[must_use]
    pub fn overlaps(&self, network: Network) -> bool {
        self.0.iter().any(|net| of_net(net).overlaps(network))
    }

    /// Returns the networks of both lists.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend_from_slice(&other.0);
        self
    }

    /// Creates a list from texts such as `10.1.2.3` and `10.0.0.0/8`.
    ///
    /// # Errors
    /// Text that is neither an address nor a network, and networks with bits beyond their prefix.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, NetworksError> {
        texts.iter().map(|text| net(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the networks in their order.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }
}

fn of_net(net: &IpNet) -> Network {
    Network::of_prefix(net.addr(), net.prefix_len(), net.prefix_len())
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Vec::<String>::deserialize(deserializer)?;
        Self::parse(&list).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

fn net(text: &str) -> Result<IpNet, NetworksError> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| NetworksError::Unknown(text.to_owned()))?,
    };
    if net.trunc() != net {
        return Err(NetworksError::BitsBeyondPrefix(text.to_owned(), net.trunc()));
    }
    Ok(canonical(net))
}

/// Returns the IPv4 network of one in `::ffff:0:0/96`: addresses are compared in this form.
fn canonical(net: IpNet) -> IpNet {
    let IpAddr::V4(address) = net.addr().to_canonical() else { return net };
    let length = net.prefix_len().checked_sub(MAPPED_LENGTH);
    length.and_then(|length| IpNet::new(address.into(), length).ok()).unwrap_or(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_and_nothing_else() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("128.0.0.1", false),
            ("::2", false),
        ] {
            assert_eq!(Networks::loopback().contains(address.parse().unwrap()), expected);
        }
    }

    #[test]
    fn an_ipv4_network_has_two_notations() {
        for (text, shown) in [
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            // It contains other addresses of IPv6 as well.
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            let networks = Networks::parse(&[text]).unwrap();
            assert_eq!(networks.iter().next().unwrap().to_string(), shown, "{text}");
        }
        let mapped = Networks::parse(&["::ffff:192.0.2.0/120"]).unwrap();
        for (address, expected) in
            [("192.0.2.7", true), ("::ffff:192.0.2.7", true), ("192.0.3.7", false)]
        {
            assert_eq!(mapped.contains(address.parse().unwrap()), expected, "{address}");
        }
    }
}
