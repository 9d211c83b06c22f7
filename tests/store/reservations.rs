//! The scripts that hold and settle against the core's model: random histories of calls with many
//! checks and reports, at the same moments, with the same answers and the same stored counters.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use redis::{Connection, Script};
use tollgate::store::{RESERVE_BODY, SETTLE_BODY};
use tollgate_core::{
    limit::{
        Counter, Hold, Verdict,
        cost::{CostTerms, Price},
        counters::{Count, Counters, WINDOW_KEPT},
        model_tag::{ExpiredTokens, ModelTag},
        reference::{peek, try_take},
        reservation::{Reservation, ReservationId},
        settlement::{Settled, Settlement, Usage},
        usage_report::{Basis, RequestEnding, UsageCounts, UsageReport},
    },
    time::{Span, Timestamp},
};

use super::redis_server;

const HISTORIES: u64 = 200;
const STEPS: usize = 40;
const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;

/// How many reservations expire in one step.
const EXPIRED_AT_ONCE: usize = 64;

/// A body with `now` from the last argument. Arguments between `[` and `]` are a packed list.
fn script(body: &str) -> Script {
    let packing = "local plain, ARGV, list = ARGV, {}, nil
        for i = 1, #plain - 1 do
          if plain[i] == '[' then list = {}
          elseif plain[i] == ']' then ARGV[#ARGV + 1], list = cmsgpack.pack(list), nil
          elseif list then list[#list + 1] = tonumber(plain[i])
          else ARGV[#ARGV + 1] = plain[i] end
        end";
    Script::new(&format!(
        "local now = tonumber(ARGV[#ARGV])
        local steady = now
        local function body()\n{packing}\n{body}\nend
        return cmsgpack.unpack(body())"
    ))
}

/// Ages all keys by some milliseconds: those whose time has passed are removed.
fn aging() -> Script {
    Script::new(
        "for _, key in ipairs(redis.call('KEYS', '*')) do
          local left = redis.call('PTTL', key)
          if left >= 0 then
            left = left - ARGV[1]
            if left <= 0 then redis.call('DEL', key) else redis.call('PEXPIRE', key, left) end
          end
        end",
    )
}

/// The scripts of a history, and Redis.
struct Real {
    client: Connection,
    reserve: Script,
    settle: Script,
    aging: Script,
}

/// The numbers of a limit that a rate charges, beside the holds: a bucket and its TAT.
const RATE: (u64, u64) = (SECOND / 2, 5);

#[derive(Clone, Default)]
struct Model {
    counters: Counters,
    tat: Option<u64>,
}

/// All data in Redis: each key, the milliseconds that it has left (0: no end), and its value.
type Snapshot = Vec<(String, i64, Vec<u8>)>;

/// The numbers of an answer, and at its end the tokens of what has expired, by the tag of a model.
#[derive(Debug, PartialEq, Eq)]
struct Reply(Vec<i64>, BTreeMap<i64, i64>);

impl Reply {
    /// Splits the answer of a script, which has so many numbers before its end.
    fn split(mut answer: Vec<i64>, numbers: usize) -> Self {
        let pairs = answer.split_off(numbers.min(answer.len()));
        assert!(pairs.len().is_multiple_of(2), "{pairs:?}");
        let pairs = pairs.chunks(2).map(|pair| (pair[0], pair[1]));
        Self(answer, pairs.filter(|(_, tokens)| *tokens > 0).collect())
    }
}

/// A check of a history: whether it is charged to the rate, and its reservation.
type Check<'a> = (bool, Option<&'a Reservation>);

impl Model {
    /// The tokens of what has expired since a moment.
    fn expired_since(&self, before: &ExpiredTokens) -> BTreeMap<i64, i64> {
        let known: BTreeMap<ModelTag, u64> = before.sums().collect();
        let more = |(tag, tokens): (ModelTag, u64)| {
            let more = tokens - known.get(&tag).copied().unwrap_or(0);
            (more > 0).then(|| (i64::from(tag.0), i64::try_from(more).unwrap()))
        };
        self.counters.expired_tokens().sums().filter_map(more).collect()
    }

    /// The answers to the checks of one call, in the script's numbers.
    fn admit(&mut self, checks: &[Check<'_>], now: u64) -> Reply {
        let (before, tokens) = (self.counters.expired(), self.counters.expired_tokens().clone());
        let mut answer = Vec::new();
        self.counters.advance(at(now), EXPIRED_AT_ONCE);
        for (charged, reservation) in checks {
            answer.push(0);
            let (interval, burst) = RATE;
            let step = charged.then(|| try_take(self.tat, now, interval, burst, 1));
            let mut held = reservation.map(|one| self.counters.try_hold(one, at(now)));
            let admits = |one: &&Reservation| one.is_admitted(held.as_deref().unwrap_or_default());
            let admitted = step.is_none_or(|step| step.verdict.admitted)
                && reservation.as_ref().is_none_or(admits);
            if let Some(step) = step {
                let verdict = match step.verdict {
                    _ if admitted => {
                        self.tat = Some(step.tat);
                        step.verdict
                    }
                    had_room if had_room.admitted => peek(self.tat, now, interval, burst),
                    refused => refused,
                };
                answer.extend(numbers(verdict));
            }
            if let (Some(held), Some(reservation)) = (&mut held, reservation) {
                if admitted {
                    self.counters.hold(&reservation.held(held), None, at(now));
                } else {
                    self.counters.peek_admitted(reservation, held, at(now));
                }
                answer.extend(held.iter().copied().flat_map(numbers));
            }
        }
        answer.push(i64::try_from(self.counters.expired() - before).unwrap());
        Reply(answer, self.expired_since(&tokens))
    }

    fn settle(&mut self, reports: &[Settlement], now: u64) -> Reply {
        let (before, tokens) = (self.counters.expired(), self.counters.expired_tokens().clone());
        self.counters.advance(at(now), EXPIRED_AT_ONCE);
        let mut answer = vec![0, 0];
        for report in reports {
            let settled = self.counters.settle(report, at(now));
            let code = match settled {
                Settled::Renewed | Settled::Reopened(_) => 1,
                Settled::Charged(_) => 2,
                Settled::Late { .. } => 3,
                Settled::Repeated => 4,
                Settled::Forgotten => 5,
            };
            let number = |tokens: u64| i64::try_from(tokens).unwrap();
            let replaced = settled.replaced().map_or(-1, number);
            answer.extend([code, number(settled.tokens().unwrap_or(0)), replaced]);
        }
        answer[0] = i64::try_from(self.counters.expired() - before).unwrap();
        answer[1] = i64::try_from(self.counters.open()).unwrap();
        Reply(answer, self.expired_since(&tokens))
    }

    /// How many of these reservations are open and have a limit on cost.
    fn open_with_cost(&self, known: &[Reservation]) -> i64 {
        let is_open = |one: &&Reservation| {
            one.holds.iter().any(Hold::is_cost) && self.counters.is_open(one.id)
        };
        i64::try_from(known.iter().filter(is_open).count()).unwrap()
    }
}

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn numbers(verdict: Verdict) -> [i64; 4] {
    let number = |value: u64| if value == u64::MAX { -1 } else { i64::try_from(value).unwrap() };
    let Verdict { admitted, remaining, retry_after, reset } = verdict;
    [i64::from(admitted), number(remaining), number(retry_after), number(reset)]
}

fn record_key(id: ReservationId) -> String {
    format!("{{tollgate}}:reservation:{id}")
}

fn set_key(reservation: &Reservation) -> String {
    format!("{{tollgate}}:settled:{}:000", reservation.issued.secs() / 3600)
}

fn counter_key(hold: &Hold) -> String {
    format!("{{tollgate}}:{}", hold.key())
}

fn hold_numbers(hold: &Hold) -> [u64; 5] {
    let (kind, first, second) = match hold.counter {
        Counter::Bucket { interval, burst } => (1, interval, burst),
        Counter::Budget { limit, ends } | Counter::Cost { limit, ends } => {
            (2, limit, ends.micros())
        }
        Counter::Requests { limit, ends } => (3, limit, ends.micros()),
        Counter::Slots { limit } => (4, limit, 0),
        Counter::Rate { interval, burst } => (5, interval, burst),
    };
    [kind, first, second, hold.amount, hold.unreported]
}

/// The numbers of a hold in a check: the kind of a limit in shadow is larger by ten, and that of one on
/// cost by twenty.
fn checked_numbers(hold: &Hold) -> [u64; 5] {
    let [kind, rest @ ..] = hold_numbers(hold);
    let [first, second, amount, unreported] = rest;
    let more = if hold.is_shadow { 10 } else { 0 } + if hold.is_cost() { 20 } else { 0 };
    [kind + more, first, second, amount, unreported]
}

impl Real {
    fn admit(&mut self, checks: &[Check<'_>], now: u64) -> Reply {
        let holds = |one: &Option<&Reservation>| one.map_or(0, |one| one.holds.len());
        let verdicts = checks.iter().map(|(charged, one)| usize::from(*charged) + holds(one));
        let numbers = checks.len() + 4 * verdicts.sum::<usize>() + 1;
        let mut call = self.reserve.prepare_invoke();
        let mut own = 0;
        for (charged, reservation) in checks {
            if *charged {
                call.key("{tollgate}:rate");
                own += 1;
            }
            if let Some(reservation) = reservation {
                call.key(record_key(reservation.id));
                call.key(reservation.holds.iter().map(counter_key).collect::<Vec<_>>());
                own += 1 + reservation.holds.len();
            }
        }
        call.key("bans").key("kinds").key("{tollgate}:reservations").key("ends").key("format");
        call.arg(checks.len()).arg(own).arg("[");
        for (charged, _) in checks {
            call.arg(&[0, 0, u64::from(*charged), 0, 0, 0, 0]);
            if *charged {
                call.arg(&[RATE.0, RATE.1, 1, 1]);
            }
        }
        call.arg("]").arg("[");
        for (_, reservation) in checks {
            let Some(reservation) = reservation else {
                call.arg(0);
                continue;
            };
            call.arg(reservation.holds.len()).arg(reservation.issued.micros());
            call.arg(reservation.life.micros()).arg(u64::from(reservation.is_settled()));
            call.arg(reservation.holds.iter().flat_map(checked_numbers).collect::<Vec<_>>());
        }
        Reply::split(call.arg("]").arg(now).invoke(&mut self.client).unwrap(), numbers)
    }

    /// Reports of tokens, each followed by that of a cost where the request has one.
    fn settle(&mut self, reports: &[Settlement], now: u64) -> Reply {
        let mut call = self.settle.prepare_invoke();
        let parts: Vec<(&Settlement, bool)> = reports
            .iter()
            .flat_map(|one| [(one, false), (one, true)])
            .filter(|(one, is_cost)| !is_cost || one.reservation.holds.iter().any(Hold::is_cost))
            .collect();
        let holds = |reservation: &Reservation, is_cost: bool| -> Vec<Hold> {
            let holds = reservation.holds.iter().filter(|hold| hold.is_cost() == is_cost);
            holds.cloned().collect()
        };
        for (Settlement { reservation, .. }, is_cost) in &parts {
            let end = if *is_cost { "-cost" } else { "" };
            call.key(record_key(reservation.id) + end).key(set_key(reservation));
            call.key(holds(reservation, *is_cost).iter().map(counter_key).collect::<Vec<_>>());
        }
        call.key("{tollgate}:reservations").key("format").arg(parts.len()).arg("[");
        for (settlement, is_cost) in &parts {
            let Settlement { reservation, usage, .. } = settlement;
            let (usage, tokens) = match *usage {
                Usage::Running(tokens) => (1, tokens),
                Usage::Final(tokens) if settlement.is_counted() => (2, tokens),
                Usage::Final(tokens) => (5, tokens),
                Usage::Unreported(tokens) => (3, tokens),
                Usage::Released => (4, 0),
            };
            let used = if *is_cost { settlement.cost() } else { tokens };
            let ReservationId([member, ..]) = reservation.id;
            let member = u64::from(member) + if *is_cost { 1000 } else { 0 };
            let holds = holds(reservation, *is_cost);
            call.arg(holds.len()).arg(member).arg(reservation.issued.micros());
            call.arg(reservation.life.micros()).arg(usage).arg(used);
            call.arg(holds.iter().flat_map(hold_numbers).collect::<Vec<_>>());
        }
        let answer: Vec<i64> = call.arg("]").arg(now).invoke(&mut self.client).unwrap();
        let (counts, rest) = answer.split_at(2);
        let (of_parts, expired) = rest.split_at(3 * parts.len());
        let of_tokens = of_parts.chunks(3).zip(&parts).filter(|(_, (_, is_cost))| !is_cost);
        let of_tokens = of_tokens.flat_map(|(report, _)| report);
        let answer = counts.iter().chain(of_tokens).chain(expired).copied().collect();
        Reply::split(answer, 2 + 3 * reports.len())
    }

    fn count(&mut self, hold: &Hold) -> Count {
        let text: Option<String> =
            redis::cmd("GET").arg(counter_key(hold)).query(&mut self.client).unwrap();
        let Some(text) = text else { return Count::default() };
        let (spent, held) = text.split_once(' ').unwrap();
        Count { spent: spent.parse().unwrap(), held: held.parse().unwrap() }
    }

    fn age(&mut self, millis: i64) {
        let _: () = self.aging.arg(millis).invoke(&mut self.client).unwrap();
    }

    /// All data, with the time they have left.
    fn snapshot(&mut self) -> Snapshot {
        let client = &mut self.client;
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(client).unwrap();
        let entry = |key: String| {
            let left: i64 = redis::cmd("PTTL").arg(&key).query(client).unwrap();
            let data: Option<Vec<u8>> = redis::cmd("DUMP").arg(&key).query(client).unwrap();
            data.map(|data| (key, left.max(0), data))
        };
        keys.into_iter().filter_map(entry).collect()
    }

    fn restore(&mut self, snapshot: &Snapshot) {
        redis::cmd("FLUSHALL").exec(&mut self.client).unwrap();
        for (key, left, data) in snapshot {
            redis::cmd("RESTORE").arg(key).arg(left).arg(data).exec(&mut self.client).unwrap();
        }
    }
}

fn counter(random: &mut StdRng, now: u64) -> Counter {
    let ends = at(now + random.random_range(1..2 * HOUR));
    match random.random_range(0..5) {
        0 => Counter::Bucket {
            interval: random.random_range(1..2 * SECOND),
            burst: random.random_range(0..200),
        },
        1 => Counter::Budget { limit: random.random_range(0..300), ends },
        2 => Counter::Requests { limit: random.random_range(0..30), ends },
        3 => Counter::Cost { limit: random.random_range(0..300), ends },
        _ => Counter::Slots { limit: random.random_range(0..6) },
    }
}

fn reservation(random: &mut StdRng, id: u8, counters: &[Counter], now: u64) -> Reservation {
    let count = random.random_range(1..=counters.len());
    let mut places: Vec<usize> = (0..counters.len()).collect::<Vec<_>>();
    while places.len() > count {
        places.remove(random.random_range(0..places.len()));
    }
    let tokens = random.random_range(1..80);
    let hold = |place: usize| {
        let mut counter = counters[place];
        // Fixed charges are spent at admission, of the counters that other requests hold.
        if random.random_ratio(1, 5) {
            counter = match counter {
                Counter::Bucket { interval, burst } => Counter::Rate { interval, burst },
                Counter::Budget { limit, ends } | Counter::Cost { limit, ends } => {
                    Counter::Requests { limit, ends }
                }
                other => other,
            };
        }
        let is_tokens =
            !matches!(counters[place], Counter::Requests { .. } | Counter::Slots { .. });
        let amount = if is_tokens { tokens } else { 1 };
        Hold {
            limit: format!("limit{place}").into(),
            counter_id: format!("counter{place}").as_str().into(),
            counter,
            amount,
            unreported: amount / random.random_range(1..4),
            by_principal: true,
            is_shadow: random.random_ratio(1, 4),
        }
    };
    let holds = places.into_iter().map(hold).collect();
    // The clock of the process that issues it is not that of the store.
    let issued = at(now + random.random_range(0..20 * SECOND) - 10 * SECOND);
    Reservation {
        id: ReservationId([id; 16]),
        issued,
        life: Span::from_secs(30),
        holds,
        histories: None,
        shard: None,
        route: None,
        facts: None,
        cost: Some(Box::new(terms(random))),
    }
}

/// Terms that give each token a cost of up to three.
fn terms(random: &mut StdRng) -> CostTerms {
    let [input, cached_input, output] = [(); 3].map(|()| random.random_range(0..3_000_000));
    let price = Price {
        input,
        cached_input,
        output,
        request: random.random_range(0..9),
        ..Price::default()
    };
    let [tokens, unreported] = [(); 2].map(|()| random.random_range(0..80));
    CostTerms { price, tokens, most: 80, unreported, ..CostTerms::default() }
}

/// A report of a part of the tokens by kind.
fn report(random: &mut StdRng) -> Option<UsageReport> {
    let count = |random: &mut StdRng| random.random_ratio(3, 4).then(|| random.random_range(0..60));
    let counts = UsageCounts {
        input: count(random),
        output: count(random),
        cached: count(random),
        ..UsageCounts::NONE
    };
    let basis = *[Basis::Reported, Basis::Running, Basis::Estimate].choose(random)?;
    Some(UsageReport { ending: RequestEnding::Complete, basis, counts })
}

fn usage(random: &mut StdRng) -> Usage {
    let tokens = random.random_range(0..120);
    match random.random_range(0..10) {
        0..3 => Usage::Running(tokens),
        3..7 => Usage::Final(tokens),
        7..9 => Usage::Unreported(tokens),
        _ => Usage::Released,
    }
}

/// A counter as it counts: a bucket that is full again is zero.
fn live(hold: &Hold, count: Count, now: u64) -> Count {
    match hold.counter {
        Counter::Bucket { .. } | Counter::Rate { .. } if count.spent <= now => {
            Count { spent: 0, ..count }
        }
        _ if !is_kept(hold, now) => Count::default(),
        _ => count,
    }
}

/// Whether the counter is stored: a window is removed some time after its end.
fn is_kept(hold: &Hold, now: u64) -> bool {
    match hold.counter {
        Counter::Budget { ends, .. }
        | Counter::Cost { ends, .. }
        | Counter::Requests { ends, .. } => ends.micros() + WINDOW_KEPT.micros() > now,
        Counter::Bucket { .. } | Counter::Rate { .. } | Counter::Slots { .. } => true,
    }
}

/// Runs one history. It ends early if it takes so long that Redis may have removed a key in real
/// time only.
fn history(real: &mut Real, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut now = random.random_range(1_500_000_000 * SECOND..4_000_000_000 * SECOND);
    let counters: Vec<Counter> = (0..5).map(|_| counter(&mut random, now)).collect();
    let mut model = Model::default();
    redis::cmd("FLUSHALL").exec(&mut real.client).unwrap();
    let mut known: Vec<Reservation> = Vec::new();
    let mut saved: Option<(u64, Model, Snapshot)> = None;
    let first = now;
    let started = Instant::now();
    for step in 0..STEPS {
        let wait = match random.random_range(0..40) {
            0..15 => 0,
            15..25 => random.random_range(0..SECOND),
            25..32 => random.random_range(0..20 * SECOND),
            32..37 => 30 * SECOND,
            37..39 => random.random_range(0..HOUR),
            // Redis keeps an open reservation for longer, without a step that expires it.
            _ => random.random_range(0..12 * HOUR),
        };
        now += wait;
        real.age(i64::try_from(wait / 1000).unwrap());
        if random.random_ratio(1, 20) && now < first + 20 * HOUR {
            let mut answers = (real.settle(&[], now), model.settle(&[], now));
            answers.0.0[1] -= model.open_with_cost(&known);
            assert_eq!(answers.0, answers.1, "history {seed}, step {step}, now {now}");
            // A bucket that is full may be missing. In the model it is.
            for hold in known.iter().flat_map(|reservation| &reservation.holds) {
                let count = real.count(hold);
                if live(hold, count, now) == Count::default() {
                    redis::cmd("DEL").arg(counter_key(hold)).exec(&mut real.client).unwrap();
                }
            }
            if model.tat.is_some_and(|tat| tat <= now) {
                model.tat = None;
                redis::cmd("DEL").arg("{tollgate}:rate").exec(&mut real.client).unwrap();
            }
            // A clock that steps back.
            let back = random.random_range(0..10_000);
            now -= back * 1000;
            real.age(-i64::try_from(back).unwrap());
        }
        for _ in 0..random.random_range(0..3) {
            let id = u8::try_from(known.len()).unwrap();
            known.push(reservation(&mut random, id, &counters, now));
        }
        let (answer, expected) = match random.random_range(0..20) {
            0..10 => {
                let count = random.random_range(1..5);
                let check = |random: &mut StdRng| {
                    // Mostly new ones, and retries of old ones.
                    let recent = &known[known.len().saturating_sub(6)..];
                    // No check holds units of a window that ended a day ago.
                    let is_kept =
                        |one: &&Reservation| one.holds.iter().all(|hold| is_kept(hold, now));
                    let reservation = recent.choose(random).filter(is_kept);
                    (random.random_ratio(1, 4), reservation.filter(|_| random.random_ratio(9, 10)))
                };
                let checks: Vec<Check<'_>> = (0..count).map(|_| check(&mut random)).collect();
                (real.admit(&checks, now), model.admit(&checks, now))
            }
            10..18 => {
                let count = random.random_range(0..5);
                let any = |_| {
                    let reservation = known.choose(&mut random)?.clone();
                    let usage = usage(&mut random);
                    Some(Settlement { reservation, usage, report: report(&mut random) })
                };
                let reports: Vec<Settlement> = (0..count).filter_map(any).collect();
                let expected = model.settle(&reports, now);
                let mut answer = real.settle(&reports, now);
                // What is held of a cost is a reservation of its own in Redis.
                answer.0[1] -= model.open_with_cost(&known);
                (answer, expected)
            }
            18 => {
                saved = Some((now, model.clone(), real.snapshot()));
                continue;
            }
            // A failover: the writes since then are lost.
            _ => {
                if let Some((then, model_then, data)) =
                    saved.as_ref().filter(|(then, ..)| now < then + 12 * HOUR)
                {
                    model = model_then.clone();
                    real.restore(data);
                    real.age((i64::try_from(now).unwrap() - i64::try_from(*then).unwrap()) / 1000);
                }
                continue;
            }
        };
        let mut stored = HashMap::new();
        for hold in known.iter().flat_map(|reservation| &reservation.holds) {
            let counts = (real.count(hold), model.counters.count(hold));
            stored.insert(hold.limit.clone(), (hold, counts));
        }
        if started.elapsed() > Duration::from_millis(900) {
            return step;
        }
        assert_eq!(answer, expected, "history {seed}, step {step}, now {now}: {known:#?}");
        for (limit, (hold, (real, model))) in stored {
            let counts = [real, model].map(|count| live(hold, count, now));
            assert_eq!(counts[0], counts[1], "history {seed}, step {step}, now {now}: {limit}");
        }
    }
    STEPS
}

#[test]
fn the_scripts_hold_and_settle_as_the_model_does() {
    let server = redis_server::start(&[]);
    let mut real = Real {
        client: server.client(),
        reserve: script(RESERVE_BODY),
        settle: script(SETTLE_BODY),
        aging: aging(),
    };
    let steps: usize = (0..HISTORIES).map(|seed| history(&mut real, seed)).sum();
    assert!(steps > 0);
}
