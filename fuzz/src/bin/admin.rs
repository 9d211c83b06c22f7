//! Calls of the admin API. An input is a list of calls, each the head of an HTTP request, an empty line and a body; `===` is between two.
//! No call fails; without a credential nothing is learned or changed; a caller with a tenant changes what belongs to the tenant; and what
//! is revoked is what every reader of the body finds in it, the first and the last of repeated members alike.
#![no_main]

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tollgate::{
    admin::{
        Admin, caller::AdminCredentialConfig, handle, keys::KeyRecords, store::StoreRevocations,
    },
    observe::audit::Audit,
    store::{KeyPage, KeyWrite, Memory, MemoryConfig, Position, StoredKey},
};
use tollgate_core::{
    admission::Outage,
    config::{Document, Errors},
    credential::api_key::{ISSUER, KeyDigest, KeyRecord},
    identity::KeyId,
    policy::{Policy, PolicyConfig},
    revocation::Target,
    secret::Secret,
    time::{Span, Timestamp},
};
use tollgate_fuzz::json::{Reading, Tree};

const ROOT: &str = "0123456789abcdef0123456789abcdef";
const OF_TENANT: &str = "fedcba9876543210fedcba9876543210";
const TENANT: &str = "acme";

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

static POLICY: LazyLock<Arc<Policy>> = LazyLock::new(|| {
    let text = "
api_keys: { redis: true }
limits: [{ name: per-key, by: [key], rate: 10/1m, overrides: [{ tier: gold, rate: 20/1m }] }]
routes: [{ match: { paths: [/a] }, public: true }]
";
    let document = Document::parse(text, &|_| None).expect("YAML");
    let config: PolicyConfig = document.read().expect("a policy");
    Arc::new(Policy::compile(&config, &mut Errors::default()).expect("a policy"))
});

static CREDENTIALS: LazyLock<Arc<Vec<AdminCredentialConfig>>> = LazyLock::new(|| {
    let digest = KeyDigest::of(OF_TENANT.as_bytes());
    let text = format!(
        "
name: portal
digest: {digest}
actions: [read_keys, create_keys, import_keys, rotate_keys, revoke_keys, read_bans, write_bans, read_revocations, write_revocations]
tenants: [{TENANT}]
may_grant: {{ scopes: ['infer:text'], max_keys: 3 }}
"
    );
    let document = Document::parse(&text, &|_| None).expect("YAML");
    Arc::new(vec![document.read().expect("a credential")])
});

/// The records of keys in the order of their creation.
#[derive(Default)]
struct Records(Mutex<Vec<(KeyId, String)>>);

impl Records {
    fn all(&self) -> MutexGuard<'_, Vec<(KeyId, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tenants(&self) -> Vec<Option<String>> {
        let record = |(id, text): &(KeyId, String)| {
            KeyRecord::from_stored(*id, text)
                .expect("a record that can be read")
                .tenant
                .map(String::from)
        };
        self.all().iter().map(record).collect()
    }
}

impl KeyRecords for Records {
    fn read<'a>(&'a self, id: &'a KeyId) -> BoxFuture<'a, Result<Option<String>, Outage>> {
        let found = self.all().iter().find(|(known, _)| known == id).map(|(_, text)| text.clone());
        Box::pin(async { Ok(found) })
    }

