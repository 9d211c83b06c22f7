//! A settlement of which Redis refuses a write, because of a missing permission or a foreign value:
//! it is charged and recorded once, when it is reported again.

use tollgate::store::{ACL_RULE, Store as _};
use tollgate_core::{
    admission::{Settled, Usage},
    limit::usage_report::Basis,
};

use super::{
    super::redis_server,
    rig::{Ledger, now, request, settled},
};

#[tokio::test]
async fn what_redis_refuses_is_charged_and_recorded_once_when_it_is_taken() {
    let user = format!("--user tollgate on >s3cret {ACL_RULE} +hincrby +xdel +xlen +xtrim");
    let server = redis_server::start(&user.split_whitespace().collect::<Vec<_>>());
    let url = format!("redis://tollgate:s3cret@127.0.0.1:{}", server.port());
    let mut ledger = Ledger::at(&url, &serde_json::json!({}));
    ledger.writer.round(now()).await.unwrap();
    let mut client = server.client();
    let mut run = |words: &[&str]| redis::cmd(words[0]).arg(&words[1..]).exec(&mut client).unwrap();
    let first = request("of nothing", "acme", 100);
    ledger.admit(&first).await;
    ledger.settle(&settled(&first, Usage::Final(7), Basis::Reported)).await;
    let key = |pattern: &str| -> String {
        let found: Vec<String> =
            redis::cmd("KEYS").arg(pattern).query(&mut server.client()).unwrap();
        let [key] = &found[..] else { panic!("{found:?}") };
        key.clone()
    };
    // All ids of this test are in one set.
    let set = &*key("{tollgate}:settled:*");
    let pending = &*key("{tollgate}:ledger:pending:*");
    let rows: [(&str, &[&str], &[&str]); 4] = [
        (
            "no XADD",
            &["ACL", "SETUSER", "tollgate", "-xadd"],
            &["ACL", "SETUSER", "tollgate", "+xadd"],
        ),
        (
            "no SADD",
            &["ACL", "SETUSER", "tollgate", "-sadd"],
            &["ACL", "SETUSER", "tollgate", "+sadd"],
        ),
        (
            "a foreign value in the place of pending records",
            &["SET", pending, "x"],
            &["DEL", pending],
        ),
        ("a foreign value in the place of settled ids", &["SET", set, "x"], &["DEL", set]),
    ];
    ledger.write_all().await;
    let mut number = 1;
    for (what, breaks, repairs) in rows {
        let request = request(&format!("of {what}"), "acme", 100);
        ledger.admit(&request).await;
        let report = settled(&request, Usage::Final(7), Basis::Reported);
        run(&["DEL", pending]);
        run(&["DEL", set]);
        run(breaks);
        for _ in 0..3 {
            let refused = ledger.store.settle(std::slice::from_ref(&report)).await;
            assert!(refused.is_err(), "{what}: {refused:?}");
        }
        run(repairs);
        assert_eq!(ledger.settle(&report).await, Settled::Charged(7), "{what}");
        assert_eq!(ledger.settle(&report).await, Settled::Repeated, "{what}");
        ledger.write_all().await;
        number += 1;
        let records = ledger.records().await;
        let of_it = records.iter().filter(|record| record.decision.ends_with(what)).count();
        assert_eq!((of_it, records.len()), (1, number), "{what}");
        let spent: String = redis::cmd("EVAL")
            .arg("for _, key in ipairs(redis.call('KEYS', '*')) do if not string.match(key, ':clock$') and redis.call('TYPE', key).ok == 'string' and string.match(redis.call('GET', key), '^%d+ %d+$') then return redis.call('GET', key) end end")
            .arg(0)
            .query(&mut server.client())
            .unwrap();
        assert_eq!(spent, format!("{} 0", 7 * number), "{what}");
    }
}
