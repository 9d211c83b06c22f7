//! Presets as tables of decisions: listed routes require their scopes, all others are denied.

use tollgate_core::{
    check::{NoHooks, Prepared, prepare},
    decision::Decision,
    denial::Reason,
    request::{Headers, RawBody, RawRequest},
    route::preset::{BodyKind, ModelPlace, Preset, names},
    snapshot::Snapshot,
    time::Timestamp,
};

use crate::{
    body::{Bodies, verdict},
    harness::{SECRET, compile},
    keys::Signer,
    token::{Members, NOW, signed},
};

const ISSUERS: &str = "
issuers:
  - { issuer: https://secret.example, audiences: [inference-api], algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef }
";

fn snapshot(routes: &str) -> Snapshot {
    let policy = compile(&format!("{ISSUERS}{routes}")).unwrap_or_else(|errors| panic!("{errors}"));
    let key = tollgate_core::credential::jwt::key_set::KeySet::from_secret(
        &tollgate_core::secret::Secret::new(SECRET),
        &policy.issuers.list()[0].algorithms,
    );
    Snapshot {
        policy: policy.into(),
        keys: vec![Some(key.unwrap().into())],
        upstream_keys: Vec::new(),
        api_keys: Vec::new(),
        authorities: None,
        reservation_keys: None,
        nonce_keys: None,
        statements: std::sync::Arc::default(),
    }
}

fn token(scopes: &str) -> String {
    let claims = Members::claims("https://secret.example").text("scope", scopes);
    signed(Signer::Hs256(SECRET), Members::header("HS256", "k").json(), claims.json())
}

/// The decision on a request before the store is queried; `Ok` contains the route's name. Routes with
/// one model have no member that names it.
fn asked(
    snapshot: &Snapshot,
    method: &str,
    path: &str,
    scopes: Option<&str>,
    body: BodyKind,
) -> Result<String, Reason> {
    match asked_with(snapshot, method, path, scopes, body, br#"{"model":"m"}"#) {
        Err(Reason::FieldForbidden) => asked_with(snapshot, method, path, scopes, body, b"{}"),
        answer => answer,
    }
}

fn asked_with(
    snapshot: &Snapshot,
    method: &str,
    path: &str,
    scopes: Option<&str>,
    body: BodyKind,
    json: &[u8],
) -> Result<String, Reason> {
    let bearer = scopes.map(|scopes| format!("Bearer {}", token(scopes)));
    let mut headers = Headers::default();
    if let Some(bearer) = &bearer {
        headers.push("authorization", bearer.as_bytes());
    }
    let (content_type, bytes): (&str, &[u8]) = match body {
        BodyKind::Json => ("application/json", json),
        BodyKind::Multipart => (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--x--\r\n",
        ),
        _ => ("", b""),
    };
    if !content_type.is_empty() {
        headers.push("content-type", content_type.as_bytes());
    }
    let raw = RawRequest {
        method: method.as_bytes(),
        scheme: b"https",
        host: b"api.example",
        path: path.as_bytes(),
        headers,
        address: None,
        peer_certificate: b"",
        body: if bytes.is_empty() { RawBody::None } else { RawBody::Whole(bytes) },
    };
    match prepare(snapshot, raw, Timestamp::from_secs(NOW), &mut NoHooks) {
        Prepared::Pending(pending) => {
            let outcome =
                pending.conclude(Ok(tollgate_core::admission::AdmitResponse::Counted(Vec::new())));
            Ok(outcome.evidence.route.unwrap().name.clone())
        }
        Prepared::Decided(outcome) => match outcome.decision {
            Decision::Deny(denial) => Err(denial.reason),
            _ => panic!("nothing else is decided without the store"),
        },
    }
}

/// Returns a path that a listed one covers.
fn sample(listed: &str) -> String {
    let segments = listed.split('/').map(|segment| match segment {
        "*" => "below",
        _ if segment.starts_with('{') => "m",
        _ => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

#[test]
fn every_listed_route_needs_what_it_says() {
    for name in names() {
        let preset = Preset::load(name).unwrap();
        let closed = snapshot(&format!("routes: [{{ preset: {name} }}]"));
        let open =
            snapshot(&format!("routes: [{{ preset: {name}, open: {:?} }}]", preset.closed()));
        for route in &preset.routes {
            let body = route.body;
            for (method, listed) in route
                .methods
                .iter()
                .flat_map(|method| route.paths.iter().map(move |path| (method, path)))
            {
                let path = sample(listed);
                let at = format!("{name} {method} {path}");
                let shown = format!("{name} {} {listed}", route.methods.join("|"));
                if route.public {
                    assert_eq!(asked(&closed, method, &path, None, body), Ok(shown), "{at}");
                    continue;
                }
                assert_eq!(
                    asked(&open, method, &path, None, body),
                    Err(Reason::MissingCredential),
                    "{at}"
                );
                assert_eq!(
                    asked(&open, method, &path, Some("something:else"), body),
                    Err(Reason::InsufficientScope),
                    "{at}"
                );
                let all = route.scopes.join(" ");
                assert_eq!(
                    asked(&open, method, &path, Some(&all), body),
                    Ok(shown.clone()),
                    "{at}"
                );
                for missing in route.scopes.iter().filter(|_| route.scopes.len() > 1) {
                    let rest: Vec<&str> = route
                        .scopes
                        .iter()
                        .filter(|scope| *scope != missing)
                        .map(String::as_str)
                        .collect();
                    let answer = asked(&open, method, &path, Some(&rest.join(" ")), body);
                    assert_eq!(answer, Err(Reason::InsufficientScope), "{at} without {missing}");
                }
                let by_default = asked(&closed, method, &path, Some(&all), body);
                assert_eq!(
                    by_default,
                    if route.closed.is_some() { Err(Reason::NoRoute) } else { Ok(shown) },
                    "{at}"
                );
            }
        }
        for (method, path) in [
            ("GET", "/admin"),
            ("POST", "/health"),
            ("DELETE", "/v1/models"),
            ("GET", "/v1/chat/completions"),
            ("OPTIONS", "/v1/chat/completions"),
            ("POST", "/v1/chat/completions/"),
            ("POST", "/V1/chat/completions"),
            ("PATCH", "/health"),
        ] {
            assert_eq!(
                asked(&closed, method, path, Some("infer:text"), BodyKind::None),
                Err(Reason::NoRoute),
                "{name} {method} {path}"
            );
        }
    }
}

#[test]
fn inference_rights_open_nothing_that_changes_the_server() {
    let rights = "infer:text infer:multimodal infer:audio infer:embeddings infer:tensor tokenize models:read metrics:read";
    for name in names() {
        let snapshot = snapshot(&format!("routes: [{{ preset: {name} }}]"));
        for route in Preset::load(name).unwrap().routes {
            let admin = route
                .scopes
                .iter()
                .any(|scope| scope.starts_with("admin:") || scope == "infer:alias");
            for (method, listed) in route
                .methods
                .iter()
                .flat_map(|method| route.paths.iter().map(move |path| (method, path)))
            {
                if admin {
                    assert!(
                        asked(&snapshot, method, &sample(listed), Some(rights), BodyKind::Json)
                            .is_err(),
                        "{name} {method} {listed}"
                    );
                }
            }
        }
    }
}

#[test]
fn with_a_scope_for_models_no_model_goes_unchecked() {
    for name in names() {
        let preset = Preset::load(name).unwrap();
        let policy = format!(
            "routes: [{{ preset: {name}, model: {{ scope: 'model:{{model}}:inference' }} }}]"
        );
        let unnamed = snapshot(&policy);
        for route in
            preset.routes.iter().filter(|route| !route.public && route.model != ModelPlace::None)
        {
            let body = route.body;
            for (method, listed) in route
                .methods
                .iter()
                .flat_map(|method| route.paths.iter().map(move |path| (method, path)))
            {
                let answer =
                    asked(&unnamed, method, &sample(listed), Some(&route.scopes.join(" ")), body);
                assert!(
                    matches!(answer, Err(Reason::ModelForbidden | Reason::NoRoute)),
                    "{name} {method} {listed}: {answer:?}"
                );
            }
        }
    }
    let fixed = snapshot(
        "routes: [{ preset: hunyuanocr, model: { scope: 'model:{model}', default: ocr } }]",
    );
    assert_eq!(
        asked(&fixed, "POST", "/ocr/infer", Some("ocr_api_access"), BodyKind::None),
        Err(Reason::ModelForbidden)
    );
    assert!(
        asked(&fixed, "POST", "/ocr/infer", Some("ocr_api_access model:ocr"), BodyKind::None)
            .is_ok()
    );
}

#[test]
fn an_explicit_route_beats_the_preset() {
    for entries in [
        "[{ preset: vllm }, { match: { paths: [/docs, /openapi.json] }, public: true, name: documentation }]",
        "[{ match: { paths: [/docs, /openapi.json] }, public: true, name: documentation }, { preset: vllm }]",
    ] {
        let snapshot = snapshot(&format!("routes: {entries}"));
        assert_eq!(
            asked(&snapshot, "GET", "/docs", None, BodyKind::None).as_deref(),
            Ok("documentation")
        );
        assert_eq!(
            asked(&snapshot, "GET", "/openapi.json", None, BodyKind::None).as_deref(),
            Ok("documentation")
        );
        assert_eq!(
            asked(&snapshot, "GET", "/docs/oauth2-redirect", None, BodyKind::None),
            Err(Reason::MissingCredential)
        );
        assert_eq!(
            asked(&snapshot, "GET", "/redoc", None, BodyKind::None),
            Err(Reason::MissingCredential)
        );
    }
    // The override replaces the methods it lists; the preset keeps the others.
    let put = snapshot(
        "routes: [{ preset: sglang }, { match: { methods: [PUT], paths: [/generate] }, scopes: [own], name: own }]",
    );
    assert_eq!(asked(&put, "PUT", "/generate", Some("own"), BodyKind::Json).as_deref(), Ok("own"));
    assert_eq!(
        asked(&put, "POST", "/generate", Some("own"), BodyKind::Json),
        Err(Reason::InsufficientScope)
    );
}

#[test]
fn scopes_are_added_and_renamed() {
    let snapshot = snapshot(
        "routes: [{ preset: vllm, scopes: [gpu], rename_scopes: { 'infer:text': chat } }]",
    );
    let ask = |scopes: &str| {
        asked(&snapshot, "POST", "/v1/chat/completions", Some(scopes), BodyKind::Json).map(drop)
    };
    assert_eq!(ask("infer:text gpu"), Err(Reason::InsufficientScope));
    assert_eq!(ask("chat"), Err(Reason::InsufficientScope));
    assert_eq!(ask("chat gpu"), Ok(()));
    assert_eq!(asked(&snapshot, "GET", "/health", None, BodyKind::None).map(drop), Ok(()));
}

#[test]
fn what_is_wrong_with_an_entry_is_said() {
    let limits = "limits: [ { name: by-model, by: [subject, model], rate: 1/1m }, { name: by-subject, by: [subject], rate: 1/1m } ]\n";
    for (routes, part) in [
        ("routes: [{ preset: vlm }]", "there is no preset `vlm`; known: vllm, sglang"),
        ("routes: [{ scopes: [] }]", "missing key `preset` or `match`"),
        ("routes: [{ preset: vllm, match: { paths: [/x] } }]", "unknown key `paths`"),
        ("routes: [{ preset: vllm, public: true }]", "unknown key `public`"),
        (
            "routes: [{ preset: vllm, open: [stored] }]",
            "`vllm` has no closed routes `stored`; it has: batch, stored-responses, realtime, server-tools",
        ),
        ("routes: [{ preset: triton, open: [stored] }]", "it has: sessions"),
        (
            "routes: [{ preset: vllm, fields: { allow: [priorty] } }]",
            "`priorty` is no member that the preset knows; did you mean `priority` or",
        ),
        (
            "routes: [{ preset: vllm, fields: { allow: [temperature] } }]",
            "`temperature` is not denied; remove it",
        ),
        ("routes: [{ preset: vllm, fields: { unknown: yes } }]", "unknown"),
        (
            "routes: [{ preset: vllm, rename_scopes: { 'infer:txt': x } }]",
            "`vllm` has no scope `infer:txt`",
        ),
        (
            "routes: [{ preset: vllm, open: [realtime], model: { scope: 'm:{model}' } }]",
            "`realtime` hides its model",
        ),
        ("routes: [{ preset: vllm, limits: [nope] }]", "there is no limit `nope`"),
        // 200 invented names passed a limit of 5.
        ("routes: [{ preset: vllm, limits: [by-model] }]", "clients can invent names"),
        (
            "routes: [{ preset: vllm, model: { scope: 'models' }, limits: [by-model] }]",
            "clients can invent names",
        ),
        (
            "routes: [{ preset: vllm }, { preset: sglang }]",
            "a route for POST with this host and path is already at `routes[0]` (line 5); give each preset its own `match.hosts`",
        ),
        (
            "routes: [{ preset: vllm, match: { hosts: [a.example] } }, { match: { paths: [/docs] }, public: true }]",
            "this entry would not beat it; list the hosts of the preset here, too",
        ),
    ] {
        let errors = compile(&format!("{ISSUERS}{limits}{routes}")).map(drop).unwrap_err();
        assert!(errors.contains(part), "{routes}: {errors}");
        assert!(errors.lines().count() < 8, "{routes}: {errors}");
    }
    for routes in [
        "routes: [{ preset: vllm, model: { scope: 'm:{model}' }, limits: [by-model, by-subject] }]",
        "models: [{ name: m }]\nroutes: [{ preset: vllm, limits: [by-model, by-subject] }]",
        "routes: [{ preset: vllm, match: { hosts: [a.example] } }, { preset: sglang, match: { hosts: [b.example] } }]",
        "routes: [{ preset: vllm, match: { hosts: [a.example] } }, { match: { hosts: [a.example], paths: [/docs] }, public: true }]",
        "routes: [{ preset: vllm, open: [realtime, stored-responses] }]",
    ] {
        compile(&format!("{ISSUERS}{limits}{routes}"))
            .map(drop)
            .unwrap_or_else(|errors| panic!("{routes}: {errors}"));
    }
}

#[test]
fn what_a_body_may_not_say() {
    let snapshot = snapshot("routes: [{ preset: vllm, fields: { allow: [priority] } }]");
    let ask = |scopes: &str, json: &str| {
        let bearer = format!("Bearer {}", token(scopes));
        let mut headers = Headers::default();
        headers.push("authorization", bearer.as_bytes());
        headers.push("content-type", b"application/json");
        let raw = RawRequest {
            method: b"POST",
            scheme: b"https",
            host: b"api.example",
            path: b"/v1/responses",
            headers,
            address: None,
            peer_certificate: b"",
            body: RawBody::Whole(json.as_bytes()),
        };
        match prepare(&snapshot, raw, Timestamp::from_secs(NOW), &mut NoHooks) {
            Prepared::Pending(_) => Ok(()),
            Prepared::Decided(outcome) => match outcome.decision {
                Decision::Deny(denial) => Err(denial.reason),
                _ => panic!("nothing else is decided without the store"),
            },
        }
    };
    let image = |url: &str| {
        format!(
            r#"{{"model":"m","input":[{{"role":"user","content":[{{"type":"input_image","image_url":"{url}"}}]}}]}}"#
        )
    };
    for (says, scopes, json, expected) in [
        ("plain text", "infer:text", r#"{"model":"m","input":"x"}"#.to_owned(), Ok(())),
        (
            "another's stored response",
            "infer:text",
            r#"{"model":"m","previous_response_id":"r"}"#.into(),
            Err(Reason::FieldForbidden),
        ),
        (
            "a template of the client's",
            "infer:text",
            r#"{"model":"m","chat_template":"x"}"#.into(),
            Err(Reason::FieldForbidden),
        ),
        (
            "a field that the entry allows",
            "infer:text",
            r#"{"model":"m","priority":1}"#.into(),
            Ok(()),
        ),
        (
            "an image with rights to text",
            "infer:text",
            image("data:image/png;base64,AA=="),
            Err(Reason::InsufficientScope),
        ),
        ("an image", "infer:text infer:multimodal", image("data:image/png;base64,AA=="), Ok(())),
        (
            "an address inside",
            "infer:text infer:multimodal",
            image("http://169.254.169.254/"),
            Err(Reason::FieldForbidden),
        ),
        (
            "a file of the server",
            "infer:text infer:multimodal",
            image("file:///etc/passwd"),
            Err(Reason::FieldForbidden),
        ),
    ] {
        assert_eq!(ask(scopes, &json), expected, "{says}");
    }
}

#[test]
fn an_entry_gives_its_routes_conditions_tools_and_metadata() {
    let bodies = Bodies::new(
        r#"
routes:
  - preset: vllm
    conditions: ['!("banned" in principal.scopes)']
    tools: 'tool:{name}'
    resource_metadata: https://api.example.com/.well-known/oauth-protected-resource
"#,
    );
    let body = |tools: &str| format!(r#"{{"model":"m","messages":[],"tools":[{tools}]}}"#);
    let tool = r#"{"type":"function","function":{"name":"search"}}"#;
    let path = "/v1/chat/completions";
    assert_eq!(verdict(&bodies.json("infer:text", path, &body(""))), Ok(()));
    assert_eq!(verdict(&bodies.json("infer:text tool:search", path, &body(tool))), Ok(()));
    let refused = bodies.json("infer:text", path, &body(tool));
    assert_eq!(refused.verdict(), Err(Reason::ToolForbidden));
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(
        challenge.contains(
            "resource_metadata=\"https://api.example.com/.well-known/oauth-protected-resource\""
        ),
        "{challenge}"
    );
    assert!(challenge.contains("tool:search"), "{challenge}");
    assert_eq!(
        bodies.json("infer:text banned", path, &body("")).verdict(),
        Err(Reason::ConditionFailed)
    );
    assert_eq!(
        bodies.json("infer:text banned", "/tokenize", r#"{"model":"m","prompt":"x"}"#).verdict(),
        Err(Reason::InsufficientScope)
    );
    assert_eq!(
        bodies.json("tokenize banned", "/tokenize", r#"{"model":"m","prompt":"x"}"#).verdict(),
        Err(Reason::ConditionFailed)
    );
}
