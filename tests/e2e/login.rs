//! A login in front of Tollgate: deploy/envoy/envoy-login.yaml with a real OpenID Connect server, as an HTTP client
//! and a real browser go through it.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Arc, Mutex, mpsc},
};

use tempfile::TempDir;

use crate::rig::{
    envoy::Envoy,
    free_port,
    http::{Answer, Reply, Request, Server},
    oidc::{Provider, SECRET, script},
    part, replace_once,
    tollgate::Tollgate,
    upstream::Upstream,
};

const LOGIN: &str = include_str!("../../deploy/envoy/envoy-login.yaml");

const CONFIG: &str = r#"
listen: { grpc: "unix:${DIR}/authz.sock", ops: "127.0.0.1:0" }
issuers:
  - { issuer: "ISSUER", audiences: ["https://api.example.com/rs256"], algorithms: [RS256], jwks: { url: "ISSUER/jwks", insecure_http: true } }
cookies: { origins: ["APP"] }
routes:
  - { match: { methods: [GET], paths: [/, /continue] }, scopes: [], ambient: true }
  - { match: { methods: [POST], paths: [/v1/chat/completions] }, scopes: ["infer:text"], ambient: true }
"#;

/// The page of the application: it shows a completion while it arrives, and asks for the rest of it after the
/// first part.
const PAGE: &str = r#"<button id=ask>ask</button><pre id=out></pre><script>
document.querySelector('#ask').onclick = async () => {
  const out = document.querySelector('#out');
  const headers = { 'content-type': 'application/json' };
  const body = '{"model":"qwen","stream":true}';
  const answer = await fetch('/v1/chat/completions', { method: 'POST', headers, body });
  out.textContent = answer.status + ' ';
  const reader = answer.body.getReader(), text = new TextDecoder();
  for (let first = true;; first = false) {
    const { done, value } = await reader.read();
    if (done) return;
    out.textContent += text.decode(value);
    if (first) await fetch('/continue');
  }
};</script>"#;

struct Login {
    // Dropped in this order: the proxy first, the directory with the logs last.
    _envoy: Envoy,
    tollgate: Tollgate,
    upstream: Upstream,
    provider: Provider,
    port: u16,
    dir: TempDir,
}

impl Login {
    /// Starts everything. With `is_lax` the cookies are as shipped, which browsers do not send with requests of
    /// other sites that act; without it, as those of older versions of the filter.
    fn start(is_lax: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let app = format!("http://localhost:{port}");
        let provider = Provider::start(dir.path(), Some(&format!("{app}/callback")));
        let config = CONFIG.replace("ISSUER", &provider.issuer()).replace("APP", &app);
        let tollgate = Tollgate::start(dir.path(), &config);
        let rest = Arc::new(Mutex::new(None::<mpsc::Sender<String>>));
        let upstream = Upstream::answering(move |request| {
            let mut rest = rest.lock().unwrap();
            if request.method == "POST" {
                let (events, stream) = mpsc::channel();
                events.send("one".to_owned()).unwrap();
                *rest = Some(events);
                return Answer::Events(stream);
            }
            if request.path == "/continue"
                && let Some(events) = rest.take()
            {
                for event in ["two", "[DONE]"] {
                    events.send(event.to_owned()).unwrap();
                }
            }
            Answer::Whole(Reply::new(200, PAGE).header("content-type", "text/html"))
        });
        std::fs::write(dir.path().join("client-secret"), SECRET).unwrap();
        std::fs::write(dir.path().join("hmac-secret"), [7; 32]).unwrap();
        let place = dir.path().display().to_string();
        let envoy = Envoy::start(dir.path(), upstream.port, crate::rig::envoy::CURRENT, |_| {
            let tls = LOGIN.find("      transport_socket:\n").unwrap();
            let end = tls + LOGIN[tls..].find("\n\n").unwrap();
            let config = format!("{}{}", &LOGIN[..tls], &LOGIN[end..]);
            let config = config.replace("/etc/envoy", &place);
            let host = "address: login.example.com, port_value: 443";
            let provider_at = format!("address: 127.0.0.1, port_value: {}", provider.port);
            let config = replace_once(config, host, &provider_at);
            let config = config.replace("https://login.example.com", &provider.issuer());
            let config = config.replace("https://app.example.com", &app);
            // The port is a part of this origin.
            let config = replace_once(config, "                strip_any_host_port: true\n", "");
            let ingress = format!("address: 127.0.0.1, port_value: {port}");
            let config = replace_once(config, "address: 0.0.0.0, port_value: 8080", &ingress);
            if is_lax { config } else { config.replace("same_site: LAX", "same_site: NONE") }
        });
        Self { _envoy: envoy, tollgate, upstream, provider, port, dir }
    }

