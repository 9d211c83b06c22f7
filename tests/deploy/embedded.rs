//! deploy/envoy/envoy-embedded.yaml is deploy/envoy/envoy.yaml with the module in the place of the
//! filter that calls a sidecar.

use std::process::Command;

use super::{is_generated, read};
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

#[test]
fn envoy_accepts_the_configuration_and_refuses_one_with_a_wrong_policy_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, policy) = (dir.path().join("envoy.yaml"), dir.path().join("tollgate.yaml"));
    let place = format!("value: \"{}\"", policy.display());
    let config = replace_once(embedded(), "value: /etc/tollgate/tollgate.yaml", &place);
    std::fs::write(&path, config).unwrap();
    let validate = |text: &str| {
        std::fs::write(&policy, text).unwrap();
        let mut command = Command::new(part(&format!("envoy-{CURRENT}"), "envoy"));
        command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", module_directory());
        command.args(["--mode", "validate", "--disable-hot-restart", "--log-level", "error", "-c"]);
        let output = command.arg(&path).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (accepted, text) = validate("routes: [{ match: { paths: [/health] }, public: true }]");
    assert!(accepted, "{text}");
    let (accepted, text) = validate("routes: [{ match: { paths: [/health] }, publik: true }]");
    assert!(!accepted && text.contains("unknown key `publik`"), "{text}");
}
