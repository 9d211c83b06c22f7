//! Reading the ledger: chains, their ends, pending records, and sums.

use std::collections::{BTreeMap, HashMap};

use ::redis::{Cmd, FromRedisValue, RedisError, RedisResult, make_extension_error, pipe};
use tollgate_core::{
    admission::Outage,
    ledger::{
        calendar::Month,
        entry::{ClosedMark, Content, Entry, SignedEntry},
        export_mark::ExportMark,
        keys::{LedgerKeys, Mac},
        person::PersonKey,
        rows::{Measures, Period, RowKey},
        writer::{CHECKPOINT_EVERY, PendingRecord},
    },
    limit::{request_facts::RequestFacts, usage_report::UsageReport},
    time::Timestamp,
};

use crate::store::redis::{
    Redis,
    keys::{
        FORMAT_KEY, LEDGER_CLOSED, LEDGER_ENDS, LEDGER_EXPORTED, LEDGER_MONTHS, LEDGER_OWNERS,
        LEDGER_PERSONS, LEDGER_TIME_ZONE, Ledger, check_format,
    },
    ledger_chain::UNCLAIMED,
};

/// The fields of a hash that are read at once.
const FIELDS: usize = 500;

/// The entries that are read at once where the end of a chain is looked for.
const PAGE: u64 = 250;

/// An entry of a stream: its id, and its fields with their values.
type StreamEntry = (String, Vec<(String, Vec<u8>)>);

/// A pending record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingEntry {
    /// The id in the list.
    pub id: String,
    /// The record; `None` if it cannot be read.
    pub record: Option<PendingRecord>,
}

/// What Redis knows of a chain, without its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainState {
    /// The number of the chain.
    pub chain: u32,
    /// The process that has it.
    pub owner: String,
    /// When the process was last seen, by the clock of Redis.
    pub seen: Timestamp,
    /// The number and the MAC of the last entry, as noted beside the chain.
    pub end: Option<(u64, Mac)>,
    /// The mark of what was exported, as it is stored: see [`ChainState::export_mark`].
    pub exported: Option<String>,
    /// The number of its entries.
    pub entries: u64,
    /// The number of its pending records.
    pub pending: u64,
}

impl ChainState {
    /// The mark of what was exported; `None` without one that an export has signed.
    pub fn export_mark(&self, keys: &LedgerKeys) -> Option<ExportMark> {
        let mark = ExportMark::read(self.exported.as_deref()?)?;
        mark.is_signed(self.chain, keys).then_some(mark)
    }

    /// The stored mark, if no export has signed it.
    pub fn unsigned_mark(&self, keys: &LedgerKeys) -> Option<&str> {
        self.exported.as_deref().filter(|_| self.export_mark(keys).is_none())
    }
}

