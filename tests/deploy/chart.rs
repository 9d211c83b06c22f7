//! The Helm chart, with Helm 3 and Helm 4.

use serde_json::Value;

use super::{
    HELMS, at, check_config, documents, example, examples, helm, is_generated, only, read, refused,
    strings, succeeds, template, validate_envoy, validate_manifests, written,
};

/// Texts that deploy/envoy/envoy.yaml contains once, and their replacements in the chart.
pub(super) const PLACES: [(&str, &str); 5] = [
    (
        "address: 0.0.0.0, port_value: 8080",
        "address: \"{{ .Values.bind }}\", port_value: {{ int .Values.envoy.port }}",
    ),
    (
        "max_heap_size_bytes: 805306368",
        "max_heap_size_bytes: {{ include \"tollgate.envoyHeap\" . }}",
    ),
    (
        "address: 127.0.0.1, port_value: 8000",
        "address: 127.0.0.1, port_value: {{ int .Values.inference.port }}",
    ),
    ("max_request_bytes: 16777216", "max_request_bytes: {{ include \"tollgate.bodyMax\" . }}"),
    (
        "use_remote_address: true\n",
        "use_remote_address: true\n                xff_num_trusted_hops: {{ int .Values.envoy.trustedHops }}\n",
    ),
];

const HEAD: &str = r#"{{/* Generated from deploy/envoy/envoy.yaml, where every setting says why it is there; do not edit.
     `TOLLGATE_WRITE_DOCS=1 cargo test --test main deploy::chart` writes it. */}}
{{- define "tollgate.envoyConfig" -}}
"#;

#[test]
fn its_envoy_configuration_is_the_shipped_one() {
    let shipped = read("deploy/envoy/envoy.yaml");
    let body = &shipped[shipped.find("\nnode:").unwrap() + 1..];
    let body = PLACES.iter().fold(body.to_owned(), |text, (old, new)| {
        assert_eq!(
            text.matches(old).count(),
            1,
            "deploy/envoy/envoy.yaml should have `{old}` exactly once"
        );
        text.replace(old, new)
    });
    let how = "cargo test --test main deploy::chart";
    is_generated(
        "deploy/helm/tollgate/templates/_envoy.tpl",
        &format!("{HEAD}{body}{{{{- end -}}}}\n"),
        how,
    );
}

#[test]
fn its_versions_are_the_programs_and_the_tested_envoys() {
    let chart = &documents(&read("deploy/helm/tollgate/Chart.yaml"))[0];
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    let values = &documents(&read("deploy/helm/tollgate/values.yaml"))[0];
    assert_eq!(
        values["envoy"]["image"]["tag"],
        format!("distroless-v{}", crate::rig::envoy::CURRENT)
    );
    check_config("the default", &serde_json::to_string(&values["config"]).unwrap());
}

