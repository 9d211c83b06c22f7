//! `tollgate usage`: sums, exports and the verification of the ledger.

mod close;
mod closed_month;
mod erase;
mod export;
mod export_lines;
mod place;
mod records;
mod report;
mod verify;

use std::{io::Write, process::ExitCode};

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};

const ABOUT: &str = "Report, export and verify the usage that the ledger records";

const LONG_ABOUT: &str = "\
Report, export and verify the usage that the ledger records.

Without a command it reports: `tollgate usage FILE --from DAY` is `tollgate usage report FILE --from DAY`. \
The ledger is the one of the configuration, whose section `ledger` names the keys: run it where the files \
of these are.";

/// What is done with the ledger: a report, where no command is named.
#[derive(Debug)]
pub(super) struct UsageArgs(Action);

// An optional subcommand beside required options is more than the derive of clap has.
impl Args for UsageArgs {
    fn augment_args(command: Command) -> Command {
        let command = report::ReportArgs::augment_args(command).after_long_help("");
        Action::augment_subcommands(command)
            .about(ABOUT)
            .long_about(LONG_ABOUT)
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for UsageArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if matches.subcommand_name().is_some() {
            return Action::from_arg_matches(matches).map(Self);
        }
        report::ReportArgs::from_arg_matches(matches).map(Action::Report).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
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
        match self.0 {
            Action::Report(report) => report.run(out).await,
            Action::Export(export) => export.run(out).await,
            Action::Verify(verify) => verify.run(out).await,
            Action::Close(close) => close.run(out).await,
            Action::Erase(erase) => erase.run(out).await,
        }
    }
}