    fn write<'a>(
        &'a self,
        record: &'a KeyRecord,
        text: &'a str,
        replaces: Option<&'a str>,
    ) -> BoxFuture<'a, Result<KeyWrite, Outage>> {
        let mut all = self.all();
        let place = all.iter_mut().find(|(id, _)| *id == record.id);
        let result = match (place, replaces) {
            (Some(_), None) => KeyWrite::Exists,
            (Some((_, before)), Some(replaces)) if before == replaces => {
                text.clone_into(before);
                KeyWrite::Written
            }
            (_, Some(_)) => KeyWrite::Changed,
            (None, None) => {
                all.push((record.id, text.to_owned()));
                KeyWrite::Written
            }
        };
        Box::pin(async move { Ok(result) })
    }

    fn remove<'a>(&'a self, id: &'a KeyId) -> BoxFuture<'a, Result<bool, Outage>> {
        let mut all = self.all();
        let before = all.len();
        all.retain(|(known, _)| known != id);
        let removed = all.len() < before;
        Box::pin(async move { Ok(removed) })
    }

    fn last_uses<'a>(
        &'a self,
        ids: &'a [KeyId],
    ) -> BoxFuture<'a, Result<Vec<Option<Timestamp>>, Outage>> {
        Box::pin(async { Ok(vec![None; ids.len()]) })
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<KeyPage, Outage>> {
        let all = self.all();
        let keys = all.iter().enumerate().map(|(index, (id, text))| StoredKey {
            id: id.as_str().as_bytes().to_vec(),
            text: Some(text.clone()),
            created: Timestamp::from_secs(index as u64),
        });
        let mut keys: Vec<StoredKey> =
            keys.filter(|key| after.is_none_or(|after| key.position() > *after)).collect();
        let has_more = keys.len() > limit;
        keys.truncate(limit);
        let next = keys.last().filter(|_| has_more).map(StoredKey::position);
        let page = KeyPage { keys, total: all.len() as u64, next };
        Box::pin(async { Ok(page) })
    }
}

struct Call<'a> {
    request: Request<()>,
    body: &'a [u8],
}

fn call(text: &[u8]) -> Option<Call<'_>> {
    let end = text.windows(2).position(|pair| pair == b"\n\n").unwrap_or(text.len());
    let (head, body) = (&text[..end], text.get(end + 2..).unwrap_or_default());
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.splitn(2, |byte| *byte == b' ');
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(words.next()?).ok()?;
    *request.uri_mut() = Uri::try_from(words.next()?).ok()?;
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        request
            .headers_mut()
            .append(name, HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?);
    }
    Some(Call { request, body })
}

struct Api {
    admin: Admin<StoreRevocations>,
    records: Arc<Records>,
}

impl Api {
    fn new() -> Self {
        let store = StoreRevocations(Arc::new(Memory::new(&MemoryConfig::default())));
        let records = Arc::new(Records::default());
        let token = || Some(Secret::new(ROOT));
        let admin = Admin::new(store, token, || Span::from_secs(3600), Arc::new(Audit::off()))
            .with_keys(Some(Arc::clone(&records) as _), || Arc::clone(&POLICY))
            .with_credentials(|| Arc::clone(&CREDENTIALS));
        Self { admin, records }
    }

    /// Sends a call with the token of a caller, and returns the status and the answer.
    fn send(&self, call: &Call<'_>, token: Option<&str>) -> (StatusCode, Value) {
        let (mut parts, ()) = call.request.clone().into_parts();
        if let Some(token) = token {
            parts.headers.remove("authorization");
            let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("plain text");
            parts.headers.insert("authorization", value);
        }
        let body = Full::new(Bytes::copy_from_slice(call.body));
        RUNTIME.block_on(async {
            let answer = handle(&self.admin, None, Request::from_parts(parts, body)).await;
            assert_eq!(answer.headers()["cache-control"], "no-store");
            let status = answer.status();
            let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
            (status, serde_json::from_slice(&body).expect("JSON"))
        })
    }

    /// The revocations and the bans as the caller with all rights sees them.
    fn state(&self) -> (Vec<Value>, Vec<Value>, usize) {
        let list = |path: &str, member: &str| {
            let text = format!("GET {path}?limit=1000");
            let call = call(text.as_bytes()).expect("a call");
            let (status, answer) = self.send(&call, Some(ROOT));
            assert_eq!(status, 200);
            answer[member].as_array().expect("a list").clone()
        };
        (list("/v1/revocations", "revocations"), list("/v1/bans", "bans"), self.records.all().len())
    }
}

