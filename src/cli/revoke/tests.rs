use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

use clap::Parser;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};
use tollgate_core::credential::api_key::GeneratedKey;
use tollgate_testkit::unsigned;

use super::*;
use crate::{
    admin::{
        Admin, handle,
        keys::tests::{Memory, policy},
        tests::{Kept, TOKEN},
    },
    observe::audit::Audit,
};

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    revoke: RevokeArgs,
}

/// An admin API on a port and on a socket, and a file with its token.
pub(in crate::cli) struct Served {
    pub(in crate::cli) kept: Kept,
    pub(in crate::cli) address: SocketAddr,
    socket: PathBuf,
    directory: tempfile::TempDir,
}

impl Served {
    pub(in crate::cli) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let kept = Kept::default();
        let policy = policy(json!({ "redis": true }));
        let admin = Arc::new(
            Admin::new(
                kept.clone(),
                || Some(Secret::new(TOKEN)),
                || ANY_LIFE,
                Arc::new(Audit::off()),
            )
            .with_issuers(|| vec!["https://a".into(), "".into()])
            .with_offenders(crate::admin::offenders::tests::found)
            .with_keys(Some(Arc::new(Memory::default())), move || Arc::clone(&policy)),
        );
        let socket = directory.path().join("admin.sock");
        let (tcp, unix) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), UnixListener::bind(&socket).unwrap());
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
        let address = tcp.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Ok((stream, _)) = tcp.accept() => serve(stream, Arc::clone(&admin)),
                    Ok((stream, _)) = unix.accept() => serve(stream, Arc::clone(&admin)),
                }
            }
        });
        Self { kept, address, socket, directory }
    }

    pub(in crate::cli) fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs a command line against the port; what it printed, and whether it exited with 0.
    async fn run(&self, line: &[&str]) -> anyhow::Result<(String, bool)> {
        let (url, token) = (format!("http://{}", self.address), self.file("token"));
        run_line(&[line, &["--admin", &url, "--token-file", &token]].concat(), &self.kept).await
    }
}

fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, admin: Arc<Admin<Kept>>) {
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, std::convert::Infallible>(handle(&admin, None, request).await) }
    });
    tokio::spawn(async move {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await
    });
}

/// Runs a command line; `redis://there` is a store in memory.
async fn run_line(line: &[&str], kept: &Kept) -> anyhow::Result<(String, bool)> {
    let Command { revoke } = Command::try_parse_from([&["revoke"], line].concat())?;
    let mut out = Vec::new();
    let connect = async |url: Secret| {
        anyhow::ensure!(url.expose() == b"redis://there", "no store there");
        Ok(kept.clone())
    };
    let code = run(revoke, &mut out, connect).await?;
    Ok((String::from_utf8(out).unwrap(), format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS)))
}

/// A token with this payload and no valid signature.
fn token(payload: &str) -> String {
    unsigned(r#"{"alg":"none"}"#, payload)
}

#[tokio::test]
async fn revoked_listed_and_reinstated_through_the_admin_api() {
    let served = Served::new().await;
    let (text, good) = served
        .run(&[
            "add",
            "--subject",
            "alice",
            "--issuer",
            "https://a",
            "--at",
            "2026-01-02T03:04:05Z",
            "--note",
            "left",
        ])
        .await
        .unwrap();
    assert!(
        good && text.starts_with(
            "revoked by subject what was issued until 2026-01-02T03:04:05.000000Z, kept until "
        ),
        "{text}"
    );
    let made = served.kept.only();
    assert_eq!(
        (made.at().secs(), made.ttl(), made.note()),
        (1_767_323_045, ANY_LIFE, Some("left"))
    );

    for tenant in ["a", "b", "c", "d"] {
        served.run(&["add", "--tenant", tenant]).await.unwrap();
    }
    let (text, _) = served.run(&["list", "--output", "json"]).await.unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["revocations"].as_array().unwrap().len(), 5, "every page: {text}");
    let (text, _) = served.run(&["list"]).await.unwrap();
    assert!(text.contains("tenant:") && text.contains("  left\n"), "{text}");

    let remove = ["remove", "--subject", "alice", "--issuer", "https://a"];
    assert_eq!(served.run(&remove).await.unwrap(), ("reinstated by subject\n".into(), true));
    assert_eq!(
        served.run(&remove).await.unwrap(),
        ("there is no such revocation by subject\n".into(), false)
    );
    let (text, good) = served.run(&[&remove[..], &["--output", "json"]].concat()).await.unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["reinstated"], good), (&false.into(), false));
}

