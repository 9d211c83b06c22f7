//! API keys through every proxy. The assertions are on what the upstream received.

use super::{
    allow::identity,
    proxy_rig::{Kind, POLICY, ProxyRig},
};
use crate::rig::{api_key_file, http::Request};

/// The headers that may hold a credential, with a value.
fn credentials(request: &Request) -> Vec<(String, String)> {
    let names = ["authorization", "x-api-key", "api-key"];
    let mut found: Vec<(String, String)> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, value)| names.contains(&name.as_str()) && !value.is_empty())
        .collect();
    found.sort();
    found
}

fn a_key_is_accepted_in_each_header_and_does_not_reach_the_upstream(kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let (key, file) = api_key_file(dir.path());
    let policy = format!("{POLICY}api_keys: {{ file: \"{}\" }}\n", file.display());
    let rig = ProxyRig::with(kind, &policy, |config| config);
    let bearer = format!("Bearer {key}");
    let headers =
        [("Authorization", bearer.as_str()), ("X-API-Key", key.as_str()), ("api-key", &key)];
    for (name, value) in headers {
        let reply = rig.send(&Request::get("/v1/models").header(name, value));
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        let seen = rig.upstream.only();
        assert_eq!(credentials(&seen), [], "{name}");
        let id = key.split('_').nth(1).unwrap();
        let expected = [
            ("x-tollgate-credential", "api_key"),
            ("x-tollgate-issuer", "tollgate:api-keys"),
            ("x-tollgate-key-id", id),
            ("x-tollgate-scopes", "infer:text model:qwen:inference"),
            ("x-tollgate-subject", "ci"),
            ("x-tollgate-tenant", "acme"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(identity(&seen), expected, "{name}");

        // A forged id is overwritten, and a route that forwards the credential forwards the key.
        let forged = Request::get("/v1/models").header(name, value);
        let reply = rig.send(&forged.header("X-Tollgate-Key-Id", "forged"));
        assert_eq!(
            (reply.status, identity(&rig.upstream.only())),
            (200, expected.into()),
            "{name}"
        );
        assert_eq!(rig.send(&Request::get("/v1/forwarded").header(name, value)).status, 200);
        let forwarded = [(name.to_ascii_lowercase(), value.to_owned())];
        assert_eq!(credentials(&rig.upstream.only()), forwarded, "{name}");

        // The upstream's own key takes its place, and a public route gets none.
        assert_eq!(rig.send(&Request::get("/v1/keyed").header(name, value)).status, 200);
        let own = [("authorization".to_owned(), "Bearer upstream-key-0123456789".to_owned())];
        assert_eq!(credentials(&rig.upstream.only()), own, "{name}");
        assert_eq!(rig.send(&Request::get("/public/x").header(name, value)).status, 200);
        let seen = rig.upstream.only();
        assert_eq!((credentials(&seen), identity(&seen)), (vec![], vec![]), "{name}");
    }
    for (request, code) in [
        (Request::get("/v1/models").header("X-API-Key", &key).bearer(&key), "ambiguous_credential"),
        (Request::get(&format!("/v1/models?api_key={key}")), "missing_credential"),
        (Request::get("/v1/models").header("X-API-Key", "tgk_wrong"), "invalid_api_key"),
        (Request::get("/v1/models").header("api-key", "sk-unknown"), "invalid_api_key"),
    ] {
        let reply = rig.send(&request);
        assert_eq!(reply.status, 401, "{code}");
        let body: serde_json::Value = serde_json::from_str(&reply.text()).unwrap();
        assert_eq!(body["error"]["code"], code);
    }
    assert!(rig.upstream.taken().is_empty());
    if matches!(kind, Kind::Nginx | Kind::Njs) {
        // The key in the query was sent before the last request, and logged by the same worker.
        let log = std::fs::read_to_string(rig.dir.path().join("access.log")).unwrap();
        assert!(log.contains("GET /v1/models HTTP") && !log.contains(&key), "{log}");
    }
}
through_every_proxy!(a_key_is_accepted_in_each_header_and_does_not_reach_the_upstream);
