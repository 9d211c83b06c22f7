//! The call of `admit.lua`: how the requests of checks are written, and how its reply is read.

use std::{net::IpAddr, time::Instant};

use ::redis::Cmd;
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse},
    ban::{Ban, Kind},
    credential::dpop::{ProofRefusal, ProofUse},
    limit::{Counter, Hold, Verdict, counters::MOST, reservation::Reservation},
    network::Network,
    text::hex_128,
    time::Timestamp,
};

use super::{keys::Tag, ledger_chain::UNCLAIMED, packed_list::PackedList};
use crate::store::ban::NEVER;

/// The request of one check.
pub(in crate::store) struct ScriptRequest {
    pub(in crate::store) request: AdmitRequest,
    /// For each charge, how many units may be taken for a lease; a charge without an entry takes
    /// what it costs.
    pub(in crate::store) wants: Vec<u64>,
}

impl ScriptRequest {
    /// A check that takes what it costs.
    pub(in crate::store) fn exact(request: AdmitRequest) -> Self {
        Self { request, wants: Vec::new() }
    }

    /// The number of its keys.
    pub(super) fn keys(&self) -> usize {
        let RevocationCounts { exact, before, external } = RevocationCounts::of(&self.request);
        let holds = self.reservation().map_or(0, |held| held.holds.len() + 1);
        let proof = usize::from(self.has_proof());
        exact + before + external + self.request.charges.len() + holds + proof
    }

    /// Whether a proof is used.
    fn has_proof(&self) -> bool {
        self.request.proof.is_some()
    }

    /// The reservation; `None` where nothing is held, also of one that is settled without a hold.
    fn reservation(&self) -> Option<&Reservation> {
        self.request.reservation.as_deref().filter(|reservation| !reservation.holds.is_empty())
    }

    /// Whether something is held.
    pub(super) fn holds(&self) -> bool {
        self.reservation().is_some()
    }
}

/// The response to one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct ScriptResponse {
    pub(in crate::store) response: AdmitResponse,
    /// How many units each charge took, if all were admitted.
    pub(in crate::store) taken: Vec<u64>,
    /// The moment of the call. Redis decides calls in the order of these moments.
    pub(in crate::store) called_at: Instant,
}

/// How many keys of each kind a credential can be revoked by.
struct RevocationCounts {
    exact: usize,
    before: usize,
    external: usize,
}

impl RevocationCounts {
    fn of(request: &AdmitRequest) -> Self {
        let (exact, before, external) = request.revocation.as_ref().map_or((0, 0, 0), |keys| {
            (keys.exact_entries().count(), keys.before_entries().count(), keys.foreign.len())
        });
        Self { exact, before, external }
    }
}

/// The number of keys of a call: those of its checks, the marker and the ends of bans, the kinds of
/// revocations, and the format marker; with reservations their index as well.
pub(super) fn keys<'a>(checks: impl Iterator<Item = &'a ScriptRequest> + Clone) -> usize {
    let index = usize::from(checks.clone().any(ScriptRequest::holds));
    checks.map(ScriptRequest::keys).sum::<usize>() + 4 + index
}