    fn app(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// No cookie of the filter has reached the upstream, and none of its requests is one of a foreign page.
    fn check_upstream(&self, posts: usize) {
        let taken = self.upstream.taken();
        assert!(!taken.is_empty());
        for request in &taken {
            // Those of the provider belong to the same host here.
            let cookies = request.all("cookie").concat();
            for name in ["Token", "Oauth", "CodeVerifier"] {
                assert!(!cookies.contains(name), "{cookies}");
            }
            assert!(request.all("authorization").is_empty());
            assert_eq!(request.all("x-tollgate-subject"), ["alice"], "{}", request.path);
        }
        assert_eq!(taken.iter().filter(|request| request.method == "POST").count(), posts);
    }

    fn reasons(&self) -> Vec<String> {
        let lines = self.tollgate.audit();
        let denied = lines.iter().filter(|line| line["decision"] == "deny");
        denied.filter_map(|line| Some(line["reason"].as_str()?.to_owned())).collect()
    }
}

/// A client that keeps cookies and follows redirects, as a browser does.
#[derive(Default)]
struct Client {
    /// The cookies by port and name.
    cookies: BTreeMap<(u16, String), String>,
}

impl Client {
    fn send(&mut self, port: u16, request: Request) -> Reply {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .filter(|((known, _), _)| *known == port)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let mut request = request.without("host").header("Host", &format!("localhost:{port}"));
        if !cookies.is_empty() {
            request = request.header("Cookie", &cookies.join("; "));
        }
        let reply = request.send(port);
        for (_, line) in
            reply.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            let (key, value) = ((port, name.to_owned()), value.to_owned());
            if value.is_empty() || value == "deleted" || line.contains("Thu, 01 Jan 1970") {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, value);
            }
        }
        reply
    }

    /// Follows redirects until there is a page.
    fn follow(&mut self, port: u16, request: Request) -> (u16, Reply) {
        let (mut port, mut request) = (port, request);
        for _ in 0..12 {
            let reply = self.send(port, request);
            if !(300..400).contains(&reply.status) {
                return (port, reply);
            }
            let location = reply.one("location").unwrap().to_owned();
            let target = location.strip_prefix("http://localhost:");
            let path = match target {
                Some(rest) => {
                    let (to, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                    port = to.parse().unwrap();
                    if path.is_empty() { "/" } else { path }
                }
                None => &location,
            };
            request = Request::get(path);
        }
        panic!("too many redirects");
    }

    /// Submits the form of a page.
    fn submit(&mut self, port: u16, page: &Reply, fields: &str) -> (u16, Reply) {
        let text = page.text();
        let after = |text: &str, key: &str| -> String {
            let start = text.find(key).unwrap_or_else(|| panic!("no {key} in {text}")) + key.len();
            text[start..].split('"').next().unwrap().to_owned()
        };
        let action = after(&text, "action=\"");
        let path = action.strip_prefix(&format!("http://localhost:{port}")).unwrap_or(&action);
        let prompt = after(&text, "name=\"prompt\" value=\"");
        let form = Request::new("POST", path)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(format!("prompt={prompt}{fields}"));
        self.follow(port, form)
    }
}

