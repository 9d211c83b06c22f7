//! Redirects (GHSA-fgw5-hp8f-xfhc): a few are followed, to addresses that the operator has named.

use serde_json::json;

use super::{
    rig::{Rig, error_becomes, jwks, keys_become, successes},
    server::{Answer, KeyServer, redirect},
};

#[tokio::test(flavor = "multi_thread")]
async fn three_redirects_on_the_same_host_are_followed() {
    let server = KeyServer::start().await;
    server.script("/keys", [redirect("/one")]);
    server.script(
        "/one",
        [Answer::Whole(301, vec![("location", server.at("/a/two?x"))], String::new())],
    );
    server
        .script("/a/two", [Answer::Whole(308, vec![("location", "three".into())], String::new())]);
    server.script("/a/three", [Answer::Keys(&["a"])]);
    let (_rig, source) = Rig::one(&jwks(&server.url(), json!({})));
    keys_become(&source, &["a"]).await;
    let paths: Vec<String> = server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/keys", "/one", "/a/two?x", "/a/three"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_redirect_is_too_much() {
    let server = KeyServer::start().await;
    for (path, location) in [("/keys", "/1"), ("/1", "/2"), ("/2", "/3"), ("/3", "/4")] {
        server.script(path, [redirect(location)]);
    }
    server.script("/4", [Answer::Keys(&["a"])]);
    let (rig, source) = Rig::one(&jwks(&server.url(), json!({})));
    rig.sources.tried().await;
    assert_eq!(source.status().last_error.unwrap(), "more than 3 redirects");
    assert!(server.requests().iter().all(|request| request.path != "/4"));
}

/// K04: no redirect off the host, none to a private address by any spelling, none to plain http.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_nowhere_the_operator_did_not_name() {
    let (server, target) = (KeyServer::start().await, KeyServer::start().await);
    target.answer(Answer::Keys(&["evil"]));
    let port = target.address.port();
    for (location, told) in [
        (format!("http://127.0.0.1:{port}/keys"), "has no public address"),
        (format!("http://localhost:{port}/keys"), "nor in `allowed_hosts`"),
        (format!("http://[::1]:{port}/keys"), "nor in `allowed_hosts`"),
        (format!("http://[::ffff:127.0.0.1]:{port}/keys"), "nor in `allowed_hosts`"),
        (format!("http://[::ffff:7f00:1]:{port}/keys"), "nor in `allowed_hosts`"),
        (format!("http://2130706433:{port}/keys"), "nor in `allowed_hosts`"),
        (format!("http://0x7f000001:{port}/keys"), "nor in `allowed_hosts`"),
        (format!("http://0177.0.0.1:{port}/keys"), "nor in `allowed_hosts`"),
        (format!("http://127.1:{port}/keys"), "nor in `allowed_hosts`"),
        (format!("http://0.0.0.0:{port}/keys"), "nor in `allowed_hosts`"),
        (format!("//localhost:{port}/keys"), "nor in `allowed_hosts`"),
        (format!("http://{}@localhost:{port}/keys", server.address), "no user information"),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "nor in `allowed_hosts`"),
        ("http://metadata.google.internal/".to_owned(), "nor in `allowed_hosts`"),
        ("gopher://127.0.0.1/".to_owned(), "is not an http or https address"),
    ] {
        server.answer(redirect(location.clone()));
        let (rig, source) = Rig::one(&jwks(&server.url(), json!({})));
        rig.sources.tried().await;
        let error = source.status().last_error.unwrap();
        assert!(error.contains(told), "{location}: {error}");
        assert!(source.current().is_none(), "{location}");
    }
    assert_eq!(target.hits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_a_listed_host_is_followed() {
    let (server, target) = (KeyServer::start().await, KeyServer::start().await);
    server.answer(redirect(target.url()));
    target.answer(Answer::Tagged("\"one\"", &["a"]));
    let allowed = json!({ "allowed_hosts": [target.address.to_string()], "refresh": "30ms" });
    let (_rig, source) = Rig::one(&jwks(&server.url(), allowed));
    keys_become(&source, &["a"]).await;
    successes(&source, 1).await;
    // An ETag is sent to the server that it came from, and to no other.
    let head = |server: &KeyServer| server.requests()[1].head.clone();
    assert!(!head(&server).contains("if-none-match") && head(&target).contains("if-none-match"));

    server.answer(redirect("http://127.0.0.1:1/"));
    // The entry lists one port, not the whole host.
    error_becomes(&source, "has no public address").await;
}
