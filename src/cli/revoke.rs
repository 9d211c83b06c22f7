//! `tollgate revoke`: adds, removes and lists revocations.

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
    credential::api_key::{ApiKey, ISSUER, LONGEST_LIFE, PREFIX},
    revocation::{Target, token_digest},
    secret::Secret,
    time::{Span, Timestamp},
};

use super::{
    Output,
    access::{Access, Place},
    argument,
    config_file::{self, OptionalConfigFile},
    pages::Pages,
    printable,
};
use crate::{
    admin::{
        Revocations,
        request::{ANY_LIFE, MIN_TTL, check_at, listed},
    },
    observe::{
        now,
        rfc3339::{self, Rfc3339},
    },
    store::{Entry, Revocation, TTL_MAX},
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
    /// Tell whether a token, a subject, a client or a tenant is revoked.
    ///
    /// A token is looked up by its hash, and by the id, the subject and the client that it names;
    /// whether its tenant is revoked is another question, with --tenant.
    #[command(after_long_help = help::CHECK)]
    Check(CheckArgs),
    /// List all revocations, or those of one name.
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
    /// The remaining life of the credentials, until `exp`. Default: with --token that of the token,
    /// else the longest that a policy can allow: 31d and a minute for tokens, and 3653d for a tenant
    /// and for API keys (`--issuer tollgate:api-keys`). The revocation is kept two minutes longer,
    /// for leeway and clocks. A credential that lives longer is valid again.
    #[arg(long, value_name = "DURATION", value_parser = span)]
    ttl: Option<Span>,
    /// For --subject, --client and --tenant: revoke tokens issued until this moment, in RFC 3339 or
    /// seconds since 1970. Default: now.
    #[arg(long, value_name = "TIME", value_parser = rfc3339::parse, conflicts_with_all = ["jti", "token"])]
    at: Option<Timestamp>,
    /// The reason, one line, shown in the list.
    #[arg(long, value_name = "TEXT", value_parser = argument::note)]
    note: Option<String>,
    #[command(flatten)]
    access: Access,
    // The policy whose issuers are known. The admin API knows them by itself.
    #[command(flatten)]
    config: OptionalConfigFile,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    selector: Selector,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    access: Access,
}

/// The revocations to list; all without an option.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Filter {
    /// Only that of one token, by its id.
    #[arg(long, value_name = "ID", requires = "issuer")]
    jti: Option<String>,
    /// Only that of a subject.
    #[arg(long, value_name = "SUBJECT", requires = "issuer")]
    subject: Option<String>,
    /// Only that of a client.
    #[arg(long, value_name = "CLIENT", requires = "issuer")]
    client: Option<String>,
    /// Only that of a tenant.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    #[command(flatten)]
    issuer: FilterIssuer,
}

/// The issuer of a filter.
#[derive(Debug, Args)]
struct FilterIssuer {
    /// The issuer, exactly as `iss` of the tokens names it; empty for tokens without one.
    #[arg(long, visible_alias = "iss", value_name = "ISS")]
    issuer: Option<String>,
}