impl Redis {
    /// Returns the number up to which a chain was exported: that of its mark, if an export has signed it
    /// and the chain still has the entry that was exported, or has removed it.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn exported(&self, state: &ChainState, keys: &LedgerKeys) -> Result<u64, Outage> {
        let Some(mark) = state.export_mark(keys) else { return Ok(0) };
        let first = self.entries(state.chain, 0, 1).await?;
        let is_removed = first.first().is_some_and(|(number, _)| *number > mark.number);
        let marked = self.entries(state.chain, mark.number, 1).await?;
        let is_that = |(number, signed): &(u64, SignedEntry)| {
            *number == mark.number && signed.mac == mark.mac
        };
        let is_known = is_removed || marked.first().is_some_and(is_that);
        Ok(if is_known { mark.number } else { 0 })
    }

    /// Runs a command after a check of the format.
    pub(super) async fn ledger_command<T: FromRedisValue>(
        &self,
        write: impl FnOnce(&mut Cmd) + Send,
    ) -> Result<T, Outage> {
        let mut command = Cmd::new();
        write(&mut command);
        self.call(|mut connection| async move {
            let mut both = pipe();
            both.cmd("GET").arg(FORMAT_KEY).add_command(command);
            let answer: RedisResult<(Option<String>, T)> = both.query_async(&mut connection).await;
            let (format, answer) = answer?;
            check_format(format)?;
            Ok(answer)
        })
        .await
    }

    /// Returns every field of a hash.
    async fn fields(&self, key: &str) -> Result<HashMap<String, Vec<u8>>, Outage> {
        let (mut cursor, mut all) = ("0".to_owned(), HashMap::new());
        loop {
            let (next, fields): (String, Vec<(String, Vec<u8>)>) = self
                .ledger_command(|cmd| {
                    cmd.arg("HSCAN").arg(key).arg(&cursor).arg("COUNT").arg(FIELDS);
                })
                .await?;
            all.extend(fields);
            if next == "0" {
                return Ok(all);
            }
            cursor = next;
        }
    }

    /// Returns the chains, by their numbers.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn chains(&self) -> Result<Vec<ChainState>, Outage> {
        let owners = self.fields(LEDGER_OWNERS).await?;
        let ends = self.fields(LEDGER_ENDS).await?;
        let exported = self.fields(LEDGER_EXPORTED).await?;
        let mut chains = BTreeMap::new();
        // A chain of which only a part is left is a chain: its end may have been removed.
        for name in owners.keys().chain(ends.keys()).chain(exported.keys()) {
            let Ok(chain) = name.parse::<u32>() else { continue };
            let text = |of: &HashMap<String, Vec<u8>>| {
                of.get(name).map(|text| String::from_utf8_lossy(text).into_owned())
            };
            let owner = text(&owners).unwrap_or_default();
            let (owner, seen) = owner.split_once(' ').unwrap_or((&owner, "0"));
            let end = text(&ends).and_then(|end| {
                let (number, mac) = end.split_once(' ')?;
                Some((number.parse().ok()?, Mac::parse(mac)?))
            });
            let seen = Timestamp::from_micros(seen.parse().unwrap_or(0_u64).saturating_mul(1000));
            let exported = text(&exported);
            let owner = owner.to_owned();
            let state = ChainState { chain, owner, seen, end, exported, entries: 0, pending: 0 };
            chains.insert(chain, state);
        }
        for state in chains.values_mut() {
            state.entries = self.length(Ledger::chain(state.chain)).await?;
            state.pending = self.length(Ledger::pending(state.chain)).await?;
        }
        Ok(chains.into_values().collect())
    }

    async fn length(&self, stream: Ledger) -> Result<u64, Outage> {
        self.ledger_command(|cmd| {
            cmd.arg("XLEN").arg(stream);
        })
        .await
    }

    /// Returns the number of pending records that belong to no chain yet.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn unclaimed(&self) -> Result<u64, Outage> {
        self.length(Ledger::pending(UNCLAIMED)).await
    }

    /// Returns the time zone of the days of the ledger; `None` until a process of this version writes it.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn ledger_time_zone(&self) -> Result<Option<String>, Outage> {
        self.ledger_command(|cmd| {
            cmd.arg("GET").arg(LEDGER_TIME_ZONE);
        })
        .await
    }

    /// Returns pending records of a chain, the oldest first.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn pending(&self, chain: u32, most: usize) -> Result<Vec<PendingEntry>, Outage> {
        let entries: Vec<StreamEntry> = self
            .ledger_command(|cmd| {
                cmd.arg("XRANGE").arg(Ledger::pending(chain)).arg("-").arg("+");
                cmd.arg("COUNT").arg(most);
            })
            .await?;
        let read = |(id, fields): StreamEntry| PendingEntry { record: pending(&fields), id };
        Ok(entries.into_iter().map(read).collect())
    }

    /// Returns entries of a chain from a number on.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn entries(
        &self,
        chain: u32,
        from: u64,
        most: usize,
    ) -> Result<Vec<(u64, SignedEntry)>, Outage> {
        let entries: Vec<StreamEntry> = self
            .ledger_command(|cmd| {
                cmd.arg("XRANGE").arg(Ledger::chain(chain)).arg(format!("{from}-0")).arg("+");
                cmd.arg("COUNT").arg(most);
            })
            .await?;
        Ok(entries.into_iter().map(signed).collect())
    }

    /// Returns the last entries of a chain in their order: the last checkpoint that one of `keys` has
    /// signed, and those after it.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn last_entries(
        &self,
        chain: u32,
        keys: &LedgerKeys,
    ) -> Result<Vec<(u64, SignedEntry)>, Outage> {
        let mut last: Vec<(u64, SignedEntry)> = Vec::new();
        let mut until = "+".to_owned();
        while u64::try_from(last.len()).unwrap_or(u64::MAX) < CHECKPOINT_EVERY + 2 * PAGE {
            let page: Vec<StreamEntry> = self
                .ledger_command(|cmd| {
                    cmd.arg("XREVRANGE").arg(Ledger::chain(chain)).arg(&until).arg("-");
                    cmd.arg("COUNT").arg(PAGE);
                })
                .await?;
            let is_end = u64::try_from(page.len()).unwrap_or(u64::MAX) < PAGE;
            for (number, signed) in page.into_iter().map(signed) {
                let entry = signed.text.contains("\"kind\":\"checkpoint\"");
                let entry =
                    entry.then(|| Entry::verified((chain, number), &signed, keys)).flatten();
                until = format!("({number}-0");
                last.push((number, signed));
                if let Some(Content::Checkpoint(_)) = entry.map(|entry| entry.content) {
                    last.reverse();
                    return Ok(last);
                }
            }
            if is_end {
                break;
            }
        }
        last.reverse();
        Ok(last)
    }

    /// Returns the rows of an hour or a day.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn rows(&self, period: Period) -> Result<HashMap<RowKey, Measures>, Outage> {
        let mut rows = HashMap::<RowKey, Measures>::new();
        for (field, number) in self.fields(&Ledger::sums(period).text()).await? {
            let mut letters = field.chars();
            let Some(letter) = letters.next().filter(|letter| *letter != '#') else { continue };
            let number = std::str::from_utf8(&number).ok().and_then(|text| text.parse().ok());
            rows.entry(RowKey::read(letters.as_str()))
                .or_default()
                .set(letter, number.unwrap_or(0));
        }
        Ok(rows)
    }

    /// Returns the last month that is closed.
    ///
    /// # Errors
    /// Redis does not answer, or has a text that is no month.
    pub async fn closed_month(&self) -> Result<Option<Month>, Outage> {
        let read = |cmd: &mut Cmd| {
            cmd.arg("GET").arg(LEDGER_CLOSED);
        };
        let Some(text) = self.ledger_command::<Option<String>>(read).await? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(month) => Ok(Some(month)),
            // The cause is that of a call, so that logs and commands have it.
            Err(_) => self.call(|_| std::future::ready(Err(is_no_month()))).await,
        }
    }

    /// Returns the mark of a month whose close has a text.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn closed_mark(&self, month: Month) -> Result<Option<ClosedMark>, Outage> {
        /// A member of the text.
        #[derive(serde::Deserialize)]
        struct Signed {
            mac: Mac,
        }
        let (text,): (Option<String>,) = self
            .ledger_command(|cmd| {
                cmd.arg("HMGET").arg(LEDGER_MONTHS).arg(month.to_string());
            })
            .await?;
        let signed = text.and_then(|text| serde_json::from_str(&text).ok());
        Ok(signed.map(|Signed { mac }| ClosedMark { month, mac }))
    }

    /// Returns the texts about the months that are closed.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn closed_months(&self) -> Result<BTreeMap<Month, String>, Outage> {
        let months = self.fields(LEDGER_MONTHS).await?.into_iter();
        let months = months
            .filter_map(|(month, text)| Some((month.parse().ok()?, String::from_utf8(text).ok()?)));
        Ok(months.collect())
    }

    /// Returns the random parts of the keys of persons; `None` of one who was erased.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn known_persons(&self, names: &[&str]) -> Result<Vec<Option<PersonKey>>, Outage> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let parts: Vec<Option<Vec<u8>>> = self
            .ledger_command(|cmd| {
                cmd.arg("HMGET").arg(LEDGER_PERSONS).arg(names);
            })
            .await?;
        Ok(parts.into_iter().map(|part| PersonKey::read(&part?)).collect())
    }

    /// Returns the random parts of the keys of all persons, by their names in the ledger.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn all_persons(&self) -> Result<HashMap<String, PersonKey>, Outage> {
        let persons = self.fields(LEDGER_PERSONS).await?.into_iter();
        Ok(persons.filter_map(|(name, part)| Some((name, PersonKey::read(&part)?))).collect())
    }
}

