//! Large bodies: the limits of Envoy and Tollgate, and the memory of many bodies at once.

use serde_json::json;

use crate::rig::{
    POLICY, Rig, grpc::Peer, http::Request, issuer::Issuer, tollgate::Tollgate, until,
};

const MIB: usize = 1 << 20;

/// A request body of exactly this length.
fn body(length: usize) -> Vec<u8> {
    let (start, end) = (r#"{"model":"qwen","image":""#, r#""}"#);
    format!("{start}{}{end}", "A".repeat(length - start.len() - end.len())).into_bytes()
}

#[test]
fn bodies_up_to_sixteen_mebibytes_pass() {
    let rig = Rig::start(POLICY);
    let token = rig.token(json!({}));
    for length in [15 * MIB, 16 * MIB] {
        let body = body(length);
        let reply =
            rig.envoy.send(&Request::post("/v1/chat/completions", body.clone()).bearer(&token));
        assert_eq!(reply.status, 200, "{length}: {}", reply.text());
        let seen = rig.upstream.only();
        assert_eq!((seen.body.len(), seen.body == body), (length, true));
    }
    // Envoy's own limit applies before a check.
    let reply =
        rig.envoy.send(&Request::post("/v1/chat/completions", body(16 * MIB + 1)).bearer(&token));
    assert_eq!((reply.status, rig.upstream.taken().len()), (413, 0));
}

#[test]
fn tollgate_s_body_limit_applies_below_the_proxy_s() {
    let rig = Rig::start(&format!("{POLICY}body: {{ max: 1MiB, max_in_flight: 4MiB }}\n"));
    let token = rig.token(json!({}));
    let send = |length| {
        rig.envoy.send(&Request::post("/v1/chat/completions", body(length)).bearer(&token))
    };
    assert_eq!(send(MIB).status, 200);
    rig.upstream.taken();
    // One byte more exceeds the body limit only; two mebibytes exceed the message limit.
    for length in [MIB + 1, 2 * MIB, 15 * MIB] {
        let reply = send(length);
        assert_eq!(
            (reply.verdict(), rig.upstream.taken().len()),
            ((413, "body_too_large".into()), 0),
            "{length}"
        );
    }
    until("audit line", || {
        rig.tollgate.audit().into_iter().find(|line| line["reason"] == "body_too_large")
    });
}

/// Sixteen peers without any credential send sixteen mebibytes each, all but the last byte. The
/// memory of these messages stays within `body.max_in_flight`, and the others are refused as
/// `overloaded`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_bodies_stay_within_the_bound() {
    const PEERS: usize = 16;
    // Three quarters of the sum are for large messages: three would fit, and one peer may withhold
    // two.
    const FIT: usize = 2;
    let dir = tempfile::tempdir().unwrap();
    Issuer::new("https://auth.example.com").publish(dir.path());
    let config = format!("{POLICY}body: {{ max: 16MiB, max_in_flight: 64MiB }}\n");
    let tollgate = Tollgate::start(dir.path(), &config);
    let before = tollgate.peak();

    let request = Request::post("/v1/chat/completions", body(16 * MIB - 1024));
    let mut halves = Vec::new();
    for _ in 0..PEERS {
        halves.push(Peer::connect(dir.path()).await.begin(&request).await);
    }
    until("the refusals", || {
        (halves.iter().filter(|half| half.answered()).count() == PEERS - FIT).then_some(())
    });
    // Small messages have a share of their own.
    let mut small = Peer::connect(dir.path()).await;
    let verdict = small.begin(&Request::get("/health")).await.finish().await;
    assert_eq!(verdict, (200, String::new()));

    let (mut checked, mut refused) = (0, 0);
    for half in halves {
        match half.finish().await {
            (401, code) if code == "missing_credential" => checked += 1,
            (503, code) if code == "overloaded" => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((checked, refused), (FIT, PEERS - FIT));
    let grown = tollgate.peak() - before;
    // The sum, a window of 256 KiB for each connection, and the overhead of allocator and runtime.
    let bound = 64 * MIB + PEERS * (256 << 10) + 16 * MIB;
    println!("grew by {} MiB", grown >> 20);
    assert!(grown <= bound as u64, "grew by {} MiB", grown >> 20);
    assert_eq!(
        tollgate.metric("tollgate_checks_total", &["reason=\"overloaded\""]),
        (PEERS - FIT) as f64
    );

    // The memory is free again.
    let verdict = Peer::connect(dir.path()).await.begin(&request).await.finish().await;
    assert_eq!(verdict, (401, "missing_credential".into()));
}
