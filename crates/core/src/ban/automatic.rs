//! The section `automatic_bans`: networks that send credentials which no honest client has are
//! banned for a time.
//!
//! What is counted, and what a ban of this kind refuses, is in docs/security.md.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Errors, Mode, Path},
    network::{Network, Networks},
    time::{Rate, Span},
};

/// The least failures that ban a network: a client with a wrong credential sends a few.
const LEAST_FAILURES: u64 = 10;
/// The most failures that ban a network.
const MOST_FAILURES: u64 = 1_000_000;
/// The times in which failures are counted.
const WINDOWS: (Span, Span) = (Span::from_secs(1), Span::from_secs(3600));
/// The bounds of the durations of bans, and of the time for which a ban is remembered.
const DURATIONS: (Span, Span) = (Span::from_secs(1), Span::from_secs(30 * 86_400));
/// The lengths of prefixes of IPv4 and of IPv6.
const V4_PREFIXES: (u8, u8) = (8, 32);
const V6_PREFIXES: (u8, u8) = (32, 128);
/// The length of the prefix of an IPv6 site, which one client may have as a whole (RFC 6177).
const SITE_PREFIX: u8 = 48;
/// The most verifications in a second from banned networks together.
const MOST_PER_SECOND: u64 = 10_000;

/// The section `automatic_bans`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AutomaticBansConfig {
    /// `shadow` counts, logs which networks would be banned, and bans none: begin with it. `enforce`
    /// bans them. Default `enforce`.
    #[serde(default)]
    pub mode: Mode,
    /// The failed credentials of one network, in a time, after which it is banned: bad signatures,
    /// unknown keys and malformed credentials. Each replica counts what it sees. Default `120/1m`.
    #[serde(default = "failures")]
    pub failures: Rate,
    /// The length of the prefix that is counted and banned as one network, for IPv4: 8 to 32.
    /// Default 32, one address.
    #[serde(default = "ipv4_prefix")]
    pub ipv4_prefix: u8,
    /// The length of that prefix for IPv6: 32 to 128. Default 64, what one client usually has.
    #[serde(default = "ipv6_prefix")]
    pub ipv6_prefix: u8,
    /// The duration of the first ban of a network. Each further one lasts twice as long. Default 5m.
    #[serde(rename = "for", default = "first")]
    pub first: Span,
    /// The longest duration of a ban, at most 30d. Default 1d.
    #[serde(default = "longest")]
    pub longest: Span,
    /// The time after the end of a ban for which it counts as an earlier one. Default 1d.
    #[serde(default = "remember")]
    pub remember: Span,
    /// Addresses and networks that are never banned automatically, as `10.0.0.0/8`. Loopback and the
    /// `trusted_proxies` of `listen.grpc` and `listen.http` are not banned either.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub exempt: Networks,
    /// How many credentials that are new to the replica are verified for each banned network; the others
    /// are refused unverified. Default `5/1s`.
    #[serde(default = "new_credentials")]
    pub new_credentials: Rate,
    /// How many are verified for all banned networks together. Default `100/1s`.
    #[serde(default = "all_new_credentials")]
    pub all_new_credentials: Rate,
}

fn rate(text: &str) -> Rate {
    #[expect(clippy::expect_used, reason = "the texts of the defaults, which a test reads")]
    text.parse().expect("a rate")
}

fn failures() -> Rate {
    rate("120/1m")
}

const fn ipv4_prefix() -> u8 {
    32
}

const fn ipv6_prefix() -> u8 {
    64
}

const fn first() -> Span {
    Span::from_secs(300)
}

const fn longest() -> Span {
    Span::from_secs(86_400)
}

const fn remember() -> Span {
    Span::from_secs(86_400)
}

fn new_credentials() -> Rate {
    rate("5/1s")
}

fn all_new_credentials() -> Rate {
    rate("100/1s")
}

/// The compiled section `automatic_bans`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutomaticBans {
    mode: Mode,
    /// The failures in a time after which a network is banned.
    pub failures: Rate,
    ipv4_prefix: u8,
    ipv6_prefix: u8,
    /// How long bans are.
    pub durations: BanDurations,
    exempt: Networks,
    /// The new credentials of one banned network that are verified.
    pub new_credentials: Rate,
    /// Those of all banned networks.
    pub all_new_credentials: Rate,
}

/// How long automatic bans of one network are. All times are whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanDurations {
    /// The duration of the first ban.
    pub first: Span,
    /// The longest duration.
    pub longest: Span,
    /// The time after the end of a ban for which it counts as an earlier one.
    pub remember: Span,
}

