//! The actions of `tollgate keys`.

use std::{collections::BTreeMap, io::Write, num::NonZeroUsize, process::ExitCode};

use anyhow::bail;
use clap::Args;
use serde_json::{Map, Value};
use tollgate_core::{
    credential::api_key::{HolderSpec, KeyDigest, KeyLifetimes, KeySpec, PREFIX},
    identity::KeyId,
    network::Networks,
    secret::Secret,
    time::{Quota, Span, rfc3339::Rfc3339},
};

use super::{
    change,
    records::{OptionalPlace, OwnRecords, Place, Records},
    redis_store::{KeyList, ListedKey},
    show,
};
use crate::{
    cli::{Output, admin_client::MadeKey, argument},
    observe::now,
    store::Position,
};

/// The grace of a rotation where none is given.
const GRACE: Span = Span::from_secs(86_400);

const CREATE: &str = "\
Examples:
  tollgate keys create --subject ci --scope infer:text
  tollgate keys create --file keys.json --subject ci --tenant acme --scope infer:text
  tollgate keys create --file keys.json --subject bot --model qwen --network 10.0.0.0/8
  tollgate keys create --config tollgate.yaml --subject ci --scope infer:text
  tollgate keys create --admin https://gate.example.com:9003 --token-file admin-token.txt \\
    --subject ci --tenant acme --scope infer:text

Exit codes:
  0  made
  2  wrong arguments, or the file, Redis or the admin API cannot be used or refuses";

const IMPORT: &str = "\
Examples:
  tollgate keys import --file keys.json --subject bot --scope infer:text --key @old-key.txt
  tollgate keys import --file keys.json --subject bot --key -
  tollgate keys import --admin unix:/run/tollgate/admin.sock --token-file admin-token.txt \\
    --subject bot --key @old-key.txt

Exit codes:
  0  added
  2  wrong arguments, or the file, Redis or the admin API cannot be used or refuses";

const HASH: &str = "\
Examples:
  tollgate keys hash @old-key.txt
  tollgate keys hash < old-key.txt

Exit codes:
  0  printed
  2  the key cannot be read";

const LIST: &str = "\
Examples:
  tollgate keys list --file keys.json
  tollgate keys list --file keys.json --output json | jq -r .id
  tollgate keys list --config tollgate.yaml --limit 100
  tollgate keys list --admin unix:/run/tollgate/admin.sock --token-file admin-token.txt

Exit codes:
  0  printed
  2  the file, Redis or the admin API cannot be used";

const SHOW: &str = "\
Examples:
  tollgate keys show 7Jk2mN4pQ8rT --file keys.json

Exit codes:
  0  printed
  1  there is no such key
  2  the file, Redis or the admin API cannot be used";

const ROTATE: &str = "\
Examples:
  tollgate keys rotate 7Jk2mN4pQ8rT --file keys.json
  tollgate keys rotate 7Jk2mN4pQ8rT --file keys.json --grace 0s --expires-in 30d

Exit codes:
  0  rotated
  1  there is no such key
  2  the file, Redis or the admin API cannot be used or refuses";

const REVOKE: &str = "\
Examples:
  tollgate keys revoke 7Jk2mN4pQ8rT --file keys.json
  tollgate keys revoke 7Jk2mN4pQ8rT --config tollgate.yaml

Exit codes:
  0  removed
  1  there is no such key
  2  the file, Redis or the admin API cannot be used";

/// What a key is for.
#[derive(Debug, Args)]
struct Terms {
    /// The subject that requests with the key have.
    #[arg(long, value_name = "NAME")]
    subject: String,
    /// The subject is a person, not a program.
    #[arg(long)]
    user: bool,
    /// The tenant of the subject.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// The person or team that is responsible for the key.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// A scope that is granted. Repeat it for several.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A model that the key may be used for. Default: those that the policy allows.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// The tier, which overrides of limits select by.
    #[arg(long, value_name = "NAME")]
    tier: Option<String>,
    /// A size for a limit of the policy, such as `per-subject=10/1m` or `per-day=1000/day`.
    #[arg(long = "limit", value_name = "NAME=SIZE", value_parser = named::<Quota>)]
    limits: Vec<(String, Quota)>,
    /// A network from which the key may be used, such as `10.0.0.0/8`. Default: every network.
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<String>,
    /// A label for people and tools, such as `team=search`.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = named::<String>)]
    labels: Vec<(String, String)>,
    /// The life of the key. Default 90d; `api_keys.max_life` of the configuration bounds it.
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<Span>,
}