/// Writes the keys and the numbers of some checks, in the order that `admit.lua` describes.
pub(super) fn write<'a>(
    cmd: &mut Cmd,
    tag: &Tag,
    chain: Option<u32>,
    checks: impl ExactSizeIterator<Item = &'a ScriptRequest> + Clone,
) {
    let (mut own, mut key) = (0, Vec::new());
    let mut holds = checks.clone().any(ScriptRequest::holds).then(PackedList::default);
    let mut proofs = checks.clone().any(ScriptRequest::has_proof).then(PackedList::default);
    let mut numbers = PackedList::with_capacity(20 * checks.len());
    for check in checks.clone() {
        let ScriptRequest { request, wants } = check;
        let revocation = request.revocation.as_ref();
        let RevocationCounts { exact, before, external } = RevocationCounts::of(request);
        let entries =
            revocation.iter().flat_map(|keys| keys.exact_entries().chain(keys.before_entries()));
        for entry in entries {
            key.clear();
            entry.write(&mut key);
            cmd.arg(tag.revoked(&key));
        }
        for count in [exact, before, request.charges.len(), external] {
            numbers.push_count(count);
        }
        numbers.push(revocation.map_or(0, |keys| keys.issued_at));
        match request.address {
            Some(address) => numbers.push_text(&digits(address)),
            None => numbers.push(0),
        }
        match revocation.and_then(|keys| keys.kid()) {
            Some(kid) => numbers.push_text(&kid.digits()),
            None => numbers.push(0),
        }
        for (n, charge) in request.charges.iter().enumerate() {
            key.clear();
            charge.bucket.write_key(&charge.limit, &mut key);
            cmd.arg(tag.bucket(&key));
            let want = match wants.get(n) {
                // A charge of a limit in shadow wants nothing: it never refuses, and has no lease.
                _ if charge.is_shadow => 0,
                Some(want) => charge.cost.max(*want),
                None => charge.cost,
            };
            for number in [charge.interval, charge.burst, charge.cost, want] {
                numbers.push(number);
            }
        }
        own += exact + before + request.charges.len();
        if let Some(holds) = &mut holds {
            own += write_holds(cmd, tag, holds, check.reservation());
        }
        if let Some(proofs) = &mut proofs {
            own += write_proof(cmd, tag, proofs, request.proof.as_deref());
        }
    }
    cmd.arg(tag.ban_marker()).arg(tag.revoked_kinds());
    for keys in checks.clone().filter_map(|check| check.request.revocation.as_ref()) {
        for key in &keys.foreign {
            cmd.arg(key);
        }
    }
    if holds.is_some() {
        cmd.arg(tag.reservations());
    }
    cmd.arg(tag.ban_ends()).arg(tag.format()).arg(checks.len()).arg(own).arg(numbers);
    let facts = holds.is_some().then(|| facts(chain, checks)).flatten();
    match (holds, proofs) {
        (None, None) => {}
        (Some(holds), None) => {
            cmd.arg(holds);
            if facts.is_some() {
                cmd.arg("");
            }
        }
        (None, Some(proofs)) => {
            cmd.arg("").arg(proofs);
        }
        (Some(holds), Some(proofs)) => {
            cmd.arg(holds).arg(proofs);
        }
    }
    if let Some(facts) = facts {
        cmd.arg(facts);
    }
}

/// The facts of each check that holds, for the pending records of a chain; `None` where no ledger is
/// kept.
fn facts<'a>(
    chain: Option<u32>,
    checks: impl Iterator<Item = &'a ScriptRequest> + Clone,
) -> Option<PackedList> {
    let reservations = || checks.clone().filter_map(ScriptRequest::reservation);
    // A policy with a ledger may be in force before the first round of its writer.
    let has_facts = || reservations().any(|reservation| reservation.facts.is_some());
    let mut list = PackedList::of_chain(chain.or_else(|| has_facts().then_some(UNCLAIMED))?);
    for reservation in reservations() {
        list.push_str(&reservation.facts.as_ref().map(|facts| facts.text()).unwrap_or_default());
    }
    Some(list)
}

/// Writes the key and the numbers of a check's proof. Returns the number of keys.
fn write_proof(cmd: &mut Cmd, tag: &Tag, list: &mut PackedList, proof: Option<&ProofUse>) -> usize {
    let Some(ProofUse { id, holder, life, most }) = proof else {
        list.push(0);
        return 0;
    };
    let [first, second] = holder.halves();
    let holder = u128::from(first) << 64 | u128::from(second);
    cmd.arg(tag.proofs(&hex_128(holder.to_be_bytes())));
    for number in [1, life.micros().div_ceil(1000), u64::from(*most)] {
        list.push(number);
    }
    list.push_bytes(*id);
    1
}

