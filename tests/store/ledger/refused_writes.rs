//! A settlement, or an expiry, of which Redis refuses a write, because of a missing permission or a
//! foreign value: it is charged and recorded once, when it is called again.

use tollgate::store::{ACL_RULE, LEDGER_ACL_RULE, Store as _};
use tollgate_core::{
    admission::{AdmitRequest, Settled, Usage},
    limit::{reservation::Reservation, usage_report::Basis},
    time::Span,
};

use super::{
    super::redis_server::{self, Server},
    rig::{Ledger, now, request, settled},
};

/// What ends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The report of its end.
    Report,
    /// The same after it has expired.
    Late,
    /// Its expiry, in the sweep of a process.
    Sweep,
    /// Its expiry, in the check of another request.
    Check,
}

/// The commands that change something in the scripts of each end.
const COMMANDS: [(End, &[&str]); 4] = [
    (End::Report, &["xadd", "sadd", "pexpire", "set", "del", "zadd", "zrem", "xdel"]),
    (End::Late, &["xadd", "sadd", "pexpire", "set", "del", "zadd", "zrem", "xdel"]),
    (End::Sweep, &["xadd", "set", "del", "zadd", "zrem"]),
    (End::Check, &["xadd", "set", "del", "zadd", "zrem"]),
];

fn run(server: &Server, words: &[&str]) {
    redis::cmd(words[0]).arg(&words[1..]).exec(&mut server.client()).unwrap();
}

/// A server whose user has the documented permissions, and a ledger in it.
fn start() -> (Server, Ledger) {
    let user = format!("--user tollgate on >s3cret {ACL_RULE} {LEDGER_ACL_RULE}");
    let server = redis_server::start(&user.split_whitespace().collect::<Vec<_>>());
    let url = format!("redis://tollgate:s3cret@127.0.0.1:{}", server.port());
    let ledger = Ledger::at(&url, &serde_json::json!({}));
    (server, ledger)
}

/// The only counter of the test: what is spent, and what is held.
fn counter(server: &Server, one: &Reservation) -> String {
    let key = format!("{{tollgate}}:{}", one.holds[0].key());
    redis::cmd("GET").arg(key).query(&mut server.client()).unwrap()
}

/// Ends a request; what its reporter is answered.
async fn end(ledger: &Ledger, one: &Reservation, end: End) -> Result<Option<Settled>, ()> {
    let report = settled(one, Usage::Final(7), Basis::Reported);
    let answered = match end {
        End::Report | End::Late => ledger.store.settle(&[report]).await,
        End::Sweep => ledger.expire_due().await.map(|()| Vec::new()),
        End::Check => {
            let reservation = Some(Box::new(request("another", "acme", 100)));
            let check = AdmitRequest { reservation, ..AdmitRequest::default() };
            ledger.store.admit(&check).await.map(|_| Vec::new())
        }
    };
    answered.map(|settled| settled.first().copied()).map_err(|_| ())
}

#[tokio::test]
async fn what_redis_may_not_run_is_charged_and_recorded_once_when_it_may() {
    let (server, mut ledger) = start();
    ledger.writer.round(now()).await.unwrap();
    let (mut number, mut spent) = (0, 0);
    for (ends, command) in
        COMMANDS.iter().flat_map(|(ends, commands)| commands.iter().map(|one| (*ends, *one)))
    {
        let what = format!("{ends:?} without {command}");
        let mut one = request(&what, "acme", 100);
        if ends != End::Report {
            // Due with the next script.
            one.life = Span::from_micros(0);
        }
        ledger.admit(&one).await;
        if ends == End::Late {
            assert_eq!(end(&ledger, &one, End::Sweep).await, Ok(None), "{what}");
            ledger.write_all().await;
            number += 1;
        }
        let before = counter(&server, &one);
        run(&server, &["ACL", "SETUSER", "tollgate", &format!("-{command}")]);
        for _ in 0..3 {
            assert_eq!(end(&ledger, &one, ends).await, Err(()), "{what}");
            assert_eq!(counter(&server, &one), before, "{what}: nothing is charged");
        }
        run(&server, &["ACL", "SETUSER", "tollgate", &format!("+{command}")]);
        let (expected, tokens) = match ends {
            End::Report => (Some(Settled::Charged(7)), 7),
            End::Late => (Some(Settled::Late { tokens: 7, replaced: Some(100) }), 7),
            End::Sweep | End::Check => (None, 100),
        };
        let again = if ends == End::Check { End::Sweep } else { ends };
        assert_eq!(end(&ledger, &one, again).await, Ok(expected), "{what}");
        if expected.is_some() {
            assert_eq!(end(&ledger, &one, ends).await, Ok(Some(Settled::Repeated)), "{what}");
        }
        ledger.write_all().await;
        (number, spent) = (number + 1, spent + tokens);
        let records = ledger.records().await;
        assert_eq!(records.len(), number, "{what}");
        assert_eq!(records.last().unwrap().decision, what);
        assert_eq!(counter(&server, &one), format!("{spent} 0"), "{what}");
    }
    assert_eq!(ledger.verify().await, []);
}

#[tokio::test]
async fn a_foreign_value_in_the_place_of_a_key_is_charged_and_recorded_once_when_it_is_gone() {
    let (server, mut ledger) = start();
    ledger.writer.round(now()).await.unwrap();
    let first = request("of nothing", "acme", 100);
    ledger.admit(&first).await;
    ledger.settle(&settled(&first, Usage::Final(7), Basis::Reported)).await;
    ledger.write_all().await;
    let key = |pattern: &str| -> String {
        let found: Vec<String> =
            redis::cmd("KEYS").arg(pattern).query(&mut server.client()).unwrap();
        let [key] = &found[..] else { panic!("{found:?}") };
        key.clone()
    };
    // All ids of this test are in one set.
    let keys = [key("{tollgate}:settled:*"), key("{tollgate}:ledger:pending:*")];
    let mut number = 1;
    for key in &keys {
        let one = request(key, "acme", 100);
        // One that the store has lost: nothing but the set tells whether it is settled.
        let lost = request("lost", "acme", 100);
        ledger.admit(&one).await;
        let reports = [&lost, &one].map(|one| settled(one, Usage::Final(7), Basis::Reported));
        let before = counter(&server, &one);
        run(&server, &["DEL", key]);
        run(&server, &["SET", key, "x"]);
        for _ in 0..3 {
            assert!(ledger.store.settle(&reports).await.is_err(), "{key}");
            assert_eq!(counter(&server, &one), before, "{key}: nothing is charged");
        }
        run(&server, &["DEL", key]);
        let settled = ledger.store.settle(&reports).await;
        assert_eq!(settled, Ok(vec![Settled::Charged(7); 2]), "{key}");
        let settled = ledger.store.settle(&reports).await;
        assert_eq!(settled, Ok(vec![Settled::Repeated; 2]), "{key}");
        ledger.write_all().await;
        number += 2;
        assert_eq!(ledger.records().await.len(), number, "{key}");
        assert_eq!(counter(&server, &one), format!("{} 0", 7 * number), "{key}");
    }
}
