//! deploy/envoy/envoy-embedded.yaml is deploy/envoy/envoy.yaml with the module in the place of the
//! filter that calls a sidecar.

use std::process::Command;

use super::{
    HELMS, chart::PLACES, check_config, documents, example, is_generated, only, read, template,
};
use crate::rig::{
    envoy::{CURRENT, module_directory},
    part, replace_once,
};

const HOW: &str = "cargo test --test main deploy::embedded";

const TITLE: &str = "\
# Envoy in front of an inference server, with Tollgate inside of it (docs/embedded.md).
#
# Generated from envoy.yaml, where every other setting is explained; do not edit. To use it, change those:
#   0.0.0.0:8080               where clients connect
#   /run/tollgate/envoy-admin.sock
#                              Envoy's admin interface
#   /etc/tollgate/tollgate.yaml
#                              Tollgate's policy file
#   127.0.0.1:8000             the inference server
#   127.0.0.1:8001             its gRPC port, if it has one
# Envoy finds the module, libtollgate_envoy.so, in the directory that ENVOY_DYNAMIC_MODULES_SEARCH_PATH names.
# Check it with: envoy --mode validate -c envoy-embedded.yaml
";

/// The filter in the place of `ext_authz`.
const FILTER: &str = r#"                  # Tollgate decides here, in Envoy's own process, with the file of a sidecar. A body is buffered only where
                  # a rule reads it, and only for a client whose headers have passed.
                  - name: tollgate
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter
                      dynamic_module_config:
                        name: tollgate_envoy
                        # Its threads run until Envoy ends.
                        do_not_close: true
                      filter_name: tollgate
                      filter_config:
                        "@type": type.googleapis.com/google.protobuf.StringValue
                        value: /etc/tollgate/tollgate.yaml
"#;

/// The path of the policy file in the configuration.
const POLICY_FILE: &str = "value: /etc/tollgate/tollgate.yaml";

/// The comment on routes for gRPC.
const GRPC: &str = "                        # gRPC. Tollgate cannot read these bodies: a route of its file that needs a body is denied.
";

/// Replaces what is between two lines, the first one included.
fn between(text: &str, from: &str, to: &str, with: &str) -> String {
    let start = text.find(from).unwrap_or_else(|| panic!("envoy.yaml has `{from}`"));
    let length = text[start..].find(to).unwrap_or_else(|| panic!("envoy.yaml has `{to}`"));
    format!("{}{with}{}", &text[..start], &text[start + length..])
}

/// envoy.yaml with the module.
fn embedded() -> String {
    let text = read("deploy/envoy/envoy.yaml");
    let text = between(&text, "# Envoy in front", "\nnode:", TITLE);
    let text = between(
        &text,
        "# Envoy holds a whole body",
        "overload_manager:",
        "# This section bounds what clients can make Envoy hold; without it the container's memory limit ends Envoy.\n",
    );
    let text = text.replace(
        " `reset_high_memory_stream`\n  # cannot do this: Envoy does not count a body that ext_authz holds.",
        "",
    );
    let text = replace_once_with_comments(
        &text,
        "written down: Tollgate's limit for the headers of a check has to be above it.",
        "written down.",
    );
    let text = text.replace("envoy.filters.http.ext_authz:", "tollgate:");
    let routes = "                        - match: { prefix: /inference.GRPCInferenceService/";
    let text = between(&text, "                        # gRPC, whose clients", routes, GRPC);
    let reflection = "                        - match: { prefix: /grpc.reflection.";
    let of_route = "                          typed_per_filter_config: &without_body";
    let text = between(&text, of_route, reflection, "");
    let text = replace_once(
        text,
        "                          typed_per_filter_config: *without_body\n",
        "",
    );
    let router = "                  - name: envoy.filters.http.router";
    let text =
        between(&text, "                  - name: envoy.filters.http.ext_authz", router, FILTER);
    between(&text, "    - name: tollgate\n      type: STATIC", "    - name: inference\n", "")
}

/// Replaces a text that occurs once, also in a comment.
fn replace_once_with_comments(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "envoy.yaml has `{old}` once");
    text.replace(old, new)
}