/// Writes the keys and the numbers of a check's reservation. Returns the number of keys.
fn write_holds(
    cmd: &mut Cmd,
    tag: &Tag,
    list: &mut PackedList,
    reservation: Option<&Reservation>,
) -> usize {
    let Some(Reservation { id, issued, life, holds, facts, .. }) = reservation else {
        list.push(0);
        return 0;
    };
    cmd.arg(tag.reservation(&id.to_string()));
    list.push_count(holds.len());
    list.push(issued.micros());
    list.push(life.micros());
    list.push(u64::from(facts.is_some() || holds.iter().any(Hold::is_settled)));
    for hold in holds {
        cmd.arg(tag.bucket(&hold.key()));
        let shadow = if hold.is_shadow { SHADOW } else { 0 };
        push_kind(list, hold, shadow + if hold.is_cost() { COST } else { 0 });
    }
    holds.len() + 1
}

/// Writes a hold as `counters.lua` reads it: its kind, two numbers of the kind, its amount and its
/// unreported charge.
pub(super) fn push_hold(list: &mut PackedList, hold: &Hold) {
    push_kind(list, hold, 0);
}

/// Writes a hold with a number that is added to its kind.
fn push_kind(list: &mut PackedList, hold: &Hold, added: u64) {
    let (kind, first, second) = match hold.counter {
        Counter::Bucket { interval, burst } => (1, interval, burst),
        // What is held of a cost is a budget of a reservation whose unit is that of the cost.
        Counter::Budget { limit, ends } | Counter::Cost { limit, ends } => {
            (2, limit, ends.micros())
        }
        Counter::Requests { limit, ends } => (3, limit, ends.micros()),
        Counter::Slots { limit } => (4, limit, 0),
        Counter::Rate { interval, burst } => (5, interval, burst),
    };
    for number in [kind + added, first, second, hold.amount, hold.unreported] {
        list.push(number.min(MOST));
    }
}

/// What is added to the kind of a hold of a limit in shadow, and of a limit on cost.
const SHADOW: u64 = 10;
const COST: u64 = 20;

/// The 32 hex digits of an address, with IPv4 mapped to IPv6.
fn digits(address: IpAddr) -> [u8; 32] {
    hex_128(Network::host(address).first().to_be_bytes())
}

/// The reply of the script to one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CheckReply {
    /// The check was decided.
    Response(ScriptResponse),
    /// A stored value that the check needs is not a number.
    Malformed,
}

/// Reads the reply to the next check; `None` if it does not fit the request.
pub(super) fn next_reply(
    request: &AdmitRequest,
    called_at: Instant,
    reply: &mut impl Iterator<Item = i64>,
) -> Option<CheckReply> {
    let denied = match reply.next()? {
        0 => None,
        -1 => return Some(CheckReply::Malformed),
        -2 => Some(banned(request, reply.next()?, reply.next()?)?),
        -3 => Some(AdmitResponse::Proof(ProofRefusal::Used)),
        -4 => Some(AdmitResponse::Proof(ProofRefusal::TooMany)),
        place => Some(revoked(request, usize::try_from(place).ok()?.checked_sub(1)?)?),
    };
    if let Some(response) = denied {
        let taken = Vec::new();
        return Some(CheckReply::Response(ScriptResponse { response, taken, called_at }));
    }
    let count = request.charges.len();
    let (mut verdicts, mut taken) = (Vec::with_capacity(count), Vec::new());
    for charge in &request.charges {
        let units = reply.next()?;
        verdicts.push(verdict([units, reply.next()?, reply.next()?, reply.next()?])?);
        if charge.lease.is_some() {
            taken.resize(verdicts.len() - 1, 0);
            taken.push(u64::try_from(units).ok()?);
        }
    }
    for _ in request.reservation.iter().flat_map(|reservation| &reservation.holds) {
        let numbers = [reply.next()?, reply.next()?, reply.next()?, reply.next()?];
        verdicts.push(verdict(numbers)?);
    }
    let response = AdmitResponse::Counted(verdicts);
    Some(CheckReply::Response(ScriptResponse { response, taken, called_at }))
}

