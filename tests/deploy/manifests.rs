//! The other files of deploy/: they begin with a description, and the program that reads them
//! accepts them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{at, check_config, documents, read, validate_manifests};
use crate::rig::part;

/// The manifests that are applied to a cluster.
const APPLIED: [&str; 4] = [
    "deploy/envoy-gateway/policy.yaml",
    "deploy/gateway-api/gateway.yaml",
    "deploy/ingress-nginx/ingress.yaml",
    "deploy/istio/policy.yaml",
];

/// Every file below deploy/.
fn all(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(all(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn every_file_begins_with_a_description() {
    let mut seen = 0;
    for path in all(&at("deploy")) {
        let extension =
            path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !["yaml", "service", "sysusers", "conf", "cfg", "Dockerfile"].contains(&extension) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // In a template the first line may be a condition.
        let lines = text.lines().filter(|line| !line.starts_with("{{"));
        let first = lines.map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        assert!(first.starts_with("# ") && first.len() > 20, "{}: {first}", path.display());
        seen += 1;
    }
    assert!(seen > 40, "{seen}");
    for untested in ["deploy/kong/kong.yaml", "deploy/apisix/apisix.yaml"] {
        assert!(read(untested).starts_with("# Untested: "), "{untested}");
    }
}

#[test]
fn every_configuration_of_tollgate_is_valid() {
    for path in [
        "deploy/compose/tollgate.yaml",
        "deploy/kustomize/base/tollgate.yaml",
        "deploy/kustomize/production/tollgate.yaml",
    ] {
        check_config(path, &read(path));
    }
}

#[test]
fn every_file_that_the_documentation_names_is_there() {
    let mut seen = 0;
    for page in ["docs/kubernetes.md", "deploy/helm/tollgate/README.md"] {
        let text = read(page);
        let separators = |c: char| c.is_whitespace() || "`()<>,;:|\"'".contains(c);
        for word in text
            .split(separators)
            .filter(|word| word.starts_with("deploy/") || word.starts_with("tools/"))
        {
            // Files that the commands beside them make.
            if word.starts_with("deploy/compose/secrets") {
                continue;
            }
            assert!(at(word).exists(), "{page}: {word}");
            seen += 1;
        }
        for link in text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
            assert!(at(page).parent().unwrap().join(link).exists(), "{page}: {link}");
        }
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn every_manifest_is_yaml_with_kind_and_name() {
    for path in APPLIED {
        for object in documents(&read(path)) {
            assert!(
                object["kind"].is_string() && object["metadata"]["name"].is_string(),
                "{path}: {object}"
            );
        }
    }
    for path in [
        "deploy/kong/kong.yaml",
        "deploy/apisix/apisix.yaml",
        "deploy/istio/mesh-config.yaml",
        "deploy/compose/compose.yaml",
    ] {
        assert_eq!(documents(&read(path)).len(), 1, "{path}");
    }
}

#[test]
fn the_composed_inference_server_has_no_way_in_but_envoy() {
    let compose = &documents(&read("deploy/compose/compose.yaml"))[0];
    let services = compose["services"].as_object().unwrap();
    let open: Vec<&str> = services
        .iter()
        .filter(|(_, service)| !service["ports"].is_null())
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(open, ["envoy"]);
    assert_eq!(services["inference"]["network_mode"], "service:envoy");
    let command: Vec<&str> = super::strings(&services["inference"]["command"]);
    assert!(command.windows(2).any(|pair| pair == ["--host", "127.0.0.1"]), "{command:?}");
    // The mounted files exist, and Envoy's is the one of the end-to-end tests.
    for service in services.values() {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            assert!(
                !source.starts_with('.') || at("deploy/compose").join(source).is_file(),
                "{source}"
            );
        }
    }
    assert!(super::strings(&services["envoy"]["volumes"])[0].starts_with("../envoy/envoy.yaml:"));
}

#[test]
fn the_composed_redis_keeps_revocations_over_a_restart() {
    let compose = &documents(&read("deploy/compose/compose.yaml"))[0];
    let command = super::strings(&compose["services"]["redis"]["command"]).join(" ");
    assert!(command.contains("--appendonly yes") && command.contains("noeviction"), "{command}");
}

/// Memory before authentication, headers, and the admin interface.
#[test]
fn every_envoy_file_has_the_same_bounds() {
    let mut seen = 0;
    for path in all(&at("deploy/envoy")) {
        let config = &documents(&std::fs::read_to_string(&path).unwrap())[0];
        let name = path.display();
        assert!(config["admin"]["address"]["pipe"]["path"].is_string(), "{name}");
        let overload = &config["overload_manager"];
        let heap = &overload["resource_monitors"][0]["typed_config"]["max_heap_size_bytes"];
        assert_eq!(heap, 768 << 20, "{name}");
        assert_eq!(overload["loadshed_points"].as_array().map(Vec::len), Some(2), "{name}");
        let listener = &config["static_resources"]["listeners"][0];
        assert_eq!(listener["per_connection_buffer_limit_bytes"], 64 << 10, "{name}");
        let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!(manager["max_request_headers_kb"], 60, "{name}");
        seen += 1;
    }
    assert!(seen >= 4, "{seen}");
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_manifests_are_what_kubernetes_and_the_custom_resources_define() {
    let files: Vec<PathBuf> = APPLIED.iter().map(|path| at(path)).collect();
    let said = validate_manifests(&["kubernetes", "1.37"], &files);
    for object in [
        "SecurityPolicy tollgate",
        "ClientTrafficPolicy tollgate",
        "AuthorizationPolicy tollgate",
        "EnvoyFilter tollgate",
    ] {
        assert!(said.contains(&format!("ok {object}\n")), "{said}");
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn a_field_that_a_custom_resource_does_not_have_is_found() {
    for (path, good, bad) in [
        ("deploy/envoy-gateway/policy.yaml", "failOpen: false", "failureModeAllow: false"),
        ("deploy/envoy-gateway/policy.yaml", "statusOnError: 503", "statusOnError: 299"),
        ("deploy/istio/policy.yaml", "action: CUSTOM", "action: ASK"),
        ("deploy/gateway-api/gateway.yaml", "protocol: HTTPS", "protocoll: HTTPS"),
        ("deploy/ingress-nginx/ingress.yaml", "pathType: Prefix", "pathtype: Prefix"),
    ] {
        let (_dir, path) = super::written(&crate::rig::replace_once(read(path), good, bad));
        let refused =
            std::panic::catch_unwind(|| validate_manifests(&["kubernetes", "1.37"], &[path]))
                .is_err();
        assert!(refused, "{bad}");
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_compose_file_is_what_the_specification_says() {
    validate_manifests(&["compose"], &[at("deploy/compose/compose.yaml")]);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn systemd_accepts_the_unit_and_rates_it_as_sandboxed() {
    let analyze = part("systemd-analyze", "systemd");
    let dir = tempfile::tempdir().unwrap();
    let write = |shipped: &str, name: &str| {
        let unit = dir.path().join(name);
        // The verification requires the program, which is not installed here.
        let program = env!("CARGO_BIN_EXE_tollgate");
        let text = read(&format!("deploy/systemd/{shipped}"));
        std::fs::write(&unit, text.replace("=/usr/local/bin/tollgate", &format!("={program}")))
            .unwrap();
        unit
    };
    let service = write("tollgate.service", "tollgate.service");
    let socket = write("tollgate.socket", "tollgate.socket");
    let instance = write("tollgate@.service", "tollgate@blue.service");
    for unit in [&service, &socket, &instance] {
        let verify =
            Command::new(&analyze).arg("verify").arg("--man=no").arg(unit).output().unwrap();
        let said = String::from_utf8_lossy(&verify.stderr);
        assert!(verify.status.success() && !said.contains("tollgate"), "{said}");
    }
    // From 0 (nothing is exposed) to 100: the network, the socket and `setpriority` account for 15.
    for unit in [&service, &instance] {
        let security = Command::new(&analyze)
            .args(["security", "--offline=true", "--threshold=15"])
            .arg(unit)
            .output()
            .unwrap();
        assert!(security.status.success(), "{}", String::from_utf8_lossy(&security.stdout));
    }
}
