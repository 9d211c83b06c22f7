//! `tollgate revoke`: adds, removes and lists revocations.

mod help;
mod names;
pub(crate) mod redis;

use std::{
    future::Future,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::bail;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::{Args, Subcommand};
use serde_json::json;
use thiserror::Error;
use tollgate_core::{
    credential::{
        api_key::{ApiKey, ISSUER, LONGEST_LIFE, PREFIX},
        certificate,
    },
    identity::KeyId,
    revocation::{Target, token_digest},
    secret::Secret,
    time::{Span, Timestamp},
};

use self::names::Names;
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
    secrets,
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
    /// Revoke a token, a key or a certificate, or what was issued until now to a holder of some.
    ///
    /// Holders are a subject, a client, an agent, a tenant and a workload. A signing key is revoked with
    /// everything that it signs.
    ///
    /// It applies from the next check on, on every replica that uses the same store. Name the store
    /// with --redis, or a running Tollgate with --admin and --token-file.
    #[command(after_long_help = help::ADD)]
    Add(AddArgs),
    /// Tell whether a token, a certificate, or what has one of the other names is revoked.
    ///
    /// A token is looked up by its hash, and by the id, the subject, the client, the actors and the
    /// signing key that it names; whether its tenant is revoked is another question, with --tenant.
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
    /// The remaining life of the credentials, until `exp`. Default: with --token and --certificate its
    /// own, else the longest that a policy can allow: 31d and a minute for tokens, and 3653d for a
    /// tenant, API keys (`--key`, `--issuer tollgate:api-keys`) and certificates (`--spiffe`,
    /// `--issuer spiffe://...` or `tollgate:client-certificates`; another issuer of certificates needs
    /// --ttl). The revocation is kept two minutes longer, for leeway and clocks. A credential that
    /// lives longer is valid again.
    #[arg(long, value_name = "DURATION", value_parser = span)]
    ttl: Option<Span>,
    /// For --subject, --client, --actor, --tenant and --spiffe: revoke what was issued until this
    /// moment, in RFC 3339 or seconds since 1970. Default: now.
    #[arg(long, value_name = "TIME", value_parser = rfc3339::parse, conflicts_with_all = ["jti", "token", "certificate", "key", "kid"])]
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
    /// Only that of an agent.
    #[arg(long, value_name = "ACTOR", requires = "issuer")]
    actor: Option<String>,
    /// Only that of a signing key.
    #[arg(long, value_name = "KID", requires = "issuer")]
    kid: Option<String>,
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
        let Self { jti, subject, client, tenant, actor, kid, issuer } = self;
        let issuer = issuer.issuer.unwrap_or_default();
        let target = match (jti, subject, client, tenant, actor, kid) {
            (Some(jti), ..) => Target::Jti { issuer, jti },
            (_, Some(subject), ..) => Target::Subject { issuer, subject },
            (_, _, Some(client), ..) => Target::Client { issuer, client },
            (.., Some(tenant), _, _) => Target::Tenant { tenant },
            (.., Some(actor), _) => Target::Actor { issuer, actor },
            (.., Some(kid)) => Target::Kid { issuer, kid },
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
    /// The issuer, exactly as `iss` of the tokens, or of the claim `act`, names it; empty for tokens
    /// without one.
    #[arg(long, visible_alias = "iss", value_name = "ISS", conflicts_with_all = ["tenant", "token", "key", "spiffe", "certificate"])]
    issuer: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// One token by its id; a certificate by its serial number, in lower-case hexadecimal digits
    /// without zeros at the beginning.
    #[arg(long, visible_alias = "serial", value_name = "ID", requires = "issuer")]
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
    /// Every token that an agent holds, as its subject or its client, or acts in, at any place of a
    /// chain of actors.
    #[arg(long, value_name = "ACTOR", requires = "issuer")]
    actor: Option<String>,
    /// Every token that was signed with the key of this name.
    #[arg(long, value_name = "KID", requires = "issuer")]
    kid: Option<String>,
    /// An API key by its id, with all of its secrets.
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    /// Every certificate and every token of a workload, by its SPIFFE ID.
    #[arg(long, value_name = "SPIFFE-ID")]
    spiffe: Option<String>,
    /// One certificate itself, in a PEM file. Only its hash is sent.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
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
        // The issuer of an actor may be one that issues no credentials itself.
        let issuer = selector.issuer.as_deref().filter(|_| selector.what.actor.is_none());
        check_issuer(issuer, config)?;
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
            let names = Names::of(&args.selector)?;
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
        "jti" | "token" | "kid" => writeln!(out, "revoked by {kind}, kept until {until}")?,
        _ => writeln!(out, "revoked by {kind} what was issued until {at}, kept until {until}")?,
    }
    if let Some(note) = &entry.note {
        writeln!(out, "  {}", printable::printable(note))?;
    }
    Ok(())
}

/// Refuses an issuer that the policy does not have: a revocation of it would protect nothing.
pub(super) fn check_issuer(
    issuer: Option<&str>,
    config: &OptionalConfigFile,
) -> anyhow::Result<()> {
    let (Some(issuer), Some(path)) = (issuer, config.path()) else { return Ok(()) };
    let policy = config_file::load(path)?.policy;
    let names: Vec<_> = policy.issuer_names().collect();
    let known: Vec<&str> = names.iter().map(|name| &**name).collect();
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
/// policy: a tenant has API keys and certificates as well as tokens.
fn longest_life(target: &Target) -> Span {
    match target {
        Target::Jti { issuer, .. }
        | Target::Subject { issuer, .. }
        | Target::Client { issuer, .. }
        | Target::Actor { issuer, .. }
        | Target::Kid { issuer, .. }
            if issuer == ISSUER
                || issuer == certificate::DEFAULT_ISSUER
                || issuer.starts_with("spiffe://") =>
        {
            LONGEST_LIFE
        }
        Target::Tenant { .. } => LONGEST_LIFE,
        _ => ANY_LIFE,
    }
}

/// Returns the target that the options name and, for a token or a certificate, its expiry in seconds
/// since 1970.
fn target(selector: &Selector) -> anyhow::Result<(Target, Option<u64>)> {
    let issuer = selector.issuer.clone().unwrap_or_default();
    let target = match &selector.what {
        What { jti: Some(jti), .. } => Target::Jti { issuer, jti: jti.clone() },
        What { subject: Some(subject), .. } => Target::Subject { issuer, subject: subject.clone() },
        What { client: Some(client), .. } => Target::Client { issuer, client: client.clone() },
        What { tenant: Some(tenant), .. } => Target::Tenant { tenant: tenant.clone() },
        What { actor: Some(actor), .. } => Target::Actor { issuer, actor: actor.clone() },
        What { kid: Some(kid), .. } => Target::Kid { issuer, kid: kid.clone() },
        What { key: Some(id), .. } => {
            Target::Jti { issuer: ISSUER.to_owned(), jti: id.to_string() }
        }
        What { spiffe: Some(id), .. } => match certificate::trust_domain_of(id) {
            Some(domain) => Target::Subject { issuer: domain.to_owned(), subject: id.clone() },
            None => bail!("`{id}` is not a SPIFFE ID, such as `spiffe://prod.example.com/batch`"),
        },
        What { certificate: Some(path), .. } => {
            let text = argument::file(path, secrets::MAX)?;
            let Some((sha256, ends)) = certificate::digest_of(&text) else {
                bail!("`{}` is not a certificate in PEM", path.display());
            };
            return Ok((Target::Token { sha256 }, Some(ends)));
        }
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