impl Filter {
    /// The key of the revocation to list; `None` for all.
    fn key(self) -> Option<String> {
        let Self { jti, subject, client, tenant, issuer: FilterIssuer { issuer } } = self;
        let issuer = issuer.unwrap_or_default();
        let target = match (jti, subject, client, tenant) {
            (Some(jti), ..) => Target::Jti { issuer, jti },
            (_, Some(subject), ..) => Target::Subject { issuer, subject },
            (_, _, Some(client), _) => Target::Client { issuer, client },
            (.., Some(tenant)) => Target::Tenant { tenant },
            _ => return None,
        };
        Some(target.key())
    }
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
    #[arg(long, visible_alias = "iss", value_name = "ISS", conflicts_with_all = ["tenant", "token"])]
    issuer: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// One token by its id.
    #[arg(long, value_name = "ID", requires = "issuer")]
    jti: Option<String>,
    /// Every token of a subject.
    #[arg(long, value_name = "SUBJECT", requires = "issuer")]
    subject: Option<String>,
    /// Every token of a client.
    #[arg(long, value_name = "CLIENT", requires = "issuer")]
    client: Option<String>,
    /// Every token of a tenant, of any issuer.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// One token itself: `-` reads it from standard input, `@FILE` from a file. Only its hash is
    /// sent.
    #[arg(long, value_name = "TOKEN|-|@FILE")]
    token: Option<String>,
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
    if let Action::Add(AddArgs { selector, config, .. }) = &args.action {
        check_issuer(selector.issuer.as_deref(), config)?;
    }
    let access = match &args.action {
        Action::Add(AddArgs { access, .. })
        | Action::Check(CheckArgs { access, .. })
        | Action::List(ListArgs { access, .. })
        | Action::Remove(RemoveArgs { access, .. }) => access,
    };
    match access.place()? {
        Place::Redis(url) => act(&connect(url).await?, args.action, out).await,
        Place::Admin(client) => act(&client, args.action, out).await,
    }
}