#[test]
fn its_schema_has_every_value_and_no_other() {
    fn compare(path: &str, values: &Value, schema: &Value) {
        let (Some(values), Some(known)) = (values.as_object(), schema["properties"].as_object())
        else {
            return;
        };
        if schema["additionalProperties"] != false {
            return;
        }
        for (name, value) in values {
            let inner = known
                .get(name)
                .unwrap_or_else(|| panic!("{path}.{name} is not in values.schema.json"));
            compare(&format!("{path}.{name}"), value, inner);
        }
        for name in known
            .keys()
            .filter(|name| !(path.is_empty() && ["global", "enabled"].contains(&name.as_str())))
        {
            assert!(
                values.contains_key(name),
                "{path}.{name} is in values.schema.json, but has no default"
            );
        }
    }
    let schema: Value =
        serde_json::from_str(&read("deploy/helm/tollgate/values.schema.json")).unwrap();
    compare("", &documents(&read("deploy/helm/tollgate/values.yaml"))[0], &schema);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn helm_lints_it_with_the_defaults_and_every_example() {
    for version in HELMS {
        let home = tempfile::tempdir().unwrap();
        succeeds(helm(version, home.path()).args(["lint", "--strict", "tollgate"]));
        for name in examples() {
            succeeds(helm(version, home.path()).args([
                "lint",
                "--strict",
                "tollgate",
                "-f",
                &example(&name),
            ]));
        }
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn every_example_is_valid_for_kubernetes_and_the_same_from_both_helms() {
    for name in examples() {
        let texts = HELMS.map(|version| template(version, &["-f", &example(&name)]));
        assert_eq!(documents(&texts[0]), documents(&texts[1]), "{name}");
        let (_dir, path) = written(&texts[1]);
        for kubernetes in ["1.30", "1.34", "1.37"] {
            let said = validate_manifests(&["kubernetes", kubernetes], std::slice::from_ref(&path));
            assert!(said.contains("ok Deployment gate-tollgate"), "{name}: {said}");
        }
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn every_rendered_configuration_is_accepted_by_the_program_that_reads_it() {
    for name in examples() {
        let rendered = documents(&template("helm-4", &["-f", &example(&name)]));
        let data = &only(&rendered, "ConfigMap")["data"];
        let config = data["tollgate.yaml"].as_str().unwrap();
        check_config(&name, config);
        // The probes of the inference server go through Envoy.
        let (dir, path) = written(config);
        let pod = &only(&rendered, "Deployment")["spec"]["template"]["spec"];
        let probe = &pod["containers"][0]["readinessProbe"]["httpGet"]["path"];
        let path_of_probe = probe.as_str().filter(|path| *path != "/readyz").unwrap_or("/health");
        let health = ["--method", "GET", "--host", "10.0.0.1:8080", "--path", path_of_probe];
        let explained = crate::rig::tollgate::run(
            dir.path(),
            &[&["explain", "--config", path.to_str().unwrap()], &health[..]].concat(),
        );
        assert!(
            explained.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&explained.stdout)
        );
        let sidecar = data["envoy.yaml"].as_str();
        assert_eq!(
            sidecar.is_none(),
            ["nginx.yaml", "service.yaml"].contains(&name.as_str()),
            "{name}"
        );
        // `embedded.rs` validates the file for Envoy with the module.
        if let Some(text) = sidecar.filter(|_| name != "embedded.yaml") {
            validate_envoy(&name, text);
        }
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn envoy_sends_as_much_of_a_body_as_tollgate_accepts() {
    let text = template("helm-4", &["-f", &example("hunyuanocr.yaml")]);
    assert!(text.contains("max_request_bytes: 33554432"), "32 MiB");
    assert!(
        template("helm-4", &["-f", &example("vllm.yaml")]).contains("max_request_bytes: 16777216"),
        "the default, 16 MiB"
    );
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn envoy_s_heap_is_three_quarters_of_its_memory_limit() {
    for (limit, heap) in [("1Gi", 805_306_368_u64), ("2Gi", 1_610_612_736), ("512Mi", 402_653_184)]
    {
        let values = format!("envoy.resources.limits.memory={limit}");
        let text = template("helm-4", &["-f", &example("vllm.yaml"), "--set", &values]);
        assert!(text.contains(&format!("max_heap_size_bytes: {heap}\n")), "{limit}");
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn envoy_s_admin_interface_is_no_port() {
    let text = template("helm-4", &["-f", &example("vllm.yaml")]);
    assert!(
        text.contains("address: { pipe: { path: /run/tollgate/envoy-admin.sock, mode: 384 } }")
    );
    assert!(!text.contains("9901"));
}

/// The containers of Tollgate and Envoy, and their pod.
fn gate(rendered: &[Value]) -> (&Value, Vec<&Value>) {
    let pod = &only(rendered, "Deployment")["spec"]["template"]["spec"];
    let lists = [&pod["initContainers"], &pod["containers"]];
    (pod, lists.iter().flat_map(|list| list.as_array().unwrap()).collect())
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_model_server_is_reached_only_through_envoy() {
    for name in ["vllm.yaml", "sglang.yaml", "lmdeploy.yaml", "ms-swift.yaml", "hunyuanocr.yaml"] {
        let rendered = documents(&template("helm-4", &["-f", &example(name)]));
        let (_, containers) = gate(&rendered);
        let model = containers.iter().find(|container| container["name"] == "inference").unwrap();
        assert!(
            strings(&model["args"]).iter().any(|argument| argument.ends_with("127.0.0.1")),
            "{name}: on loopback"
        );
        assert!(model["ports"].is_null(), "{name}: no port of its own");
        // Only Envoy has the socket whose checks Tollgate trusts.
        let mounts = |container: &Value| {
            container["volumeMounts"]
                .as_array()
                .unwrap()
                .iter()
                .any(|mount| mount["name"] == "tollgate-run")
        };
        assert!(!mounts(model), "{name}");

        let policy = &only(&rendered, "NetworkPolicy")["spec"];
        assert_eq!(policy["policyTypes"], serde_json::json!(["Ingress"]), "{name}");
        let open: Vec<&Value> = policy["ingress"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|rule| rule["ports"].as_array().unwrap())
            .collect();
        assert_eq!(
            open,
            [&serde_json::json!({ "protocol": "TCP", "port": 8080 })],
            "{name}: the gate's port and no other"
        );
        assert_eq!(
            policy["podSelector"]["matchLabels"],
            only(&rendered, "Deployment")["spec"]["selector"]["matchLabels"],
            "{name}"
        );
        assert_eq!(only(&rendered, "Service")["spec"]["ports"][0]["targetPort"], 8080, "{name}");
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_containers_have_no_privileges() {
    for name in ["vllm.yaml", "service.yaml"] {
        let values = ["-f", &example(name), "--set", "hold.enabled=true"];
        let rendered = documents(&template("helm-4", &values));
        let (pod, containers) = gate(&rendered);
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        for container in containers.iter().filter(|container| container["name"] != "inference") {
            let context = &container["securityContext"];
            assert_eq!(context["runAsNonRoot"], true, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["capabilities"], serde_json::json!({ "drop": ["ALL"] }), "{name}");
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
        }
        let kinds: Vec<&Value> = rendered.iter().map(|object| &object["kind"]).collect();
        assert!(
            !kinds
                .iter()
                .any(|kind| ["Secret", "Role", "ClusterRole"].contains(&kind.as_str().unwrap())),
            "{name}: {kinds:?}"
        );
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn tollgate_gets_its_own_profile_for_system_calls_and_envoy_does_not() {
    for name in ["vllm.yaml", "service.yaml"] {
        let set = "hold.enabled=true,seccomp.localhostProfile=profiles/tollgate.json";
        let rendered = documents(&template("helm-4", &["-f", &example(name), "--set", set]));
        for container in gate(&rendered).1 {
            let profile = &container["securityContext"]["seccompProfile"];
            let expected = match container["name"].as_str().unwrap() {
                "inference" => continue,
                "tollgate" | "tollgate-check-config" | "tollgate-hold" => serde_json::json!(
                    { "type": "Localhost", "localhostProfile": "profiles/tollgate.json" }
                ),
                _ => serde_json::json!({ "type": "RuntimeDefault" }),
            };
            assert_eq!(profile, &expected, "{name}: {}", container["name"]);
        }
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn tollgate_and_envoy_are_native_sidecars_in_this_order() {
    let rendered = documents(&template("helm-4", &["-f", &example("vllm.yaml")]));
    let (pod, _) = gate(&rendered);
    let order: Vec<(&Value, &Value)> = pod["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| (&container["name"], &container["restartPolicy"]))
        .collect();
    let always = &Value::from("Always");
    let [check, tollgate, envoy] = order[..] else { panic!("{order:?}") };
    assert_eq!((check.0.as_str(), check.1), (Some("tollgate-check-config"), &Value::Null));
    assert_eq!((tollgate.0.as_str(), tollgate.1), (Some("tollgate"), always));
    assert_eq!((envoy.0.as_str(), envoy.1), (Some("tollgate-envoy"), always));
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn a_container_holds_the_sockets_of_tollgate_s_before_it_starts() {
    for (name, before) in [("vllm.yaml", 2), ("service.yaml", 1)] {
        let values = ["-f", &example(name), "--set", "hold.enabled=true"];
        let rendered = documents(&template("helm-4", &values));
        let (pod, containers) = gate(&rendered);
        let holder = &pod["initContainers"][1];
        assert_eq!(
            (holder["name"].as_str(), holder["restartPolicy"].as_str()),
            (Some("tollgate-hold"), Some("Always"))
        );
        let tollgate = containers.iter().position(|one| one["name"] == "tollgate").unwrap();
        assert!(tollgate >= before, "{name}");
        let socket = |container: &Value| {
            let arguments = strings(&container["args"]).join(" ");
            arguments.split_once("--hand-over ").map(|(_, socket)| socket.to_owned())
        };
        assert_eq!(socket(holder).as_deref(), Some("/run/tollgate/hand-over.sock"), "{name}");
        assert_eq!(socket(holder), socket(containers[tollgate]), "{name}");
        // Both see the socket.
        for container in [holder, containers[tollgate]] {
            let mounts = container["volumeMounts"].to_string();
            assert!(mounts.contains("\"mountPath\":\"/run/tollgate\""), "{name}: {mounts}");
        }
    }
    let embedded = ["-f", &example("embedded.yaml"), "--set", "hold.enabled=true"];
    assert!(refused("helm-4", &embedded).contains("hold.enabled=false"));
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_service_scales_survives_a_drained_node_and_is_spread() {
    let rendered = documents(&template("helm-4", &["-f", &example("service.yaml")]));
    let (pod, _) = gate(&rendered);
    let over: Vec<&Value> = pod["topologySpreadConstraints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["topologyKey"])
        .collect();
    assert_eq!(over, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]);
    assert_eq!(only(&rendered, "PodDisruptionBudget")["spec"]["maxUnavailable"], 1);
    assert_eq!(only(&rendered, "HorizontalPodAutoscaler")["spec"]["minReplicas"], 2);
    assert!(only(&rendered, "Deployment")["spec"]["replicas"].is_null(), "the autoscaler's to set");
    let monitor = &only(&rendered, "ServiceMonitor")["spec"];
    let services: Vec<&Value> =
        rendered.iter().filter(|object| object["kind"] == "Service").collect();
    let wanted = monitor["selector"]["matchLabels"].as_object().unwrap();
    let selected = services.iter().filter(|service| {
        wanted.iter().all(|(name, value)| &service["metadata"]["labels"][name] == value)
    });
    assert_eq!(
        selected.map(|service| &service["metadata"]["name"]).collect::<Vec<_>>(),
        ["gate-tollgate-ops"]
    );
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_service_has_the_name_that_the_manifests_of_gateways_and_meshes_use() {
    let home = tempfile::tempdir().unwrap();
    let values = example("service.yaml");
    let mut command = helm("helm-4", home.path());
    let text = succeeds(command.args([
        "template",
        "tollgate",
        "tollgate",
        "--namespace",
        "tollgate",
        "-f",
        &values,
    ]));
    let rendered = documents(&text);
    let service = rendered
        .iter()
        .find(|object| object["kind"] == "Service" && object["metadata"]["name"] == "tollgate")
        .unwrap();
    assert_eq!(service["spec"]["ports"][0]["port"], 9000);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn pods_restart_for_what_tollgate_does_not_reload_and_for_nothing_else() {
    let checksum = |more: &[&str]| {
        let values = example("vllm.yaml");
        let rendered = documents(&template("helm-4", &[&["-f", &values], more].concat()));
        only(&rendered, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/tollgate"].clone()
    };
    let before = checksum(&[]);
    assert!(before.as_str().unwrap().len() == 64);
    assert_eq!(checksum(&["--set", "config.require_https=true"]), before, "policy: it is reloaded");
    for restart in
        ["config.body.max=8MiB", "config.log.format=json", "ops.port=9012", "envoy.trustedHops=1"]
    {
        assert_ne!(checksum(&["--set", restart]), before, "{restart}");
    }
    assert_ne!(
        checksum(&["--set", "rollOn=any,config.require_https=true"]),
        checksum(&["--set", "rollOn=any"])
    );
    assert_eq!(checksum(&["--set", "rollOn=never"]), Value::Null);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn an_existing_chart_includes_tollgate_by_named_templates() {
    for version in HELMS {
        let dir = tempfile::tempdir().unwrap();
        for chart in ["tollgate", "existing-chart"] {
            succeeds(
                std::process::Command::new("cp")
                    .arg("-r")
                    .arg(at("deploy/helm").join(chart))
                    .arg(dir.path()),
            );
        }
        let mut build = helm(version, dir.path());
        succeeds(build.current_dir(dir.path()).args(["dependency", "build", "existing-chart"]));
        let mut render = helm(version, dir.path());
        let text =
            succeeds(render.current_dir(dir.path()).args(["template", "mine", "existing-chart"]));
        let rendered = documents(&text);
        let (pod, containers) = gate(&rendered);
        let names: Vec<&str> =
            containers.iter().map(|container| container["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            ["tollgate-check-config", "tollgate", "tollgate-envoy", "vllm"],
            "{version}"
        );
        assert_eq!(
            pod["volumes"][0]["configMap"]["name"],
            only(&rendered, "ConfigMap")["metadata"]["name"]
        );
        assert_eq!(
            only(&rendered, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]["app"],
            "my-model"
        );
        let data = &only(&rendered, "ConfigMap")["data"];
        check_config(version, data["tollgate.yaml"].as_str().unwrap());
        validate_envoy(version, data["envoy.yaml"].as_str().unwrap());
        let (_dir, path) = written(&text);
        validate_manifests(&["kubernetes", "1.37"], &[path]);
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_notes_print_the_next_command() {
    // Helm 3 calls a cluster even for this.
    let notes = |arguments: &[&str]| {
        let home = tempfile::tempdir().unwrap();
        let mut command = helm("helm-4", home.path());
        let said = succeeds(
            command.args(["install", "gate", "tollgate", "--dry-run=client"]).args(arguments),
        );
        said.split_once("NOTES:").unwrap().1.to_owned()
    };
    let sidecar = notes(&["-f", &example("vllm.yaml")]);
    assert!(
        sidecar
            .contains("kubectl -n default rollout status deployment/gate-tollgate --timeout=1800s"),
        "{sidecar}"
    );
    assert!(sidecar.contains("helm -n default test gate"), "{sidecar}");
    assert!(!sidecar.contains("ATTENTION"), "{sidecar}");
    assert!(
        notes(&["--set", "mode=service,networkPolicy.from=all"])
            .contains("config.store.redis is not set"),
        "pods that count for themselves"
    );
    assert!(!notes(&["-f", &example("service.yaml")]).contains("ATTENTION"));
    assert!(
        notes(&["--set", "inference.create=false,networkPolicy.podSelector.app=mine"])
            .contains("include \"tollgate.sidecars\" .Subcharts.tollgate")
    );
}
