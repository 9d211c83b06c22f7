//! The command line: one file per subcommand. Exit codes: 0 yes, 1 no, 2 wrong usage or something
//! missing.

mod access;
mod admin_client;
mod argument;
pub mod audit_upstream;
pub mod ban;
pub mod cases;
pub mod check_config;
pub mod completions;
pub mod config_file;
pub mod doctor;
pub mod explain;
mod failure;
pub mod hold;
pub mod init;
pub mod jwks;
mod keys;
mod pages;
pub mod paint;
pub mod presets;
pub(crate) mod printable;
mod progress;
pub mod revoke;
pub mod schema;
pub mod serve;
mod tls;
pub mod token;
mod token_view;
mod usage;
pub mod version;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use self::paint::Paint;

const MORE: &str = "\
In the usual order:
  # write a first configuration, with comments
  tollgate init --preset vllm --issuer https://auth.example.com
  # list every error in it
  tollgate check-config tollgate.yaml
  # show one decision, step by step, offline
  tollgate explain tollgate.yaml --path /v1/models --token @token.txt --jwks jwks.json
  # test it with requests and the answers that you expect
  tollgate test tollgate.yaml cases.yaml
  # fetch the issuers' keys as `serve` does
  tollgate jwks tollgate.yaml
  # answer checks
  tollgate serve tollgate.yaml
  # test the proxy in front for leaks
  tollgate doctor https://api.example.com
  # list what the server offers, and what of it is open
  tollgate audit-upstream http://127.0.0.1:8000 --config tollgate.yaml
  # revoke credentials at once
  tollgate revoke add --tenant acme --redis redis://redis:6379
  # ban a network for a day
  tollgate ban add --network 203.0.113.0/24 --for 1d --redis redis://redis:6379

Exit codes:
  0  yes: allowed, valid, no leak, nothing dangerous open
  1  no: denied, invalid, leaking, dangerous, not found
  2  wrong usage, or something that the command needs is missing

`--output json` prints the answer as JSON on standard output. A command that fails prints
{\"error\":{\"message\":…}} on standard error then. Colours and progress are for terminals;
NO_COLOR turns colours off.";

/// Decides who may use a GPU inference endpoint, and how much of it.
///
/// A proxy (Envoy, nginx, Traefik, Caddy, HAProxy) calls Tollgate before it forwards a request.
/// Tollgate verifies the caller's JWT, checks scopes and the model in the body, counts limits, and
/// answers: forward with trusted identity headers, or deny.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version = version::TEXT, after_long_help = MORE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The subcommands, in the order in which they are usually needed.
#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    CheckConfig(check_config::CheckConfig),
    Explain(explain::Explain),
    Test(cases::Test),
    Jwks(jwks::Jwks),
    Serve(serve::Serve),
    Hold(hold::Hold),
    Doctor(doctor::Doctor),
    AuditUpstream(audit_upstream::AuditUpstream),
    Presets(presets::PresetsArgs),
    Token(token::TokenArgs),
    Keys(keys::KeysArgs),
    Revoke(revoke::RevokeArgs),
    Ban(ban::BanArgs),
    Usage(usage::UsageArgs),
    Schema(schema::Schema),
    Completions(completions::Completions),
    Version(version::Version),
}

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Text for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let json = failure::wants_json(std::env::args_os());
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error, &Cli::command(), json),
    };
    let out = &mut std::io::stdout();
    let paint = Paint::stdout();
    let result = match cli.command {
        Command::Init(init) => init.run(out),
        Command::Serve(serve) => serve.run().map(|()| ExitCode::SUCCESS),
        Command::Hold(hold) => hold.run().map(|()| ExitCode::SUCCESS),
        Command::CheckConfig(check) => check.run(out, paint),
        Command::Explain(explain) => explain.run(out, paint),
        Command::Test(test) => test.run(out, paint),
        Command::Jwks(jwks) => blocking(jwks.run(out, paint)),
        Command::Schema(schema) => schema.run(out),
        Command::Presets(presets) => presets.run(out),
        Command::AuditUpstream(audit) => blocking(audit.run(out, paint)),
        Command::Revoke(revoke) => blocking(revoke::run(revoke, out, revoke::redis::connect)),
        Command::Ban(ban) => blocking(ban::run(ban, out, revoke::redis::connect)),
        Command::Usage(usage) => blocking(usage.run(out)),
        Command::Doctor(doctor) => blocking(doctor.run(out, paint)),
        Command::Token(token) => token.run(out),
        Command::Keys(keys) => keys.run(out),
        Command::Completions(completions) => completions.run(&mut Cli::command(), out),
        Command::Version(version) => version.run(out),
    };
    result.unwrap_or_else(|error| failure::report(&error, json))
}

/// Names in backticks, as a list.
fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Runs network work on a runtime of its own.
fn blocking<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests;
