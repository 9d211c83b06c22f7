//! OpenID Connect discovery: the address of the keys comes from an untrusted document.

use serde_json::{Value, json};

use super::{
    rig::{Rig, error_becomes, issuer, keys_become, kids},
    server::{Answer, KeyServer},
};

const DOCUMENT: &str = "/.well-known/openid-configuration";

fn document(issuer: &str, jwks_uri: &str) -> Answer {
    Answer::Body(
        json!({ "issuer": issuer, "jwks_uri": jwks_uri, "scopes_supported": ["openid"] })
            .to_string(),
    )
}

fn discovery(more: Value) -> Value {
    let mut jwks = json!({ "discovery": true, "insecure_http": true });
    for (key, value) in more.as_object().unwrap() {
        jwks[key] = value.clone();
    }
    jwks
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_found_by_the_issuer_alone() {
    let server = KeyServer::start().await;
    // OpenID Connect Discovery 1.0 section 4.1, with and without a path and a final slash.
    for (path, asked) in [
        ("", DOCUMENT),
        ("/", DOCUMENT),
        ("/realms/acme", "/realms/acme/.well-known/openid-configuration"),
        ("/tenant/", "/tenant/.well-known/openid-configuration"),
    ] {
        let name = server.at(path);
        server.script(asked, [document(&name, &server.url())]);
        server.answer(Answer::Keys(&["a"]));
        let rig = Rig::new();
        let source = rig.apply(&[issuer(&name, &discovery(json!({})))]).remove(0);
        keys_become(&source, &["a"]).await;
        let requests = server.requests();
        assert_eq!(requests[requests.len() - 2].path, asked);
    }
}

/// The document is fetched at each refresh, so a key set that moves is followed.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_set_that_moves_is_followed() {
    let server = KeyServer::start().await;
    let name = server.at("");
    server.script(DOCUMENT, [document(&name, &server.at("/one"))]);
    server.script("/one", [Answer::Tagged("\"e\"", &["a"])]);
    server.script("/two", [Answer::Tagged("\"e\"", &["b"])]);
    let rig = Rig::new();
    let source = rig.apply(&[issuer(&name, &discovery(json!({ "refresh": "30ms" })))]).remove(0);
    keys_become(&source, &["a"]).await;
    server.script(DOCUMENT, [document(&name, &server.at("/two"))]);
    // The ETag of the previous address means nothing at the new one.
    keys_become(&source, &["b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_cannot_be_trusted_gives_no_keys_and_takes_none() {
    let (server, other) = (KeyServer::start().await, KeyServer::start().await);
    let name = server.at("");
    let port = other.address.port();
    other.answer(Answer::Keys(&["evil"]));
    let good = document(&name, &server.url());
    for (what, answer, told) in [
        (
            "another issuer",
            document("https://evil.example", &server.url()),
            "of issuer `https://evil.example`",
        ),
        (
            "a final slash more",
            document(&format!("{name}/"), &server.url()),
            "not exactly the configured one",
        ),
        (
            "no issuer",
            Answer::Body(json!({ "jwks_uri": server.url() }).to_string()),
            "not an OpenID Connect discovery document",
        ),
        (
            "no jwks_uri",
            Answer::Body(json!({ "issuer": name }).to_string()),
            "not an OpenID Connect discovery document",
        ),
        (
            "two issuers",
            Answer::Body(format!(r#"{{"issuer":"{name}","issuer":"{name}","jwks_uri":"x"}}"#)),
            "not an OpenID",
        ),
        (
            "a page of HTML",
            Answer::Body("<html></html>".into()),
            "not an OpenID Connect discovery document",
        ),
        ("a body without end", Answer::Endless, "larger than"),
        ("no answer", Answer::Hang, "no whole answer within"),
        ("404", Answer::Whole(404, Vec::new(), String::new()), "answered 404"),
        (
            "another host",
            document(&name, &format!("http://localhost:{port}/keys")),
            "nor in `allowed_hosts`",
        ),
        (
            "another port, private",
            document(&name, &format!("http://127.0.0.1:{port}/keys")),
            "has no public address",
        ),
        (
            "a number for an address",
            document(&name, &format!("http://2130706433:{port}/keys")),
            "nor in `allowed_hosts`",
        ),
        (
            "the metadata service",
            document(&name, "http://169.254.169.254/"),
            "nor in `allowed_hosts`",
        ),
        ("a file", document(&name, "file:///etc/passwd"), "is not an http or https address"),
        ("no address", document(&name, "/keys"), "is not an http or https address"),
        ("nothing", document(&name, ""), "is not an http or https address"),
    ] {
        server.script(DOCUMENT, [good.clone()]);
        server.answer(Answer::Keys(&["a"]));
        let rig = Rig::new();
        let jwks = discovery(json!({ "refresh": "30ms", "timeout": "500ms" }));
        let source = rig.apply(&[issuer(&name, &jwks)]).remove(0);
        keys_become(&source, &["a"]).await;
        server.script(DOCUMENT, [answer]);
        error_becomes(&source, told).await;
        assert_eq!(kids(&source).unwrap(), ["a"], "{what}");
    }
    assert_eq!(other.hits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_on_a_listed_host_are_fetched() {
    let (server, other) = (KeyServer::start().await, KeyServer::start().await);
    let name = server.at("");
    server.script(DOCUMENT, [document(&name, &other.url())]);
    other.answer(Answer::Keys(&["a"]));
    let rig = Rig::new();
    let jwks = discovery(json!({ "allowed_hosts": [other.address.to_string()] }));
    let source = rig.apply(&[issuer(&name, &jwks)]).remove(0);
    keys_become(&source, &["a"]).await;
}