/// The error of a mark of closed months that is none.
fn is_no_month() -> RedisError {
    let detail = format!(
        "the key `{LEDGER_CLOSED}` has no month: another program has written it; remove it"
    );
    make_extension_error("NOMONTH".to_owned(), Some(detail))
}

/// Reads an entry of a chain. One without a text or a MAC has an empty one, which no key has signed, and
/// so has one behind another with the same number.
fn signed((id, fields): StreamEntry) -> (u64, SignedEntry) {
    let (number, second) = id.split_once('-').unwrap_or((&id, "0"));
    let number = number.parse().ok();
    let fields = if second == "0" { fields } else { Vec::new() };
    let text = |name: &str| {
        let value = fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
        value.map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    let mac = Mac::parse(&text("m")).unwrap_or_default();
    (number.unwrap_or_default(), SignedEntry { text: text("e"), mac })
}

fn pending(fields: &[(String, Vec<u8>)]) -> Option<PendingRecord> {
    let value = |name: &str| {
        let found = fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_slice())
    };
    let number = |name: &str| std::str::from_utf8(value(name)?).ok()?.parse::<u64>().ok();
    Some(PendingRecord {
        facts: RequestFacts::read(value("f")?)?,
        report: UsageReport::read(value("r")?),
        tokens: number("t")?,
        corrects: number("b"),
        at: Timestamp::from_micros(number("a")?),
    })
}
