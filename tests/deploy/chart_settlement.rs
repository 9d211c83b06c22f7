//! The chart's listeners for reports of usage: the access log, external processing, and `POST /v1/settle`.

use serde_json::Value;

use super::{
    HELMS, check_config, documents, example, only, read, refused, template, validate_envoy,
};

/// Values with metering, and the Secrets of the examples.
const METERING: [&str; 4] = [
    "--set-json",
    r#"config.metering={"secrets":["file:/run/secrets/tollgate/metering/key"]}"#,
    "--set-json",
    r#"secrets=[{"name":"metering","secretName":"tollgate-metering"},{"name":"redis","secretName":"tollgate-redis"}]"#,
];

/// Those that report for every route.
const REPORTER: &str = r#"settle.reporters=[{"name":"a","digest":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","every_route":true}]"#;
const REPORTERS: &str = r#"settle.reporters=[{"name":"a","digest":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","every_route":true},{"name":"b","digest":"sha256:8f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","every_route":true}]"#;

/// The chart with an example and metering.
struct Chart {
    version: &'static str,
    values: String,
}

impl Chart {
    /// The chart with this example, for each version of Helm.
    fn each(values: &str) -> impl Iterator<Item = Self> {
        let values = example(values);
        HELMS.into_iter().map(move |version| Self { version, values: values.clone() })
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["-f", self.values.as_str()][..], &METERING, more].concat()
    }

    fn rendered(&self, more: &[&str]) -> Rendered {
        Rendered(documents(&template(self.version, &self.arguments(more))))
    }

    /// Renders values whose file Tollgate accepts.
    fn accepted(&self, more: &[&str]) -> Rendered {
        let rendered = self.rendered(more);
        check_config(self.version, rendered.file("tollgate.yaml"));
        rendered
    }

    fn refuses(&self, more: &[&str], message: &str) {
        let text = refused(self.version, &self.arguments(more));
        assert!(text.contains(message), "{} {more:?}: {text}", self.version);
    }
}

/// The objects that are rendered.
struct Rendered(Vec<Value>);

impl Rendered {
    /// A file of the ConfigMap.
    fn file(&self, name: &str) -> &str {
        only(&self.0, "ConfigMap")["data"][name].as_str().unwrap()
    }

    /// The objects of a kind, as a text.
    fn text(&self, kind: &str) -> String {
        self.0.iter().filter(|one| one["kind"] == kind).map(ToString::to_string).collect()
    }

