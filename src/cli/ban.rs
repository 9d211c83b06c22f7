//! `tollgate ban`: adds, lifts, lists and finds bans.

mod help;
mod offenders;

use std::{
    future::Future,
    io::{self, Write},
    net::IpAddr,
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde_json::json;
use tollgate_core::{
    ban::{Kind, Target, automatic_network_of_key, network_of_key, parse_network},
    identity::KeyId,
    network::Network,
    secret::Secret,
    time::{Span, Timestamp},
};

use self::offenders::OffendersArgs;
use super::{
    Output,
    access::{Access, Place},
    argument,
    config_file::OptionalConfigFile,
    pages::Pages,
    printable,
    revoke::check_issuer,
};
use crate::{
    admin::bans::{Bans, after, listed},
    observe::{
        now,
        rfc3339::{self, Rfc3339},
    },
    store::{BanQuery, Entry, NewBan, until},
};

/// The number of entries that one call lists.
const PAGE: usize = 1000;

/// Ban subjects, clients, agents, tenants, networks and API keys, lift bans, list and find them.
#[derive(Debug, Args)]
pub struct BanArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Ban a subject, client, agent, tenant, network or API key, until a moment or until lifted.
    ///
    /// A ban also stops credentials that are issued later, which a revocation does not. A longer ban
    /// of the same target is never shortened: lift it first.
    #[command(after_long_help = help::ADD)]
    Add(AddArgs),
    /// List all bans.
    ///
    /// Names of subjects, clients, agents, tenants and keys are stored as hashes, so the list shows their
    /// kinds, moments and reasons.
    #[command(after_long_help = help::LIST)]
    List(ListArgs),
    /// Lift a ban.
    ///
    /// Name the same target that was banned. Bans of other targets stay in force. An automatic ban of a
    /// network is lifted with the operator's one, and its next one is short again.
    #[command(after_long_help = help::LIFT)]
    Lift(LiftArgs),
    /// Show whether a target or an address is banned.
    #[command(after_long_help = help::CHECK)]
    Check(CheckArgs),
    Offenders(OffendersArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    #[command(flatten)]
    selector: Selector,
    /// The time after which the ban ends. Default: it holds until it is lifted.
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
    span: Option<Span>,
    /// The moment when the ban ends, in RFC 3339 or seconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = rfc3339::parse)]
    until: Option<Timestamp>,
    /// The reason, one line, shown in the list.
    #[arg(long, value_name = "TEXT", value_parser = argument::note)]
    reason: Option<String>,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    config: OptionalConfigFile,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Args)]
struct LiftArgs {
    #[command(flatten)]
    selector: Selector,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    what: Question,
    /// The issuer of a subject, client or actor, exactly as `iss` of the tokens names it.
    #[arg(long, visible_alias = "iss", value_name = "ISS", required_unless_present_any = ["tenant", "network", "key", "address"], conflicts_with_all = ["tenant", "network", "key", "address"])]
    issuer: Option<String>,
    #[command(flatten)]
    access: Access,
}

/// The target of a ban.
#[derive(Debug, Args)]
struct Selector {
    #[command(flatten)]
    what: What,
    /// The issuer, exactly as `iss` of the tokens, or of the claim `act`, names it; empty for tokens
    /// without one.
    #[arg(long, visible_alias = "iss", value_name = "ISS", required_unless_present_any = ["tenant", "network", "key"], conflicts_with_all = ["tenant", "network", "key"])]
    issuer: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false, args = ["subject", "client", "actor", "tenant", "network", "key"])]
struct What {
    #[command(flatten)]
    names: Names,
}

/// What [`Action::Check`] looks for.
#[derive(Debug, Args)]
#[group(required = true, multiple = false, args = ["subject", "client", "actor", "tenant", "network", "key", "address"])]
struct Question {
    #[command(flatten)]
    names: Names,
    /// An address: every ban of a network that contains it.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
}

/// The names of a target, of which one is given.
#[derive(Debug, Args)]
#[group(skip)]
struct Names {
    /// A subject of an issuer.
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// A client of an issuer.
    #[arg(long, value_name = "CLIENT")]
    client: Option<String>,
    /// An agent of an issuer: every credential that it holds, as its subject or its client, or acts
    /// in, at any place of a chain of actors.
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// A tenant, of any issuer.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// An address or a network, IPv4 or IPv6.
    #[arg(long, value_name = "CIDR", value_parser = parse_network)]
    network: Option<Network>,
    /// An API key by its id, with the secrets of later rotations.
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
}

/// Runs the command and prints to `out`. `connect` opens the Redis store of a URL; it is an
/// argument so that tests can replace it.
///
/// # Errors
/// The store or the admin API does not answer or refuses, or a file cannot be read.
pub async fn run<B, F>(
    args: BanArgs,
    out: &mut (dyn Write + Send),
    connect: impl FnOnce(Secret) -> F,
) -> anyhow::Result<ExitCode>
where
    B: Bans,
    F: Future<Output = anyhow::Result<B>>,
{
    if let Action::Add(AddArgs { selector, config, .. }) = &args.action {
        let issuer = selector.issuer.as_deref().filter(|_| selector.what.names.actor.is_none());
        check_issuer(issuer, config)?;
    }
    let access = match &args.action {
        Action::Add(AddArgs { access, .. })
        | Action::List(ListArgs { access })
        | Action::Lift(LiftArgs { access, .. })
        | Action::Check(CheckArgs { access, .. }) => access,
        Action::Offenders(args) => return args.run(out).await,
    };
    match access.place()? {
        Place::Redis(url) => act(&connect(url).await?, &args.action, out).await,
        Place::Admin(client) => act(&client, &args.action, out).await,
    }
}

