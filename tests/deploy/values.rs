//! Wrong values are refused by both versions of Helm, with a message that names the mistake.

use super::{HELMS, helm};

/// Mode service with what it requires.
const SERVICE: &str = "mode=service,networkPolicy.from=all";

/// The mistake, the value, and the word that the message contains.
const WRONG: [(&str, &str, &str); 25] = [
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
    ("a size of zero", "config.body.max=0MiB", "config/body/max"),
    ("a size that no machine has", "config.body.max=99999999999GiB", "config/body/max"),
    ("and below", "inference.shmSize=99999999999Gi", "inference/shmSize"),
    ("pods that no cluster has", "replicaCount=100000", "replicaCount"),
    ("threads that no machine has", "envoy.concurrency=100000", "envoy/concurrency"),
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
                .args(["template", "gate", "tollgate", "--set", SERVICE, "--set", value])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).replace('.', "/");
            assert!(!output.status.success(), "{version}: {why}: `{value}` is accepted");
            assert!(said.contains("schema") && said.contains(named), "{version}: {why}: {said}");
            let mut lint = helm(version, home.path());
            assert!(
                !lint
                    .args(["lint", "tollgate", "--set", SERVICE, "--set", value])
                    .output()
                    .unwrap()
                    .status
                    .success(),
                "{why}"
            );
        }
    }
}

/// Values that are valid each, but not together; and the words that the message contains.
const UNFIT: [(&str, &str); 21] = [
    ("mode=sidecar", "name the image of the inference server"),
    ("SERVICE,serviceMonitor.enabled=true", "name Prometheus' pods there"),
    ("mode=service", "name the proxies that call Tollgate"),
    ("mode=service", "or write `from: all`"),
    ("inference.create=false", "write the labels of the pods of your own chart"),
    ("SERVICE,ops.port=9000", "ops.port and grpc.port are both 9000"),
    ("SIDECAR,envoy.port=8000", "envoy.port and inference.port are both 8000"),
    ("SIDECAR,inference.port=9002", "ops.port and inference.port are both 9002"),
    ("SERVICE,HTTP=9000", "grpc.port and http[0].port are both 9000"),
    ("SERVICE,extraListen.admin.address=0.0.0.0:9002", "ops.port and extraListen.admin are both"),
    ("SERVICE,extraListen.admin.token=hunter2", "extraListen.admin.token is a secret in clear"),
    ("SERVICE,config.issuers[0].a.client_secret=hunter2", "config.issuers[0].a.client_secret is a"),
    ("SERVICE,config.issuers[0].a.client_secret=hunter2", "name the Secret in `secrets`"),
    ("SERVICE,config.observe.tracing.endpoint=https://u:hunter2@otel", "is a URL with a password"),
    (
        "SERVICE,config.store.redis.password=file:/run/secrets/tollgate/redis/password",
        "add `{ name: redis, secretName: YOUR-SECRET }`",
    ),
    (
        "SERVICE,config.issuers[0].jwks.file=/run/config/tollgate/jwks/jwks.json",
        "add `{ name: jwks, configMapName: YOUR-CONFIGMAP }`",
    ),
    ("SERVICE,config.store.redis.password=file:/etc/password", "which the chart does not mount"),
    ("SIDECAR,config.body.max=1GiB", "more than a quarter of Envoy's heap"),
    ("SIDECAR,envoy.resources.limits.memory=1G", "write a size such as 1Gi"),
    ("SIDECAR,envoy.resources.limits.memory=64Mi", "Envoy needs 256Mi or more"),
    ("SERVICE,prometheusRule.enabled=true", "prometheusRule.enabled needs serviceMonitor.enabled"),
];

#[test]
#[ignore = "needs a large download: make test-all"]
fn values_that_do_not_fit_together_are_refused_with_the_remedy() {
    for (value, remedy) in UNFIT {
        let value = value
            .replace("SERVICE", SERVICE)
            .replace("SIDECAR", "inference.image=x")
            .replace(
                "HTTP=",
                "http[0].name=a,http[0].dialect=nginx,http[0].trustedProxies[0]=10.0.0.0/8,http[0].port=",
            );
        for version in HELMS {
            let home = tempfile::tempdir().unwrap();
            let output = helm(version, home.path())
                .args(["template", "gate", "tollgate", "--set", &value])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && said.contains(remedy),
                "{version}: {value}: {said}"
            );
            assert!(!said.contains("hunter2"), "{version}: {value}: the secret is printed");
        }
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn values_that_only_look_like_secrets_are_accepted() {
    for value in [
        // A path, a file that is mounted, a variable.
        "config.listener.tls.key=/run/secrets/tollgate/tls/tls.key",
        "config.store.redis.password=file:/run/secrets/tollgate/tls/password",
        "config.store.redis.password=${PASSWORD}",
        "config.store.redis.url=rediss://default@redis:6379",
        "config.routes[0].require_max_tokens=true",
    ] {
        let home = tempfile::tempdir().unwrap();
        let secret = "secrets[0].name=tls,secrets[0].secretName=tls";
        let arguments = ["template", "gate", "tollgate", "--set", SERVICE, "--set", secret];
        super::succeeds(helm("helm-4", home.path()).args(arguments).args(["--set", value]));
    }
}

/// The values that docs/quickstart/kubernetes.md adds for Redis, with the example of that page.
#[test]
#[ignore = "needs a large download: make test-all"]
fn the_values_of_the_quick_start_mount_the_secret_that_they_name() {
    let page = super::read("docs/quickstart/kubernetes.md");
    let values = page
        .split_once("```yaml values redis-values.yaml\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .expect("the values of the page")
        .0;
    let (_file, path) = super::written(values);
    let path = path.to_str().unwrap();
    let rendered = super::template("helm-4", &["-f", &super::example("vllm.yaml"), "-f", path]);
    let objects = super::documents(&rendered);
    let pod = &super::only(&objects, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(super::only(&objects, "Deployment")["spec"]["replicas"], 2);
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = volumes
        .iter()
        .find(|volume| volume["secret"]["secretName"] == "tollgate-redis")
        .expect("a volume of the secret");
    let tollgate = ["containers", "initContainers"]
        .iter()
        .flat_map(|kind| pod[kind].as_array().into_iter().flatten())
        .find(|container| container["name"] == "tollgate")
        .unwrap();
    let mounts = tollgate["volumeMounts"].as_array().unwrap();
    let mounted = mounts.iter().any(|mount| {
        mount["name"] == volume["name"] && mount["mountPath"] == "/run/secrets/tollgate/redis"
    });
    assert!(mounted, "{mounts:?}");
    // Without `secrets` the same configuration is refused.
    let without: String = values
        .lines()
        .filter(|line| !line.contains("secretName") && *line != "secrets:")
        .map(|line| format!("{line}\n"))
        .collect();
    let (_file, path) = super::written(&without);
    let home = tempfile::tempdir().unwrap();
    let output = helm("helm-4", home.path())
        .args(["template", "gate", "tollgate", "-f", &super::example("vllm.yaml"), "-f"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("/run/secrets/tollgate/redis/password"), "{error}");
}
