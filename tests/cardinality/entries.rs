//! What an entry of each table of the store in memory takes, measured in a process of its own.

use std::{process::Command, sync::Arc};

use tollgate::store::{Memory, MemoryConfig};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Settlement, Usage},
    credential::dpop::ProofUse,
    limit::{
        Charge, Counter, Hold,
        reservation::{Reservation, ReservationId},
    },
    revocation::{Keys, Names, issuer_digest},
    time::{Span, Timestamp},
};

/// The entries of a measurement: a little more than a power of two and an eighth less, where a hash
/// table has just grown.
const ENTRIES: u64 = 60_000;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

/// What adds the entry with a number to a table.
type Add = fn(&Memory, u64);

/// The tables with the bytes of an entry in docs/operations.md, and what adds one.
const TABLES: [(&str, u64, Add); 5] = [
    ("bucket", 95, bucket),
    ("counter of a window", 200, window),
    ("open reservation, with its counter", 820, open),
    ("settled reservation", 180, settled),
    ("proof", 240, proof),
];

fn keys(number: u64) -> Arc<Keys> {
    let names = Names {
        issuer: &issuer_digest("https://a.example"),
        token: [7; 32],
        jti: None,
        subject: &(number / 10).to_string(),
        subject_is_client: false,
        client: None,
        tenant: Some(&(number % 1000).to_string()),
    };
    Arc::new(Keys::new(names, 0, Vec::new()))
}

fn admit(memory: &Memory, number: u64, request: AdmitRequest) {
    let request = AdmitRequest { revocation: Some(keys(number)), ..request };
    match memory.admit_at(&request, NOW) {
        Ok(AdmitResponse::Counted(verdicts)) => {
            assert!(verdicts.iter().all(|verdict| verdict.admitted), "{number}: {verdicts:?}");
        }
        other => panic!("{number}: {other:?}"),
    }
}

fn bucket(memory: &Memory, number: u64) {
    let charge = Charge {
        limit: "limit".into(),
        bucket: number.to_string().as_str().into(),
        interval: 1_000_000,
        burst: 5,
        cost: 1,
        by_principal: true,
        is_shadow: false,
        lease: None,
        within: tollgate_core::limit::shard::CountedWithin::default(),
    };
    admit(memory, number, AdmitRequest { charges: vec![charge], ..AdmitRequest::default() });
}

fn reservation(number: u64, counter_id: &str, counter: Counter) -> Reservation {
    let hold = Hold {
        limit: "limit".into(),
        counter_id: counter_id.into(),
        counter,
        amount: 1,
        unreported: 1,
        by_principal: true,
        is_shadow: false,
    };
    Reservation {
        id: ReservationId(u128::from(number).to_be_bytes()),
        issued: Timestamp::from_micros(NOW.micros() + number),
        life: Span::from_secs(600),
        holds: vec![hold],
        histories: None,
        shard: None,
        route: None,
        facts: None,
        cost: None,
    }
}

fn hold(memory: &Memory, number: u64, reservation: Reservation) {
    let reservation = Some(Box::new(reservation));
    admit(memory, number, AdmitRequest { reservation, ..AdmitRequest::default() });
}

const ENDS: Timestamp = Timestamp::from_secs(1_800_086_400);

fn window(memory: &Memory, number: u64) {
    let counter = Counter::Requests { limit: 5, ends: ENDS };
    hold(memory, number, reservation(number, &number.to_string(), counter));
}

fn open(memory: &Memory, number: u64) {
    let counter = Counter::Budget { limit: 5, ends: ENDS };
    hold(memory, number, reservation(number, &number.to_string(), counter));
}

fn settled(memory: &Memory, number: u64) {
    let counter = Counter::Budget { limit: 1_000_000_000, ends: ENDS };
    let reservation = reservation(number, &(number % 100).to_string(), counter);
    hold(memory, number, reservation.clone());
    memory.settle_at(&[Settlement { reservation, usage: Usage::Final(1), report: None }], NOW);
}

fn proof(memory: &Memory, number: u64) {
    let proof = ProofUse {
        id: u128::from(number).to_be_bytes(),
        holder: keys(number).subject().fingerprint(),
        life: Span::from_secs(60),
        most: 100,
    };
    let proof = Some(Box::new(proof));
    admit(memory, number, AdmitRequest { proof, ..AdmitRequest::default() });
}

/// The memory of this process without the pages of its program, which the kernel maps as it likes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// The process that is measured. Without the variable it does nothing.
#[test]
#[ignore = "run by entries_take_no_more_than_the_page_says"]
fn measured() {
    let Ok(table) = std::env::var("TOLLGATE_MEASURED_TABLE") else { return };
    let (_, _, add) = TABLES[table.parse::<usize>().unwrap()];
    let config = MemoryConfig { max_buckets: ENTRIES * 10, single_replica: true };
    let memory = Memory::new(&config);
    add(&memory, 0);
    let before = resident();
    (1..ENTRIES).for_each(|number| add(&memory, number));
    println!("bytes: {}", resident().saturating_sub(before) / ENTRIES);
}

#[test]
fn entries_take_no_more_than_the_page_says() {
    for (index, (name, most, _)) in TABLES.into_iter().enumerate() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cardinality::entries::measured", "--ignored", "--nocapture"])
            .env("TOLLGATE_MEASURED_TABLE", index.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let bytes = text.lines().find_map(|line| line.rsplit_once("bytes: "));
        let (_, bytes) = bytes.unwrap_or_else(|| panic!("{name}: {text}"));
        println!("{name}: {bytes} bytes");
        assert!(bytes.parse::<u64>().unwrap() <= most, "{name}: {bytes} of {most} bytes");
    }
}