/// Reads a name and a value, `NAME=VALUE`.
fn named<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<(String, T), NamedError> {
    let (name, value) = text.split_once('=').ok_or(NamedError::NoName)?;
    let value = value.parse().map_err(|error: T::Err| NamedError::Value(error.to_string()))?;
    Ok((name.to_owned(), value))
}

/// A text that is not `NAME=VALUE`.
#[derive(Debug, thiserror::Error)]
enum NamedError {
    /// The text has no `=`.
    #[error("write a name, `=` and a value")]
    NoName,
    /// The value cannot be read.
    #[error("{0}")]
    Value(String),
}

impl Terms {
    /// Returns the record of a key with this digest.
    ///
    /// # Errors
    /// A text that is no network.
    fn record(self, id: KeyId, digest: KeyDigest, weak: bool) -> anyhow::Result<KeySpec> {
        let created = now();
        let networks = Some(self.networks).filter(|list| !list.is_empty());
        Ok(KeySpec {
            id,
            digest,
            weak,
            subject: self.subject,
            holder: if self.user { HolderSpec::User } else { HolderSpec::Client },
            tenant: self.tenant,
            owner: self.owner,
            scopes: self.scopes,
            models: Some(self.models).filter(|list| !list.is_empty()),
            tier: self.tier,
            limits: BTreeMap::from_iter(self.limits),
            networks: networks.map(|list| Networks::parse(&list)).transpose()?,
            labels: BTreeMap::from_iter(self.labels),
            expires: Some(change::end(created, self.expires_in)),
            created: Rfc3339(tollgate_core::time::Timestamp::from_secs(created.secs())),
            issued: None,
            previous: None,
        })
    }

    /// Returns the members of a body of the admin API.
    fn members(self) -> Map<String, Value> {
        let mut members = Map::new();
        let mut add = |name: &str, value: Value| members.insert(name.to_owned(), value);
        add("subject", self.subject.into());
        if self.user {
            add("holder", "user".into());
        }
        for (name, value) in [("tenant", self.tenant), ("owner", self.owner), ("tier", self.tier)] {
            value.map(|value| add(name, value.into()));
        }
        for (name, list) in
            [("scopes", self.scopes), ("models", self.models), ("networks", self.networks)]
        {
            if !list.is_empty() {
                add(name, list.into());
            }
        }
        let limits = self.limits.into_iter();
        let limits: Map<_, _> =
            limits.map(|(name, rate)| (name, Value::from(rate.to_string()))).collect();
        let labels: Map<_, _> =
            self.labels.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
        for (name, map) in [("limits", limits), ("labels", labels)] {
            if !map.is_empty() {
                add(name, map.into());
            }
        }
        self.expires_in.map(|life| add("expires_in", life.to_string().into()));
        members
    }
}

/// Make a key, and print it once.
///
/// Without --file, --config and --admin its record is printed too.
#[derive(Debug, Args)]
#[command(after_long_help = CREATE)]
pub(super) struct Create {
    #[command(flatten)]
    place: OptionalPlace,
    #[command(flatten)]
    terms: Terms,
    /// The format of the report.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Create {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let records = match self.place.open()? {
            Some(Records::Admin(admin)) => {
                let MadeKey { key, record } = admin.create(self.terms.members())?;
                let place = self.place.name();
                show::made(out, self.output, &key, &record.into(), Some(&place))?;
                return Ok(ExitCode::SUCCESS);
            }
            Some(Records::Own(records)) => Some(records),
            None => None,
        };
        let key = change::new_key()?;
        let record = self.terms.record(key.id(), key.digest(), false)?;
        let place = records.is_some().then(|| self.place.name());
        if let Some(mut records) = records {
            records.add(&record)?;
        }
        let record = serde_json::to_value(&record)?;
        show::made(out, self.output, key.expose(), &record, place.as_deref())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Add a key that another system made, by its digest.