async fn act<B: Bans>(
    store: &B,
    action: &Action,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<ExitCode> {
    match action {
        Action::Offenders(args) => args.run(out).await,
        Action::Add(AddArgs { selector, span, until: end, reason, access, config: _ }) => {
            let now = now();
            let end = end.or_else(|| span.map(|span| after(now, span)));
            let ban = NewBan::new(selector.target(), now, end, reason.clone())?;
            let entry = store.ban(&ban).await?;
            match access.output {
                Output::Json => writeln!(out, "{}", printable::json(&listed(&entry))?)?,
                Output::Text => writeln!(out, "banned {} {}", name(&entry), ending(&entry))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Lift(LiftArgs { selector, access }) => {
            let target = selector.target();
            let found = store.lift(&target).await?;
            let kind = target.kind().label();
            match (access.output, found) {
                (Output::Json, _) => {
                    let answer = json!({ "kind": kind, "key": target.key(), "lifted": found });
                    writeln!(out, "{answer}")?;
                }
                (Output::Text, true) => writeln!(out, "lifted the ban of the {kind}")?,
                (Output::Text, false) => writeln!(out, "there is no such ban of a {kind}")?,
            }
            Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Action::List(ListArgs { access }) => {
            let entries = all(store).await?;
            match access.output {
                Output::Json => {
                    let list = json!({ "bans": entries.iter().map(listed).collect::<Vec<_>>() });
                    writeln!(out, "{}", printable::json(&list)?)?;
                }
                Output::Text if entries.is_empty() => writeln!(out, "nothing is banned")?,
                Output::Text => print_list(&entries, out)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Check(args) => {
            let entries = store.bans_of(&args.query()).await?;
            match args.access.output {
                Output::Json => {
                    let bans: Vec<_> = entries.iter().map(listed).collect();
                    let answer = json!({ "banned": !entries.is_empty(), "bans": bans });
                    writeln!(out, "{}", printable::json(&answer)?)?;
                }
                Output::Text if entries.is_empty() => writeln!(out, "not banned")?,
                Output::Text => print_list(&entries, out)?,
            }
            Ok(if entries.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

/// Reads all pages, each ban once: one that is extended meanwhile may be on two pages.
async fn all<B: Bans>(store: &B) -> anyhow::Result<Vec<Entry>> {
    let (mut entries, mut pages) = (Vec::new(), Pages::default());
    loop {
        let page = store.list_bans(pages.position(), PAGE).await?;
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

fn print_list(entries: &[Entry], out: &mut dyn Write) -> io::Result<()> {
    for entry in entries {
        writeln!(out, "{}\n  since {}, {}", name(entry), Rfc3339(entry.at), ending(entry))?;
        if let Some(reason) = &entry.note {
            writeln!(out, "  {}", printable::printable(reason))?;
        }
    }
    Ok(())
}

/// The target of a ban: a network in CIDR notation, other targets by their kind and the hashes of
/// their names.
fn name(entry: &Entry) -> String {
    if let Some(network) = network_of_key(&entry.key) {
        return format!("network {network}");
    }
    if let Some(network) = automatic_network_of_key(&entry.key) {
        return format!("network {network} (automatic)");
    }
    let names = entry.key.strip_prefix(entry.kind()).unwrap_or(&entry.key);
    let kind = Kind::of_key(&entry.key).map_or(entry.kind(), |kind| kind.label());
    printable::printable(&format!("{kind}{names}"))
}

fn ending(entry: &Entry) -> String {
    match until(entry) {
        Some(end) => format!("until {}", Rfc3339(end)),
        None => "until the ban is lifted".to_owned(),
    }
}

impl Selector {
    fn target(&self) -> Target {
        self.what.names.target(self.issuer.as_deref())
    }
}

impl Names {
    fn target(&self, issuer: Option<&str>) -> Target {
        let issuer = issuer.unwrap_or_default().to_owned();
        match self {
            Self { subject: Some(subject), .. } => {
                Target::Subject { issuer, subject: subject.clone() }
            }
            Self { client: Some(client), .. } => Target::Client { issuer, client: client.clone() },
            Self { actor: Some(actor), .. } => Target::Actor { issuer, actor: actor.clone() },
            Self { network: Some(network), .. } => Target::Network(*network),
            Self { key: Some(id), .. } => Target::Key { id: *id },
            Self { tenant, .. } => Target::Tenant { tenant: tenant.clone().unwrap_or_default() },
        }
    }
}

impl CheckArgs {
    fn query(&self) -> BanQuery {
        match self.what.address {
            Some(address) => BanQuery::Address(address),
            None => BanQuery::Target(self.what.names.target(self.issuer.as_deref())),
        }
    }
}

#[cfg(test)]
mod tests;
