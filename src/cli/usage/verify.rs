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
    calendar::Month,
    entry::{Anchor, Content, Entry, SignedEntry},
    keys::{LedgerKeys, Mac},
    person::{Person, PersonKey},
    rows::Measures,
    verify::{ChainVerifier, Finding, SeenDecisions},
};

use super::{
    closed_month::{ClosedMonth, Differing},
    export_lines,
    place::{PAGE, Place},
    records::{COMPARED, Records, sums_of, total_of},
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
pub(super) struct Verified {
    pub(super) findings: Vec<Finding>,
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
        let keys = place.keys()?;
        let mut verified = verify(&place, &keys, &self.export).await?;
        let mut records = Records::of_exports(&place, &keys, &self.export)?;
        verified.findings.extend(records.compare_days(place.calendar.day(now())).await?);
        verified.findings.sort();
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
}

/// Verifies the entries in Redis and in exports, and the closed months, without the sums of days.
///
/// # Errors
/// Redis does not answer, or a file cannot be read.
pub(super) async fn verify(
    place: &Place,
    keys: &LedgerKeys,
    files: &[PathBuf],
) -> anyhow::Result<Verified> {
    let persons = place.redis.all_persons().await.map_err(|outage| place.unavailable(outage))?;
    let mut exports = Exports::read(files, place, keys, &persons)?;
    let chains = place.redis.chains().await.map_err(|outage| place.unavailable(outage))?;
    let mut all = Chains {
        place,
        keys,
        seen: SeenDecisions::default(),
        chains: BTreeMap::new(),
        findings: Vec::new(),
    };
    for state in &chains {
        all.of(state.chain);
    }
    all.read().await?;
    let anchors = all.anchors();
    // A chain may have been written since, and a later checkpoint of another one may name its end.
    all.read().await?;
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
    if !files.is_empty() {
        exports.compare_ends(&chains, keys);
    }
    for (chain, number, mac) in std::mem::take(&mut exports.entries) {
        all.of(chain).compare(number, mac, "export");
    }
    let mut findings = std::mem::take(&mut all.findings);
    let months = ClosedMonths::read(place, keys, &mut findings).await?;
    let (count, mut records) = (all.chains.len(), 0);
    let is_whole = all.chains.values().all(ChainVerifier::is_whole);
    for (_, mut verifier) in all.chains {
        verifier.check_beginning();
        verifier.check_months(&months.signed);
        records += verifier.records();
        findings.extend(verifier.finish());
    }
    findings.extend(all.seen.finish(is_whole));
    let exported = exports.records();
    findings.extend(exports.finish(&months.signed));
    findings.sort();
    findings.dedup();
    let unverified_months = months.unverified;
    Ok(Verified { findings, records, exported, chains: count, unverified_months })
}

/// The chains of a store while they are verified.
struct Chains<'a> {
    place: &'a Place,
    keys: &'a LedgerKeys,
    seen: SeenDecisions,
    chains: BTreeMap<u32, ChainVerifier<'a>>,
    /// What is wrong beside the entries.
    findings: Vec<Finding>,
}

impl<'a> Chains<'a> {
    /// The verifier of a chain.
    fn of(&mut self, chain: u32) -> &mut ChainVerifier<'a> {
        let (keys, calendar) = (self.keys, &self.place.calendar);
        self.chains.entry(chain).or_insert_with(|| ChainVerifier::new(chain, keys, calendar))
    }

    /// Reads the entries that every chain has behind those that were read.
    async fn read(&mut self) -> anyhow::Result<()> {
        let place = self.place;
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
                    verifier.entry(*number, signed, &mut self.seen);
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
}

/// The months that are closed.
struct ClosedMonths {
    /// Those whose sums a key has signed, with the MAC of each.
    signed: BTreeMap<Month, Mac>,
    /// Those that were closed although their sums are not those of their records.
    unverified: Vec<Month>,
}

impl ClosedMonths {
    /// Reads the closed months, and compares their sums with what was signed when they were closed.
    async fn read(
        place: &Place,
        keys: &LedgerKeys,
        findings: &mut Vec<Finding>,
    ) -> anyhow::Result<Self> {
        let months = place.redis.closed_months().await.map_err(|it| place.unavailable(it))?;
        let marked = place.redis.closed_month().await.map_err(|it| place.unavailable(it))?;
        let mut read = Self { signed: BTreeMap::new(), unverified: Vec::new() };
        let mut before = Vec::new();
        let first_kept = place.calendar.day(now()).days_before(COMPARED.0);
        for (month, text) in months {
            let closed = serde_json::from_str::<ClosedMonth>(&text).ok();
            let closed = closed.filter(|closed| closed.month == month);
            let closed = closed.and_then(|closed| Some((closed.mac(keys)?, closed)));
            let rows = sums_of(place, month).await?;
            let differing = match &closed {
                Some((_, closed)) if month.first_day() > first_kept => closed.compare(&rows),
                Some(_) => None,
                None => Some(Differing::Total),
            };
            let of_sums = total_of(&rows);
            match differing {
                Some(Differing::Total) => {
                    let signed = closed.as_ref().map(|(_, closed)| closed.sums);
                    findings.push(Finding::Month { month, signed, of_sums });
                }
                Some(Differing::Rows) => findings.push(Finding::MonthRows { month }),
                None => {}
            }
            let Some((mac, closed)) = closed else { continue };
            read.signed.insert(month, mac);
            before.push((month, closed.previous));
            if closed.unverified {
                read.unverified.push(month);
            }
        }
        let first_signed = read.signed.keys().next().copied();
        for (month, stated) in before {
            let Some(previous) = month.previous() else { continue };
            let known = read.signed.get(&previous).copied();
            // A version that stated none has closed its months in their order, too.
            let is_known = known.is_some() || Some(month) == first_signed;
            if stated.map_or(!is_known, |stated| known != Some(stated)) {
                findings.push(Finding::MonthBefore { month: previous });
            }
        }
        // Who can write to Redis makes the ledger book its records in another month.
        let last_signed = read.signed.keys().next_back().copied();
        if marked != last_signed {
            findings.push(Finding::Closed { month: marked, signed: last_signed });
        }
        Ok(read)
    }
}

