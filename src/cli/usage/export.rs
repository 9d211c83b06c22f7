//! `tollgate usage export`: the entries of the ledger, as lines of JSON.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;
use tollgate_core::ledger::{
    entry::{Content, Entry, SignedEntry, UnverifiedEntry},
    export_mark::ExportMark,
    keys::{LedgerKeys, Mac},
    person::Person,
};

use super::place::{PAGE, Place};
use crate::cli::{config_file::ConfigFile, printable};

const MORE: &str = "\
Examples:
  # what was not exported before, behind the lines that the file has
  tollgate usage export tollgate.yaml --file usage.jsonl
  # everything that Redis has, without a mark of it
  tollgate usage export tollgate.yaml --all > copy.jsonl

Exit codes:
  0  everything is exported
  2  the ledger or the file cannot be used, a chain has an entry that no key of `ledger.keys` has
     signed, or wrong usage";

/// Export records as lines of JSON, from where the last export ended.
///
/// Each line is an entry with its MAC, and, in `who`, the person of a record. With --file the lines are
/// appended to the file, which is written to the disk before the entries are marked as exported: only
/// then may they be removed from Redis. An entry that no key of the ledger has signed is not exported,
/// nor is what is behind it in its chain, and the command fails when it has exported the rest. An export that was interrupted goes on behind the last whole
/// line. Without --file they are printed, and not marked unless --confirm is set.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The file that the lines are appended to.
    #[arg(long = "file", id = "export", value_name = "FILE", conflicts_with = "all")]
    to: Option<PathBuf>,
    /// Export every entry that Redis has, also those that were exported before.
    #[arg(long, conflicts_with = "confirm")]
    all: bool,
    /// Mark what was printed as exported.
    #[arg(long, conflicts_with = "export")]
    confirm: bool,
    /// Leave out who sent the requests.
    #[arg(long)]
    without_persons: bool,
}

/// The last entries of chains: their numbers and MACs.
type Ends = BTreeMap<u32, (u64, Mac)>;

impl ExportArgs {
    pub(super) async fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let place = Place::open(self.config.path())?;
        let keys = place.keys()?;
        let Some(path) = &self.to else {
            let exported = self.export(&place, &keys, &Ends::new(), out).await?;
            out.flush()?;
            if self.confirm {
                confirm(&place, &keys, &exported.ends).await?;
            }
            return exported.finish();
        };
        let shown = path.display();
        let (file, known) = open(path).with_context(|| format!("cannot open `{shown}`"))?;
        let mut to = BufWriter::new(file);
        let exported = self.export(&place, &keys, &known, &mut to).await?;
        let file = to.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all().with_context(|| format!("cannot write `{shown}`"))?;
        confirm(&place, &keys, &exported.ends).await?;
        exported.finish()
    }

    /// Writes the lines of every chain. `known` are the last entries that the file has.
    async fn export(
        &self,
        place: &Place,
        keys: &LedgerKeys,
        known: &Ends,
        to: &mut dyn Write,
    ) -> anyhow::Result<Exported> {
        let (mut ends, mut refused) = (known.clone(), Vec::new());
        let chains = place.redis.chains().await.map_err(|outage| place.unavailable(outage))?;
        for state in &chains {
            if let Some(end) = known.get(&state.chain) {
                check_history(place, state.chain, *end).await?;
            }
        }
        for state in chains {
            let exported = if self.all {
                0
            } else {
                let exported = place.redis.exported(&state, keys).await;
                exported.map_err(|outage| place.unavailable(outage))?
            };
            let known = known.get(&state.chain).map_or(0, |(number, _)| *number);
            if 0 < known && known < exported {
                bail!(
                    "the file ends with entry {known} of chain {chain}, and entry {exported} was exported: later lines \
                     are in another file, or were lost. Export into a new file; `--all` prints every entry that Redis has",
                    chain = state.chain
                );
            }
            let mut from = exported.max(known).saturating_add(1);
            loop {
                let page = place.redis.entries(state.chain, from, PAGE).await;
                let page = page.map_err(|outage| place.unavailable(outage))?;
                let mut entries = Vec::with_capacity(page.len());
                for (number, signed) in &page {
                    match Entry::verify((state.chain, *number), signed, keys) {
                        Ok(entry) => entries.push(entry),
                        Err(cause) => {
                            refused.push(refusal(state.chain, *number, &cause));
                            break;
                        }
                    }
                }
                let persons = self.persons(place, keys, &entries).await?;
                for ((number, signed), person) in page.iter().zip(&persons) {
                    writeln!(to, "{}", signed.line(person.as_ref()))?;
                    ends.insert(state.chain, (*number, signed.mac));
                    from = number.saturating_add(1);
                }
                if page.is_empty() || entries.len() < page.len() {
                    break;
                }
            }
        }
        Ok(Exported { ends, refused })
    }

    /// The persons of entries, as far as they were not erased.
    async fn persons(
        &self,
        place: &Place,
        keys: &LedgerKeys,
        entries: &[Entry],
    ) -> anyhow::Result<Vec<Option<Person>>> {
        if self.without_persons {
            return Ok(vec![None; entries.len()]);
        }
        let boxes: Vec<Option<(&str, &str)>> = entries.iter().map(sealed).collect();
        let names: Vec<&str> = boxes.iter().flatten().map(|(name, _)| *name).collect();
        let parts = place.redis.known_persons(&names).await;
        let mut parts = parts.map_err(|outage| place.unavailable(outage))?.into_iter();
        let open = |(entry, sealed): (&Entry, &Option<(&str, &str)>)| {
            let (_, text) = sealed.as_ref()?;
            let part = parts.next().flatten()?;
            // The entry is verified, so that its key is in the list.
            Person::open(text, keys.get(&entry.key)?, part)
        };
        Ok(entries.iter().zip(&boxes).map(open).collect())
    }
}

