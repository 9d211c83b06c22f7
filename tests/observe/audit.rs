//! The fields of audit lines: as written, in docs/observability.md, in the Elasticsearch template,
//! and on the way to Loki.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tollgate_core::time::{Timestamp, rfc3339::Rfc3339};

use crate::rig::{
    POLICY, Rig, SOON, api_key_file, chat,
    grpc::Peer,
    http::{Answer, Reply, Request, Server},
    issuer::Issuer,
    part,
    process::Process,
    redis::Redis,
    replace_once,
    tollgate::Tollgate,
    until, within,
};

/// Starts a Tollgate and makes it write lines that together have every field.
fn lines() -> (Rig, Vec<Value>) {
    let policy =
        replace_once(POLICY.to_owned(), "    algorithms:", "    tenant: acme\n    algorithms:");
    let shadow = "    conditions: [{ expression: request.method == 'GET', mode: shadow }]\n";
    let scopes = "    scopes: [infer:text]\n";
    let policy = replace_once(policy, scopes, &format!("{scopes}{shadow}"));
    let dir = tempfile::tempdir().unwrap();
    let (key, file) = api_key_file(dir.path());
    // A key with an owner that ends within seven days, and is known from another network.
    let mut keys: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let soon = ::tollgate::observe::now().secs() + 3 * 86_400;
    let record = &mut keys["keys"][0];
    record["owner"] = json!("ann");
    record["expires"] = json!(Rfc3339(Timestamp::from_secs(soon)));
    let id = record["id"].as_str().unwrap().to_owned();
    std::fs::write(&file, keys.to_string()).unwrap();
    let redis = Redis::start(dir.path());
    let known = json!({ "networks": { "192.0.2.0/24": soon } }).to_string();
    redis.command(&["SET", &format!("{{tollgate}}:key-use:{id}"), &known]);
    let store = redis.store().replace("${DIR}", &dir.path().display().to_string());
    let sources = format!("api_keys: {{ file: \"{}\", redis: true }}\n{store}", file.display());
    let rig = Rig::start(&format!("{policy}{sources}"));
    assert_eq!(rig.chat(&key).status, 200);
    let act = json!({ "sub": "planner", "iss": "https://agents.example.com" });
    assert_eq!(rig.chat(&rig.token(json!({ "act": act }))).status, 200);
    assert_eq!(rig.chat(&rig.token(json!({ "scope": "other" }))).status, 403);
    let iss = "https://auth.example.com";
    let revoked = [
        json!({ "issuer": iss, "jti": "j", "note": "lost laptop" }),
        json!({ "issuer": iss, "subject": "bob" }),
        json!({ "issuer": iss, "client": "app" }),
        json!({ "tenant": "other" }),
        json!({ "token_sha256": "00".repeat(32) }),
        json!({ "issuer": "https://agents.example.com", "actor": "crawler" }),
        json!({ "issuer": iss, "kid": "old" }),
    ];
    for body in &revoked {
        let reply = rig.tollgate.admin(Request::post("/v1/revocations", body.to_string()));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let others = [
        ("/v1/bans", json!({ "network": "192.0.2.0/24", "for": "1h", "reason": "scraper" })),
        ("/v1/bans", json!({ "key": "7Jk2mN4pQ8rT", "for": "1h" })),
        ("/v1/bans/check", json!({ "address": "192.0.2.1" })),
        ("/v1/keys", json!({ "subject": "bot", "tenant": "acme", "scopes": ["infer:text"] })),
    ];
    for (path, body) in &others {
        let reply = rig.tollgate.admin(Request::post(path, body.to_string()));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    // Two events of the key: it expires soon, and is used from a new network.
    let all = 3 + revoked.len() + others.len() + 2;
    let lines =
        until("all lines", || Some(rig.tollgate.audit()).filter(|lines| lines.len() == all));
    (rig, lines)
}

/// Returns the events that each field occurs in.
fn fields(lines: &[Value]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::<String, Vec<&str>>::new();
    for event in ["check", "admin", "key"] {
        for line in lines.iter().filter(|line| line["event"] == event) {
            for name in line.as_object().unwrap().keys() {
                let events = fields.entry(name.clone()).or_default();
                if !events.contains(&event) {
                    events.push(event);
                }
            }
        }
    }
    fields.into_iter().map(|(name, events)| (name, events.join(", "))).collect()
}

#[test]
fn docs_and_the_elasticsearch_template_have_the_fields_of_the_lines() {
    let (_rig, lines) = lines();
    let written = fields(&lines);

    let text = include_str!("../../deploy/elasticsearch/tollgate-audit.json");
    let template: Value = serde_json::from_str(text).unwrap();
    for name in written.keys() {
        let count = text.matches(&format!("\"{name}\": {{")).count();
        assert_eq!(count, 1, "Elasticsearch refuses a repeated name: {name}");
    }
    let properties = template["template"]["mappings"]["properties"].as_object().unwrap();
    assert_eq!(properties["@timestamp"], json!({ "type": "alias", "path": "time" }));
    let mapped: BTreeMap<&str, &str> = properties
        .iter()
        .filter(|(name, _)| *name != "@timestamp")
        .map(|(name, mapping)| (name.as_str(), mapping["type"].as_str().unwrap()))
        .collect();
    assert_eq!(mapped.keys().collect::<Vec<_>>(), written.keys().collect::<Vec<_>>());

    let page = include_str!("../../docs/observability.md");
    let (_, table) = page
        .split_once("| field | in | Elasticsearch | what it says |\n|---|---|---|---|\n")
        .unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|')).map(|row| {
        let cells: Vec<&str> =
            row.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        (cells[0].to_owned(), (cells[1].to_owned(), cells[2].to_owned()))
    });
    let documented: BTreeMap<String, (String, String)> = rows.collect();
    let expected: BTreeMap<String, (String, String)> = written
        .iter()
        .map(|(name, events)| (name.clone(), (events.clone(), mapped[name.as_str()].to_owned())))
        .collect();
    assert_eq!(documented, expected);

    // The types of the template.
    for line in &lines {
        for (name, value) in line.as_object().unwrap() {
            let good = match mapped[name.as_str()] {
                "long" | "short" | "date" => value.is_u64(),
                "nested" => value.is_array(),
                _ => value.is_string(),
            };
            assert!(good, "{name}: {value}");
        }
    }
}