///
/// The record is marked as weak until it is rotated: the strength of the key is not known.
#[derive(Debug, Args)]
#[command(after_long_help = IMPORT)]
pub(super) struct Import {
    #[command(flatten)]
    place: Place,
    /// The key: `@FILE`, or `-` for standard input. Only its digest is stored.
    #[arg(long, value_name = "KEY", conflicts_with = "digest", required_unless_present = "digest")]
    key: Option<String>,
    /// The digest of the key: `sha256:` and 64 hex digits.
    #[arg(long, value_name = "DIGEST")]
    digest: Option<KeyDigest>,
    #[command(flatten)]
    terms: Terms,
    /// The format of the report.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Import {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let digest = match (&self.key, self.digest) {
            (Some(key), _) => {
                let key = read_key(key)?;
                if key.expose().starts_with(PREFIX.as_bytes()) {
                    bail!(
                        "this is a key of Tollgate, which is found by its id and not by its \
                         digest; copy its record"
                    );
                }
                KeyDigest::of(key.expose())
            }
            (None, Some(digest)) => digest,
            (None, None) => bail!("name the key with --key or --digest"),
        };
        let record = match self.place.open(true)? {
            Records::Admin(admin) => {
                let mut members = self.terms.members();
                members.insert("digest".to_owned(), digest.to_string().into());
                admin.import(members)?
            }
            Records::Own(mut records) => {
                let record = self.terms.record(change::new_key()?.id(), digest, true)?;
                records.add(&record)?;
                show::with_state(&record, now(), &records.lifetimes())?
            }
        };
        show::record(out, self.output, &record)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Print the digest of a key.
#[derive(Debug, Args)]
#[command(after_long_help = HASH)]
pub(super) struct Hash {
    /// The key: `@FILE`, or `-` for standard input.
    #[arg(value_name = "KEY", default_value = "-")]
    key: String,
}

