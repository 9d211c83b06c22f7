//! `tollgate usage verify`: verifies the ledger, and exports of it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    io::Write,
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use serde_json::json;
use tollgate_core::ledger::{
    calendar::{Day, Month},
    entry::{Anchor, Content, Entry, SignedEntry},
    keys::{LedgerKeys, Mac},
    person::{Person, PersonKey},
    rows::{Measures, Period, RowKey},
    verify::{ChainVerifier, DaySums, Finding, SeenDecisions},
};

use super::{
    close::total_of,
    closed_month::ClosedMonth,
    export_lines,
    place::{PAGE, Place},
};
use crate::{
    cli::{Output, config_file::ConfigFile, printable},
    observe::now,
    store::ChainState,
};

const MORE: &str = "\
Examples:
  # every chain in Redis, and the files that were exported from it
  tollgate usage verify tollgate.yaml --export october.jsonl --export november.jsonl

Exit codes:
  0  nothing was found
  1  something was changed, is missing or is repeated: it is printed
  2  the ledger or a file cannot be read, or wrong usage";

/// Verify that nothing of the ledger was changed, removed or repeated.
///
/// It reads every entry: its MAC, its number, the entry before it, and the sums of checkpoints, of days
/// and of closed months. With --export the lines of files are verified too, and compared with Redis. What
/// a failover lost is a gap: entries that are missing, or that an export has and Redis has not.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// A file that was exported. Name all of them, in the order in which they were written.
    #[arg(long, value_name = "FILE")]
    export: Vec<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What was verified.
struct Verified {
    findings: Vec<Finding>,
    records: u64,
    exported: u64,
    chains: usize,
    /// The months that were closed although their sums are not those of their records.
    unverified_months: Vec<Month>,
}

impl VerifyArgs {
    pub(super) async fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let place = Place::open(self.config.path())?;
        place.check_time_zone().await?;
        let verified = self.verify(&place).await?;
        let Verified { findings, records, exported, chains, unverified_months } = &verified;
        match self.output {
            Output::Json => {
                let json = json!({
                    "valid": findings.is_empty(), "chains": chains, "records": records,
                    "exported_records": exported, "findings": findings,
                    "unverified_months": unverified_months,
                });
                writeln!(out, "{}", printable::json(&json)?)?;
            }
            Output::Text => {
                for finding in findings {
                    writeln!(out, "{}", printable::printable(&worded(finding)))?;
                }
                for month in unverified_months {
                    writeln!(
                        out,
                        "{month} was closed unverified: its sums may not be those of its records"
                    )?;
                }
                let found = match findings.len() {
                    0 => "nothing was found".to_owned(),
                    1 => "1 finding".to_owned(),
                    count => format!("{count} findings"),
                };
                writeln!(out, "{records} records in {chains} chains: {found}")?;
            }
        }
        Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn verify(&self, place: &Place) -> anyhow::Result<Verified> {
        let keys = place.keys()?;
        let persons =
            place.redis.all_persons().await.map_err(|outage| place.unavailable(outage))?;
        let mut exports = Exports::read(&self.export, &keys, &persons)?;
        let chains = place.redis.chains().await.map_err(|outage| place.unavailable(outage))?;
        let mut all = Chains {
            keys: &keys,
            seen: SeenDecisions::default(),
            chains: BTreeMap::new(),
            findings: Vec::new(),
        };
        for state in &chains {
            all.of(state.chain);
        }
        all.read(place).await?;
        let anchors = all.anchors();
        // A chain may have been written since, and a later checkpoint of another one may name its end.
        all.read(place).await?;
        let ends = chains.iter().filter_map(|state| Some((state.chain, state.end?)));
        for (chain, (number, mac)) in ends {
            all.of(chain).compare(number, mac, "end");
        }
        for Anchor { chain, number, mac } in anchors {
            all.of(chain).compare(number, mac, "checkpoint");
        }
        for state in &chains {
            all.compare_mark(state);
        }
        if !self.export.is_empty() {
            exports.compare_ends(&chains, &keys);
        }
        for (chain, number, mac) in std::mem::take(&mut exports.entries) {
            all.of(chain).compare(number, mac, "export");
        }
        let mut findings = exports.findings;
        findings.append(&mut all.findings);
        all.compare_days(place, &mut findings).await?;
        let unverified_months = closed_months(place, &keys, &mut findings).await?;
        let (chains, mut records) = (all.chains.len(), 0);
        for mut verifier in all.chains.into_values() {
            verifier.check_beginning();
            records += verifier.records();
            findings.extend(verifier.finish().0);
        }
        findings.sort();
        findings.dedup();
        Ok(Verified { findings, records, exported: exports.records, chains, unverified_months })
    }
}

