//! Two servers, one per team; Envoy routes by the tenant of Tollgate's decision
//! (`deploy/envoy/envoy-tenants.yaml` with `deploy/examples/tenants.yaml`). The assertions are on what
//! each server received.

use serde_json::json;
use tempfile::TempDir;

use crate::rig::{
    envoy::{Envoy, failure_mode_allow},
    http::Request,
    issuer::Issuer,
    tollgate::Tollgate,
    upstream::Upstream,
};

const POLICY: &str = include_str!("../../deploy/examples/tenants.yaml");

struct Rig {
    envoy: Envoy,
    tollgate: Tollgate,
    red: Upstream,
    blue: Upstream,
    issuer: Issuer,
    dir: TempDir,
}

/// The shipped file, with the listeners and the keys of the test.
fn policy() -> String {
    let keys = "jwks: { url: \"https://auth.example.com/jwks.json\" }";
    assert!(POLICY.contains(keys));
    let lines = POLICY.lines().filter(|line| !line.starts_with("listen:"));
    let lines: Vec<&str> = lines.collect();
    lines.join("\n").replace(keys, "jwks: { file: \"${DIR}/jwks.json\" }") + "\n"
}

impl Rig {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (red, blue) = (Upstream::start(), Upstream::start());
        let issuer = Issuer::new("https://auth.example.com");
        issuer.publish(dir.path());
        let tollgate = Tollgate::start(dir.path(), &policy());
        let envoy = Envoy::of_tenants(dir.path(), red.port, blue.port, |config| config);
        Self { envoy, tollgate, red, blue, issuer, dir }
    }

    fn token(&self, tenant: &str) -> String {
        self.issuer.token(json!({ "scope": "infer:text", "team": tenant }))
    }

    fn chat(&self, tenant: &str, path: &str) -> Request {
        Request::post(path, r#"{"model":"m"}"#).bearer(&self.token(tenant))
    }

    /// Sends a request; returns the status, and the tenant header that each server received.
    fn send(&self, request: &Request) -> (u16, [Vec<String>; 2]) {
        let status = self.envoy.send(request).status;
        let seen = |upstream: &Upstream| {
            upstream.taken().iter().map(|seen| seen.all("x-tollgate-tenant").join("; ")).collect()
        };
        (status, [seen(&self.red), seen(&self.blue)])
    }
}

#[test]
fn each_team_reaches_its_own_server() {
    const CHAT: &str = "/v1/chat/completions";
    let mut rig = Rig::start();
    let forged = |request: Request| request.header("X-Tollgate-Tenant", "blue");
    let none = Request::post(CHAT, r#"{"model":"m"}"#);
    let red = || [vec!["red".to_owned()], vec![]];
    let blue = || [vec![], vec!["blue".to_owned()]];
    let nowhere = || [vec![], vec![]];
    for (about, request, status, arrives) in [
        ("red", rig.chat("red", CHAT), 200, red()),
        ("blue", rig.chat("blue", CHAT), 200, blue()),
        ("a forged header does not choose", forged(rig.chat("red", CHAT)), 200, red()),
        ("in another case", rig.chat("red", CHAT).header("x-ToLLgate-TENANT", "blue"), 200, red()),
        (
            "with underscores",
            rig.chat("red", CHAT).header("x_tollgate_tenant", "blue"),
            400,
            nowhere(),
        ),
        ("twice", forged(forged(rig.chat("red", CHAT))), 200, red()),
        ("a team without a server", rig.chat("green", CHAT), 404, nowhere()),
        ("a team without a server, forged", forged(rig.chat("green", CHAT)), 404, nowhere()),
        ("a name that only begins like a team's", rig.chat("red2", CHAT), 404, nowhere()),
        ("a name in capitals", rig.chat("RED", CHAT), 404, nowhere()),
        ("a name with another one in it", rig.chat("red,blue", CHAT), 404, nowhere()),
        ("no credential", none.clone(), 401, nowhere()),
        ("no credential, forged", forged(none), 401, nowhere()),
        ("the own path", rig.chat("red", "/teams/red/v1/chat/completions"), 200, red()),
        ("another team's path", rig.chat("red", "/teams/blue/v1/chat/completions"), 403, nowhere()),
        (
            "another team's path, escaped",
            rig.chat("red", "/teams/%62lue/v1/chat/completions"),
            403,
            nowhere(),
        ),
        ("the own header", rig.chat("blue", CHAT).header("X-Team", "blue"), 200, blue()),
        ("another team's header", rig.chat("red", CHAT).header("X-Team", "blue"), 403, nowhere()),
        (
            "two headers",
            rig.chat("red", CHAT).header("X-Team", "red").header("X-Team", "blue"),
            400,
            nowhere(),
        ),
    ] {
        assert_eq!(rig.send(&request), (status, arrives), "{about}");
    }
    let untitled = rig.issuer.token(json!({ "scope": "infer:text" }));
    let request = Request::post(CHAT, r#"{"model":"m"}"#).bearer(&untitled);
    assert_eq!(rig.send(&request), (401, nowhere()), "a token without a team");

    // Each team has a limit of its own: red has used some of its 20, and blue is not affected.
    let drained = (0..200).any(|_| rig.envoy.send(&rig.chat("red", CHAT)).status == 429);
    assert!(drained, "the limit of the team ends");
    let _arrived = (rig.red.taken(), rig.blue.taken());
    assert_eq!(rig.send(&rig.chat("blue", CHAT)), (200, blue()), "another team has its own");

    // Without a decision there is no tenant, and without a tenant no server, with each failure policy
    // of the proxy.
    let careless =
        Envoy::of_tenants(rig.dir.path(), rig.red.port, rig.blue.port, failure_mode_allow);
    rig.tollgate.process.kill();
    let request = forged(rig.chat("blue", CHAT));
    assert_eq!((rig.envoy.send(&request).status, careless.send(&request).status), (503, 404));
    assert!(rig.red.taken().is_empty() && rig.blue.taken().is_empty());
}

/// `deploy/envoy/envoy-tenants.yaml` is `models.yaml` with other routes and clusters.
#[test]
fn the_configuration_for_tenants_has_every_setting_of_that_for_models() {
    let settings = |config: &str| {
        let lines = config.lines().map(str::trim_end);
        let lines = lines.filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let tenants = settings(include_str!("../../deploy/envoy/envoy-tenants.yaml"));
    let models = settings(include_str!("../../deploy/envoy/models.yaml"));
    let missing: Vec<_> = models.iter().filter(|line| !tenants.contains(line)).collect();
    let own = ["small", "large", "name: models", "no server has this model"];
    assert!(missing.iter().all(|line| own.iter().any(|own| line.contains(own))), "{missing:#?}");
}