#[test]
fn a_session_is_a_token_and_needs_the_page_that_uses_it() {
    let login = Login::start(true);
    let mut client = Client::default();
    let (port, page) = client.follow(login.port, Request::get("/"));
    assert_eq!(port, login.provider.port, "the page to log in: {}", page.text());
    let (port, page) = client.submit(port, &page, "&login=alice&password=any");
    let (port, page) = client.submit(port, &page, "");
    assert_eq!((port, page.status), (login.port, 200), "{}", page.text());
    assert!(page.text().contains("id=ask"), "{}", page.text());
    let session: Vec<&str> = client
        .cookies
        .keys()
        .filter(|(port, _)| *port == login.port)
        .map(|(_, name)| name.as_str())
        .collect();
    assert!(session.contains(&"BearerToken") && session.contains(&"OauthHMAC"), "{session:?}");

    let ask = |origin: &str, site: &str| {
        Request::post("/v1/chat/completions", r#"{"model":"qwen"}"#)
            .header("Origin", origin)
            .header("Sec-Fetch-Site", site)
    };
    let foreign = [
        ask("https://evil.example", "cross-site"),
        ask("http://localhost:1", "same-site"),
        ask("null", "cross-site"),
        Request::post("/v1/chat/completions", r#"{"model":"qwen"}"#),
    ];
    for request in foreign {
        let reply = client.send(login.port, request);
        assert_eq!(reply.verdict(), (403, "csrf_failed".to_owned()), "{}", reply.text());
    }
    // A script without a session is not sent to log in.
    let mut stranger = Client::default();
    assert_eq!(stranger.send(login.port, ask(&login.app(), "same-origin")).status, 401);

    // The answer ends once another request has asked for its end.
    let app = login.app();
    let (to, mut second) = (login.port, Client { cookies: client.cookies.clone() });
    let answer = std::thread::scope(|scope| {
        let answer = scope.spawn(|| client.send(to, ask(&app, "same-origin")));
        crate::rig::until("the stream", || {
            second.send(to, Request::get("/continue"));
            answer.is_finished().then_some(())
        });
        answer.join().unwrap()
    });
    assert_eq!(answer.status, 200, "{}", answer.text());
    for part in ["one", "two", "[DONE]"] {
        assert!(answer.text().contains(part), "{}", answer.text());
    }
    login.check_upstream(1);
    crate::rig::until("audit lines", || (login.reasons() == ["csrf_failed"; 4]).then_some(()));

    // The filter ends the session; the provider asks whether its own ends, too.
    let (port, page) = client.follow(login.port, Request::get("/signout"));
    assert_eq!((port, page.status), (login.provider.port, 200), "{}", page.text());
    assert!(!client.cookies.contains_key(&(login.port, "BearerToken".to_owned())));
    assert_eq!(client.send(login.port, Request::get("/")).status, 302);
}

#[test]
#[ignore = "needs a large download: make test-all"]
fn a_real_browser_logs_in_reads_a_stream_and_is_not_used_by_other_pages() {
    let login = Login::start(false);
    // A page of another site, and of another origin of the same site, by the name of its host.
    let foreign = Server::start(|request| {
        let form = request.path.split_once("?form=").map(|(_, app)| {
            let app = app.replace("%3A", ":").replace("%2F", "/");
            format!(
                r#"<form method=post action="{app}/v1/chat/completions" enctype="text/plain"><input name='{{"model":"qwen","x":"' value='"}}'><button id=send>send</button></form>"#
            )
        });
        let page = form.unwrap_or_else(|| "<p>another page</p>".to_owned());
        Answer::Whole(Reply::new(200, page).header("content-type", "text/html"))
    });
    let text = include_str!("../oidc/browser.mjs");
    let path = script(login.dir.path(), "browser.mjs", text, "browser");
    let output = Command::new(part("node", "browser"))
        .env("CHROMIUM", part("chromium", "browser"))
        .arg(path)
        .arg(login.app())
        .arg(format!("http://127.0.0.1:{}", foreign.port))
        .arg(format!("http://localhost:{}", foreign.port))
        .output()
        .unwrap();
    let steps = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{steps}\n{}", String::from_utf8_lossy(&output.stderr));
    let expected = [
        "logged in",
        "streamed",
        "refused a form",
        "refused a script",
        "refused a form",
        "refused a script",
        "logged out",
    ];
    assert_eq!(steps.lines().collect::<Vec<_>>(), expected);
    login.check_upstream(1);
    let forged = login.reasons().iter().filter(|reason| *reason == "csrf_failed").count();
    assert!(forged >= 3, "{:?}", login.reasons());
}
