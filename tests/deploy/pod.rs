//! The pod of mode sidecar on this machine: its containers are started in their order by their own
//! commands with their own files, must pass their own probes, and then serve a completion.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::{at, documents, only, strings, template, written};
use crate::rig::{free_port, http::Request, issuer::Issuer, part, process::Process};

/// The work of the kubelet for these containers.
struct Kubelet<'p> {
    pod: &'p Value,
    dir: &'p Path,
    /// Directories by the names of volumes.
    volumes: BTreeMap<&'p str, PathBuf>,
}

impl<'p> Kubelet<'p> {
    /// Makes the volumes. `given` are the objects of the cluster: files by `configMap/NAME` and
    /// `secret/NAME`.
    fn new(
        pod: &'p Value,
        dir: &'p Path,
        given: &BTreeMap<String, BTreeMap<String, String>>,
    ) -> Self {
        let mut volumes = BTreeMap::new();
        for volume in pod["volumes"].as_array().unwrap() {
            let name = volume["name"].as_str().unwrap();
            let path = dir.join(name);
            std::fs::create_dir(&path).unwrap();
            let source = ["configMap", "secret"].into_iter().find(|kind| !volume[kind].is_null());
            if let Some(kind) = source {
                let object =
                    volume[kind]["name"].as_str().or(volume[kind]["secretName"].as_str()).unwrap();
                let files = given
                    .get(&format!("{kind}/{object}"))
                    .unwrap_or_else(|| panic!("there is no {kind} {object}"));
                let wanted = volume[kind]["items"].as_array();
                for (file, text) in files {
                    if wanted
                        .is_none_or(|items| items.iter().any(|item| item["key"] == file.as_str()))
                    {
                        std::fs::write(path.join(file), text).unwrap();
                    }
                }
            } else {
                assert!(!volume["emptyDir"].is_null(), "{volume}");
            }
            volumes.insert(name, path);
        }
        let kubelet = Self { pod, dir, volumes };
        // A mount is a path inside the container; here it is a directory, whose name takes its
        // place in commands and files. Every container mounts a volume at the same path, or not at
        // all.
        for path in kubelet.volumes.values() {
            for file in std::fs::read_dir(path).unwrap() {
                let file = file.unwrap().path();
                let text = std::fs::read_to_string(&file).unwrap();
                std::fs::write(file, kubelet.outside(&text)).unwrap();
            }
        }
        kubelet
    }