    /// Asserts that a port is open, with the files of a Secret.
    fn opens(&self, port: u16, secret: &str) {
        for kind in ["Service", "NetworkPolicy"] {
            assert!(self.text(kind).contains(&format!("\"port\":{port}")), "{kind} {port}");
        }
        let deployment = self.text("Deployment");
        let container = format!("\"containerPort\":{port}");
        for part in [container, format!("\"secretName\":\"{secret}\"")] {
            assert!(deployment.contains(&part), "{part}: {deployment}");
        }
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn a_sidecar_reports_in_the_access_log_where_the_configuration_meters() {
    for chart in Chart::each("vllm.yaml") {
        let rendered = chart.accepted(&[]);
        let (envoy, config) = (rendered.file("envoy.yaml"), rendered.file("tollgate.yaml"));
        assert!(config.contains("access_log: unix:/run/tollgate/access-log.sock"), "{config}");
        assert!(envoy.contains("path: /run/tollgate/access-log.sock"));
        assert!(!envoy.contains("ext_proc") && !config.contains("settle"), "{config}");
        validate_envoy(chart.version, envoy);
        let without = template(chart.version, &["-f", &chart.values]);
        assert!(!without.contains("access-log.sock"), "{}", chart.version);
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn a_sidecar_s_envoy_is_the_shipped_one_with_external_processing() {
    for chart in Chart::each("vllm.yaml") {
        for responses in ["acknowledged", "cut"] {
            let value = format!("extProc.responses={responses}");
            let rendered = chart.accepted(&["--set", &value]);
            let config = rendered.file("tollgate.yaml");
            assert!(config.contains("ext_proc: unix:/run/tollgate/ext-proc.sock"), "{config}");
            let envoy = rendered.file("envoy.yaml");
            validate_envoy(chart.version, envoy);
            let shipped = read(&format!("deploy/envoy/envoy-metered-{responses}.yaml"));
            assert_eq!(processing(envoy), processing(&shipped), "{responses}");
        }
        let cut = ["--set", "extProc.responses=cut", "--set", "extProc.cutPaths=/v2/.*"];
        let envoy = chart.accepted(&cut).file("envoy.yaml").to_owned();
        assert!(envoy.contains(r#"safe_regex: { regex: "/v2/.*" }"#), "{envoy}");
        chart.refuses(&["--set", "extProc.responses=some"], "extProc");
        chart.refuses(&[&cut[..], &["--set", "mode=embedded"]].concat(), "mode embedded");
        let unmetered = [&cut[..], &["--set-json", "config.metering=null"]].concat();
        chart.refuses(&unmetered, "need config.metering");
    }
}

/// The names of filters and clusters, and the lines about external processing.
fn processing(envoy: &str) -> Vec<&str> {
    let is_of_it = |line: &&str| {
        line.starts_with("- name: ")
            || ["processing_mode", "_mode: ", "namespaces", "regex: ", "ext-proc", "ai_protocol"]
                .iter()
                .any(|part| line.contains(part))
    };
    let begin = envoy.find("\nnode:").map_or(0, |at| at);
    envoy[begin..].lines().map(str::trim).filter(is_of_it).collect()
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn a_sidecar_takes_reports_over_http_from_its_own_pod() {
    for chart in Chart::each("vllm.yaml") {
        let enabled = ["--set", "settle.enabled=true"];
        let one = chart.accepted(&[&enabled[..], &["--set-json", REPORTER]].concat());
        let config = one.file("tollgate.yaml");
        assert!(config.contains("address: 127.0.0.1:9004"), "{config}");
        for kind in ["Service", "NetworkPolicy"] {
            assert!(!one.text(kind).contains("9004"), "{kind}");
        }
        // Another reporter needs no restart, and another port does.
        let checksum = |rendered: &Rendered| {
            let deployment = only(&rendered.0, "Deployment");
            deployment["spec"]["template"]["metadata"]["annotations"]["checksum/tollgate"].clone()
        };
        let two = chart.accepted(&[&enabled[..], &["--set-json", REPORTERS]].concat());
        assert_eq!(checksum(&one), checksum(&two), "{}", chart.version);
        let port = ["--set-json", REPORTER, "--set", "settle.port=9014"];
        assert_ne!(checksum(&one), checksum(&chart.accepted(&[&enabled[..], &port].concat())));

        chart.refuses(&enabled, "settle.reporters is empty");
        let taken = ["--set-json", REPORTER, "--set", "settle.port=8080"];
        chart.refuses(&[&enabled[..], &taken].concat(), "envoy.port and settle.port");
        chart.refuses(&["--set", "extraListen.settle.address=0.0.0.0:1"], "extraListen");
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn a_service_takes_the_access_log_of_proxies_with_certificates() {
    for chart in Chart::each("service.yaml") {
        chart.refuses(&[], "accessLog.tlsSecretName");
        let rendered = chart.accepted(&["--set", "accessLog.tlsSecretName=log"]);
        let config = rendered.file("tollgate.yaml");
        for line in [
            "access_log:",
            "address: 0.0.0.0:9003",
            "client_ca: /run/secrets/tollgate-access-log-tls/ca.crt",
        ] {
            assert!(config.contains(line), "{line}: {config}");
        }
        rendered.opens(9003, "log");
        let without = template(chart.version, &["-f", &chart.values]);
        assert!(!without.contains("9003"), "{}", chart.version);
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn a_service_takes_reports_over_http_with_certificates_or_tokens() {
    for chart in Chart::each("service.yaml") {
        let settle = ["--set", "settle.enabled=true", "--set", "settle.tlsSecretName=reports"];
        // nginx reports over HTTP, so that there is no access log.
        let nginx = r#"http=[{"name":"nginx","port":9001,"dialect":"nginx","body":"sent","settlement":"reported","trustedProxies":["10.0.0.0/8"]}]"#;
        let certificates = chart.accepted(&[&settle[..], &["--set-json", nginx]].concat());
        let config = certificates.file("tollgate.yaml");
        assert!(config.contains("client_ca: /run/secrets/tollgate-settle-tls/ca.crt"), "{config}");
        assert!(!config.contains("access_log"), "{config}");
        certificates.opens(9004, "reports");
        let tokens = chart.accepted(&[&settle[..], &["--set-json", REPORTER]].concat());
        let config = tokens.file("tollgate.yaml");
        assert!(config.contains("every_route: true") && !config.contains("client_ca"), "{config}");
        chart.refuses(&["--set", "settle.enabled=true"], "settle.tlsSecretName");
        let taken = [&settle[..], &["--set", "settle.port=9000"]].concat();
        chart.refuses(&taken, "grpc.port and settle.port");
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn a_service_takes_external_processing_of_proxies_with_certificates() {
    for chart in Chart::each("service.yaml") {
        let log = ["--set", "accessLog.tlsSecretName=log"];
        let responses = ["--set", "extProc.responses=acknowledged"];
        let secret = ["--set", "extProc.tlsSecretName=processor"];
        let rendered = chart.accepted(&[log, responses, secret].concat());
        rendered.opens(9005, "processor");
        rendered.opens(9003, "log");
        let config = rendered.file("tollgate.yaml");
        assert!(
            config.contains("client_ca: /run/secrets/tollgate-ext-proc-tls/ca.crt"),
            "{config}"
        );
        chart.refuses(&[responses, secret].concat(), "accessLog.tlsSecretName");
        chart.refuses(&[log, responses].concat(), "extProc.tlsSecretName");
        let cut = ["--set", "extProc.responses=cut"];
        chart.refuses(&[log, cut, secret].concat(), "autoscaling.enabled=false");
        chart.accepted(
            &[log, cut, secret, ["--set", "autoscaling.enabled=false,replicaCount=1"]].concat(),
        );
    }
}
