//! The kustomize base and its overlay.

use std::process::Command;

use super::{
    at, check_config, documents, is_generated, only, succeeds, template, validate_manifests,
    written,
};
use crate::rig::part;

const HOW: &str = "cargo test --test main deploy::kustomize -- --ignored";

fn build(directory: &str) -> String {
    succeeds(Command::new(part("kubectl", "helm")).arg("kustomize").arg(at(directory)))
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_base_is_what_the_chart_renders() {
    let rendered = template(
        "helm-4",
        &["-f", "../kustomize/values.yaml", "--skip-tests", "--namespace", "default"],
    );
    let config = only(&documents(&rendered), "ConfigMap")["data"]["tollgate.yaml"]
        .as_str()
        .unwrap()
        .to_owned();
    check_config("the base", &config);
    let generated = "# Generated from the chart with ../values.yaml; do not edit.\n";
    // Without Helm's own labels, and without the ConfigMap, which kustomize makes itself.
    let foreign = ["managed-by: ", "helm.sh/chart: ", "# Source: "];
    let objects = rendered.split("---\n").map(|object| {
        let lines = object
            .split_inclusive('\n')
            .filter(|line| !foreign.iter().any(|word| line.contains(word)));
        lines
            .collect::<String>()
            .replace("app.kubernetes.io/instance: gate\n", "app.kubernetes.io/instance: tollgate\n")
    });
    let objects: Vec<String> = objects
        .filter(|object| !object.trim().is_empty() && !object.contains("kind: ConfigMap"))
        .collect();
    is_generated(
        "deploy/kustomize/base/resources.yaml",
        &format!("{generated}---\n{}", objects.join("---\n")),
        HOW,
    );
    is_generated("deploy/kustomize/base/tollgate.yaml", &format!("{generated}{config}\n"), HOW);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_overlay_brings_its_file_its_secret_and_its_namespace() {
    let text = build("deploy/kustomize/production");
    let (_dir, path) = written(&text);
    validate_manifests(&["kubernetes", "1.37"], &[path]);

    let rendered = documents(&text);
    assert!(rendered.iter().all(|object| object["metadata"]["namespace"] == "tollgate"), "{text}");
    let map = only(&rendered, "ConfigMap");
    check_config("production", map["data"]["tollgate.yaml"].as_str().unwrap());
    assert!(
        map["data"]["tollgate.yaml"].as_str().unwrap().contains("per-subject"),
        "not the base's"
    );
    let name = map["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("tollgate-"), "{name}: a hash of the content");
    let pod = &only(&rendered, "Deployment")["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["configMap"]["name"] == name), "{volumes:?}");
    assert!(
        volumes.iter().any(|volume| volume["secret"]["secretName"] == "tollgate-redis"),
        "{volumes:?}"
    );
    assert_eq!(pod["containers"][0]["image"], "registry.example.com/tollgate:0.1.0");
    assert_eq!(only(&rendered, "HorizontalPodAutoscaler")["spec"]["minReplicas"], 3);
    let from = &only(&rendered, "NetworkPolicy")["spec"]["ingress"][0]["from"];
    assert_eq!(from.as_array().unwrap().len(), 1, "{from}");
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_base_alone_opens_nothing_but_health() {
    let rendered = documents(&build("deploy/kustomize/base"));
    let config =
        &documents(only(&rendered, "ConfigMap")["data"]["tollgate.yaml"].as_str().unwrap())[0];
    assert_eq!(
        config["routes"],
        serde_json::json!([{ "match": { "paths": ["/health"] }, "public": true }])
    );
}
