//! The keys of bans of networks.

use crate::network::Network;

/// The beginning of the key of an operator's ban.
const OPERATOR: &str = "network:";

/// The beginning of the key of an automatic ban.
const AUTOMATIC: &str = "automatic:";

/// Returns the key of a ban of a network: its first address as 32 hex digits of IPv6, and the
/// length of its prefix.
pub fn network_key(network: Network) -> String {
    key_with(OPERATOR, network)
}

/// Returns the network of a [`network_key`]; `None` for another text.
pub fn network_of_key(key: &str) -> Option<Network> {
    network_with(OPERATOR, key)
}

/// Returns the key of the automatic ban of a network. It is another one than that of an operator's
/// ban of the same network, so that neither extends the other.
pub fn automatic_key(network: Network) -> String {
    key_with(AUTOMATIC, network)
}

/// Returns the network of an [`automatic_key`]; `None` for another text.
pub fn automatic_network_of_key(key: &str) -> Option<Network> {
    network_with(AUTOMATIC, key)
}

fn key_with(prefix: &str, network: Network) -> String {
    format!("{prefix}{:032x}/{}", network.first(), network.length())
}

/// Reads the network of a key, which has one spelling.
fn network_with(prefix: &str, key: &str) -> Option<Network> {
    let (digits, length) = key.strip_prefix(prefix)?.split_once('/')?;
    let network = Network::from_bits(u128::from_str_radix(digits, 16).ok()?, length.parse().ok()?)?;
    (key_with(prefix, network) == key).then_some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_network_has_one_spelling() {
        let key = "network:00000000000000000000ffffc0000200/120";
        assert_eq!(network_of_key(key).unwrap().to_string(), "192.0.2.0/24");
        for other in [
            "network:00000000000000000000FFFFc0000200/120",
            "network:ffffc0000200/120",
            "network:00000000000000000000ffffc0000201/120",
            "network:00000000000000000000ffffc0000200/0120",
            "network:00000000000000000000ffffc0000200/129",
            "network:00000000000000000000ffffc0000200",
            "subject:00000000000000000000ffffc0000200/120",
            "",
        ] {
            assert_eq!(network_of_key(other), None, "{other}");
        }
    }

    #[test]
    fn the_key_of_an_automatic_ban_is_not_that_of_an_operator() {
        let network = Network::parse("192.0.2.0/24").unwrap();
        let key = automatic_key(network);
        assert_eq!(key, "automatic:00000000000000000000ffffc0000200/120");
        assert_eq!(automatic_network_of_key(&key), Some(network));
        assert_eq!(network_of_key(&key), None);
        assert_eq!(automatic_network_of_key(&network_key(network)), None);
    }
}