/// The lines of exports.
struct Exports<'a> {
    findings: Vec<Finding>,
    entries: Vec<(u32, u64, Mac)>,
    seen: SeenDecisions,
    chains: BTreeMap<u32, ChainVerifier<'a>>,
}

impl<'a> Exports<'a> {
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
        place: &'a Place,
        keys: &'a LedgerKeys,
        persons: &HashMap<String, PersonKey>,
    ) -> anyhow::Result<Self> {
        let (findings, entries) = (Vec::new(), Vec::new());
        let (seen, chains) = (SeenDecisions::default(), BTreeMap::new());
        let mut exports = Self { findings, entries, seen, chains };
        for path in files {
            let shown = path.display();
            export_lines::for_each(path, |line, text| {
                let signed = std::str::from_utf8(text).ok().and_then(SignedEntry::of_line);
                let entry = signed.and_then(|it| Some((Entry::read(&it.0.text)?, it)));
                let Some((entry, (signed, who))) = entry else {
                    exports.findings.push(Finding::Line { file: shown.to_string(), line });
                    return Ok(());
                };
                let new = || ChainVerifier::new(entry.chain, keys, &place.calendar);
                let verifier = exports.chains.entry(entry.chain).or_insert_with(new);
                verifier.entry(entry.number, &signed, &mut exports.seen);
                exports.entries.push((entry.chain, entry.number, signed.mac));
                exports.findings.extend(person(&entry, who.as_ref(), keys, persons));
                Ok(())
            })?;
        }
        Ok(exports)
    }

    /// The number of records.
    fn records(&self) -> u64 {
        self.chains.values().map(ChainVerifier::records).sum()
    }

    /// Ends the verification: what was found.
    fn finish(self, signed: &BTreeMap<Month, Mac>) -> Vec<Finding> {
        let Self { mut findings, seen, chains, .. } = self;
        let is_whole = chains.values().all(ChainVerifier::is_whole);
        for (chain, mut verifier) in chains {
            verifier.check_months(signed);
            let first = verifier.first();
            if first > 1 {
                findings.push(Finding::ExportBegins { chain, first });
            }
            findings.extend(verifier.finish());
        }
        findings.extend(seen.finish(is_whole));
        findings
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
pub(super) fn worded(finding: &Finding) -> String {
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
        Finding::Corrects { chain, number, decision } => write!(
            text,
            "chain {chain}, entry {number}: it corrects a record of the request {decision} that is not there, is of \
             another tenant, model or route, or was corrected before"
        ),
        Finding::Booked { chain, number, day } => write!(
            text,
            "chain {chain}, entry {number}: it is booked on {day}, which is not its day, and no closed month \
             requires it"
        ),
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
        Finding::ClosedAgain { month } => write!(
            text,
            "{month}: a checkpoint names another close of this month, which was opened and closed again since"
        ),
        Finding::Day { day, row, of_records, of_sums } => {
            let row = row.as_ref().map(|row| format!(", {}", row.text())).unwrap_or_default();
            let differing = differing(("the sums", of_sums), ("the records", of_records));
            write!(text, "{day}{row}: {differing}")
        }
        Finding::Month { month, signed: Some(signed), of_sums } => {
            let closed = ("what was signed when it was closed", signed);
            write!(text, "{month}: {}", differing(("the sums of its days", of_sums), closed))
        }
        Finding::Month { month, signed: None, .. } => write!(
            text,
            "{month}: what is stored of its close was changed, or is signed with none of `ledger.keys`"
        ),
        Finding::MonthRows { month } => write!(
            text,
            "{month}: the sums of some tenants, models or routes are others than when it was closed; the total \
             is the same"
        ),
        Finding::MonthBefore { month } => write!(
            text,
            "{month}: it was closed before the month after it, and what is stored of its close is gone, or another \
             one"
        ),
        Finding::ExportBegins { chain, first } => write!(
            text,
            "chain {chain}: the exports begin with entry {first}; name the files with the entries before it"
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
            "chain {chain}, entry {number}: an export still has a person who was erased: remove `who`, unless \
             Redis has lost the keys of persons"
        ),
    };
    text
}