async fn act<R: Revocations>(
    store: &R,
    action: Action,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<ExitCode> {
    match action {
        Action::Add(args) => {
            let revocation = revocation(&args, now())?;
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
        Action::Check(args) => {
            let names = names(&args.selector)?;
            let entries = all(store).await?;
            let found = entries.iter().filter(|entry| names.revoke(entry)).collect::<Vec<_>>();
            match args.access.output {
                Output::Json => {
                    let list: Vec<_> = found.iter().map(|entry| listed(entry)).collect();
                    let report = json!({ "revoked": !found.is_empty(), "revocations": list });
                    writeln!(out, "{}", printable::json(&report)?)?;
                }
                Output::Text if found.is_empty() => {
                    writeln!(out, "not revoked by {}", names.kinds())?;
                }
                Output::Text => {
                    for entry in &found {
                        print_found(entry, out)?;
                    }
                }
            }
            Ok(if found.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Action::List(args) => {
            let mut entries = all(store).await?;
            if let Some(key) = args.filter.key() {
                entries.retain(|entry| entry.key == key);
            }
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

/// Reads all pages, each entry once: an entry whose end is moved meanwhile may be on two pages.
async fn all<R: Revocations>(store: &R) -> anyhow::Result<Vec<Entry>> {
    let (mut entries, mut pages) = (Vec::new(), Pages::default());
    loop {
        let page = store.list(pages.position(), PAGE).await?;
        let count = page.entries.len();
        entries.extend(page.entries);
        if !pages.turn(count, page.next)? {
            break;
        }
    }
    entries.sort_by(|one: &Entry, two| one.key.cmp(&two.key));
    entries.dedup_by(|one, two| one.key == two.key);
    Ok(entries)
}

/// Prints the revocation that an answer rests on.
fn print_found(entry: &Entry, out: &mut dyn Write) -> io::Result<()> {
    let (kind, at, until) = (entry.kind(), Rfc3339(entry.at), end(entry));
    match entry.kind() {
        "jti" | "token" => writeln!(out, "revoked by {kind}, kept until {until}")?,
        _ => writeln!(out, "revoked by {kind} what was issued until {at}, kept until {until}")?,
    }
    if let Some(note) = &entry.note {
        writeln!(out, "  {}", printable::printable(note))?;
    }
    Ok(())
}

/// The names that revocations are looked up by.
struct Names {
    targets: Vec<Target>,
    /// The time of issue of a token, in seconds since 1970, where it has one.
    issued: Option<u64>,
}

impl Names {
    /// Whether the entry revokes what has these names.
    fn revoke(&self, entry: &Entry) -> bool {
        self.targets.iter().any(|target| {
            // A token that was issued after the moment of a revocation is not revoked by it.
            let later = self.issued.is_some_and(|issued| issued > entry.at.secs());
            target.key() == entry.key && !(target.is_before() && later)
        })
    }

    /// The kinds of names, for messages.
    fn kinds(&self) -> String {
        self.targets.iter().map(Target::kind).collect::<Vec<_>>().join(", ")
    }
}

/// Returns the names of the options; of a token also those in its claims, which are not verified.
fn names(selector: &Selector) -> anyhow::Result<Names> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Claims {
        iss: String,
        jti: Option<String>,
        sub: Option<String>,
        client_id: Option<String>,
        azp: Option<String>,
        iat: Option<f64>,
    }
    let Some(token) = &selector.what.token else {
        return Ok(Names { targets: vec![target(selector)?.0], issued: None });
    };
    let token = jwt(&argument::token(token)?)?;
    let target = Target::Token { sha256: token_digest(&token) };
    let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Claims =
        payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default();
    let Claims { iss: issuer, jti, sub, client_id, azp, iat } = claims;
    let mut targets = vec![target];
    targets.extend(jti.map(|jti| Target::Jti { issuer: issuer.clone(), jti }));
    targets.extend(sub.map(|subject| Target::Subject { issuer: issuer.clone(), subject }));
    targets
        .extend(client_id.or(azp).map(|client| Target::Client { issuer: issuer.clone(), client }));
    let issued = iat.and_then(|iat| std::time::Duration::try_from_secs_f64(iat).ok());
    Ok(Names { targets, issued: issued.map(|issued| issued.as_secs()) })
}

/// Refuses an issuer that the policy does not have: a revocation of it would protect nothing.
pub(super) fn check_issuer(
    issuer: Option<&str>,
    config: &OptionalConfigFile,
) -> anyhow::Result<()> {
    let (Some(issuer), Some(path)) = (issuer, config.path()) else { return Ok(()) };
    let policy = config_file::load(path)?.policy;
    let of_keys = policy.api_keys.as_ref().map(|_| ISSUER);
    let known = policy.issuers.list().iter().map(|issuer| &*issuer.name).chain(of_keys);
    let known: Vec<&str> = known.collect();
    if known.contains(&issuer) {
        return Ok(());
    }
    bail!("no issuer of the policy is `{issuer}`; its issuers are {}", super::listed(&known))
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
        None => longest_life(&target),
    });
    Ok(Revocation::new(target, at, ttl, args.note.clone())?.with_margin())
}

/// Returns the longest time for which a credential with these names may be accepted, under any
/// policy: a tenant has API keys as well as tokens.
fn longest_life(target: &Target) -> Span {
    match target {
        Target::Jti { issuer, .. }
        | Target::Subject { issuer, .. }
        | Target::Client { issuer, .. }
            if issuer != ISSUER =>
        {
            ANY_LIFE
        }
        Target::Token { .. } => ANY_LIFE,
        _ => LONGEST_LIFE,
    }
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
            let token = jwt(&argument::token(token.as_deref().unwrap_or_default())?)?;
            return Ok((Target::Token { sha256: token_digest(&token) }, expiry(&token)));
        }
    };
    Ok((target, None))
}

/// Returns the text of a token that has the three parts of a JWT.
fn jwt(token: &Secret) -> anyhow::Result<String> {
    if token.expose().starts_with(PREFIX.as_bytes()) {
        let Some(id) = ApiKey::read(token.expose()).ok().and_then(ApiKey::id) else {
            bail!("this is an API key, and its checksum is wrong: it was mistyped");
        };
        bail!(
            "this is an API key, and no token; name it by its id: `--jti {} --issuer {ISSUER}`",
            id.as_str()
        );
    }
    let text = std::str::from_utf8(token.expose()).ok();
    let Some(text) = text.filter(|text| text.split('.').count() == 3) else {
        bail!("this is not a JWT: it needs a header, a payload and a signature, separated by dots")
    };
    Ok(text.to_owned())
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
pub(super) mod tests;
