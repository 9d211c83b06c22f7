//! A store with a ledger, its writer, and what a test reads of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use tollgate::{
    engine::ledger::{LedgerInForce, LedgerSlot, Round, Writer},
    observe::metrics::{Metrics, ObserveConfig},
    store::{Redis, Store as _},
};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage, Settled, Settlement, Usage},
    ledger::{
        calendar::{Calendar, Day},
        day_sums::DaySums,
        entry::{Content, Entry, UsageRecord},
        keys::LedgerKeys,
        person::Person,
        verify::{ChainVerifier, Finding, SeenDecisions},
    },
    limit::{
        Counter, Hold,
        request_facts::RequestFacts,
        reservation::{Reservation, ReservationId},
        usage_report::{Basis, RequestEnding, UsageCounts, UsageReport},
    },
    secret::Secret,
    time::{Span, Timestamp},
};

use super::super::redis_server::{self, Server};

pub(super) fn now() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_micros(u64::try_from(now.as_micros()).unwrap())
}

/// The keys of every test.
pub(super) fn keys() -> LedgerKeys {
    LedgerKeys::new(vec![("k".to_owned(), Secret::new(vec![7; 32]))]).unwrap()
}

/// A request of a tenant that holds tokens of a budget that is never used up.
pub(super) fn request(decision: &str, tenant: &str, amount: u64) -> Reservation {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let next = u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    let ends = Timestamp::from_secs(4_000_000_000);
    Reservation {
        id: ReservationId((next << 64 | next).to_be_bytes()),
        issued: now(),
        life: Span::from_secs(60),
        holds: vec![Hold {
            limit: "day".into(),
            counter_id: tenant.into(),
            counter: Counter::Budget { limit: 1_000_000_000, ends },
            amount,
            unreported: amount,
            by_principal: true,
            is_shadow: false,
        }],
        histories: None,
        shard: None,
        route: None,
        cost: None,
        facts: Some(Box::new(RequestFacts {
            decision_id: decision.to_owned(),
            route: "chat".into(),
            tenant: Some(tenant.to_owned()),
            subject: Some("alice".into()),
            ..RequestFacts::default()
        })),
    }
}

/// A report of a complete response.
pub(super) fn settled(request: &Reservation, usage: Usage, basis: Basis) -> Settlement {
    let report = UsageReport {
        ending: RequestEnding::Complete,
        basis,
        counts: UsageCounts { output: Some(1), ..UsageCounts::default() },
    };
    Settlement { reservation: request.clone(), usage, report: Some(report) }
}

/// The record of a decision.
pub(super) fn record<'a>(records: &'a [UsageRecord], decision: &str) -> &'a UsageRecord {
    records.iter().find(|record| record.decision == decision).unwrap()
}

/// A process with a ledger.
pub(super) struct Ledger {
    pub(super) store: Arc<Redis>,
    pub(super) writer: Writer,
    pub(super) metrics: Arc<Metrics>,
    calendar: Calendar,
    url: String,
}

impl Ledger {
    pub(super) fn start(server: &Server) -> Self {
        Self::with(server, &json!({}))
    }

    /// A process whose section `ledger` has these keys beside the required ones.
    pub(super) fn with(server: &Server, more: &serde_json::Value) -> Self {
        Self::at(&server.unix(), more)
    }

    /// The same with the store at a URL.
    pub(super) fn at(url: &str, more: &serde_json::Value) -> Self {
        let store = Arc::new(redis_server::open(url));
        let mut section =
            json!({ "keys": [{ "id": "k", "secret": "0".repeat(32) }], "max_rows": 10 });
        for (key, value) in more.as_object().unwrap() {
            section[key] = value.clone();
        }
        let config: tollgate_core::ledger::config::LedgerConfig =
            serde_json::from_value(section).unwrap();
        let calendar = Calendar::of(&config.time_zone);
        let in_force = LedgerInForce { config, keys: Some(keys()), calendar: calendar.clone() };
        let slot = LedgerSlot::default();
        slot.store(Some(Arc::new(in_force)));
        store.keep_ledger(Some(0));
        let metrics = Arc::new(Metrics::new(&ObserveConfig::default()));
        let writer =
            Writer::new(Arc::clone(&store), slot, Arc::clone(&metrics), "replica".to_owned());
        Self { store, writer, metrics, calendar, url: url.to_owned() }
    }

    pub(super) fn keys(&self) -> LedgerKeys {
        keys()
    }

    pub(super) fn day(&self, at: Timestamp) -> Day {
        self.calendar.day(at)
    }

