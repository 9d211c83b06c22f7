//! Wrong values are refused by both versions of Helm, with a message that names the mistake.

use super::{HELMS, helm};

/// The mistake, the value, and the word that the message contains.
const WRONG: [(&str, &str, &str); 20] = [
    ("a mode there is not", "mode=ambient", "mode"),
    ("a key there is not", "replicas=2", "replicas"),
    ("a key there is not, below", "envoy.prot=8080", "prot"),
    ("`listen` is the chart's", "config.listen.grpc=0.0.0.0:9000", "config"),
    ("and so is it here", "extraListen.grpc=0.0.0.0:9000", "extraListen"),
    ("no routes at all", "config.routes=null", "routes"),
    ("a port as text", "ops.port=http", "ops/port"),
    ("a port out of range", "envoy.port=70000", "envoy/port"),
    ("a password in clear", "config.store.redis.password=hunter2", "config/store/redis/password"),
    (
        "a password in a URL",
        "config.store.redis.url=redis://default:hunter2@redis:6379",
        "config/store/redis/url",
    ),
    (
        "an upstream's key in clear",
        "config.routes[0].upstream_key=sk-0123",
        "config/routes/0/upstream_key",
    ),
    (
        "an HS256 secret in clear",
        "config.issuers[0].jwks.secret=hunter2",
        "config/issuers/0/jwks/secret",
    ),
    ("a secret without its Secret", "secrets[0].name=redis", "secretName"),
    (
        "a secret's value",
        "secrets[0].name=redis,secrets[0].secretName=r,secrets[0].value=hunter2",
        "value",
    ),
    (
        "a dialect there is not",
        "http[0].name=a,http[0].port=9001,http[0].dialect=kong,http[0].trustedProxies[0]=10.0.0.0/8",
        "http/0/dialect",
    ),
    (
        "a listener that trusts all clients",
        "http[0].name=a,http[0].port=9001,http[0].dialect=nginx",
        "trustedProxies",
    ),
    ("a size without a unit", "config.body.max=16", "config/body/max"),
    ("a digest that is none", "image.digest=latest", "image/digest"),
    ("a roll-out there is not", "rollOn=sometimes", "rollOn"),
    (
        "no pods at all, and no autoscaler's minimum",
        "autoscaling.minReplicas=0",
        "autoscaling/minReplicas",
    ),
];

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_schema_refuses_wrong_values() {
    for version in HELMS {
        let home = tempfile::tempdir().unwrap();
        for (why, value, named) in WRONG {
            let mut command = helm(version, home.path());
            let output = command
                .args(["template", "gate", "tollgate", "--set", "mode=service", "--set", value])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).replace('.', "/");
            assert!(!output.status.success(), "{version}: {why}: `{value}` is accepted");
            assert!(said.contains("schema") && said.contains(named), "{version}: {why}: {said}");
            let mut lint = helm(version, home.path());
            assert!(
                !lint
                    .args(["lint", "tollgate", "--set", "mode=service", "--set", value])
                    .output()
                    .unwrap()
                    .status
                    .success(),
                "{why}"
            );
        }
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn values_that_do_not_fit_together_are_refused_with_the_remedy() {
    for (value, remedy) in [
        ("mode=sidecar", "name the image of the inference server"),
        ("mode=service,serviceMonitor.enabled=true", "name Prometheus' pods there"),
    ] {
        for version in HELMS {
            let home = tempfile::tempdir().unwrap();
            let output = helm(version, home.path())
                .args(["template", "gate", "tollgate", "--set", value])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && said.contains(remedy),
                "{version}: {value}: {said}"
            );
        }
    }
}
