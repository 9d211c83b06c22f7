//! `tollgate revoke`: adds, removes and lists revocations.

mod client;
mod help;
pub(crate) mod redis;

use std::{
    future::Future,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::bail;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::{Args, Subcommand};
use serde_json::json;
use thiserror::Error;
use tollgate_core::{
    revocation::{Target, token_digest},
    secret::Secret,
    time::{Span, Timestamp},
};

use self::client::AdminClient;
use super::{Output, argument, printable};
use crate::{
    admin::{
        Revocations,
        request::{ANY_LIFE, MIN_TTL, check_at, listed},
    },
    observe::{
        now,
        rfc3339::{self, Rfc3339},
    },
    store::{Entry, InvalidRevocation, Revocation, TTL_MAX, check_note},
};

/// The number of entries that one call lists.
const PAGE: usize = 1000;

/// Revoke credentials, reinstate them, list revocations.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Revoke a token, or everything issued until now to a subject, a client or a tenant.
    ///
    /// It applies from the next check on, on every replica that uses the same store. Name the store
    /// with --redis, or a running Tollgate with --admin and --token-file.
    #[command(after_long_help = help::ADD)]
    Add(AddArgs),
    /// List all revocations.
    ///
    /// Names are stored as hashes, so the list shows kinds, moments and notes.
    #[command(after_long_help = help::LIST)]
    List(ListArgs),
    /// Remove a revocation.
    ///
    /// Name the same target that was revoked. Tokens that another revocation applies to stay
    /// revoked.
    #[command(after_long_help = help::REMOVE)]
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    #[command(flatten)]
    selector: Selector,
    /// The remaining life of the tokens, until `exp`. Default: with --token that of the token, else
    /// the longest that a policy can allow, 31d and a minute. The revocation is kept two minutes
    /// longer, for leeway and clocks. A token that lives longer is valid again.
    #[arg(long, value_name = "DURATION", value_parser = span)]
    ttl: Option<Span>,
    /// For --subject, --client and --tenant: revoke tokens issued until this moment, in RFC 3339 or
    /// seconds since 1970. Default: now.
    #[arg(long, value_name = "TIME", value_parser = rfc3339::parse, conflicts_with_all = ["jti", "token"])]
    at: Option<Timestamp>,
    /// The reason, one line, shown in the list.
    #[arg(long, value_name = "TEXT", value_parser = note)]
    note: Option<String>,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    #[command(flatten)]
    selector: Selector,
    #[command(flatten)]
    access: Access,
}

/// The target of a revocation.
#[derive(Debug, Args)]
struct Selector {
    #[command(flatten)]
    what: What,
    /// The issuer, exactly as `iss` of the tokens names it; empty for tokens without one.
    #[arg(long, visible_alias = "iss", value_name = "ISS", required_unless_present_any = ["tenant", "token"], conflicts_with_all = ["tenant", "token"])]
    issuer: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// One token by its id.
    #[arg(long, value_name = "ID")]
    jti: Option<String>,
    /// Every token of a subject.
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Every token of a client.
    #[arg(long, value_name = "CLIENT")]
    client: Option<String>,
    /// Every token of a tenant, of any issuer.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// One token itself: `-` reads it from standard input, `@FILE` from a file. Only its hash is
    /// sent.
    #[arg(long, value_name = "TOKEN|-|@FILE")]
    token: Option<String>,
}