/// The response to a check whose credential the key at `index`, counted from 0, revokes.
fn revoked(request: &AdmitRequest, index: usize) -> Option<AdmitResponse> {
    let keys = request.revocation.as_ref()?;
    let RevocationCounts { exact, before, external } = RevocationCounts::of(request);
    let own = keys.exact_entries().chain(keys.before_entries()).map(|entry| entry.kind().label());
    let first_external = exact + before + request.charges.len();
    let is_external = (first_external..first_external + external).contains(&index);
    // Behind all keys: the kinds without a key of their own.
    let kind = match index.checked_sub(first_external + external) {
        Some(0) => Some("actor"),
        Some(1) => Some("kid"),
        Some(_) => None,
        None => { own }.nth(index).or_else(|| is_external.then_some("foreign")),
    };
    kind.map(AdmitResponse::Revoked)
}

/// The response to a check that is banned until `ends`: by its network, or by the key at `place`,
/// counted from 1; behind all keys, by its subject or client as an actor.
fn banned(request: &AdmitRequest, place: i64, ends: i64) -> Option<AdmitResponse> {
    let kind = match usize::try_from(place).ok()?.checked_sub(1) {
        None => Kind::Network,
        Some(index) => {
            let keys = request.revocation.as_ref()?;
            let entries = keys.exact_entries().chain(keys.before_entries());
            let entry = entries.chain(keys.agent_entries()).nth(index)?;
            Kind::of_entry(entry.kind())?
        }
    };
    let ends = Timestamp::from_secs(u64::try_from(ends).ok()?);
    Some(AdmitResponse::Banned(Ban { kind, until: Some(ends).filter(|ends| *ends < NEVER) }))
}