#[tokio::test]
async fn the_same_over_a_unix_socket_and_in_the_store() {
    let served = Served::new().await;
    let socket = format!("unix:{}", served.socket.to_str().unwrap());
    let token = served.file("token");
    let line = [
        "add",
        "--jti",
        "t-1",
        "--issuer",
        "",
        "--admin",
        &socket,
        "--token-file",
        &token,
        "--output",
        "json",
    ];
    let (text, good) = run_line(&line, &served.kept).await.unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert!(good && json["kind"] == "jti", "{text}");
    assert_eq!(
        served.kept.only().target(),
        &Target::Jti { issuer: String::new(), jti: "t-1".into() }
    );

    let (text, good) = run_line(
        &["remove", "--jti", "t-1", "--issuer", "", "--redis", "redis://there"],
        &served.kept,
    )
    .await
    .unwrap();
    assert_eq!((text.as_str(), good), ("reinstated by jti\n", true));
    std::fs::write(served.file("url"), "redis://there\n").unwrap();
    let (text, _) =
        run_line(&["list", "--redis", &format!("@{}", served.file("url"))], &served.kept)
            .await
            .unwrap();
    assert_eq!(text, "nothing is revoked\n");
}

#[tokio::test]
async fn a_token_is_revoked_by_its_hash_for_as_long_as_it_lives() {
    let served = Served::new().await;
    let week = now().secs() + 7 * 86_400;
    for (payload, least, most) in [
        (format!(r#"{{"exp":{week}}}"#), 7 * 86_400 - 60, 7 * 86_400),
        (format!(r#"{{"exp":{week}.5}}"#), 7 * 86_400 - 59, 7 * 86_400 + 1),
        // It may still be accepted, within the leeway.
        (r#"{"exp":1}"#.into(), 1, 1),
        (r#"{"exp":1e300}"#.into(), ANY_LIFE.secs(), ANY_LIFE.secs()),
        // Without `iat`, such a token is accepted in its last days.
        (
            r#"{"exp":2000000000}"#.into(),
            2_000_000_000 - now().secs() - 60,
            2_000_000_000 - now().secs(),
        ),
        (r#"{"exp":99999999999}"#.into(), TTL_MAX.secs(), TTL_MAX.secs()),
        ("not json".into(), ANY_LIFE.secs(), ANY_LIFE.secs()),
    ] {
        let token = token(&payload);
        std::fs::write(served.file("jwt"), format!("{token}\n")).unwrap();
        for argument in [token.clone(), format!("@{}", served.file("jwt"))] {
            let (text, _) = served.run(&["add", "--token", &argument]).await.unwrap();
            let made = served.kept.only();
            assert_eq!(made.target(), &Target::Token { sha256: token_digest(&token) });
            assert!((least..=most).contains(&made.ttl().secs()), "{payload}: {}", made.ttl());
            assert_eq!(made.life().secs(), made.ttl().secs() + 120, "leeway and clocks");
            assert!(!text.contains(&token));
            assert!(served.run(&["remove", "--token", &argument]).await.unwrap().1);
        }
    }
    let error = served.run(&["add", "--token", "no-jwt-but-secret"]).await.unwrap_err().to_string();
    assert!(error.starts_with("this is not a JWT") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_revocation_of_keys_lasts_as_long_as_any_key() {
    let served = Served::new().await;
    for (selector, ttl) in [
        (&["--jti", "7Jk2mN4pQ8rT", "--issuer", ISSUER][..], LONGEST_LIFE),
        (&["--subject", "ci", "--issuer", ISSUER], LONGEST_LIFE),
        (&["--client", "ann", "--issuer", ISSUER], LONGEST_LIFE),
        (&["--tenant", "acme"], LONGEST_LIFE),
        (&["--subject", "ci", "--issuer", "https://a"], ANY_LIFE),
        (&["--subject", "ci", "--issuer", ISSUER, "--ttl", "1d"], Span::from_secs(86_400)),
    ] {
        let line = [&["add"], selector, &["--redis", "redis://there"]].concat();
        run_line(&line, &served.kept).await.unwrap();
        assert_eq!(served.kept.only().ttl(), ttl, "{selector:?}");
        let remove: Vec<&str> = selector.iter().copied().take(4).collect();
        let line = [&["remove"], &remove[..], &["--redis", "redis://there"]].concat();
        assert!(run_line(&line, &served.kept).await.unwrap().1, "{selector:?}");
    }
}

#[tokio::test]
async fn a_key_in_place_of_a_token_is_named_with_the_option_for_it() {
    let served = Served::new().await;
    let key = GeneratedKey::new(&[7; 16], &[9; 32]);
    for action in ["add", "check", "remove"] {
        let error = served.run(&[action, "--token", key.expose()]).await.unwrap_err().to_string();
        let expected = format!("`--jti {} --issuer {ISSUER}`", key.id().as_str());
        assert!(error.contains(&expected) && !error.contains(key.expose()), "{error}");
    }
    let mistyped = key.expose().replace(key.id().as_str(), "aaaaaaaaaaaa");
    let error = served.run(&["add", "--token", &mistyped]).await.unwrap_err().to_string();
    assert!(error.contains("checksum") && !error.contains(&mistyped), "{error}");
}

#[tokio::test]
async fn what_the_api_refuses_is_told() {
    let served = Served::new().await;
    let (url, bad) = (format!("http://{}", served.address), served.file("bad"));
    std::fs::write(&bad, "X".repeat(40)).unwrap();
    let error = run_line(&["list", "--admin", &url, "--token-file", &bad], &served.kept)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the admin API refused (401): send the admin token as `Authorization: Bearer <token>`"
    );
    std::fs::write(&bad, "short").unwrap();
    let error = run_line(&["list", "--admin", &url, "--token-file", &bad], &served.kept)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("needs 32") && !error.contains("short"), "{error}");
    let error = run_line(&["list", "--redis", "redis://:hunter2@elsewhere"], &served.kept)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(error, "no store there");
    let nobody = format!("unix:{}", served.file("unused.sock"));
    let line = ["list", "--admin", &nobody, "--token-file", &served.file("token")];
    let error = run_line(&line, &served.kept).await.unwrap_err().to_string();
    assert!(error.starts_with("the admin API cannot be reached"), "{error}");
}

#[test]
fn the_command_line_names_one_thing_and_one_place() {
    let redis = ["--redis", "redis://there"];
    for (line, good) in [
        (&["add", "--jti", "a", "--issuer", "i"][..], true),
        (&["add", "--subject", "a", "--issuer", "i", "--at", "1700000000"], true),
        (&["add", "--tenant", "a", "--ttl", "2h"], true),
        (&["add", "--token", "-"], true),
        (&["list"], true),
        (&["add"], false),
        (&["add", "--jti", "a"], false),
        (&["add", "--jti", "a", "--subject", "b", "--issuer", "i"], false),
        (&["add", "--tenant", "a", "--issuer", "i"], false),
        (&["add", "--token", "-", "--at", "1700000000"], false),
        (&["add", "--jti", "a", "--issuer", "i", "--at", "1700000000"], false),
        (&["add", "--tenant", "a", "--ttl", "0s"], false),
        (&["add", "--tenant", "a", "--ttl", "soon"], false),
        (&["add", "--tenant", "a", "--at", "soon"], false),
        (&["add", "--tenant", "a", "--note", "two\nlines"], false),
        (&["add", "--tenant", "a", "--note", ""], false),
        (&["remove", "--tenant", "a", "--ttl", "2h"], false),
        (&["list", "--admin", "http://127.0.0.1:1"], false),
        (&["list", "--token-file", "x"], false),
        (&["list", "--output", "xml"], false),
    ] {
        let parsed = Command::try_parse_from([&["revoke"], line, &redis].concat());
        assert_eq!(
            parsed.is_ok(),
            good,
            "{line:?}: {:?}",
            parsed.map(|_| ()).map_err(|error| error.to_string())
        );
    }
    assert!(Command::try_parse_from(["revoke", "list"]).is_err(), "neither place");
    assert!(
        Command::try_parse_from(["revoke", "list", "--admin", "http://127.0.0.1:1"]).is_err(),
        "no token"
    );
}

#[tokio::test]
async fn a_moment_to_come_is_refused() {
    let ahead = (now().secs() + 3600).to_string();
    let error = run_line(
        &["add", "--tenant", "a", "--at", &ahead, "--redis", "redis://there"],
        &Kept::default(),
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("lies in the future"), "{error}");
}

#[tokio::test]
async fn whether_a_name_is_revoked_is_answered() {
    let kept = Kept::default();
    let redis = ["--redis", "redis://there"];
    let line = |words: &[&str]| [words, &redis].concat().into_iter().map(str::to_owned).collect();
    let run = async |words: &[&str]| {
        let words: Vec<String> = line(words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        run_line(&words, &kept).await.unwrap()
    };
    let alice = ["--subject", "alice", "--issuer", "https://a"];
    let (text, revoked) = run(&[&["check"][..], &alice].concat()).await;
    assert_eq!((text.as_str(), revoked), ("not revoked by subject\n", false));
    let at = ["--at", "2026-01-02T03:04:05Z", "--note", "left"];
    run(&[&["add"][..], &alice, &at].concat()).await;
    run(&["add", "--tenant", "acme"]).await;
    let (text, revoked) = run(&[&["check"][..], &alice].concat()).await;
    let begins =
        "revoked by subject what was issued until 2026-01-02T03:04:05.000000Z, kept until ";
    assert!(revoked && text.starts_with(begins) && text.ends_with("\n  left\n"), "{text}");
    let (text, _) = run(&[&["check", "--output", "json"][..], &alice].concat()).await;
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&report["revoked"], &report["revocations"][0]["kind"]),
        (&true.into(), &"subject".into())
    );
    // Another issuer's subject of the same name is another one.
    let (_, revoked) = run(&["check", "--subject", "alice", "--issuer", "https://b"]).await;
    assert!(!revoked);
    let (text, _) = run(&[&["list"][..], &alice].concat()).await;
    assert!(text.starts_with("subject:") && !text.contains("tenant:"), "{text}");
    let (text, _) = run(&["list", "--tenant", "other"]).await;
    assert_eq!(text, "nothing is revoked\n");

    // A token is looked up by everything that it names, and by its time.
    for (iat, expected) in [(1_767_323_045_u64, true), (1_767_323_046, false)] {
        let token = token(&format!(r#"{{"iss":"https://a","sub":"alice","jti":"j","iat":{iat}}}"#));
        let (text, revoked) = run(&["check", "--token", &token]).await;
        assert_eq!(revoked, expected, "{text}");
        if !expected {
            assert_eq!(text, "not revoked by token, jti, subject, actor\n");
        }
    }
}

#[tokio::test]
async fn an_issuer_that_the_policy_does_not_have_is_refused() {
    let served = Served::new().await;
    let config = served.file("tollgate.yaml");
    std::fs::write(
        &config,
        "issuers: [{ issuer: 'https://a', audiences: any, algorithms: [RS256], jwks: { url: 'https://a/jwks' } }]\n\
         routes: [{ match: { methods: [GET], paths: [/a] }, scopes: [] }]\n",
    )
    .unwrap();
    for (issuer, good) in [("https://a", true), ("https://a/", false), ("https://b", false)] {
        let words = ["add", "--subject", "alice", "--issuer", issuer];
        let redis = ["--redis", "redis://there"];
        for named in [&["--config", config.as_str()][..], &[config.as_str()]] {
            let result = run_line(&[&words[..], &redis, named].concat(), &served.kept).await;
            match result {
                Ok(_) => assert!(good, "{issuer}"),
                Err(error) => {
                    assert!(!good, "{error}");
                    let message = format!(
                        "no issuer of the policy is `{issuer}`; its issuers are `https://a`"
                    );
                    assert_eq!(error.to_string(), message);
                }
            }
        }
        // The admin API knows the issuers by itself.
        let result = served.run(&words).await;
        assert_eq!(result.is_ok(), good, "{issuer}");
        if let Err(error) = result {
            let message = format!(
                "the admin API refused (409): no issuer of the policy is `{issuer}`; its issuers are `https://a`, `absent`"
            );
            assert_eq!(error.to_string(), message);
        }
    }
    // A tenant has no issuer.
    assert!(served.run(&["add", "--tenant", "acme"]).await.unwrap().1);
}
