//! `tollgate usage erase`: erases a person from the ledger.

use std::{io::Write, process::ExitCode};

use clap::Args;
use tollgate_core::ledger::person;

use super::place::Place;
use crate::cli::config_file::ConfigFile;

const MORE: &str = "\
Examples:
  # records keep their tenant, model and tokens
  tollgate usage erase tollgate.yaml --issuer https://auth.example.com --subject alice

Exit codes:
  0  the person is erased
  1  the ledger has nothing of the person
  2  the ledger cannot be changed, or wrong usage";

/// Erase a subject from the records: who sent a request cannot be read any more.
///
/// The key of the subject is removed. Records keep their numbers, MACs and sums. Files that were
/// exported before are not changed: remove the member `who` of their lines, which `usage verify` lists.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(super) struct EraseArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The issuer, exactly as the credentials name it; empty for credentials without one.
    #[arg(long, visible_alias = "iss", value_name = "ISS")]
    issuer: String,
    /// The subject of the credentials.
    #[arg(long, value_name = "SUBJECT")]
    subject: String,
}

impl EraseArgs {
    pub(super) async fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let place = Place::open(self.config.path())?;
        let names = person::names(&place.keys()?, &self.issuer, &self.subject);
        let erased = place.redis.erase_persons(&names).await;
        if erased.map_err(|outage| place.unavailable(outage))? == 0 {
            writeln!(out, "the ledger has no such subject")?;
            return Ok(ExitCode::FAILURE);
        }
        writeln!(out, "erased")?;
        Ok(ExitCode::SUCCESS)
    }
}