impl BanDurations {
    /// Returns the duration of the ban with this number, from 1 on: each lasts twice as long as the
    /// one before.
    pub fn of(&self, number: u32) -> Span {
        let doublings = number.saturating_sub(1).min(63);
        let micros = self.first.micros().saturating_mul(1 << doublings);
        Span::from_micros(micros).min(self.longest)
    }
}

impl AutomaticBansConfig {
    /// Compiles the section and collects its errors.
    pub fn compile(&self, path: &Path, errors: &mut Errors) -> AutomaticBans {
        let failures = self.failures;
        let at = path.key("failures");
        if !(LEAST_FAILURES..=MOST_FAILURES).contains(&failures.count()) {
            errors.push(
                &at,
                format!(
                    "`{failures}`: between {LEAST_FAILURES} and {MOST_FAILURES} failed credentials \
                     ban a network"
                ),
            );
        }
        check_span(&at, failures.per(), WINDOWS, errors);
        for (key, span) in
            [("for", self.first), ("longest", self.longest), ("remember", self.remember)]
        {
            check_span(&path.key(key), span, DURATIONS, errors);
            if span.micros() % 1_000_000 != 0 {
                errors.push(&path.key(key), format!("`{span}` is no whole number of seconds"));
            }
        }
        if self.first > self.longest {
            let message = format!("`{}` is shorter than `for` ({})", self.longest, self.first);
            errors.push(&path.key("longest"), message);
        }
        for (key, length, (least, most)) in [
            ("ipv4_prefix", self.ipv4_prefix, V4_PREFIXES),
            ("ipv6_prefix", self.ipv6_prefix, V6_PREFIXES),
        ] {
            if !(least..=most).contains(&length) {
                let message = format!("`{length}`: a prefix has between {least} and {most} bits");
                errors.push(&path.key(key), message);
            }
        }
        for (key, rate) in [
            ("new_credentials", self.new_credentials),
            ("all_new_credentials", self.all_new_credentials),
        ] {
            let is_fast = rate.count().saturating_mul(1_000_000)
                > MOST_PER_SECOND.saturating_mul(rate.per().micros());
            if rate.count() == 0 {
                let message = format!(
                    "`{rate}` verifies nothing, so that no client of a banned network could get a \
                     new token accepted; write `1/1m` for few"
                );
                errors.push(&path.key(key), message);
            } else if is_fast {
                let message = format!("`{rate}` is more than {MOST_PER_SECOND} in a second");
                errors.push(&path.key(key), message);
            }
        }
        AutomaticBans {
            mode: self.mode,
            failures,
            ipv4_prefix: self.ipv4_prefix,
            ipv6_prefix: self.ipv6_prefix,
            durations: BanDurations {
                first: self.first,
                longest: self.longest,
                remember: self.remember,
            },
            exempt: Networks::loopback().and(&self.exempt),
            new_credentials: self.new_credentials,
            all_new_credentials: self.all_new_credentials,
        }
    }
}

fn check_span(path: &Path, span: Span, (least, most): (Span, Span), errors: &mut Errors) {
    if span < least || span > most {
        errors.push(path, format!("`{span}` is not between {least} and {most}"));
    }
}

impl AutomaticBans {
    /// Whether bans are only counted and logged.
    pub const fn is_shadow(&self) -> bool {
        self.mode.is_shadow()
    }

    /// Returns the network that an address is counted and banned with.
    pub fn network_of(&self, address: IpAddr) -> Network {
        Network::of_prefix(address, self.ipv4_prefix, self.ipv6_prefix)
    }

    /// Returns the IPv6 site of a network that is a part of one; `None` for a network of IPv4, and for
    /// one that is not smaller.
    pub fn site_of(&self, network: Network) -> Option<Network> {
        let length = self.ipv6_prefix.min(SITE_PREFIX);
        let site = Network::of_prefix(network.first_address(), 32, length);
        (!network.is_ipv4() && site.length() < network.length()).then_some(site)
    }

    /// Whether a network has an address that is never banned automatically.
    pub fn is_exempt(&self, network: Network) -> bool {
        self.exempt.overlaps(network)
    }