#[test]
fn the_configuration_for_the_module_is_that_of_the_sidecar_with_another_filter() {
    is_generated("deploy/envoy/envoy-embedded.yaml", &embedded(), HOW);
}

const HEAD: &str = r#"{{/* Generated from deploy/envoy/envoy-embedded.yaml; do not edit.
     `TOLLGATE_WRITE_DOCS=1 cargo test --test main deploy::embedded` writes it. */}}
{{- define "tollgate.envoyEmbedded" -}}
{{- /* The heap holds some of the largest bodies. */ -}}
{{- $_ := include "tollgate.bodyMax" . -}}
"#;

#[test]
fn the_chart_s_file_for_the_module_is_the_shipped_one() {
    let shipped = embedded();
    let body = shipped[shipped.find("\nnode:").unwrap() + 1..].to_owned();
    let places = PLACES.into_iter().filter(|(old, _)| !old.starts_with("max_request_bytes"));
    let body = places.fold(body, |body, (old, new)| replace_once(body, old, new));
    let path = "deploy/helm/tollgate/templates/_envoy_embedded.tpl";
    is_generated(path, &format!("{HEAD}{body}{{{{- end -}}}}\n"), HOW);
}

/// Runs `envoy --mode validate` on a configuration with the module, whose policy is `policy`.
fn validate(config: &str, policy: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("envoy.yaml"), dir.path().join("tollgate.yaml"));
    let place = format!("value: \"{}\"", file.display());
    std::fs::write(&path, replace_once(config.to_owned(), POLICY_FILE, &place)).unwrap();
    std::fs::write(&file, policy).unwrap();
    let mut command = Command::new(part(&format!("envoy-{CURRENT}"), "envoy"));
    command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", module_directory());
    command.args(["--mode", "validate", "--disable-hot-restart", "--log-level", "error", "-c"]);
    let output = command.arg(&path).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn envoy_accepts_the_configuration_and_refuses_one_with_a_wrong_policy_file() {
    let (accepted, text) =
        validate(&embedded(), "routes: [{ match: { paths: [/health] }, public: true }]");
    assert!(accepted, "{text}");
    let (accepted, text) =
        validate(&embedded(), "routes: [{ match: { paths: [/health] }, publik: true }]");
    assert!(!accepted && text.contains("unknown key `publik`"), "{text}");
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_chart_runs_envoy_with_the_module_in_the_place_of_the_sidecar() {
    for version in HELMS {
        let rendered = documents(&template(version, &["-f", &example("embedded.yaml")]));
        let data = &only(&rendered, "ConfigMap")["data"];
        let policy = data["tollgate.yaml"].as_str().unwrap();
        check_config(version, policy);
        let (accepted, text) = validate(data["envoy.yaml"].as_str().unwrap(), policy);
        assert!(accepted, "{version}: {text}");
        let pod = &only(&rendered, "Deployment")["spec"]["template"]["spec"];
        let containers = pod["initContainers"].as_array().unwrap();
        let names: Vec<&str> =
            containers.iter().map(|container| container["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["tollgate-check-config", "tollgate-envoy"], "{version}");
        let envoy = &containers[1];
        let image = format!("tollgate-envoy:{}-envoy1.40", env!("CARGO_PKG_VERSION"));
        assert_eq!(envoy["image"], image.as_str(), "{version}");
        assert_eq!(envoy["readinessProbe"]["httpGet"]["path"], "/readyz", "{version}");
        let mounts: Vec<&str> = envoy["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["mountPath"].as_str().unwrap())
            .collect();
        for path in ["/etc/envoy", "/etc/tollgate", "/run/tollgate"] {
            assert!(mounts.contains(&path), "{version}: {mounts:?}");
        }
    }
}

#[test]
fn the_image_contains_the_tested_envoy_and_finds_the_module() {
    let file = read("deploy/image/Dockerfile.envoy");
    assert!(file.contains(&format!("envoyproxy/envoy:distroless-v{CURRENT}")));
    assert!(file.contains("libtollgate_envoy.so"));
    assert!(file.contains("ENVOY_DYNAMIC_MODULES_SEARCH_PATH=/usr/local/lib"));
}