    pub(super) async fn admit(&self, request: &Reservation) {
        let reservation = Some(Box::new(request.clone()));
        let request = AdmitRequest { reservation, ..AdmitRequest::default() };
        match self.store.admit(&request).await {
            Ok(AdmitResponse::Counted(verdicts)) => {
                assert!(verdicts.iter().all(|verdict| verdict.admitted));
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn settle(&self, settlement: &Settlement) -> Settled {
        self.store.settle(std::slice::from_ref(settlement)).await.unwrap()[0]
    }

    /// Runs the script that expires what is due: a report of a request that nothing remembers changes
    /// nothing.
    pub(super) async fn expire_due(&self) -> Result<(), Outage> {
        let issued = Timestamp::from_secs(now().secs() - 25 * 3600);
        let forgotten = Reservation { issued, ..request("forgotten", "acme", 1) };
        let report = settled(&forgotten, Usage::Final(1), Basis::Reported);
        let answered = self.store.settle(&[report]).await?;
        assert_eq!(answered, [Settled::Forgotten]);
        Ok(())
    }

    /// Gives everything that is pending in any chain another time, as if it had been settled then.
    pub(super) async fn shift_pending(&self, at: Timestamp) {
        for chain in 0..4 {
            let script = redis::Script::new(
                "local found = redis.call('XRANGE', KEYS[1], '-', '+') \
                 for _, entry in ipairs(found) do \
                   local fields = entry[2] \
                   for n = 1, #fields, 2 do if fields[n] == 'a' then fields[n + 1] = ARGV[1] end end \
                   redis.call('XDEL', KEYS[1], entry[1]) \
                   redis.call('XADD', KEYS[1], '*', unpack(fields)) \
                 end",
            );
            let mut client =
                redis::Client::open(self.url.as_str()).unwrap().get_connection().unwrap();
            let key = format!("{{tollgate}}:ledger:pending:{chain}");
            let _: () = script.key(key).arg(at.micros()).invoke(&mut client).unwrap();
        }
    }

    /// Takes the pending records of a process that was killed, as if it had not been seen for a minute.
    pub(super) async fn adopt_from(&mut self, chain: u32, at: Timestamp) {
        let mut client = redis::Client::open(self.url.as_str()).unwrap().get_connection().unwrap();
        // While it is free its number would be claimed: this process has another one before.
        self.writer.round(at).await.unwrap();
        let gone = "00000000000000000000000000000000 0";
        let mut set = redis::cmd("HSET");
        set.arg("{tollgate}:ledger:owners").arg(chain).arg(gone).exec(&mut client).unwrap();
        let own = self.store.chains().await.unwrap().last().unwrap().chain;
        assert_eq!(self.store.adopt_pending(chain, own).await.unwrap(), 0);
        assert_eq!(self.store.pending(chain, 1).await.unwrap(), []);
    }

    /// Makes the records of everything that is pending.
    pub(super) async fn write_all(&mut self) {
        self.write_all_at(now()).await;
    }

    pub(super) async fn write_all_at(&mut self, now: Timestamp) {
        let mut idle = 0;
        while idle < 2 {
            idle = if self.writer.round(now).await.unwrap() == Round::Idle { idle + 1 } else { 0 };
        }
    }

    /// The entries of a chain.
    pub(super) async fn entries(&self, chain: u32) -> Vec<Entry> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            let page = self.store.entries(chain, from, 500).await.unwrap();
            let Some((last, _)) = page.last() else { return all };
            let next = last.checked_add(1);
            all.extend(page.iter().filter_map(|(_, signed)| Entry::read(&signed.text)));
            let Some(next) = next else { return all };
            from = next;
        }
    }

    /// The records of all chains.
    pub(super) async fn records(&self) -> Vec<UsageRecord> {
        let mut all = Vec::new();
        for state in self.store.chains().await.unwrap() {
            let entries = self.entries(state.chain).await.into_iter();
            all.extend(entries.filter_map(|entry| match entry.content {
                Content::Usage(record) => Some(record),
                Content::Checkpoint(_) => None,
            }));
        }
        all
    }

    /// The subjects of the records, as far as they can be read.
    pub(super) async fn subjects(&self) -> Vec<Option<String>> {
        let persons = self.store.all_persons().await.unwrap();
        let records = self.records().await;
        let subject = |record: &UsageRecord| {
            let part = persons.get(record.person.as_ref()?)?;
            Person::open(record.sealed.as_ref()?, keys().first(), *part)?.subject
        };
        records.iter().map(subject).collect()
    }

    /// The value of a metric without labels.
    pub(super) fn counted(&self, name: &str) -> u64 {
        let totals = self.metrics.ledger().totals();
        let short = name.trim_start_matches("tollgate_").trim_end_matches("_total");
        totals.iter().find(|(known, ..)| *known == short).unwrap().2
    }

    /// Verifies all chains, each with the others, and the sums of the days.
    pub(super) async fn verify(&self) -> Vec<Finding> {
        let (keys, mut seen) = (keys(), SeenDecisions::default());
        let (mut findings, mut sums, mut is_whole) = (Vec::new(), DaySums::default(), true);
        for state in self.store.chains().await.unwrap() {
            let mut verifier = ChainVerifier::new(state.chain, &keys, &self.calendar);
            let mut from = 0;
            loop {
                let page = self.store.entries(state.chain, from, 500).await.unwrap();
                let Some((last, _)) = page.last() else { break };
                from = last.saturating_add(1);
                for (number, signed) in &page {
                    let entry = verifier.entry(*number, signed, &mut seen).unwrap();
                    if let Content::Usage(record) = entry.content {
                        let most = record.max_rows();
                        sums.add(record.day, &record.row(), &record.measures(), most);
                    }
                }
            }
            verifier.check_beginning();
            if let Some((number, mac)) = state.end {
                verifier.compare(number, mac, "end");
            }
            is_whole &= verifier.is_whole();
            findings.extend(verifier.finish());
        }
        findings.extend(seen.finish(is_whole));
        if findings.is_empty() && is_whole {
            let days =
                std::iter::successors(Some(self.day(now()).days_before(40)), |day| day.next());
            for day in days.take_while(|day| Some(*day) <= sums.last_day()) {
                let period = tollgate_core::ledger::rows::Period::Day(day);
                let rows = self.store.rows(period).await.unwrap();
                findings.extend(sums.compare(day, &rows));
            }
        }
        findings
    }
}
