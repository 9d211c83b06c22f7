//! The text of the file that `init` writes.

use tollgate_core::route::preset::Preset;

use super::{Init, Proxy};

/// Returns a text as a YAML string: the quotes of JSON are those of YAML, and `${` is escaped.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace("${", "$${")).to_string()
}

/// Returns the whole file.
pub(super) fn text(init: &Init, preset: &Preset) -> String {
    let credentials = [
        init.issuer.as_deref().map(|issuer| issuers(init, issuer)),
        init.api_keys.as_deref().map(api_keys),
    ];
    let credentials = Vec::from_iter(credentials.into_iter().flatten()).join("\n");
    let routes = routes(preset);
    [head(init, preset), listen(init.proxy), credentials, MODELS.to_owned(), routes, store(init)]
        .join("\n")
}

fn head(init: &Init, preset: &Preset) -> String {
    format!(
        "\
# Tollgate for {} behind {}. Written by `tollgate init`.
# `tollgate check-config FILE` checks a change; `tollgate schema` and docs/configuration.md explain every key.
",
        preset.server,
        init.proxy.called()
    )
}

fn listen(proxy: Proxy) -> String {
    format!(
        "\
# The listeners: for the proxy, and for probes and Prometheus (`0.0.0.0:9002` where they come from another host).
listen:
{}  ops: \"127.0.0.1:9002\"

# The size of the largest body, not above what the proxy sends, and of the bodies of all checks at once.
body: {{ max: 16MiB, max_in_flight: 128MiB }}
",
        proxy.listener()
    )
}

const MODELS: &str = "\
# Names for models, which fill `{model}` in scopes and count in limits. With none, a model's name is what clients send.
# models:
#   - { name: my-model, serves: [\"org/my-model\", my-model] }
";

fn api_keys(file: &str) -> String {
    format!(
        "\
# Keys that clients send in place of a token, as `Authorization: Bearer` or `X-API-Key`. The file has their digests, and a change
# of it applies within seconds. `tollgate keys create --file FILE --subject NAME --scope SCOPE` makes a key.
api_keys:
  file: {}
  # The longest life of a key.
  # max_life: 90d
",
        quoted(file)
    )
}

fn issuers(init: &Init, issuer: &str) -> String {
    const DISCOVERY: &str = "    # From `<issuer>/.well-known/openid-configuration`. `{ url: … }` and `{ file: … }` name the key set itself, which\n    \
                             # an issuer on a private address needs.\n    jwks: { discovery: true }\n";
    const SECRET: &str = "    # The secret that signs the tokens, at least 32 bytes. Tokens of a key pair have `jwks: { url: … }` and RS256 instead.\n    \
                          secret: \"file:/run/secrets/tollgate-token-secret\"\n";
    let (algorithm, keys) = match (&init.jwks, init.is_absent()) {
        (Some(url), _) => ("RS256", format!("    jwks: {{ url: {} }}\n", quoted(url))),
        (None, false) => ("RS256", DISCOVERY.to_owned()),
        (None, true) => ("HS256", SECRET.to_owned()),
    };
    format!(
        "\
# Who may issue tokens. `tollgate token inspect @FILE` shows what a token of yours needs here.
issuers:
  - issuer: {}
    audiences: [{}]
    # The algorithms of the issuer's signatures. They are never taken from the token.
    algorithms: [{algorithm}]
{keys}    # The claims that are read. These are the defaults; Keycloak keeps roles in [realm_access, roles].
    # claims: {{ subject: sub, tenant: tenant_id, client: client_id, roles: roles, scopes: [scope, scopes, scp] }}
",
        if init.is_absent() { "absent".to_owned() } else { quoted(issuer) },
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
  # Every route of the server with the scopes it needs: `tollgate presets show {name}` lists them. Open without a credential: {open}.
  - preset: {name}
    limits: [per-subject]
    # When limits and revocations are unavailable: `deny` (503), `local` (this replica's share), `error`, `allow`.
    on_outage: deny
    # A scope for each model, besides that of the route:
    # model: {{ scope: \"model:{{model}}:inference\" }}
  # An entry with `match` beats the preset's route of the same path and method:
  # - {{ match: {{ methods: [GET], paths: [/v1/models] }}, scopes: [] }}

# How much. The figures are a start: the requests that one caller may send, and how many at once.
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
# The store of counters and revocations: one Redis for all replicas, with `maxmemory-policy noeviction`.
store:
  redis:
    url: {}
    # password: \"file:/run/secrets/redis-password\"
",
            quoted(url)
        ),
        None => "\
# Counters and revocations are in the memory of this process, which is right for one replica. For more:
# store: { redis: { url: \"redis://redis:6379\" } }
"
        .into(),
    }
}
