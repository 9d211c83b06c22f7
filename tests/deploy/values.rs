//! Wrong values are refused by both versions of Helm, with a message that names the mistake.

use super::{HELMS, helm};

/// Mode service with what it requires.
const SERVICE: &str = "mode=service,networkPolicy.from=all";

/// The mistake, the value, and the word that the message contains.
const WRONG: [(&str, &str, &str); 26] = [
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
        "a password of Sentinels in clear",
        "config.store.redis.sentinel.password=hunter2",
        "config/store/redis/sentinel/password",
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
const UNFIT: [(&str, &str); 22] = [
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
    (
        "SERVICE,replicaCount=2,config.dpop.origins[0]=https://a",
        "config.dpop with several replicas needs config.store.redis",
    ),
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
        r"config.store.redis.url=redis+sentinel://a:26379\,b:26379/mymaster",
        r"config.store.redis.url=rediss+cluster://a:6379\,b:6379",
        "config.routes[0].require_max_tokens=true",
    ] {
        let home = tempfile::tempdir().unwrap();
        let secret = "secrets[0].name=tls,secrets[0].secretName=tls";
        let arguments = ["template", "gate", "tollgate", "--set", SERVICE, "--set", secret];
        super::succeeds(helm("helm-4", home.path()).args(arguments).args(["--set", value]));
    }
}

/// A block of values of docs/quickstart/kubernetes.md.
fn values_of_quick_start(name: &str) -> String {
    let page = super::read("docs/quickstart/kubernetes.md");
    let block = page
        .split_once(&format!("```yaml values {name}\n"))
        .and_then(|(_, rest)| rest.split_once("```"));
    block.expect("the values of the page").0.to_owned()
}

/// Whether Tollgate's container mounts a Secret at the directory of this name.
fn mounts(objects: &[serde_json::Value], secret: &str, name: &str) -> bool {
    let pod = &super::only(objects, "Deployment")["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().unwrap();
    let Some(volume) = volumes.iter().find(|volume| volume["secret"]["secretName"] == secret)
    else {
        return false;
    };
    let tollgate = ["containers", "initContainers"]
        .iter()
        .flat_map(|kind| pod[kind].as_array().into_iter().flatten())
        .find(|container| container["name"] == "tollgate")
        .unwrap();
    let path = format!("/run/secrets/tollgate/{name}");
    let mounts = tollgate["volumeMounts"].as_array().unwrap();
    mounts.iter().any(|mount| mount["name"] == volume["name"] && mount["mountPath"] == path)
}

/// The values that docs/quickstart/kubernetes.md adds for Redis and for API keys, with the example of
/// that page. Each file is added to those before it.
#[test]
#[ignore = "needs a large download: make test-all"]
fn the_values_of_the_quick_start_mount_the_secrets_that_they_name() {
    let files = ["redis-values.yaml", "keys-values.yaml"]
        .map(|name| super::written(&values_of_quick_start(name)));
    let vllm = super::example("vllm.yaml");
    let mut arguments = vec!["-f", vllm.as_str()];
    for ((_dir, path), secrets) in files.iter().zip([
        &[("tollgate-redis", "redis")][..],
        &[("tollgate-redis", "redis"), ("tollgate-api-keys", "api-keys")],
    ]) {
        arguments.extend(["-f", path.to_str().unwrap()]);
        for version in HELMS {
            let objects = super::documents(&super::template(version, &arguments));
            assert_eq!(super::only(&objects, "Deployment")["spec"]["replicas"], 2);
            for (secret, name) in secrets {
                assert!(mounts(&objects, secret, name), "{secret}");
            }
            let config = &super::only(&objects, "ConfigMap")["data"]["tollgate.yaml"];
            super::check_config("the quick start", config.as_str().unwrap());
        }
    }
}

/// The example with API keys needs no issuer, and mounts the files that it names.
#[test]
#[ignore = "needs a large download: make test-all"]
fn the_example_with_api_keys_mounts_their_secret() {
    let text = super::template("helm-4", &["-f", &super::example("api-keys.yaml")]);
    let objects = super::documents(&text);
    assert!(mounts(&objects, "tollgate-api-keys", "api-keys"));
    assert!(mounts(&objects, "tollgate-redis", "redis"));
    let config = &super::only(&objects, "ConfigMap")["data"]["tollgate.yaml"];
    let config: serde_json::Value = serde_saphyr::from_str(config.as_str().unwrap()).unwrap();
    assert_eq!(config["api_keys"]["file"], "/run/secrets/tollgate/api-keys/keys.json");
    assert!(config["issuers"].is_null());
    // A change of the section does not restart the pods: Tollgate reads it again by itself.
    let annotations = |more: &[&str]| {
        let example = super::example("api-keys.yaml");
        let text = super::template("helm-4", &[&["-f", example.as_str()], more].concat());
        let objects = super::documents(&text);
        let pod = &super::only(&objects, "Deployment")["spec"]["template"];
        pod["metadata"]["annotations"].clone()
    };
    let before = annotations(&[]);
    assert!(!before.is_null());
    assert_eq!(before, annotations(&["--set", "config.api_keys.max_life=30d"]));
}

/// Without its Secret in `secrets`, a file that the configuration names is refused with the remedy.
#[test]
#[ignore = "needs a large download: make test-all"]
fn a_file_that_no_secret_mounts_is_refused() {
    for (name, path) in [
        ("redis-values.yaml", "/run/secrets/tollgate/redis/password"),
        ("keys-values.yaml", "/run/secrets/tollgate/api-keys/keys.json"),
    ] {
        let without: String = values_of_quick_start(name)
            .lines()
            .filter(|line| !line.contains("secretName") && *line != "secrets:")
            .map(|line| format!("{line}\n"))
            .collect();
        let (_file, values) = super::written(&without);
        let home = tempfile::tempdir().unwrap();
        let output = helm("helm-4", home.path())
            .args(["template", "gate", "tollgate", "-f", &super::example("vllm.yaml"), "-f"])
            .arg(&values)
            .output()
            .unwrap();
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(path) && error.contains("secretName: YOUR-SECRET"), "{error}");
    }
}
