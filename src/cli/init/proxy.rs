//! The proxies that `init` knows: the listener that each needs, and its configuration in this
//! repository.

use clap::ValueEnum;

/// A proxy in front of the inference server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    /// Envoy over gRPC, as in Istio and Envoy Gateway.
    Envoy,
    /// Envoy, or a gateway made of it, over HTTP.
    EnvoyHttp,
    /// nginx with njs.
    Nginx,
    /// nginx with auth_request alone, which sends no bodies.
    NginxAuthRequest,
    /// Traefik with ForwardAuth.
    Traefik,
    /// Caddy, which sends no bodies.
    Caddy,
    /// HAProxy with Lua.
    Haproxy,
}

impl Proxy {
    /// Returns the name of the proxy in messages.
    pub(super) const fn called(self) -> &'static str {
        match self {
            Self::Envoy => "Envoy",
            Self::EnvoyHttp => "Envoy's HTTP service",
            Self::Nginx => "nginx with njs",
            Self::NginxAuthRequest => "nginx' auth_request",
            Self::Traefik => "Traefik",
            Self::Caddy => "Caddy",
            Self::Haproxy => "HAProxy",
        }
    }

    /// Returns the path of the proxy's configuration in this repository.
    pub(super) const fn shipped(self) -> &'static str {
        match self {
            Self::Envoy => "deploy/envoy/envoy.yaml",
            Self::EnvoyHttp => "deploy/envoy/envoy-http.yaml",
            Self::Nginx => "deploy/nginx/njs.conf",
            Self::NginxAuthRequest => "deploy/nginx/auth_request.conf",
            Self::Traefik => "deploy/traefik/tollgate.yaml",
            Self::Caddy => "deploy/caddy/Caddyfile",
            Self::Haproxy => "deploy/haproxy/haproxy.cfg",
        }
    }

    /// Returns the part of `listen` for the proxy, as the configurations in `deploy/` need it.
    pub(super) fn listener(self) -> String {
        let (address, dialect, body) = match self {
            Self::Envoy => return "  grpc: \"unix:/run/tollgate/authz.sock\"\n".into(),
            Self::EnvoyHttp => ("unix:/run/tollgate/envoy.sock", "envoy_http", "sent"),
            Self::Nginx => ("unix:/run/tollgate/nginx.sock", "nginx", "sent"),
            Self::NginxAuthRequest => ("unix:/run/tollgate/nginx.sock", "nginx", "deny"),
            Self::Traefik => ("127.0.0.1:9001", "traefik", "sent"),
            Self::Caddy => ("unix:/run/tollgate/caddy.sock", "caddy", "deny"),
            Self::Haproxy => ("127.0.0.1:9001", "haproxy", "sent"),
        };
        let entry =
            format!("  http: [{{ address: \"{address}\", dialect: {dialect}, body: {body} }}]\n");
        if body == "sent" {
            return entry;
        }
        format!(
            "  # {} sends no bodies, and nearly every route of an inference server names its model in one. `deny` refuses those\n  \
             # routes with `body_unavailable`: use a proxy that sends bodies, or write routes that read none.\n{entry}",
            self.called()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address, the dialect and the word about bodies are those that the shipped configuration
    /// talks to.
    #[test]
    fn the_shipped_configurations_ask_where_init_listens() {
        for proxy in Proxy::value_variants() {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(proxy.shipped());
            let shipped = std::fs::read_to_string(&path).unwrap();
            let listener = proxy.listener();
            let address = listener.split('"').nth(1).unwrap().trim_start_matches("unix:");
            assert!(shipped.contains(address), "{}: {address}", proxy.shipped());
        }
    }
}
