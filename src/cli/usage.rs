//! `tollgate usage`: sums, exports and the verification of the ledger.

mod close;
mod erase;
mod export;
mod place;
mod report;
mod verify;

use std::{io::Write, process::ExitCode};

use clap::{Args, Subcommand};

/// Report, export and verify the usage that the ledger records.
///
/// The ledger is the one of the configuration, whose section `ledger` names the keys: run it where the
/// files of these are.
#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Report(report::ReportArgs),
    Export(export::ExportArgs),
    Verify(verify::VerifyArgs),
    Close(close::CloseArgs),
    Erase(erase::EraseArgs),
}

impl UsageArgs {
    /// Runs the subcommand and prints to `out`.
    ///
    /// # Errors
    /// The configuration has no ledger, or its Redis does not answer.
    pub(super) async fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Report(report) => report.run(out).await,
            Action::Export(export) => export.run(out).await,
            Action::Verify(verify) => verify.run(out).await,
            Action::Close(close) => close.run(out).await,
            Action::Erase(erase) => erase.run(out).await,
        }
    }
}