fuzz_target!(|input: &[u8]| {
    let api = Api::new();
    let text = String::from_utf8_lossy(input);
    for (index, text) in text.split("\n===\n").take(6).enumerate() {
        let Some(call) = call(text.as_bytes()) else { continue };
        let before = api.state();
        let (status, _) = api.send(&call, None);
        // The tokens are in no seed, so that what a call brings itself is a wrong one.
        let is_guessed = text.contains(ROOT) || text.contains(OF_TENANT);
        assert!(is_guessed || (status == 401 && before == api.state()), "{status}");
        let is_limited = index % 2 == 1;
        let (status, answer) = api.send(&call, Some(if is_limited { OF_TENANT } else { ROOT }));
        assert!(status.as_u16() < 500, "{status}: {answer}");
        let changes = *call.request.method() != Method::GET;
        let path = call.request.uri().path();
        if status != 200 {
            assert!(answer["error"]["code"].is_string() && answer["error"]["message"].is_string());
            continue;
        }
        if changes && !call.body.is_empty() && !path.starts_with("/v1/keys/tgk") {
            changed(path, &call, &answer, is_limited, &api);
        }
    }
});

/// Asserts that a call changed what its body names.
fn changed(path: &str, call: &Call<'_>, answer: &Value, is_limited: bool, api: &Api) {
    // A DELETE of a key has a body that is not read.
    if path.starts_with("/v1/keys/") && path != "/v1/keys/import" {
        return;
    }
    let Some(body) = Tree::of_accepted(call.body) else { return };
    let Tree::Object(members) = &body else { panic!("no object: {body:?}") };
    let text = |name: &str| {
        let [first, last] = [Reading::First, Reading::Last].map(|reading| body.get(name, reading));
        assert_eq!(first, last, "`{name}` is repeated");
        first.and_then(Tree::text).map(str::to_owned)
    };
    if path == "/v1/revocations" {
        let target = target(&text, members.len());
        assert_eq!(
            (answer["key"].as_str(), answer["kind"].as_str()),
            (Some(&*target.key()), Some(target.kind()))
        );
        assert!(!is_limited || target == Target::Tenant { tenant: TENANT.to_owned() });
    }
    if path.starts_with("/v1/keys") && is_limited {
        assert_eq!(text("tenant").as_deref(), Some(TENANT));
        assert_eq!(api.records.tenants().last().cloned().flatten().as_deref(), Some(TENANT));
    }
    if path == "/v1/bans" && is_limited {
        // A ban of a tenant, or of a key of the tenant.
        assert!(text("tenant").as_deref() == Some(TENANT) || text("key").is_some());
    }
}

/// The target that a body names.
fn target(text: &impl Fn(&str) -> Option<String>, members: usize) -> Target {
    let names =
        ["jti", "subject", "client", "tenant", "token_sha256", "actor", "kid", "key", "spiffe"];
    let named: Vec<(&str, String)> =
        names.into_iter().filter_map(|name| Some((name, text(name)?))).collect();
    let [(name, value)] = &*named else { panic!("not one target in {members} members: {named:?}") };
    let (value, issuer) = (value.clone(), text("issuer"));
    assert!(!value.is_empty());
    let issued = || issuer.clone().expect("an issuer");
    match *name {
        "jti" => Target::Jti { issuer: issued(), jti: value },
        "subject" => Target::Subject { issuer: issued(), subject: value },
        "client" => Target::Client { issuer: issued(), client: value },
        "actor" => Target::Actor { issuer: issued(), actor: value },
        "kid" => Target::Kid { issuer: issued(), kid: value },
        other => {
            assert_eq!(issuer, None, "`issuer` has no meaning for `{other}`");
            match other {
                "tenant" => Target::Tenant { tenant: value },
                "key" => Target::Jti { issuer: ISSUER.to_owned(), jti: value },
                "spiffe" => {
                    let domain = value.split('/').take(3).collect::<Vec<_>>().join("/");
                    Target::Subject { issuer: domain, subject: value }
                }
                _ => {
                    let byte = |at: usize| u8::from_str_radix(&value[2 * at..2 * at + 2], 16);
                    let sha256 = std::array::from_fn(|at| byte(at).expect("hex"));
                    Target::Token { sha256 }
                }
            }
        }
    }
}