/// The chains of a store while they are verified.
struct Chains<'a> {
    keys: &'a LedgerKeys,
    seen: SeenDecisions,
    chains: BTreeMap<u32, ChainVerifier<'a>>,
    /// What is wrong beside the entries.
    findings: Vec<Finding>,
}

/// How often the sums of a day are read that change meanwhile.
const ATTEMPTS: usize = 5;

impl<'a> Chains<'a> {
    /// The verifier of a chain.
    fn of(&mut self, chain: u32) -> &mut ChainVerifier<'a> {
        self.chains.entry(chain).or_insert_with(|| ChainVerifier::new(chain, self.keys))
    }

    /// Reads the entries that every chain has behind those that were read.
    async fn read(&mut self, place: &Place) -> anyhow::Result<()> {
        for (chain, verifier) in &mut self.chains {
            let Some(mut from) = verifier.last().map_or(Some(0), |last| last.checked_add(1)) else {
                continue;
            };
            loop {
                let page = place.redis.entries(*chain, from, PAGE).await;
                let page = page.map_err(|outage| place.unavailable(outage))?;
                let Some((last, _)) = page.last() else { break };
                let next = last.checked_add(1);
                for (number, signed) in &page {
                    let entry = verifier.entry(*number, signed, &mut self.seen);
                    let is_first = verifier.first() == *number && *number > 1;
                    if let Some(entry) = entry.filter(|_| is_first) {
                        // Records are booked later than on their day where their month was closed.
                        let booked = match entry.content {
                            Content::Checkpoint(checkpoint) => checkpoint.booked_until,
                            Content::Usage(_) => None,
                        };
                        let day = place.calendar.day(entry.time.0);
                        verifier.set_removed_until(booked.map_or(day, |booked| booked.max(day)));
                    }
                }
                let Some(next) = next else { break };
                from = next;
            }
        }
        Ok(())
    }

    /// Compares the mark of what was exported of a chain with its entries.
    fn compare_mark(&mut self, state: &ChainState) {
        let keys = self.keys;
        match state.export_mark(keys) {
            Some(mark) => self.of(state.chain).compare(mark.number, mark.mac, "mark"),
            None if state.exported.is_some() => {
                self.findings.push(Finding::Mark { chain: state.chain });
            }
            None => {}
        }
    }

    fn anchors(&self) -> Vec<Anchor> {
        self.chains.values().flat_map(|verifier| verifier.anchors().to_vec()).collect()
    }

    /// The sums of the days of all chains.
    fn days(&self) -> DaySums {
        let mut days = DaySums::default();
        self.chains.values().for_each(|verifier| days.add(verifier.days()));
        days
    }

    /// Compares the sums of the days with those that the store has.
    async fn compare_days(
        &mut self,
        place: &Place,
        findings: &mut Vec<Finding>,
    ) -> anyhow::Result<()> {
        let today = place.calendar.day(now());
        for (day, sums) in self.days().whole_days(today) {
            let mut before = rows(place, day).await?;
            if DaySums::compare(day, &sums, &before).is_none() {
                continue;
            }
            // Records may be made meanwhile: the sums are those of the chains between two equal reads.
            for _ in 0..ATTEMPTS {
                self.read(place).await?;
                let after = rows(place, day).await?;
                if after == before {
                    let days = self.days().whole_days(today).into_iter();
                    let sums = days.rev().find(|(of, _)| *of == day);
                    let sums = sums.map(|(_, sums)| sums).unwrap_or_default();
                    findings.extend(DaySums::compare(day, &sums, &after));
                    break;
                }
                before = after;
            }
        }
        Ok(())
    }
}

async fn rows(place: &Place, day: Day) -> anyhow::Result<HashMap<RowKey, Measures>> {
    let rows = place.redis.rows(Period::Day(day)).await;
    rows.map_err(|outage| place.unavailable(outage))
}