impl Hash {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        writeln!(out, "{}", KeyDigest::of(read_key(&self.key)?.expose()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads the key in a file or on standard input. A key is never an argument: other users of the
/// machine see those.
fn read_key(key: &str) -> anyhow::Result<Secret> {
    if key != "-" && !key.starts_with('@') {
        bail!("write `@FILE`, or `-` for standard input: arguments are visible to other users");
    }
    let key = argument::token(key)?;
    let bytes = key.expose();
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_graphic) {
        bail!("a key is one word of printable ASCII");
    }
    Ok(key)
}

/// List the keys of a file, or those of Redis by the moment of their creation.
#[derive(Debug, Args)]
#[command(after_long_help = LIST)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    /// The most keys of Redis that are listed. Default: all.
    #[arg(long, value_name = "NUMBER", conflicts_with = "file")]
    limit: Option<NonZeroUsize>,
    /// The cursor after which the list of Redis goes on, as the list before it printed it.
    #[arg(long, value_name = "CURSOR", conflicts_with = "file")]
    cursor: Option<Position>,
    /// The format of the report: with `json`, one object a line.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl List {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let limit = self.limit.map_or(usize::MAX, NonZeroUsize::get);
        let page = match self.place.open(false)? {
            Records::Own(OwnRecords::File(file)) => {
                let keys = file.keys().iter().map(|key| {
                    // The policy that bounds the keys of a file is not known here.
                    show::with_state(key, now(), &KeyLifetimes::UNBOUNDED).map(ListedKey::Record)
                });
                let keys = keys.collect::<anyhow::Result<_>>()?;
                KeyList { copied: file.keys().len(), keys, next: None, has_uses: false }
            }
            Records::Own(OwnRecords::Redis(redis)) => redis.list(self.cursor, limit, now())?,
            Records::Admin(admin) => admin.list(self.cursor, limit)?,
        };
        show::page(out, self.output, &page)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The record that an action is for.
#[derive(Debug, Args)]
struct Named {
    /// The id of the key, or the key up to its second `_`.
    #[arg(value_name = "ID", value_parser = id)]
    id: KeyId,
    #[command(flatten)]
    place: Place,
    /// The format of the report.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Reads an id. Of a whole key the id is read, because an error would show the secret.
fn id(text: &str) -> Result<KeyId, tollgate_core::identity::KeyIdError> {
    let Some(rest) = text.strip_prefix(PREFIX) else { return text.parse() };
    rest.split_once('_').map_or(rest, |(id, _)| id).parse()
}

impl Named {
    /// Returns the exit code of an action on a key that the place does not have.
    fn missing(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        writeln!(out, "`{}` has no key `{}`", self.place.name(), self.id)?;
        Ok(ExitCode::from(1))
    }
}

/// Print the record of a key.
#[derive(Debug, Args)]
#[command(after_long_help = SHOW)]
pub(super) struct Show {
    #[command(flatten)]
    named: Named,
}

impl Show {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let record = match self.named.place.open(false)? {
            Records::Admin(admin) => admin.find(self.named.id)?,
            Records::Own(mut records) => match records.find(self.named.id)? {
                Some(record) => {
                    let mut value = show::with_state(&record, now(), &records.lifetimes())?;
                    show::add_last_use(&mut value, records.last_use(record.id)?);
                    Some(value)
                }
                None => None,
            },
        };
        let Some(record) = record else { return self.named.missing(out) };
        show::record(out, self.named.output, &record)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Make another secret for a key, and print it once.
///
/// The id stays, and so do its limits and revocations. The secret before is accepted until the grace
/// has passed; one of an earlier rotation ends at once.
#[derive(Debug, Args)]
#[command(after_long_help = ROTATE)]
pub(super) struct Rotate {
    #[command(flatten)]
    named: Named,
    /// How long the secret before is accepted. `0s`: it ends at once. Default 24h, and with --admin
    /// `api_keys.grace`.
    #[arg(long, value_name = "DURATION")]
    grace: Option<Span>,
    /// The life of the new secret. Default 90d.
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<Span>,
}

impl Rotate {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let place = self.named.place.name();
        let mut records = match self.named.place.open(false)? {
            Records::Own(records) => records,
            Records::Admin(admin) => {
                let members = [("grace", self.grace), ("expires_in", self.expires_in)];
                let members = members.into_iter().filter_map(|(name, span)| {
                    Some((name.to_owned(), Value::from(span?.to_string())))
                });
                let rotated = admin.rotate(self.named.id, members.collect())?;
                let Some(MadeKey { key, record }) = rotated else {
                    return self.named.missing(out);
                };
                show::made(out, self.named.output, &key, &record.into(), Some(&place))?;
                return Ok(ExitCode::SUCCESS);
            }
        };
        let Some(record) = records.find(self.named.id)? else { return self.named.missing(out) };
        let key = change::key_of(record.id)?;
        let expires = change::end(now(), self.expires_in);
        let grace = self.grace.unwrap_or(GRACE);
        let record = change::rotated(&record, key.digest(), now(), grace, expires)?;
        records.replace(&record)?;
        let record = serde_json::to_value(&record)?;
        show::made(out, self.named.output, key.expose(), &record, Some(&place))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Remove a key. It is refused as soon as the file is read again; in Redis at once, on every
/// replica.
#[derive(Debug, Args)]
#[command(after_long_help = REVOKE)]
pub(super) struct Revoke {
    #[command(flatten)]
    named: Named,
}

impl Revoke {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let removed = match self.named.place.open(false)? {
            Records::Own(mut records) => records.remove(self.named.id)?,
            Records::Admin(admin) => admin.remove(self.named.id)?,
        };
        if !removed {
            return self.named.missing(out);
        }
        match self.named.output {
            Output::Text => {
                writeln!(
                    out,
                    "`{}` has no key `{}` any more",
                    self.named.place.name(),
                    self.named.id
                )?;
            }
            Output::Json => writeln!(out, "{{\"removed\":\"{}\"}}", self.named.id)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