    fn containers(&self) -> impl Iterator<Item = &'p Value> {
        ["initContainers", "containers"]
            .into_iter()
            .flat_map(|list| self.pod[list].as_array().unwrap())
    }

    /// A text in which paths inside the containers are those on this machine.
    fn outside(&self, text: &str) -> String {
        let mut mounts: Vec<(&str, &PathBuf)> = self
            .containers()
            .flat_map(|container| container["volumeMounts"].as_array().into_iter().flatten())
            .map(|mount| {
                (
                    mount["mountPath"].as_str().unwrap(),
                    &self.volumes[mount["name"].as_str().unwrap()],
                )
            })
            .collect();
        mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        mounts.dedup();
        mounts.iter().fold(text.to_owned(), |text, (path, directory)| {
            text.replace(&format!("{path}/"), &format!("{}/", directory.display()))
        })
    }

    fn command(&self, container: &Value) -> Command {
        let line: Vec<&str> = [&container["command"], &container["args"]]
            .iter()
            .filter(|part| !part.is_null())
            .flat_map(|part| strings(part))
            .collect();
        let program = match line[0] {
            "/usr/local/bin/tollgate" => PathBuf::from(env!("CARGO_BIN_EXE_tollgate")),
            "/usr/local/bin/envoy" => part("envoy-1.40.0", "envoy"),
            other => PathBuf::from(other),
        };
        let mut command = Command::new(program);
        command.args(line[1..].iter().map(|argument| self.outside(argument)));
        command
    }

    /// Starts the pod: a container that ends must succeed, and one that stays must pass its startup
    /// probe before the next one starts.
    fn start(&self) -> Vec<Process> {
        let init = self.pod["initContainers"].as_array().unwrap().len();
        let mut running = Vec::new();
        for (index, container) in self.containers().enumerate() {
            let name = container["name"].as_str().unwrap();
            let mut process = Process::start(self.dir, name, &mut self.command(container));
            if index < init && container["restartPolicy"] != "Always" {
                assert!(process.ended(crate::rig::SOON).success(), "{name}: {}", process.err());
                continue;
            }
            process.until("start", |_| self.passes(container, "startupProbe").then_some(()));
            running.push(process);
        }
        running
    }

    fn passes(&self, container: &Value, probe: &str) -> bool {
        let probe = &container[probe];
        let port = |value: &Value| match value.as_str() {
            Some(name) => {
                let ports = container["ports"].as_array().unwrap();
                ports.iter().find(|port| port["name"] == name).unwrap()["containerPort"]
                    .as_u64()
                    .unwrap()
            }
            None => value.as_u64().unwrap(),
        };
        let port = |value: &Value| u16::try_from(port(value)).unwrap();
        if let Some(path) = probe["httpGet"]["path"].as_str() {
            let reply = Request::get(path).try_send(port(&probe["httpGet"]["port"]));
            return reply.is_some_and(|reply| (200..400).contains(&reply.status));
        }
        TcpStream::connect((Ipv4Addr::LOCALHOST, port(&probe["tcpSocket"]["port"]))).is_ok()
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_sidecar_pod_answers_a_completion_and_nothing_without_a_token() {
    assert!(
        at(".parts/models/smollm2.gguf").exists(),
        "the model is missing: run `tools/parts model`"
    );
    let [model, envoy, ops] = [(); 3].map(|()| free_port());
    let values = json!({
        "bind": "127.0.0.1",
        "ops": { "port": ops },
        "hold": { "enabled": true },
        "envoy": { "port": envoy, "concurrency": 1 },
        "inference": {
            "image": "llama",
            // A program in the place of the server's image.
            "command": [part("python", "python"), "-B", at("tools/llama_server.py")],
            "args": ["--port", model.to_string(), "--api-key", "sk-upstream"],
            "port": model,
        },
        "secrets": [{ "name": "upstream", "secretName": "llama-key" }],
        "configMaps": [{ "name": "jwks", "configMapName": "issuer-keys" }],
        "config": {
            "issuers": [{
                "issuer": "https://auth.example.com", "audiences": ["inference-api"], "algorithms": ["RS256"],
                "jwks": { "file": "/run/config/tollgate/jwks/jwks.json" },
            }],
            "models": [{ "name": "smollm2", "serves": ["smollm2"] }],
            "routes": [
                { "preset": "llama-cpp", "model": { "scope": "model:{model}:inference" }, "limits": ["per-subject"],
                  "upstream_key": "file:/run/secrets/tollgate/upstream/key" },
            ],
            "limits": [{ "name": "per-subject", "by": ["subject"], "rate": "60/1m" }],
        },
    });
    let (_values, path) = written(&values.to_string());
    let rendered = documents(&template("helm-4", &["-f", path.to_str().unwrap()]));

    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    let map = only(&rendered, "ConfigMap");
    let shipped = map["data"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, text)| (key.clone(), text.as_str().unwrap().to_owned()));
    let given = BTreeMap::from([
        (format!("configMap/{}", map["metadata"]["name"].as_str().unwrap()), shipped.collect()),
        (
            "configMap/issuer-keys".to_owned(),
            BTreeMap::from([("jwks.json".to_owned(), issuer.jwks())]),
        ),
        (
            "secret/llama-key".to_owned(),
            BTreeMap::from([("key".to_owned(), "sk-upstream".to_owned())]),
        ),
    ]);
    let kubelet = Kubelet::new(
        &only(&rendered, "Deployment")["spec"]["template"]["spec"],
        dir.path(),
        &given,
    );
    let running = kubelet.start();
    assert_eq!(running.len(), 4, "the holder of sockets, Tollgate, Envoy and the model");
    for container in kubelet.containers().filter(|container| !container["readinessProbe"].is_null())
    {
        crate::rig::until("readiness", || {
            kubelet.passes(container, "readinessProbe").then_some(())
        });
    }

    let body =
        r#"{"model":"smollm2","messages":[{"role":"user","content":"Hello"}],"max_tokens":8}"#;
    let ask = Request::post("/v1/chat/completions", body);
    let token = issuer.token(json!({ "scope": "infer:text model:smollm2:inference" }));
    let answer = ask.clone().bearer(&token).send(envoy);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(
        answer.json()["choices"][0]["message"]["content"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{}",
        answer.text()
    );
    assert_eq!(ask.send(envoy).verdict(), (401, "missing_credential".to_owned()));
    let poor = issuer.token(json!({ "scope": "infer:text" }));
    assert_eq!(
        Request::post("/v1/chat/completions", body).bearer(&poor).send(envoy).verdict(),
        (403, "model_forbidden".to_owned())
    );

    // `helm test`, by its own command.
    let test = &only(&rendered, "Pod")["spec"]["containers"][0];
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    doctor.args(strings(&test["args"]).iter().map(|argument| {
        argument.replace("http://gate-tollgate:80", &format!("http://127.0.0.1:{envoy}"))
    }));
    let output = doctor.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
