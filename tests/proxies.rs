//! Every proxy with the shipped configuration in front of a recording upstream: the same answers,
//! and no identity that a client made up reaches the upstream.

/// Makes one test for each proxy of a function that takes its [`proxy_rig::Kind`].
macro_rules! through_every_proxy {
    ($check:ident) => {
        mod $check {
            use crate::proxies::proxy_rig::Kind;

            #[test]
            fn nginx() {
                super::$check(Kind::Nginx);
            }

            #[test]
            fn new_nginx() {
                super::$check(Kind::NewNginx);
            }

            #[test]
            fn njs() {
                super::$check(Kind::Njs);
            }

            #[test]
            fn envoy_http() {
                super::$check(Kind::EnvoyHttp);
            }

            #[test]
            #[ignore = "needs a large download: make test-all"]
            fn traefik() {
                super::$check(Kind::Traefik);
            }

            #[test]
            #[ignore = "needs a large download: make test-all"]
            fn caddy() {
                super::$check(Kind::Caddy);
            }

            #[test]
            #[ignore = "needs a large download: make test-all"]
            fn haproxy() {
                super::$check(Kind::Haproxy);
            }
        }
    };
}

mod allow;
mod api_keys;
mod attacks;
mod bans;
mod body;
mod denials;
mod doctor;
pub(crate) mod dpop;
mod nginx;
mod nginx_metered;
mod parity;
mod paths;
pub(crate) mod proxy_rig;
mod refusal;
mod second_hop;
