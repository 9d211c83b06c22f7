//! The text of the file.

use tollgate_core::route::preset::Preset;

use super::{Init, Proxy};

/// Text as YAML that means just this text: JSON's quotes are YAML's, and `$` would begin a name.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace("${", "$${")).to_string()
}

/// The whole file.
pub(super) fn text(init: &Init, preset: &Preset) -> String {
    [head(init, preset), listen(init.proxy), issuers(init), routes(preset), store(init)].join("\n")
}

fn head(init: &Init, preset: &Preset) -> String {
    format!(
        "\
# Tollgate in front of {}, asked by {}. Written by `tollgate init`.
# `tollgate check-config FILE` checks a change; `tollgate schema` and docs/configuration.md explain every key.
",
        preset.server,
        init.proxy.called()
    )
}

fn listen(proxy: Proxy) -> String {
    format!(
        "\
# Where the proxy asks, and where probes and Prometheus look (`0.0.0.0:9002` where they come from another host).
listen:
{}  ops: \"127.0.0.1:9002\"

# The largest body that is read, not above what the proxy sends, and the most that all checks may hold at once.
body: {{ max: 16MiB, max_in_flight: 128MiB }}
",
        proxy.listener()
    )
}

fn issuers(init: &Init) -> String {
    let jwks = match &init.jwks {
        Some(url) => format!("    jwks: {{ url: {} }}\n", quoted(url)),
        None => "    # From `<issuer>/.well-known/openid-configuration`. `{ url: … }` and `{ file: … }` name the key set itself, which\n    \
                 # an issuer on a private address needs.\n    jwks: { discovery: true }\n"
            .into(),
    };
    format!(
        "\
# Who may issue tokens. `tollgate token inspect @FILE` shows what a token of yours needs here.
issuers:
  - issuer: {}
    audiences: [{}]
    # Never taken from the token. What your issuer signs with, and nothing else.
    algorithms: [RS256]
{jwks}    # Where the tokens say who, for whom and what. These are the defaults; Keycloak keeps roles in [realm_access, roles].
    # claims: {{ subject: sub, tenant: tenant_id, client: client_id, roles: roles, scopes: [scope, scopes, scp] }}

# Names for models, which fill `{{model}}` in scopes and count in limits. With none, a model's name is what clients send.
# models:
#   - {{ name: my-model, serves: [\"org/my-model\", my-model] }}
",
        quoted(&init.issuer),
        quoted(&init.audience)
    )
}

fn routes(preset: &Preset) -> String {
    let mut open: Vec<String> = Vec::new();
    for route in preset.routes.iter().filter(|route| route.public) {
        open.extend(route.paths.iter().map(|path| format!("`{path}`")));
    }
    format!(
        "\
# What is open, and to whom. What no route covers is denied.
routes:
  # Every route of the server with the scopes it needs: `tollgate presets show {name}` lists them. Open to everybody: {open}.
  - preset: {name}
    limits: [per-subject]
    # When limits and revocations cannot be asked: `deny` (503), `local` (this replica's share), `error`, `allow`.
    on_outage: deny
    # A scope for each model, besides that of the route:
    # model: {{ scope: \"model:{{model}}:inference\" }}
  # An entry with `match` beats the preset's route of the same path and method:
  # - {{ match: {{ methods: [GET], paths: [/v1/models] }}, scopes: [] }}

# How much. The figures are a place to start from: how many requests one caller may send, and how many at once.
limits:
  - {{ name: per-subject, by: [subject], rate: 60/1m, burst: 20 }}
",
        name = preset.name,
        open = if open.is_empty() { "nothing".to_owned() } else { open.join(", ") },
    )
}

fn store(init: &Init) -> String {
    match &init.redis {
        Some(url) => format!(
            "\
# Where limits are counted and revocations kept: one Redis for all replicas, with `maxmemory-policy noeviction`.
store:
  redis:
    url: {}
    # password: \"file:/run/secrets/redis-password\"
",
            quoted(url)
        ),
        None => "\
# Limits are counted and revocations kept in this process: right for one replica. For more of them:
# store: { redis: { url: \"redis://redis:6379\" } }
"
        .into(),
    }
}