/// Compares the sums of closed months with what was signed when they were closed. Returns those that were
/// closed unverified.
async fn closed_months(
    place: &Place,
    keys: &LedgerKeys,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Vec<Month>> {
    let months = place.redis.closed_months().await.map_err(|outage| place.unavailable(outage))?;
    let marked = place.redis.closed_month().await.map_err(|outage| place.unavailable(outage))?;
    let (mut last_signed, mut unverified) = (None, Vec::new());
    for (month, text) in months {
        let closed = serde_json::from_str::<ClosedMonth>(&text).ok();
        let closed = closed.filter(|closed| closed.month == month && closed.is_signed(keys));
        last_signed = last_signed.max(closed.as_ref().map(|closed| closed.month));
        let total = total_of(place, month).await?;
        if closed.as_ref().is_some_and(|closed| closed.unverified) {
            unverified.push(month);
        }
        let signed = closed.map(|closed| closed.sums);
        // The sums of days are kept for 800 days.
        if signed != Some(total) && total != Measures::default() || signed.is_none() {
            findings.push(Finding::Month { month, signed, of_sums: total });
        }
    }
    // Who can write to Redis makes the ledger book its records in another month.
    if marked != last_signed {
        findings.push(Finding::Closed { month: marked, signed: last_signed });
    }
    Ok(unverified)
}

/// The lines of exports.
#[derive(Default)]
struct Exports {
    findings: Vec<Finding>,
    entries: Vec<(u32, u64, Mac)>,
    records: u64,
}

impl Exports {
    /// Compares the ends of the exports with what was marked as exported.
    fn compare_ends(&mut self, chains: &[ChainState], keys: &LedgerKeys) {
        for state in chains {
            let (chain, mark) = (state.chain, state.export_mark(keys));
            let numbers = self.entries.iter().filter(|(of, ..)| *of == chain);
            let last = numbers.map(|(_, number, _)| *number).max().unwrap_or_default();
            let expected = mark.map_or(0, |mark| mark.number);
            if last < expected {
                self.findings.push(Finding::ExportEnds { chain, last, expected });
            }
        }
    }

    fn read(
        files: &[PathBuf],
        keys: &LedgerKeys,
        persons: &HashMap<String, PersonKey>,
    ) -> anyhow::Result<Self> {
        let mut exports = Self::default();
        let mut seen = SeenDecisions::default();
        let mut verifiers = BTreeMap::<u32, ChainVerifier<'_>>::new();
        for path in files {
            let shown = path.display();
            export_lines::for_each(path, |line, text| {
                let signed = std::str::from_utf8(text).ok().and_then(SignedEntry::of_line);
                let entry = signed.and_then(|it| Some((Entry::read(&it.0.text)?, it)));
                let Some((entry, (signed, who))) = entry else {
                    exports.findings.push(Finding::Line { file: shown.to_string(), line });
                    return Ok(());
                };
                let verifier = verifiers
                    .entry(entry.chain)
                    .or_insert_with(|| ChainVerifier::new(entry.chain, keys));
                verifier.entry(entry.number, &signed, &mut seen);
                exports.entries.push((entry.chain, entry.number, signed.mac));
                exports.findings.extend(person(&entry, who.as_ref(), keys, persons));
                Ok(())
            })?;
        }
        for verifier in verifiers.into_values() {
            exports.records += verifier.records();
            exports.findings.extend(verifier.finish().0);
        }
        Ok(exports)
    }
}

/// Compares the person of a line with the box of its record.
fn person(
    entry: &Entry,
    who: Option<&Person>,
    keys: &LedgerKeys,
    persons: &HashMap<String, PersonKey>,
) -> Option<Finding> {
    let (chain, number, who) = (entry.chain, entry.number, who?);
    let Content::Usage(record) = &entry.content else {
        return Some(Finding::Person { chain, number });
    };
    let (Some(name), Some(sealed)) = (&record.person, &record.sealed) else {
        return Some(Finding::Person { chain, number });
    };
    let Some(part) = persons.get(name) else { return Some(Finding::NotErased { chain, number }) };
    // The box is signed. One that this key does not open is of a person who was erased, and is known
    // again since.
    match keys.get(&entry.key).and_then(|key| Person::open(sealed, key, *part)) {
        None => Some(Finding::NotErased { chain, number }),
        Some(known) if known != *who => Some(Finding::Person { chain, number }),
        Some(_) => None,
    }
}

/// Words what differs between two sums.
pub(super) fn differing(
    (one, sums): (&str, &Measures),
    (other, expected): (&str, &Measures),
) -> String {
    let differences = sums.differences(expected);
    let listed = |of: fn(&(&'static str, i64, i64)) -> i64| {
        let values =
            differences.iter().map(|difference| format!("{} {}", difference.0, of(difference)));
        values.collect::<Vec<_>>().join(", ")
    };
    format!("{one} have {}, and {other}: {}", listed(|it| it.1), listed(|it| it.2))
}

/// A finding in words.
fn worded(finding: &Finding) -> String {
    let mut text = String::new();
    let _written = match finding {
        Finding::Changed { chain, number } => {
            write!(text, "chain {chain}, entry {number}: it was changed, its MAC does not fit")
        }
        Finding::Unreadable { chain, number } => {
            write!(text, "chain {chain}, entry {number}: it cannot be read")
        }
        Finding::UnknownKey { chain, number, key } => write!(
            text,
            "chain {chain}, entry {number}: the key `{key}` is not in `ledger.keys`; add it"
        ),
        Finding::Misplaced { chain, number, of_chain, of_number } => write!(
            text,
            "chain {chain}, entry {number}: it is entry {of_number} of chain {of_chain}, which was \
             moved or repeated"
        ),
        Finding::Missing { chain, first, last } => write!(
            text,
            "chain {chain}, entries {first} to {last}: they are missing, removed or lost by a failover"
        ),
        Finding::Unlinked { chain, number } => write!(
            text,
            "chain {chain}, entry {number}: the entry before it is another one than it was written \
             after"
        ),
        Finding::Repeated { chain, number, decision } => {
            write!(text, "chain {chain}, entry {number}: the request {decision} has another record")
        }
        Finding::Removed { chain, first, last } => write!(
            text,
            "chain {chain}, entries {first} to {last}: they were removed, and no checkpoint states it"
        ),
        Finding::Truncated { chain, last, expected } => write!(
            text,
            "chain {chain}: it ends with entry {last}, and entry {expected} was written"
        ),
        Finding::Sums { chain, number } => write!(
            text,
            "chain {chain}, entry {number}: the sums of the checkpoint are not those of its records"
        ),
        Finding::Differs { chain, number, from } => {
            write!(text, "chain {chain}, entry {number}: it is another one than that of the {from}")
        }
        Finding::Mark { chain } => write!(
            text,
            "chain {chain}: the mark of what was exported was not made by an export; what it covers is not \
             removed, and the next export replaces it"
        ),
        Finding::Closed { month, signed } => {
            let name =
                |month: &Option<Month>| month.map_or("none".to_owned(), |month| month.to_string());
            write!(
                text,
                "the last month that is marked as closed is {}, and the last one that was signed {}; run \
                 `usage close` again if it was interrupted",
                name(month),
                name(signed)
            )
        }
        Finding::Line { file, line } => write!(text, "{file}:{line}: it is no entry of a ledger"),
        Finding::NotExported { chain, records } => write!(
            text,
            "chain {chain}: {records} records were removed before they were exported \
             (`ledger.max_records`); their sums are in its checkpoints"
        ),
        Finding::Day { day, of_records, of_sums } => {
            write!(text, "{day}: {}", differing(("the sums", of_sums), ("the records", of_records)))
        }
        Finding::Month { month, signed: Some(signed), of_sums } => {
            let closed = ("what was signed when it was closed", signed);
            write!(text, "{month}: {}", differing(("the sums of its days", of_sums), closed))
        }
        Finding::Month { month, signed: None, .. } => write!(
            text,
            "{month}: what is stored of its close was changed, or is signed with none of `ledger.keys`"
        ),
        Finding::ExportEnds { chain, last, expected } => write!(
            text,
            "chain {chain}: the exports end with entry {last}, and entry {expected} was exported"
        ),
        Finding::Person { chain, number } => write!(
            text,
            "chain {chain}, entry {number}: an export states another person than the record has"
        ),
        Finding::NotErased { chain, number } => write!(
            text,
            "chain {chain}, entry {number}: an export still has a person who was erased; remove `who`"
        ),
    };
    text
}
