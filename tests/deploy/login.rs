//! deploy/envoy/envoy-login.yaml is deploy/envoy/envoy.yaml with a filter in front that logs people in.

use super::{is_generated, read, validate_envoy};
use crate::rig::replace_once;

const HOW: &str = "cargo test --test main deploy::login";

const TITLE: &str = "\
# Envoy in front of an inference server, for people with browsers: Envoy's filter `oauth2` logs them in at an OpenID
# Connect provider (authorization code with PKCE), and Tollgate checks the token of each request.
#
# Generated from envoy.yaml, where every setting is explained; do not edit. A browser sends the session's cookies
# with every request, whichever page made it send it: the routes in Tollgate's file have `ambient: true`, and
# `cookies.origins` has the origin of the pages. Tollgate keeps the filter's cookies from the upstream.
# docs/browsers.md has the policy and the steps.
#
# To use it, change these:
#   https://app.example.com    the address of your pages, as registered with the provider
#   https://login.example.com  the provider: its endpoints are in its discovery document
#   login.example.com          its host, in the cluster `login`
#   web                        the id of the client at the provider
#   /etc/envoy/client-secret   its secret
#   /etc/envoy/hmac-secret     what signs the session's cookies: openssl rand -out hmac-secret 32
";

const FILTER: &str = r#"                  # First: a browser without a session is sent to log in, with PKCE; that of a session gets `Authorization`.
                  # A client that sends its own is left alone.
                  - name: envoy.filters.http.oauth2
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.oauth2.v3.OAuth2
                      config:
                        authorization_endpoint: https://login.example.com/auth
                        token_endpoint: { cluster: login, uri: "https://login.example.com/token", timeout: 5s }
                        end_session_endpoint: https://login.example.com/session/end
                        redirect_uri: https://app.example.com/callback
                        redirect_path_matcher: { path: { exact: /callback } }
                        signout_path: { path: { exact: /signout } }
                        credentials:
                          client_id: web
                          token_secret: { name: oauth2-client-secret }
                          hmac_secret: { name: oauth2-hmac-secret }
                        auth_type: BASIC_AUTH
                        auth_scopes: [openid, "infer:text"]
                        forward_bearer_token: true
                        # Requests of programs and of scripts get a 401 in place of a page to log in.
                        deny_redirect_matcher: [{ name: ":path", string_match: { prefix: /v1/ } }]
                        cookie_configs:
                          bearer_token_cookie_config: { same_site: LAX }
                          oauth_hmac_cookie_config: { same_site: LAX }
                          oauth_expires_cookie_config: { same_site: LAX }
                          id_token_cookie_config: { same_site: LAX }
                          refresh_token_cookie_config: { same_site: LAX }
"#;

const SECRETS: &str = r#"  secrets:
    # What the provider gave the client `web`.
    - name: oauth2-client-secret
      generic_secret: { secret: { filename: /etc/envoy/client-secret } }
    # 32 random bytes, which sign the session's cookies: `openssl rand -out hmac-secret 32`.
    - name: oauth2-hmac-secret
      generic_secret: { secret: { filename: /etc/envoy/hmac-secret } }

"#;

const CLUSTER: &str = r#"    # The token endpoint of the identity provider.
    - name: login
      type: LOGICAL_DNS
      connect_timeout: 5s
      load_assignment:
        cluster_name: login
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { socket_address: { address: login.example.com, port_value: 443 } } }
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: login.example.com
          common_tls_context:
            validation_context: { trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt } }

"#;

#[test]
fn the_file_with_a_login_is_the_shipped_one_with_the_filter_oauth2() {
    let shipped = read("deploy/envoy/envoy.yaml");
    let body = &shipped[shipped.find("#   0.0.0.0:8080").unwrap()..];
    let body = body.replace("-c envoy.yaml", "-c envoy-login.yaml");
    let filter = "                  - name: envoy.filters.http.ext_authz\n";
    let body = replace_once(body, filter, &format!("{FILTER}{filter}"));
    let clusters = "  clusters:\n";
    let body = replace_once(body, clusters, &format!("{SECRETS}{clusters}{CLUSTER}"));
    let text = format!("{TITLE}{body}");
    is_generated("deploy/envoy/envoy-login.yaml", &text, HOW);
    let dir = tempfile::tempdir().unwrap();
    for name in ["client-secret", "hmac-secret"] {
        std::fs::write(dir.path().join(name), "secret").unwrap();
    }
    let place = dir.path().display().to_string();
    let text = text.replace("/etc/envoy", &place);
    // Not every machine has the authorities in this place.
    let system =
        "validation_context: { trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt } }";
    validate_envoy("login", &replace_once(text, system, "alpn_protocols: []"));
}