fn verdict([units, remaining, retry_after, reset]: [i64; 4]) -> Option<Verdict> {
    let admitted = u64::try_from(units).ok()? > 0;
    let retry_after = if retry_after == -1 { u64::MAX } else { u64::try_from(retry_after).ok()? };
    Some(Verdict {
        admitted,
        remaining: u64::try_from(remaining).ok()?,
        retry_after,
        reset: u64::try_from(reset).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use ::redis::Arg;
    use tollgate_core::{
        limit::{Charge, lease::LeaseTerms, reservation::ReservationId},
        revocation::Fingerprint,
        time::Span,
    };

    use super::*;

    fn request() -> AdmitRequest {
        let charge = |limit: &str, bucket: &str, lease| Charge {
            limit: limit.into(),
            bucket: bucket.into(),
            interval: 7,
            burst: 3,
            cost: 1,
            by_principal: true,
            is_shadow: false,
            lease,
            within: tollgate_core::limit::shard::CountedWithin::default(),
        };
        let terms = LeaseTerms { slice: 2, life: 9 };
        AdmitRequest {
            charges: vec![charge("l", "a", None), charge("m", "b", Some(terms))],
            ..AdmitRequest::default()
        }
    }

    #[test]
    fn a_call_has_the_order_that_the_script_reads() {
        let mut cmd = Cmd::new();
        let both = ScriptRequest { request: request(), wants: vec![1, 2] };
        let one = ScriptRequest::exact(AdmitRequest {
            address: Some([192, 0, 2, 1].into()),
            charges: request().charges[..1].to_vec(),
            ..AdmitRequest::default()
        });
        assert_eq!((both.keys(), one.keys(), keys([&both, &one].into_iter())), (2, 1, 7));
        write(&mut cmd, &Tag::home(), None, [both, one].iter());
        let words = cmd.args_iter().map(|arg| if let Arg::Simple(word) = arg { word } else { b"" });
        let words: Vec<&[u8]> = words.collect();
        // The first half of the SHA-256 of `a`, and of `b`.
        let a = "{tollgate}:rate:l:ca978112ca1bbdcafac231b39a23dc4d";
        let b = "{tollgate}:rate:m:3e23e8160039594a33894f6564e1b134";
        let bans = ["{tollgate}:bans:marker", "{tollgate}:bans:ends"];
        let kinds = "{tollgate}:revocations:kinds";
        let keys = [a, b, a, bans[0], kinds, bans[1], "{tollgate}:format", "2", "3"];
        assert_eq!(words[..9], keys.map(str::as_bytes));
        let first = [0, 0, 2, 0, 0, 0, 0, 7, 3, 1, 1, 7, 3, 1, 2];
        let address = [&[0xd9, 32], &b"00000000000000000000ffffc0000201"[..]].concat();
        let list = [&first[..], &[0, 0, 1, 0, 0], &address, &[0, 7, 3, 1, 1]].concat();
        assert_eq!(words[9..], [[&[0xdd, 0, 0, 0, 26][..], &list].concat()]);
    }

    #[test]
    fn a_reply_to_another_request_is_none() {
        let full = Verdict { admitted: false, remaining: 0, retry_after: u64::MAX, reset: 9 };
        let room = Verdict { admitted: true, remaining: 2, retry_after: 0, reset: 7 };
        let called_at = Instant::now();
        let read = |reply: &[i64]| next_reply(&request(), called_at, &mut reply.iter().copied());
        let response = ScriptResponse {
            response: AdmitResponse::Counted(vec![full, room]),
            taken: vec![0, 2],
            called_at,
        };
        assert_eq!(read(&[0, 0, 0, -1, 9, 2, 2, 0, 7]), Some(CheckReply::Response(response)));
        assert_eq!(read(&[-1]), Some(CheckReply::Malformed));
        for (code, refusal) in [(-3, ProofRefusal::Used), (-4, ProofRefusal::TooMany)] {
            let response = AdmitResponse::Proof(refusal);
            let response = ScriptResponse { response, taken: Vec::new(), called_at };
            assert_eq!(read(&[code]), Some(CheckReply::Response(response)));
        }
        for (ends, until) in [(9, Some(Timestamp::from_secs(9))), (253_402_300_800, None)] {
            let response = AdmitResponse::Banned(Ban { kind: Kind::Network, until });
            let response = ScriptResponse { response, taken: Vec::new(), called_at };
            assert_eq!(read(&[-2, 0, ends]), Some(CheckReply::Response(response)));
        }
        for bad in [
            &[][..],
            &[0],
            &[1],
            &[-5],
            &[-2],
            &[-2, 0],
            &[-2, 1, 9],
            &[-2, -1, 9],
            &[-2, 0, -1],
            &[0, 1, 2, 0, 7],
            &[0, 1, 2, 0, 7, 1, 2, 0],
            &[0, -1, 2, 0, 7, 1, 2, 0, 7],
            &[0, 1, -2, 0, 7, 1, 2, 0, 7],
            &[0, 1, 2, -2, 7, 1, 2, 0, 7],
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
    #[test]
    fn the_holds_of_a_call_are_a_list_of_their_own() {
        let hold = |counter, amount| Hold {
            limit: "l".into(),
            counter_id: "a".into(),
            counter,
            amount,
            unreported: 1,
            by_principal: true,
            is_shadow: false,
        };
        let ends = Timestamp::from_micros(8);
        let reservation = Reservation {
            id: ReservationId([0xab; 16]),
            issued: Timestamp::from_micros(5),
            life: Span::from_micros(6),
            histories: None,
            shard: None,
            route: None,
            facts: None,
            cost: None,
            holds: vec![
                hold(Counter::Budget { limit: 7, ends }, 2),
                hold(Counter::Slots { limit: 3 }, 1),
            ],
        };
        let plain = ScriptRequest::exact(AdmitRequest {
            charges: request().charges[..1].to_vec(),
            ..AdmitRequest::default()
        });
        let holding = ScriptRequest::exact(AdmitRequest {
            reservation: Some(Box::new(reservation)),
            ..AdmitRequest::default()
        });
        assert_eq!(keys([&plain, &holding].into_iter()), 1 + 3 + 5);
        let mut cmd = Cmd::new();
        write(&mut cmd, &Tag::home(), None, [plain, holding].iter());
        let words = cmd.args_iter().map(|arg| if let Arg::Simple(word) = arg { word } else { b"" });
        let words: Vec<&[u8]> = words.collect();
        let digest = "ca978112ca1bbdcafac231b39a23dc4d";
        let keys = [
            format!("{{tollgate}}:rate:l:{digest}"),
            format!("{{tollgate}}:reservation:{}", "ab".repeat(16)),
            format!("{{tollgate}}:count:l:{digest}"),
            format!("{{tollgate}}:count:l:{digest}"),
            "{tollgate}:bans:marker".to_owned(),
            "{tollgate}:revocations:kinds".to_owned(),
            "{tollgate}:reservations".to_owned(),
            "{tollgate}:bans:ends".to_owned(),
            "{tollgate}:format".to_owned(),
            "2".to_owned(),
            "4".to_owned(),
        ];
        assert_eq!(words[..11], keys.each_ref().map(String::as_bytes));
        let holds = [0, 2, 5, 6, 1, 2, 7, 8, 2, 1, 4, 3, 0, 1, 1];
        assert_eq!(words[12..], [[&[0xdd, 0, 0, 0, 15][..], &holds].concat()]);
    }

    #[test]
    fn the_proofs_of_a_call_are_a_list_of_their_own() {
        let proof = ProofUse {
            id: *b"0123456789abcdef",
            holder: Fingerprint::from_halves([1, 0xab]),
            life: Span::from_micros(5_000_001),
            most: 7,
        };
        let plain = ScriptRequest::exact(AdmitRequest {
            charges: request().charges[..1].to_vec(),
            ..AdmitRequest::default()
        });
        let proving = ScriptRequest::exact(AdmitRequest {
            proof: Some(Box::new(proof)),
            ..AdmitRequest::default()
        });
        assert_eq!(keys([&plain, &proving].into_iter()), 1 + 1 + 4);
        let mut cmd = Cmd::new();
        write(&mut cmd, &Tag::home(), None, [plain, proving].iter());
        let words = cmd.args_iter().map(|arg| if let Arg::Simple(word) = arg { word } else { b"" });
        let words: Vec<&[u8]> = words.collect();
        let proofs = "{tollgate}:proofs:000000000000000100000000000000ab";
        assert_eq!(words[1], proofs.as_bytes());
        assert_eq!(words[6..8], [b"2", b"2"]);
        assert_eq!(words[9], b"");
        let life = 5001_u64.to_be_bytes();
        let list = [&[0xdd, 0, 0, 0, 5, 0, 1, 0xcf][..], &life, &[7, 0xb0], &proof.id].concat();
        assert_eq!(words[10..], [list]);
    }

    #[test]
    fn the_verdicts_of_holds_follow_those_of_charges() {
        let slot = Hold {
            limit: "l".into(),
            counter_id: "a".into(),
            counter: Counter::Slots { limit: 3 },
            amount: 1,
            unreported: 1,
            by_principal: true,
            is_shadow: false,
        };
        let reservation = Reservation {
            id: ReservationId([0; 16]),
            issued: Timestamp::from_micros(5),
            life: Span::from_micros(6),
            holds: vec![slot],
            histories: None,
            shard: None,
            route: None,
            facts: None,
            cost: None,
        };
        let request = AdmitRequest {
            charges: request().charges[..1].to_vec(),
            reservation: Some(Box::new(reservation)),
            ..AdmitRequest::default()
        };
        let called_at = Instant::now();
        let read = |reply: &[i64]| next_reply(&request, called_at, &mut reply.iter().copied());
        let verdict = |remaining| Verdict { admitted: true, remaining, retry_after: 0, reset: 7 };
        let response = ScriptResponse {
            response: AdmitResponse::Counted(vec![verdict(2), verdict(1)]),
            taken: Vec::new(),
            called_at,
        };
        assert_eq!(read(&[0, 1, 2, 0, 7, 1, 1, 0, 7]), Some(CheckReply::Response(response)));
        assert_eq!(read(&[0, 1, 2, 0, 7]), None);
    }
}
