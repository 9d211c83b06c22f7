//! The command line: one file per subcommand. Exit codes: 0 ok, 1 the answer is no, 2 usage or something that is not there.

mod argument;
pub mod audit_upstream;
pub mod check_config;
pub mod doctor;
pub mod explain;
mod peek;
pub mod presets;
pub mod revoke;
pub mod schema;
pub mod serve;
mod tls;
pub mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Decides who may use a GPU inference endpoint, and how much of it.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    CheckConfig(check_config::CheckConfig),
    Explain(explain::Explain),
    /// Print the JSON Schema of the configuration file, with every default and its reason.
    Schema,
    Presets(presets::PresetsArgs),
    AuditUpstream(audit_upstream::AuditUpstream),
    Revoke(revoke::RevokeArgs),
    Token(token::TokenArgs),
    Doctor(doctor::Doctor),
}

/// How to report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(serve) => serve.run().map(|()| ExitCode::SUCCESS),
        Command::CheckConfig(check) => Ok(check.run()),
        Command::Explain(explain) => explain.run(&mut std::io::stdout()),
        Command::Schema => schema::print(),
        Command::Presets(presets) => presets.run(&mut std::io::stdout()),
        Command::AuditUpstream(audit) => blocking(audit.run(&mut std::io::stdout())),
        Command::Revoke(revoke) => blocking(revoke::run(revoke, &mut std::io::stdout(), revoke::redis::connect)),
        Command::Doctor(doctor) => blocking(doctor.run(&mut std::io::stdout())),
        Command::Token(token) => token.run(&mut std::io::stdout()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

/// Runs a short piece of network work.
fn blocking<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
