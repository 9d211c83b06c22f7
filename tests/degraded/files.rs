//! Files that cannot be used: the configuration, a certificate, a full disk.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::Arc,
};

use nix::sys::signal::Signal;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};
use serde_json::json;

use super::{
    rig::{ISSUER, POLICY, Rig, script, with_listeners},
    row::{Answer, Metric, Row, Verified},
};
use crate::rig::{
    issuer::{Issuer, Key, KeyServer, Mood, jwks},
    tollgate::Tollgate,
    until,
};

const ALLOWED: &str = "any token";
const SERVED: &[Answer] = &[Answer { to: ALLOWED, status: 200, reason: "", headers: &[] }];

pub(super) const CONFIGURATION: Row = Row {
    condition: "the file is not valid when it is read again",
    answers: &[
        Answer { to: "a route of the previous file", status: 200, reason: "", headers: &[] },
        Answer { to: "a route of the new file", status: 403, reason: "no_route", headers: &[] },
    ],
    metrics: &[Metric::is("tollgate_config_reload_failed", &[], 1.0)],
    log: &[
        "configuration reload failed, keeping the previous one:",
        "...tollgate.yaml:...: routes[0].publik: unknown key `publik`; did you mean `public`?",
    ],
    audit: &[],
    recovery: "a valid file, within seconds and without a signal",
    recovered: &[Metric::is("tollgate_config_reload_failed", &[], 0.0)],
};

pub(super) const CERTIFICATE: Row = Row {
    condition: "the certificate of a listener is replaced by one without its key",
    answers: &[Answer {
        to: "a proxy that verifies the previous certificate",
        status: 401,
        reason: "missing_credential",
        headers: &[],
    }],
    metrics: &[Metric::at_least(
        "tollgate_certificate_not_after_timestamp_seconds",
        &["listener=\"listen.http[0]\""],
        1_800_000_000.0,
    )],
    log: &["certificate reload failed, keeping the previous one: listen.http[0].tls.key: the \
            private key in ... does not belong to the certificate in ...; replace both files \
            together"],
    audit: &[],
    recovery: "a pair that belongs together, within seconds and without a signal",
    recovered: &[],
};

pub(super) const EXPIRED: Row = Row {
    condition: "the certificate of a listener is replaced by an expired one",
    answers: &[Answer {
        to: "a proxy that verifies the previous certificate",
        status: 401,
        reason: "missing_credential",
        headers: &[],
    }],
    metrics: &[Metric::at_least(
        "tollgate_certificate_not_after_timestamp_seconds",
        &["listener=\"listen.http[0]\""],
        1_800_000_000.0,
    )],
    log: &["certificate reload failed, keeping the previous one: listen.http[0].tls.cert: the \
            certificate in ... expired ... hours ago, and the one in use is valid; replace the \
            file"],
    audit: &[],
    recovery: "a valid pair, within seconds and without a signal",
    recovered: &[],
};

pub(super) const DISK_FULL: Row = Row {
    condition: "the disk is full: `jwks.cache_file`",
    answers: SERVED,
    metrics: &[Metric::at_least("tollgate_jwks_fetches_total", &["result=\"ok\""], 2.0)],
    log: &["key cache file not written: it cannot be written: ..."],
    audit: &[],
    recovery: "the next fetch writes it; a start without the key server has the older keys until \
               then",
    recovered: &[],
};

pub(super) const AUDIT_DISK_FULL: Row = Row {
    condition: "the disk is full: `audit.to`, `on_full: drop`",
    answers: SERVED,
    metrics: &[Metric::at_least("tollgate_audit_dropped_total", &["cause=\"write\""], 1.0)],
    log: &["audit log write failed"],
    audit: &[],
    recovery: "the next line that can be written; lines of the meantime are lost",
    recovered: &[],
};

pub(super) const AUDIT_DISK_FULL_DENY: Row = Row {
    condition: "the disk is full: `audit.to`, `on_full: deny`",
    answers: &[Answer {
        to: "any request, once `audit.queue` is full",
        status: 503,
        reason: "overloaded",
        headers: &[("retry-after", "1")],
    }],
    metrics: &[
        Metric::at_least("tollgate_checks_total", &["reason=\"overloaded\""], 1.0),
        Metric::at_least("tollgate_audit_queue", &[], 8.0),
    ],
    log: &["audit log write failed"],
    audit: &[],
    recovery: "writing is tried again each 100 ms; no line of an allowed request is lost",
    recovered: &[Metric::is("tollgate_audit_queue", &[], 0.0)],
};