/// The place of the revocations, and the output format.
#[derive(Debug, Args)]
struct Access {
    #[command(flatten)]
    store: StoreArgs,
    /// The file with the admin API's bearer token; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "redis", required_unless_present = "redis")]
    token_file: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct StoreArgs {
    /// The Redis that Tollgate uses: `redis://`, `rediss://` or `redis+unix://`. `@FILE` reads the
    /// URL from a file, which keeps a password out of the list of processes.
    #[arg(long, value_name = "URL|@FILE")]
    redis: Option<String>,
    /// The admin API: `https://host:port`, `unix:/path`, or `http://` on this machine.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
}

/// The reason why an option of the command line is not valid.
#[derive(Debug, Error)]
enum InvalidOption {
    #[error("{0}")]
    Duration(String),
    #[error("a revocation must be kept for 1s or more")]
    Short,
}

fn span(text: &str) -> Result<Span, InvalidOption> {
    let span: Span = text.parse().map_err(|error| InvalidOption::Duration(format!("{error}")))?;
    if span < MIN_TTL { Err(InvalidOption::Short) } else { Ok(span) }
}

fn note(text: &str) -> Result<String, InvalidRevocation> {
    check_note(text).map(|()| text.to_owned())
}

/// Runs the command and prints to `out`. `connect` opens the Redis store of a URL; it is an
/// argument so that tests can replace it.
///
/// # Errors
/// The store or the admin API does not answer or refuses, or a file cannot be read.
pub async fn run<R, F>(
    args: RevokeArgs,
    out: &mut (dyn Write + Send),
    connect: impl FnOnce(Secret) -> F,
) -> anyhow::Result<ExitCode>
where
    R: Revocations,
    F: Future<Output = anyhow::Result<R>>,
{
    let access = match &args.action {
        Action::Add(AddArgs { access, .. })
        | Action::List(ListArgs { access })
        | Action::Remove(RemoveArgs { access, .. }) => access,
    };
    if let Some(url) = &access.store.redis {
        let url = match url.strip_prefix('@') {
            Some(path) => argument::secret_file(path)?,
            None => Secret::new(url.as_str()),
        };
        act(&connect(url).await?, &args.action, out).await
    } else {
        let (Some(url), Some(path)) = (&access.store.admin, &access.token_file) else {
            bail!("name the store with --redis, or the admin API with --admin and --token-file");
        };
        act(&AdminClient::new(url, argument::secret_file(path)?)?, &args.action, out).await
    }
}

async fn act<R: Revocations>(
    store: &R,
    action: &Action,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<ExitCode> {
    match action {
        Action::Add(args) => {
            let revocation = revocation(args, now())?;
            store.revoke(&revocation).await?;
            let entry = revocation.entry(now());
            let (kind, until) = (entry.kind(), end(&entry));
            match args.access.output {
                Output::Json => writeln!(out, "{}", printable::json(&listed(&entry))?)?,
                Output::Text if revocation.target().is_before() => {
                    let at = Rfc3339(entry.at);
                    writeln!(
                        out,
                        "revoked by {kind} what was issued until {at}, kept until {until}"
                    )?;
                }
                Output::Text => writeln!(out, "revoked by {kind}, kept until {until}")?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Remove(args) => {
            let (target, _) = target(&args.selector)?;
            let found = store.reinstate(&target).await?;
            match (args.access.output, found) {
                (Output::Json, _) => {
                    writeln!(
                        out,
                        "{}",
                        json!({ "kind": target.kind(), "key": target.key(), "reinstated": found })
                    )?;
                }
                (Output::Text, true) => writeln!(out, "reinstated by {}", target.kind())?,
                (Output::Text, false) => {
                    writeln!(out, "there is no such revocation by {}", target.kind())?
                }
            }
            Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Action::List(args) => {
            let entries = all(store).await?;
            match args.access.output {
                Output::Json => {
                    let list =
                        json!({ "revocations": entries.iter().map(listed).collect::<Vec<_>>() });
                    writeln!(out, "{}", printable::json(&list)?)?
                }
                Output::Text => print_list(&entries, out)?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Reads all pages, each entry once: an entry that is added meanwhile may shift another one into
/// the next page.
async fn all<R: Revocations>(store: &R) -> anyhow::Result<Vec<Entry>> {
    let (mut entries, mut offset) = (Vec::new(), Some(0));
    while let Some(from) = offset {
        let page = store.list(from, PAGE).await?;
        entries.extend(page.entries);
        // A server that does not move on would be queried for ever.
        offset = page.next.filter(|next| *next > from);
    }
    entries.sort_by(|one: &Entry, two| one.key.cmp(&two.key));
    entries.dedup_by(|one, two| one.key == two.key);
    Ok(entries)
}

fn print_list(entries: &[Entry], out: &mut dyn Write) -> io::Result<()> {
    if entries.is_empty() {
        return writeln!(out, "nothing is revoked");
    }
    for entry in entries {
        let at = Rfc3339(entry.at);
        let key = printable::printable(&entry.key);
        writeln!(out, "{key}\n  at {at}, kept until {}", end(entry))?;
        if let Some(note) = &entry.note {
            writeln!(out, "  {}", printable::printable(note))?;
        }
    }
    Ok(())
}

/// The end of an entry, in whole seconds.
fn end(entry: &Entry) -> Rfc3339 {
    Rfc3339(Timestamp::from_secs(entry.ends.secs()))
}

fn revocation(args: &AddArgs, now: Timestamp) -> anyhow::Result<Revocation> {
    let (target, expires) = target(&args.selector)?;
    let at = args.at.map_or(Ok(now), |at| check_at(at, now))?;
    let ttl = args.ttl.unwrap_or_else(|| match expires {
        Some(expires) => {
            Span::from_secs(expires.saturating_sub(now.secs())).clamp(MIN_TTL, TTL_MAX)
        }
        None => ANY_LIFE,
    });
    Ok(Revocation::new(target, at, ttl, args.note.clone())?.with_margin())
}

/// Returns the target that the options name and, for a token, its expiry in seconds since 1970.
fn target(selector: &Selector) -> anyhow::Result<(Target, Option<u64>)> {
    let issuer = selector.issuer.clone().unwrap_or_default();
    let target = match &selector.what {
        What { jti: Some(jti), .. } => Target::Jti { issuer, jti: jti.clone() },
        What { subject: Some(subject), .. } => Target::Subject { issuer, subject: subject.clone() },
        What { client: Some(client), .. } => Target::Client { issuer, client: client.clone() },
        What { tenant: Some(tenant), .. } => Target::Tenant { tenant: tenant.clone() },
        What { token, .. } => {
            let token = argument::token(token.as_deref().unwrap_or_default())?;
            let text = std::str::from_utf8(token.expose())
                .ok()
                .filter(|text| text.split('.').count() == 3);
            let Some(text) = text else {
                bail!(
                    "this is not a JWT: it needs a header, a payload and a signature, separated by dots"
                )
            };
            return Ok((Target::Token { sha256: token_digest(text) }, expiry(text)));
        }
    };
    Ok((target, None))
}

/// Returns the token's `exp`, which is not verified: an operator who may revoke may choose any
/// life.
fn expiry(token: &str) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: f64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let Claims { exp } = serde_json::from_slice(&payload).ok()?;
    std::time::Duration::try_from_secs_f64(exp.ceil()).ok().map(|exp| exp.as_secs())
}

#[cfg(test)]
mod tests;
