//! The credentials of banned networks that are verified although they are new here, and the proofs of
//! possession after those that were forged.

use std::time::Duration;

use tollgate_core::{ban::AutomaticBans, network::Network, time::Rate};

use crate::network_budget::{CELLS, NetworkBudget};

/// The rates at which new credentials are verified, and forged proofs, in 512 KiB.
#[derive(Debug)]
pub(super) struct Allowance {
    of_network: NetworkBudget,
    of_all: NetworkBudget,
    /// The forged proofs of each key. A proof is new with each request, so that one that verifies takes
    /// nothing: the ban does not slow down a client that has the key.
    of_proofs: NetworkBudget,
}

impl Allowance {
    /// Creates an allowance that is not used yet.
    pub(super) fn new(terms: &AutomaticBans) -> Self {
        let budget = |rate: Rate, cells| {
            let interval = rate.per().micros() / rate.count().max(1);
            NetworkBudget::with_interval(interval, rate.count(), cells)
        };
        Self {
            of_network: budget(terms.new_credentials, CELLS),
            of_all: budget(terms.all_new_credentials, 1),
            of_proofs: budget(terms.new_credentials, CELLS),
        }
    }

    /// Takes a verification for a network, at `now` since a fixed moment. Returns whether there was one.
    pub(super) fn take(&self, network: Network, now: Duration) -> bool {
        self.of_network.take_for(network, now) && self.of_all.take_for((), now)
    }

    /// Whether another proof of a key may be verified for a network.
    pub(super) fn has_proof(&self, network: Network, key: &[u8; 32], now: Duration) -> bool {
        self.of_proofs.has_for((network, key), now)
    }

    /// Takes a forged proof of a key.
    pub(super) fn take_proof(&self, network: Network, key: &[u8; 32], now: Duration) {
        self.of_proofs.take_for((network, key), now);
    }
}

#[cfg(test)]
mod tests {
    use tollgate_core::{
        ban::AutomaticBansConfig,
        config::{Document, Errors, Path},
    };

    use super::*;

    #[test]
    fn networks_have_a_rate_each_and_one_together() {
        let text = "{ new_credentials: 2/1s, all_new_credentials: 10/1s }";
        let config: AutomaticBansConfig = Document::parse(text, &|_| None).unwrap().read().unwrap();
        let allowance = Allowance::new(&config.compile(&Path::root(), &mut Errors::default()));
        let taken = |number: u8, now: Duration| {
            let network = Network::host([192, 0, 2, number].into());
            (0..20).filter(|_| allowance.take(network, now)).count()
        };
        let second = Duration::from_secs(1);
        assert_eq!((taken(1, Duration::ZERO), taken(1, second / 2), taken(1, second)), (2, 1, 1));
        let all: usize = (2..100).map(|number| taken(number, 10 * second)).sum();
        assert_eq!(all, 10);
    }
}