pub(super) fn configuration(verified: &Verified) {
    let rig = Rig::start(POLICY);
    let token = rig.token("alice");
    let with = |path: &str| POLICY.replace("paths: [/free]", &format!("paths: [/free, {path}]"));
    let broken = with("/new").replace("scopes: []", "publik: true");
    rig.tollgate.rewrite(rig.path(), &with_listeners(&broken));
    rig.tollgate.process.signal(Signal::SIGHUP);
    verified.observed(&CONFIGURATION, &rig.tollgate, &[], "");
    let row = &CONFIGURATION;
    verified.answer(row, "a route of the previous file", &rig.get("/free", &token));
    verified.answer(row, "a route of the new file", &rig.get("/new", &token));
    rig.tollgate.rewrite(rig.path(), &with_listeners(&with("/new")));
    verified.recovered(row, &rig.tollgate, &[], || rig.allows("/new", &token));
}

/// A self-signed certificate of `tollgate.test`.
struct Pair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Pair {
    /// Valid from 2026 to the beginning of this year.
    fn until(year: i32) -> Self {
        let mut params = CertificateParams::new(["tollgate.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    fn write_certificate(&self, dir: &Path) {
        replace(&dir.join("tls.pem"), &self.certificate.pem());
    }

    fn write_key(&self, dir: &Path) {
        replace(&dir.join("tls.key"), &self.key.serialize_pem());
    }

    /// The status and the reason of a check over a connection that trusts this certificate only.
    fn check(&self, port: u16) -> Option<(u16, String)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("tollgate.test").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream =
            StreamOwned::new(connection, TcpStream::connect(("127.0.0.1", port)).unwrap());
        let request = "GET /check HTTP/1.1\r\nhost: x\r\nx-forwarded-method: GET\r\n\
                       x-forwarded-uri: /free\r\nx-forwarded-host: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).ok()?;
        let mut reply = String::new();
        let _ = stream.read_to_string(&mut reply);
        let status = reply.split(' ').nth(1)?.parse().ok()?;
        let (_, rest) = reply.split_once("\"code\":\"").or(reply.split_once("\"code\": \""))?;
        Some((status, rest.split('"').next()?.to_owned()))
    }
}

/// Replaces a file with a rename.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

pub(super) fn certificates(verified: &Verified) {
    let dir = tempfile::tempdir().unwrap();
    let (first, other, expired, next) =
        (Pair::until(2035), Pair::until(2035), Pair::until(2021), Pair::until(2036));
    first.write_certificate(dir.path());
    first.write_key(dir.path());
    let issuer = Issuer::new(ISSUER);
    issuer.publish(dir.path());
    let tls = "dialect: traefik, tls: { cert: \"${DIR}/tls.pem\", key: \"${DIR}/tls.key\" }";
    let config = with_listeners(POLICY).replace("dialect: traefik", tls);
    let tollgate = Tollgate::start(dir.path(), &config);
    let port = tollgate.http_port();
    let to = "a proxy that verifies the previous certificate";
    // Each signal causes a round of reads; two have to agree.
    let round = || tollgate.process.signal(Signal::SIGHUP);
    let verify = |row: &Row, pair: &Pair| {
        until("the failed reload", || {
            round();
            tollgate.process.err().contains("certificate reload failed").then_some(())
        });
        verified.observed(row, &tollgate, &[], "");
        let (status, reason) = pair.check(port).unwrap();
        verified.answered(row, to, status, &reason, &[]);
    };
    other.write_certificate(dir.path());
    verify(&CERTIFICATE, &first);
    other.write_key(dir.path());
    verified.recovered(&CERTIFICATE, &tollgate, &[], || {
        round();
        other.check(port).map(drop)
    });

    expired.write_certificate(dir.path());
    expired.write_key(dir.path());
    verify(&EXPIRED, &other);
    next.write_certificate(dir.path());
    next.write_key(dir.path());
    verified.recovered(&EXPIRED, &tollgate, &[], || {
        round();
        next.check(port).map(drop)
    });
}

/// Starts a Tollgate whose files can be limited in size without a signal that ends it. Its log is
/// written by another process.
fn with_limitable_files(dir: tempfile::TempDir, config: &str) -> Rig {
    let line = "trap '' XFSZ; exec \"$TOLLGATE\" \"$@\" 2> >(exec cat >&2)";
    let program = script(dir.path(), line);
    let issuer = Issuer::new(ISSUER);
    issuer.publish(dir.path());
    let tollgate = Tollgate::start_program(&program, dir.path(), &with_listeners(config));
    Rig::of(tollgate, issuer, dir)
}

/// Sets the size that the files of a process may have: `0`, or `unlimited`.
fn limit_files(rig: &Rig, size: &str) {
    let pid = rig.tollgate.process.id().to_string();
    let status = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--fsize={size}:unlimited")])
        .status()
        .expect("prlimit of util-linux");
    assert!(status.success());
}

pub(super) fn disk_full(verified: &Verified) {
    let (known, next) = (Key::ed("known"), Key::ed("next"));
    let server = KeyServer::start(Mood::Serves(jwks(&[&known])));
    let name = "https://cached.example.com";
    let section = server.section().replace('{', "{ cache_file: \"${DIR}/cache.json\",");
    let issuer = format!(
        "  - {{ issuer: \"{name}\", audiences: any, algorithms: [EdDSA], jwks: {section} }}\nroutes:\n"
    );
    let audit = "audit: { to: \"file:${DIR}/audit.log\" }\n";
    let config = format!("{audit}{}", POLICY.replace("routes:\n", &issuer));
    let rig = with_limitable_files(tempfile::tempdir().unwrap(), &config);
    let (cache, log) = (rig.path().join("cache.json"), rig.path().join("audit.log"));
    let content = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let before = until("the cache file", || Some(content(&cache)).filter(|text| !text.is_empty()));
    let token = |key: &Key| Issuer::with(name, key.clone()).token(json!({}));

    limit_files(&rig, "0");
    server.now(Mood::Serves(jwks(&[&known, &next])));
    until("the next key", || rig.allows("/free", &token(&next)));
    verified.observed(&DISK_FULL, &rig.tollgate, &[], "");
    verified.answer(&DISK_FULL, ALLOWED, &rig.get("/free", &token(&next)));
    assert_eq!(content(&cache), before, "the previous cache file is kept");
    verified.observed(&AUDIT_DISK_FULL, &rig.tollgate, &[], "");
    verified.answer(&AUDIT_DISK_FULL, ALLOWED, &rig.get("/free", &token(&known)));

    limit_files(&rig, "unlimited");
    let third = Key::ed("third");
    server.now(Mood::Serves(jwks(&[&known, &third])));
    verified.recovered(&DISK_FULL, &rig.tollgate, &[], || {
        rig.allows("/free", &token(&third))?;
        content(&cache).contains("third").then_some(())
    });
    let last = rig.token("after-the-full-disk");
    verified.recovered(&AUDIT_DISK_FULL, &rig.tollgate, &[], || {
        rig.allows("/free", &last)?;
        content(&log).contains("after-the-full-disk").then_some(())
    });
    let works = "audit log write works again";
    until(works, || rig.tollgate.process.err().contains(works).then_some(()));
}

pub(super) fn disk_full_for_each_line(verified: &Verified) {
    let audit = "audit: { to: \"file:${DIR}/audit.log\", on_full: deny, queue: 8 }\n";
    let config = format!("{audit}{POLICY}");
    let rig = with_limitable_files(tempfile::tempdir().unwrap(), &config);
    let row = &AUDIT_DISK_FULL_DENY;
    let token = rig.token("alice");
    let allowed = || rig.get("/free", &token).status == 200;
    assert!(allowed());
    let mut count = 1;
    limit_files(&rig, "0");
    until("the full queue", || match allowed() {
        true => {
            count += 1;
            None
        }
        false => Some(()),
    });
    let to = "any request, once `audit.queue` is full";
    verified.answer(row, to, &rig.get("/free", &token));
    verified.observed(row, &rig.tollgate, &[], "");
    limit_files(&rig, "unlimited");
    verified.recovered(row, &rig.tollgate, &[], || allowed().then(|| count += 1));
    until("a line for each allowed request", || {
        let log = std::fs::read_to_string(rig.path().join("audit.log")).unwrap();
        (log.matches("\"decision\":\"allow\"").count() == count).then_some(())
    });
}