    /// Whether an automatic ban of the network of an address is enforced: not in shadow, and not for
    /// an address that is exempt, also where it was banned before it was.
    pub fn applies_to(&self, address: IpAddr) -> bool {
        !self.is_shadow() && !self.is_exempt(Network::host(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;

    fn compile(text: &str) -> Result<AutomaticBans, Vec<String>> {
        let document = Document::parse(text, &|_| None).unwrap();
        let config: AutomaticBansConfig = document.read().unwrap();
        let mut errors = Errors::default();
        let compiled = config.compile(&Path::root().key("automatic_bans"), &mut errors);
        if errors.is_empty() { Ok(compiled) } else { Err(vec![format!("{errors:?}")]) }
    }

    #[test]
    fn the_section_has_defaults() {
        let bans = compile("{ mode: shadow }").unwrap();
        assert!(bans.is_shadow());
        assert_eq!(bans.failures.to_string(), "120/1m");
        assert_eq!(bans.new_credentials.to_string(), "5/1s");
        assert_eq!(bans.all_new_credentials.to_string(), "100/1s");
        assert!(!compile("{}").unwrap().is_shadow());
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for (text, expected) in [
            ("failures: 9/1m", "between 10 and 1000000"),
            ("failures: 0/1m", "between 10 and 1000000"),
            ("failures: 100/999ms", "is not between 1s and 1h"),
            ("failures: 100/2h", "is not between 1s and 1h"),
            ("for: 500ms", "is not between 1s and 30d"),
            ("for: 1500ms", "no whole number of seconds"),
            ("longest: 31d", "is not between 1s and 30d"),
            ("{ for: 2h, longest: 1h }", "is shorter than `for` (2h)"),
            ("remember: 0s", "is not between 1s and 30d"),
            ("ipv4_prefix: 7", "between 8 and 32 bits"),
            ("ipv4_prefix: 33", "between 8 and 32 bits"),
            ("ipv6_prefix: 31", "between 32 and 128 bits"),
            ("ipv6_prefix: 129", "between 32 and 128 bits"),
            ("new_credentials: 0/1s", "verifies nothing"),
            ("all_new_credentials: 0/1m", "verifies nothing"),
            ("all_new_credentials: 20000/1s", "more than 10000 in a second"),
        ] {
            let errors = compile(text).unwrap_err().join("\n");
            assert!(errors.contains(expected), "{text}: {errors}");
        }
    }

    #[test]
    fn durations_double_up_to_the_longest() {
        let seconds = Span::from_secs;
        let durations =
            BanDurations { first: seconds(300), longest: seconds(2000), remember: seconds(60) };
        for (number, expected) in [(1, 300), (2, 600), (3, 1200), (4, 2000), (u32::MAX, 2000)] {
            assert_eq!(durations.of(number), seconds(expected), "{number}");
        }
    }

    #[test]
    fn addresses_are_counted_by_their_network() {
        let bans = compile("{ ipv4_prefix: 24, exempt: [192.0.2.7, '2001:db8::/48'] }").unwrap();
        for (address, network, is_exempt, applies) in [
            ("198.51.100.7", "198.51.100.0/24", false, true),
            ("::ffff:198.51.100.7", "198.51.100.0/24", false, true),
            ("2001:db9:1:2:3::4", "2001:db9:1:2::/64", false, true),
            // Clients of IPv4 whose addresses are translated (RFC 6052) are no neighbours.
            ("64:ff9b::198.51.100.7", "64:ff9b::c633:6400/120", false, true),
            // One address of the network is exempt, so that the network is not banned.
            ("192.0.2.9", "192.0.2.0/24", true, true),
            ("192.0.2.7", "192.0.2.0/24", true, false),
            ("2001:db8:0:2::1", "2001:db8:0:2::/64", true, false),
            ("127.0.0.1", "127.0.0.0/24", true, false),
            ("::1", "::/64", true, false),
        ] {
            let address = address.parse().unwrap();
            let found = bans.network_of(address);
            assert_eq!(found.to_string(), network);
            assert_eq!((bans.is_exempt(found), bans.applies_to(address)), (is_exempt, applies));
        }
    }

    #[test]
    fn the_networks_of_an_ipv6_site_have_it_in_common() {
        let site = |text: &str, address: &str| {
            let bans = compile(text).unwrap();
            let network = bans.network_of(address.parse().unwrap());
            bans.site_of(network).map(|site| site.to_string())
        };
        for (text, address, expected) in [
            ("{}", "2001:db8:1:2::3", Some("2001:db8:1::/48")),
            ("ipv6_prefix: 128", "2001:db8:1:2::3", Some("2001:db8:1::/48")),
            ("ipv6_prefix: 48", "2001:db8:1:2::3", None),
            ("ipv6_prefix: 32", "2001:db8:1:2::3", None),
            ("{}", "192.0.2.7", None),
            ("{}", "::ffff:192.0.2.7", None),
            ("{}", "64:ff9b::192.0.2.7", None),
        ] {
            assert_eq!(site(text, address).as_deref(), expected, "{text} {address}");
        }
    }
}
