//! `tollgate usage export`: the entries of the ledger, as lines of JSON.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use tollgate_core::ledger::{
    entry::{Content, Entry, SignedEntry},
    keys::LedgerKeys,
    person::Person,
};

use super::place::{PAGE, Place};
use crate::cli::config_file::ConfigFile;

const MORE: &str = "\
Examples:
  # what was not exported before, behind the lines that the file has
  tollgate usage export tollgate.yaml --file usage.jsonl
  # everything that Redis has, without a mark of it
  tollgate usage export tollgate.yaml --all > copy.jsonl

Exit codes:
  0  everything is exported
  2  the ledger or the file cannot be used, or wrong usage";

/// Export records as lines of JSON, from where the last export ended.
///
/// Each line is an entry with its MAC, and, in `who`, the person of a record. With --file the lines are
/// appended to the file, which is written to the disk before the entries are marked as exported: only
/// then may they be removed from Redis. An export that was interrupted goes on behind the last whole
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

impl ExportArgs {
    pub(super) async fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let place = Place::open(self.config.path())?;
        let keys = place.keys()?;
        let Some(path) = &self.to else {
            let ends = self.export(&place, &keys, &BTreeMap::new(), out).await?;
            out.flush()?;
            if self.confirm {
                confirm(&place, &ends).await?;
            }
            return Ok(ExitCode::SUCCESS);
        };
        let shown = path.display();
        let (file, known) = open(path).with_context(|| format!("cannot open `{shown}`"))?;
        let mut to = BufWriter::new(file);
        let ends = self.export(&place, &keys, &known, &mut to).await?;
        let file = to.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all().with_context(|| format!("cannot write `{shown}`"))?;
        confirm(&place, &ends).await?;
        Ok(ExitCode::SUCCESS)
    }

    /// Writes the lines of every chain. `known` are the last entries that the file has. Returns the
    /// last entry of each chain.
    async fn export(
        &self,
        place: &Place,
        keys: &LedgerKeys,
        known: &BTreeMap<u32, u64>,
        to: &mut dyn Write,
    ) -> anyhow::Result<BTreeMap<u32, u64>> {
        let mut ends = known.clone();
        let chains = place.redis.chains().await.map_err(|outage| place.unavailable(outage))?;
        for state in chains {
            let exported = if self.all { 0 } else { state.exported };
            let known = known.get(&state.chain).copied().unwrap_or_default();
            let mut from = exported.max(known) + 1;
            loop {
                let page = place.redis.entries(state.chain, from, PAGE).await;
                let page = page.map_err(|outage| place.unavailable(outage))?;
                let Some((last, _)) = page.last() else { break };
                from = last + 1;
                ends.insert(state.chain, *last);
                let persons = self.persons(place, keys, &page).await?;
                for ((_, signed), person) in page.iter().zip(&persons) {
                    writeln!(to, "{}", signed.line(person.as_ref()))?;
                }
            }
        }
        Ok(ends)
    }

    /// The persons of entries, as far as they were not erased.
    async fn persons(
        &self,
        place: &Place,
        keys: &LedgerKeys,
        page: &[(u64, SignedEntry)],
    ) -> anyhow::Result<Vec<Option<Person>>> {
        if self.without_persons {
            return Ok(vec![None; page.len()]);
        }
        let boxes: Vec<Option<(String, String, String)>> =
            page.iter().map(|(_, signed)| sealed(signed)).collect();
        let names: Vec<&str> = boxes.iter().flatten().map(|(name, ..)| name.as_str()).collect();
        let parts = place.redis.known_persons(&names).await;
        let mut parts = parts.map_err(|outage| place.unavailable(outage))?.into_iter();
        let open = |sealed: &Option<(String, String, String)>| {
            let (_, text, key) = sealed.as_ref()?;
            Person::open(text, keys.get(key)?, parts.next().flatten()?)
        };
        Ok(boxes.iter().map(open).collect())
    }
}

/// The name of the person of a record, the box, and the name of its key.
fn sealed(signed: &SignedEntry) -> Option<(String, String, String)> {
    let entry = Entry::read(&signed.text)?;
    match entry.content {
        Content::Usage(record) => Some((record.person?, record.sealed?, entry.key)),
        Content::Checkpoint(_) => None,
    }
}

async fn confirm(place: &Place, ends: &BTreeMap<u32, u64>) -> anyhow::Result<()> {
    for (chain, number) in ends {
        let confirmed = place.redis.confirm_export(*chain, *number).await;
        confirmed.map_err(|outage| place.unavailable(outage))?;
    }
    Ok(())
}

/// Opens a file for more lines, behind its last whole line. Returns the last entry of each chain that it
/// has.
fn open(path: &Path) -> anyhow::Result<(File, BTreeMap<u32, u64>)> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let (mut known, mut whole) = (BTreeMap::new(), 0);
    let mut lines = BufReader::new(&file);
    let mut line = String::new();
    loop {
        line.clear();
        let length = lines.read_line(&mut line)?;
        // The last line of an export that was interrupted has no end.
        if length == 0 || !line.ends_with('\n') {
            break;
        }
        whole += u64::try_from(length)?;
        let entry = SignedEntry::of_line(&line).and_then(|(signed, _)| Entry::read(&signed.text));
        let entry = entry.context("a line of the file is no entry of a ledger")?;
        let last = known.entry(entry.chain).or_insert(entry.number);
        *last = entry.number.max(*last);
    }
    file.set_len(whole)?;
    file.seek(SeekFrom::End(0))?;
    Ok((file, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_on_behind_its_last_whole_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("usage.jsonl");
        let (_, known) = open(&path).unwrap();
        assert!(known.is_empty());
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
        std::fs::write(&path, format!("{whole}{}", &line(3)[..40])).unwrap();
        let (_, known) = open(&path).unwrap();
        assert_eq!(known, BTreeMap::from([(2, 2)]));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        std::fs::write(&path, "other\n").unwrap();
        assert!(open(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "other\n");
    }
}