/// What was exported.
struct Exported {
    /// The last entry of each chain.
    ends: Ends,
    /// The chains that were not exported to their ends, in words.
    refused: Vec<String>,
}

impl Exported {
    /// Fails if a chain has an entry that was not exported.
    fn finish(self) -> anyhow::Result<ExitCode> {
        if self.refused.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        bail!(
            "{}; run `tollgate usage verify`, and remove an entry that another program has added, with \
             XDEL. Everything else is exported",
            self.refused.join("; ")
        )
    }
}

/// Words an entry that is not exported.
fn refusal(chain: u32, number: u64, cause: &UnverifiedEntry) -> String {
    let cause = printable::printable(&cause.to_string());
    format!("chain {chain} is not exported from entry {number} on: {cause}")
}

/// The name of the person of a record, and the box.
fn sealed(entry: &Entry) -> Option<(&str, &str)> {
    match &entry.content {
        Content::Usage(record) => Some((record.person.as_deref()?, record.sealed.as_deref()?)),
        Content::Checkpoint(_) => None,
    }
}

/// Checks that a chain has the last entry that the file has of it, or has it no more.
async fn check_history(place: &Place, chain: u32, (number, mac): (u64, Mac)) -> anyhow::Result<()> {
    let entry = place.redis.entries(chain, number, 1).await;
    let entry = entry.map_err(|outage| place.unavailable(outage))?;
    match entry.first() {
        Some((found, signed)) if *found == number && signed.mac != mac => bail!(
            "entry {number} of chain {chain} is another one than that of the file: Redis has lost \
             entries that were exported, or is another Redis. Move the file away, export into a new \
             one, and run `tollgate usage verify` with both"
        ),
        _ => Ok(()),
    }
}

/// Marks what was exported.
async fn confirm(place: &Place, keys: &LedgerKeys, ends: &Ends) -> anyhow::Result<()> {
    let chains = place.redis.chains().await.map_err(|outage| place.unavailable(outage))?;
    for (chain, end) in ends {
        let state = chains.iter().find(|state| state.chain == *chain);
        let unsigned = state.and_then(|state| state.unsigned_mark(keys));
        let mark = ExportMark::sign(*chain, *end, keys.first());
        let confirmed = place.redis.confirm_export(*chain, &mark, unsigned).await;
        if !confirmed.map_err(|outage| place.unavailable(outage))? {
            bail!("chain {chain} has changed meanwhile, by a failover; run the command again");
        }
    }
    Ok(())
}

/// Opens a file for more lines, behind its last whole line. Returns the last entry of each chain that it
/// has.
fn open(path: &Path) -> anyhow::Result<(File, Ends)> {
    let mut options = OpenOptions::new();
    // It has persons: its owner decides which other users may read it.
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path)?;
    if let Err(error) = file.try_lock() {
        match error {
            TryLockError::WouldBlock => bail!("another export writes to it"),
            TryLockError::Error(error) => return Err(error.into()),
        }
    }
    // A file that was created is in its directory after a crash, too.
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    OpenOptions::new().read(true).open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    let (mut known, mut whole) = (Ends::new(), 0);
    let mut lines = BufReader::new(&file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = lines.read_until(b'\n', &mut line)?;
        // The last line of an export that was interrupted has no end, and may end within a character.
        let Some(text) = line.strip_suffix(b"\n") else { break };
        whole += u64::try_from(length)?;
        let read = std::str::from_utf8(text).ok().and_then(SignedEntry::of_line);
        let read = read.and_then(|(signed, _)| Some((Entry::read(&signed.text)?, signed.mac)));
        let (entry, mac) = read.context("a line of the file is no entry of a ledger")?;
        let last = known.entry(entry.chain).or_default();
        if entry.number >= last.0 {
            *last = (entry.number, mac);
        }
    }
    file.set_len(whole)?;
    file.seek(SeekFrom::End(0))?;
    Ok((file, known))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_goes_on_behind_its_last_whole_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("usage.jsonl");
        let (file, known) = open(&path).unwrap();
        assert!(known.is_empty());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(file);
        let mac = "A".repeat(43);
        let line = |number: u64| {
            format!(
                "{{\"v\":1,\"chain\":2,\"number\":{number},\"prev\":\"{mac}\",\"key\":\"k\",\
                 \"time\":\"2026-11-30T00:00:00Z\",\"replica\":\"r\",\"kind\":\"checkpoint\",\
                 \"epoch\":1,\"records\":0,\"requests\":0,\"tokens\":0,\"input\":0,\"output\":0,\
                 \"cached\":0,\"reasoning\":0,\"estimated\":0,\"kept_from\":1,\"unexported\":0,\
                 \"mac\":\"{mac}\"}}\n"
            )
        };
        let whole = format!("{}{}", line(1), line(2));
        // It was interrupted within a character.
        let cut = [whole.as_bytes(), &line(3).as_bytes()[..40], b"\xc3"].concat();
        std::fs::write(&path, cut).unwrap();
        let (file, known) = open(&path).unwrap();
        assert_eq!(known, Ends::from([(2, (2, Mac::default()))]));
        assert!(open(&path).unwrap_err().to_string().contains("another export"));
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        std::fs::write(&path, "other\n").unwrap();
        assert!(open(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "other\n");
    }
}