/// A request that is refused: its status, its issuer, its model, and parts of the cause.
type Refused = (Request, u16, Option<&'static str>, Option<&'static str>, &'static [&'static str]);

/// An operator reads the line alone: what was refused, what was held, and where to find the request
/// in the proxy's log.
#[test]
fn the_line_of_a_refusal_explains_it() {
    let rig = Rig::start(POLICY);
    let chat = |claims: Value, body: &str| {
        Request::post("/v1/chat/completions", body).bearer(&rig.token(claims))
    };
    let (qwen, big) = (r#"{"model":"qwen"}"#, r#"{"model":"big-70b"}"#);
    let ours = "https://auth.example.com";
    let rows: [Refused; 6] = [
        (
            chat(json!({ "scope": "a b" }), qwen),
            403,
            Some(ours),
            None,
            &["`infer:text`", "`a`, `b`"],
        ),
        (
            chat(json!({}), big),
            403,
            Some(ours),
            Some("big"),
            &["`model:big:inference`", "`infer:text`, `model:qwen:inference`"],
        ),
        (chat(json!({}), r#"{"model":"gpt-4o"}"#), 403, Some(ours), Some("gpt-4o"), &["`gpt-4o`"]),
        (
            chat(json!({ "aud": "billing" }), qwen),
            401,
            Some(ours),
            None,
            &["billing", "inference-api"],
        ),
        (
            chat(json!({ "exp": 1_700_000_000 }), qwen),
            401,
            Some(ours),
            None,
            &["1700000000", "30s"],
        ),
        (chat(json!({ "iss": "https://b" }), qwen), 401, None, None, &["`https://b`"]),
    ];
    for (request, status, iss, model, parts) in rows {
        let id = format!("{:032x}", rand::random::<u128>());
        let reply = rig.envoy.send(&request.header("X-Request-Id", &id));
        assert_eq!(reply.status, status, "{}", reply.text());
        let decision = reply.one("x-tollgate-decision-id").unwrap();
        let line = until("the line", || {
            rig.tollgate.audit().into_iter().find(|line| line["decision_id"] == *decision)
        });
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["iss"].as_str(), iss, "{line}");
        assert_eq!(line["model"].as_str(), model, "{line}");
        assert_eq!(line["sub"].is_string(), status == 403, "{line}");
        let cause = line["cause"].as_str().unwrap();
        assert!(parts.iter().all(|part| cause.contains(part)), "{line}");
        // The id under which Envoy logs the request.
        let request_id = until("Envoy's line", || {
            let mut log = rig.envoy.access_log().into_iter();
            let own = log.find(|logged| logged["decision_id"] == *decision)?;
            own["request_id"].as_str().map(str::to_owned)
        });
        assert_eq!(line["request_id"], request_id, "{line}");
    }
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_collector_takes_every_line_to_loki_s_door() {
    let (rig, lines) = lines();
    let taken = Arc::<Mutex<Vec<Value>>>::default();
    let kept = Arc::clone(&taken);
    let loki = Server::start(move |request| {
        assert_eq!(request.path, "/otlp/v1/logs");
        kept.lock().unwrap().push(serde_json::from_slice(&request.body).unwrap());
        Answer::Whole(Reply::new(200, "{}").header("Content-Type", "application/json"))
    });
    let dir = rig.dir.path();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.join("audit.log"), text).unwrap();
    let shipped = include_str!("../../deploy/otel-collector/audit.yaml").to_owned();
    // As JSON, which this test reads; the collector's own metrics would take a fixed port.
    let endpoint =
        format!("http://127.0.0.1:{}/otlp\n    encoding: json\n    compression: none", loki.port);
    let config = replace_once(shipped, "http://loki:3100/otlp", &endpoint);
    let config = replace_once(
        config,
        "[/var/log/tollgate/audit.log]",
        &format!("[{}]", dir.join("audit.log").display()),
    );
    let config =
        replace_once(config, "service:\n", "service:\n  telemetry: { metrics: { level: none } }\n");
    let path = dir.join("collector.yaml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(part("otelcol", "otelcol"));
    let _collector = Process::start(dir, "otelcol", command.arg("--config").arg(&path));

    let records = || -> Vec<Value> {
        let taken = taken.lock().unwrap();
        let resources = taken.iter().flat_map(|export| export["resourceLogs"].as_array().unwrap());
        let named = resources.filter(|logs| {
            logs["resource"]["attributes"]
                == json!([{ "key": "service.name", "value": { "stringValue": "tollgate-audit" } }])
        });
        named
            .flat_map(|logs| logs["scopeLogs"][0]["logRecords"].as_array().unwrap().clone())
            .collect()
    };
    let records = within(SOON, || Some(records()).filter(|records| records.len() == lines.len()));
    let records = records.unwrap_or_else(|| panic!("{:?}", taken.lock().unwrap()));
    for (record, line) in records.iter().zip(&lines) {
        let attributes: BTreeMap<&str, &Value> = record["attributes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attribute| (attribute["key"].as_str().unwrap(), &attribute["value"]))
            .filter(|(name, _)| *name != "log.file.name")
            .collect();
        let line = line.as_object().unwrap();
        assert_eq!(attributes.keys().copied().collect::<Vec<_>>(), {
            let mut names: Vec<&str> = line.keys().map(String::as_str).collect();
            names.sort_unstable();
            names
        });
        for (name, value) in line {
            let same = match value {
                Value::String(text) => attributes[name.as_str()]["stringValue"] == *text,
                number => attributes[name.as_str()]["doubleValue"].as_f64() == number.as_f64(),
            };
            assert!(same, "{name}: {value} became {}", attributes[name.as_str()]);
        }
        // The record's time is the line's, to the microsecond.
        let nanos: u64 = record["timeUnixNano"].as_str().unwrap().parse().unwrap();
        assert!(nanos.is_multiple_of(1000) && nanos > 1_700_000_000_000_000_000, "{nanos}");
    }
}

/// The command of the page that counts requests by minute and subject.
fn frequency_recipe() -> String {
    let page = include_str!("../../docs/observability.md");
    let line = page.lines().find(|line| line.trim_start().starts_with("sed -nE 's/^")).unwrap();
    line.trim().to_owned()
}

#[test]
fn the_recipe_for_the_frequency_of_one_person_counts_every_request() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new("https://auth.example.com");
    issuer.publish(dir.path());
    let config = format!("{POLICY}audit: {{ to: \"file:${{DIR}}/audit.jsonl\" }}\n");
    let _tollgate = Tollgate::start(dir.path(), &config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let send = |request: &Request| {
        runtime.block_on(async {
            Peer::connect(dir.path()).await.begin(request).await.finish().await
        });
    };
    // A subject with every character that has a meaning in JSON or in the recipe, and a path that
    // imitates the field.
    let odd = r#"a "b" \ c"#;
    for (subject, times) in [("alice", 3), (odd, 2), ("bob", 1)] {
        for _ in 0..times {
            let token = issuer.token(json!({ "sub": subject }));
            send(&chat(&token));
        }
    }
    send(&Request::get(r#"/nowhere/"event":"check","sub":"mallory""#));
    let audit = dir.path().join("audit.jsonl");
    let lines = || std::fs::read_to_string(&audit).unwrap_or_default().matches('\n').count();
    until("seven lines", || (lines() == 7).then_some(()));
    let output = Command::new("sh")
        .args(["-c", &frequency_recipe()])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut counts = BTreeMap::<String, u32>::new();
    for line in text.lines() {
        // `  3 2026-11-29T19:08 "alice"`; a run may cross the end of a minute.
        let mut fields = line.trim_start().splitn(3, ' ');
        let (count, minute) = (fields.next().unwrap(), fields.next().unwrap());
        assert_eq!(minute.len(), 16, "{line}");
        let subject: String = serde_json::from_str(fields.next().unwrap()).unwrap();
        *counts.entry(subject).or_default() += count.parse::<u32>().unwrap();
    }
    let counts: Vec<(&str, u32)> =
        counts.iter().map(|(subject, count)| (subject.as_str(), *count)).collect();
    assert_eq!(counts, [(odd, 2), ("alice", 3), ("bob", 1)]);
}
