//! `/v1/keys`: the API keys in Redis. `POST` creates one, `GET ?limit=&cursor=&tenant=` lists them,
//! `POST /v1/keys/import` adds the digest of a key of another system, `GET` and `DELETE
//! /v1/keys/<id>` show and revoke one, and `POST /v1/keys/<id>/rotate` gives it another secret.
//!
//! A key is in the answer that creates or rotates it, and nowhere else. An id is no secret, so that
//! a URL may contain it.

mod body;
mod view;

use std::{error::Error, fmt, sync::Arc};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, header::ALLOW};
use http_body::Body;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use tollgate_core::{
    admission::Outage,
    credential::api_key::{ApiKeys, GeneratedKey, KeyDigest, KeyRecord},
    identity::KeyId,
    policy::Policy,
    time::Timestamp,
};

use self::body::{ListQuery, Rotation, Terms};
use super::{
    Admin, StoreUnavailable,
    caller::{AdminAction, Caller},
    json_body,
    record::AdminRecord,
    unavailable,
};
use crate::{
    json_api::{self, Refusal, ok},
    observe::{now, rfc3339::Rfc3339},
    store::{KeyPage, KeyWrite, Position},
};

/// The path of the keys.
pub(crate) const PATH: &str = "/v1/keys";

/// The most records that are read for one page of the list.
const MOST_READ: usize = 10_000;

/// Records that are read at once where a page takes only some of them.
const READ_AT_ONCE: usize = 500;

/// How often a change is tried again because another call changed the same record.
const ATTEMPTS: usize = 4;

/// The records of API keys that can be changed.
pub trait KeyRecords: Send + Sync {
    /// Returns the text of the record of a key.
    fn read<'a>(&'a self, id: &'a KeyId) -> BoxFuture<'a, Result<Option<String>, Outage>>;

    /// Writes the record of a key over the text `replaces`; without it the record must be new.
    fn write<'a>(
        &'a self,
        record: &'a KeyRecord,
        text: &'a str,
        replaces: Option<&'a str>,
    ) -> BoxFuture<'a, Result<KeyWrite, Outage>>;

    /// Removes the record of a key. Returns whether there was one.
    fn remove<'a>(&'a self, id: &'a KeyId) -> BoxFuture<'a, Result<bool, Outage>>;

    /// Returns when each key was last used; `None` where that is not known.
    fn last_uses<'a>(
        &'a self,
        ids: &'a [KeyId],
    ) -> BoxFuture<'a, Result<Vec<Option<Timestamp>>, Outage>>;

    /// Lists records by the moment of their creation, after a position: at most `limit`, and fewer
    /// where a store reads fewer at once.
    fn list<'a>(
        &'a self,
        after: Option<&'a Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<KeyPage, Outage>>;
}

/// The keys of the admin API: their records, and the policy that bounds them.
pub(super) struct KeyAdmin {
    records: Option<Arc<dyn KeyRecords>>,
    policy: Box<dyn Fn() -> Arc<Policy> + Send + Sync>,
    /// Held from the count of a tenant's keys until one is added.
    adding: Mutex<()>,
}

impl KeyAdmin {
    pub(super) fn new(
        records: Option<Arc<dyn KeyRecords>>,
        policy: impl Fn() -> Arc<Policy> + Send + Sync + 'static,
    ) -> Self {
        Self { records, policy: Box::new(policy), adding: Mutex::const_new(()) }
    }

    /// Whether a caller sees and changes a key.
    pub(super) async fn sees(&self, caller: Caller<'_>, id: &KeyId) -> Result<bool, Refusal> {
        let Some(managed) = self.managed(caller) else { return Ok(false) };
        let text = managed.records.read(id).await.map_err(outage)?;
        let found = text.and_then(|text| KeyRecord::from_stored(*id, &text).ok());
        Ok(found.is_some_and(|found| caller.sees(found.tenant.as_deref())))
    }

    /// Returns the records under the policy in force.
    fn managed<'a>(&'a self, caller: Caller<'a>) -> Option<Managed<'a>> {
        let policy = (self.policy)();
        let terms = policy.api_keys.clone().filter(|keys| keys.redis.is_some())?;
        let records = &**self.records.as_ref()?;
        Some(Managed { records, policy, terms, caller, adding: &self.adding })
    }
}

/// What a path below [`PATH`] names.
#[derive(Clone, Copy)]
enum Place {
    All,
    Import,
    One(KeyId),
    Rotation(KeyId),
}

impl Place {
    fn of(path: &str) -> Option<Self> {
        let rest = path.strip_prefix(PATH)?;
        if rest.is_empty() {
            return Some(Self::All);
        }
        let rest = rest.strip_prefix('/')?;
        if rest == "import" {
            return Some(Self::Import);
        }
        match rest.split_once('/') {
            None => rest.parse().ok().map(Self::One),
            Some((id, "rotate")) => id.parse().ok().map(Self::Rotation),
            Some(_) => None,
        }
    }

    const fn methods(self) -> (&'static str, &'static str) {
        match self {
            Self::All => ("use GET or POST", "GET, POST"),
            Self::Import | Self::Rotation(_) => ("use POST", "POST"),
            Self::One(_) => ("use GET or DELETE", "GET, DELETE"),
        }
    }
}

/// Whether a path is one of the keys, or below it.
pub(super) fn is_below(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Handles a call of [`PATH`], or of a path below it, that is authorized.
pub(super) async fn call<R, B>(
    admin: &Admin<R>,
    caller: Caller<'_>,
    request: Request<B>,
    record: &mut AdminRecord<'_>,
) -> Result<Response<Full<Bytes>>, Refusal>
where
    R: Send + Sync,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let place = Place::of(request.uri().path()).ok_or_else(no_such_key)?;
    let method = request.method().clone();
    let (name, action) = match (place, &method) {
        (Place::All, &Method::GET) => ("list_keys", AdminAction::ReadKeys),
        (Place::All, &Method::POST) => ("create_key", AdminAction::CreateKeys),
        (Place::Import, &Method::POST) => ("import_key", AdminAction::ImportKeys),
        (Place::One(_), &Method::GET) => ("show_key", AdminAction::ReadKeys),
        (Place::One(_), &Method::DELETE) => ("revoke_key", AdminAction::RevokeKeys),
        (Place::Rotation(_), &Method::POST) => ("rotate_key", AdminAction::RotateKeys),
        _ => {
            let (remedy, allow) = place.methods();
            return Err(json_api::not_allowed(remedy).with(ALLOW, allow));
        }
    };
    record.doing(name);
    if let Place::One(id) | Place::Rotation(id) = place {
        record.of_key(id);
    }
    caller.require(action)?;
    let managed = admin.keys.as_ref().and_then(|keys| keys.managed(caller));
    let managed = managed.ok_or_else(unmanaged)?;
    let answer = match place {
        Place::All if method == Method::GET => {
            let query = body::list_query(request.uri().query().unwrap_or_default())?;
            managed.list(&query).await?
        }
        Place::All => {
            let terms = json_body::read(&super::body(request).await?)?;
            managed.create(terms, record).await?
        }
        Place::Import => {
            let terms = json_body::read(&super::body(request).await?)?;
            managed.import(terms, record).await?
        }
        Place::One(id) if method == Method::GET => {
            let (found, _) = managed.find(&id, record).await?;
            let mut shown = view::record(&found, now(), &managed.terms.lifetimes);
            managed.add_last_uses(&mut [(id, &mut shown)]).await?;
            shown
        }
        Place::One(id) => managed.revoke(&id, record).await?,
        Place::Rotation(id) => {
            let rotation = json_body::read(&super::body(request).await?)?;
            managed.rotate(&id, &rotation, record).await?
        }
    };
    Ok(ok(&answer))
}

/// Records that the policy in force uses.
struct Managed<'a> {
    records: &'a dyn KeyRecords,
    policy: Arc<Policy>,
    terms: ApiKeys,
    caller: Caller<'a>,
    adding: &'a Mutex<()>,
}

impl fmt::Debug for Managed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Managed").finish_non_exhaustive()
    }
}

impl Managed<'_> {
    async fn list(&self, query: &ListQuery) -> Result<Value, Refusal> {
        let (mut keys, mut read, mut after) = (Vec::new(), 0, query.after.clone());
        let is_filtered = query.tenant.is_some() || self.caller.tenants().is_some();
        let next = 'pages: loop {
            let missing = query.limit - keys.len();
            let wanted = if is_filtered { READ_AT_ONCE } else { missing };
            let page = self.records.list(after.as_ref(), wanted).await.map_err(outage)?;
            let mut rest = page.keys.iter();
            while let Some(stored) = rest.next() {
                read += 1;
                let created = stored.created;
                // INVARIANT: a cursor names a key that the caller sees, or a moment and no key.
                if read > MOST_READ && after.as_ref().is_some_and(|last| last.at() < created) {
                    break 'pages Some(Position::before(created));
                }
                after = Some(stored.position());
                let found = view::read(stored);
                let tenant = found.as_ref().and_then(|found| found.tenant.as_deref());
                let is_wanted = query.tenant.is_none() || query.tenant.as_deref() == tenant;
                if !is_wanted || !self.caller.sees(tenant) {
                    continue;
                }
                keys.push(match found {
                    Some(found) => {
                        (Some(found.id), view::record(&found, now(), &self.terms.lifetimes))
                    }
                    None => (None, view::unreadable(stored)),
                });
                if keys.len() == query.limit {
                    break 'pages after.filter(|_| rest.len() > 0 || page.next.is_some());
                }
            }
            if page.next.is_none() {
                break None;
            }
            after = page.next;
        };
        let mut readable: Vec<(KeyId, &mut Value)> =
            keys.iter_mut().filter_map(|(id, shown)| Some(((*id)?, shown))).collect();
        self.add_last_uses(&mut readable).await?;
        let keys: Vec<Value> = keys.into_iter().map(|(_, shown)| shown).collect();
        Ok(json!({ "keys": keys, "next": next.map(|next| next.to_string()) }))
    }

    /// Adds the last uses to shown records, where they are known.
    async fn add_last_uses(&self, shown: &mut [(KeyId, &mut Value)]) -> Result<(), Refusal> {
        if shown.is_empty() {
            return Ok(());
        }
        let ids: Vec<KeyId> = shown.iter().map(|(id, _)| *id).collect();
        let uses = self.records.last_uses(&ids).await.map_err(outage)?;
        for ((_, value), used) in shown.iter_mut().zip(uses) {
            if let (Some(members), Some(used)) = (value.as_object_mut(), used) {
                members.insert("last_used".to_owned(), json!(Rfc3339(used)));
            }
        }
        Ok(())
    }

    async fn create(&self, terms: Terms, record: &mut AdminRecord<'_>) -> Result<Value, Refusal> {
        if terms.digest.is_some() {
            return Err(Refusal::invalid(format!(
                "`digest` is for imported keys; send them to `{PATH}/import`"
            )));
        }
        let (key, now) = (GeneratedKey::new(&random()?, &random()?), second());
        let made = terms.record(key.id(), key.digest(), now, &self.terms.lifetimes)?;
        self.add(&made, record).await?;
        Ok(view::made(&key, &made, now, &self.terms.lifetimes))
    }

    async fn import(&self, terms: Terms, record: &mut AdminRecord<'_>) -> Result<Value, Refusal> {
        let digest = terms.digest.ok_or_else(|| {
            Refusal::invalid("name the `digest`: `sha256:` and 64 hex digits, of the whole key")
        })?;
        if digest == KeyDigest::of(b"") {
            return Err(Refusal::invalid("`digest` is that of an empty key"));
        }
        let (id, now) = (GeneratedKey::new(&random()?, &random()?).id(), second());
        let made = terms.record(id, digest, now, &self.terms.lifetimes)?;
        self.add(&made, record).await?;
        Ok(json!({ "record": view::record(&made, now, &self.terms.lifetimes) }))
    }

    /// Refuses a key of a tenant that has as many as the caller may add to. Others are not added
    /// while the result exists.
    async fn require_room(&self, made: &KeyRecord) -> Result<Option<MutexGuard<'_, ()>>, Refusal> {
        let Some(most) = self.caller.max_keys() else { return Ok(None) };
        let adding = self.adding.lock().await;
        let (mut usable, mut after, now) = (0, None, now());
        loop {
            let page = self.records.list(after.as_ref(), READ_AT_ONCE).await.map_err(outage)?;
            let records = page.keys.iter().filter_map(view::read);
            let of_tenant = records.filter(|record| record.tenant == made.tenant);
            usable += of_tenant.filter(|one| one.end(&self.terms.lifetimes) > now).count();
            if usable >= most {
                let message = format!(
                    "the credential may not grant more than {most} usable keys of a tenant; revoke one"
                );
                return Err(Refusal::new(403, "beyond_grant", message));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(Some(adding)),
            }
        }
    }

    /// Writes the record of a new key.
    async fn add(&self, made: &KeyRecord, record: &mut AdminRecord<'_>) -> Result<(), Refusal> {
        record.of_record(made);
        self.caller.check_grant(made)?;
        body::check_names(made, &self.policy)?;
        let text = stored(made)?;
        let _adding = self.require_room(made).await?;
        match self.records.write(made, &text, None).await.map_err(outage_of_creation)? {
            KeyWrite::Written => Ok(()),
            KeyWrite::SameDigest(_) => Err(Refusal::new(
                409,
                "exists",
                format!("there is a key with this digest; `GET {PATH}` lists the keys"),
            )),
            KeyWrite::Exists | KeyWrite::Changed => Err(changed()),
        }
    }

    async fn rotate(
        &self,
        id: &KeyId,
        rotation: &Rotation,
        record: &mut AdminRecord<'_>,
    ) -> Result<Value, Refusal> {
        let now = second();
        let (grace_ends, expires) = rotation.ends(now, &self.terms.lifetimes)?;
        let key = GeneratedKey::with_id(*id, &random()?);
        for _ in 0..ATTEMPTS {
            let (found, before) = self.find(id, record).await?;
            let rotated = found.rotated(key.digest(), now, grace_ends, expires);
            record.of_record(&rotated);
            // A new secret would give the caller every right of the key.
            self.caller.check_grant(&rotated)?;
            let text = stored(&rotated)?;
            let written = self.records.write(&rotated, &text, Some(&before)).await;
            match written.map_err(outage_of_creation)? {
                KeyWrite::Written => {
                    return Ok(view::made(&key, &rotated, now, &self.terms.lifetimes));
                }
                KeyWrite::Changed => {}
                KeyWrite::Exists | KeyWrite::SameDigest(_) => return Err(changed()),
            }
        }
        Err(changed())
    }

    /// Removes a record, one that cannot be read as well.
    async fn revoke(&self, id: &KeyId, record: &mut AdminRecord<'_>) -> Result<Value, Refusal> {
        let text = self.records.read(id).await.map_err(outage)?;
        let found = text.and_then(|text| KeyRecord::from_stored(*id, &text).ok());
        if let Some(found) = &found {
            record.of_record(found);
        }
        if !self.caller.sees(found.as_ref().and_then(|found| found.tenant.as_deref())) {
            return Err(no_such_key());
        }
        if self.records.remove(id).await.map_err(outage)? {
            Ok(json!({ "id": id, "revoked": true }))
        } else {
            Err(no_such_key())
        }
    }

    /// Returns the record of a key and its text. A key of a tenant that the caller does not see is
    /// answered like one that does not exist.
    async fn find(
        &self,
        id: &KeyId,
        record: &mut AdminRecord<'_>,
    ) -> Result<(KeyRecord, String), Refusal> {
        let text = self.records.read(id).await.map_err(outage)?.ok_or_else(no_such_key)?;
        let found = KeyRecord::from_stored(*id, &text);
        if let Ok(found) = &found {
            record.of_record(found);
        }
        let tenant = found.as_ref().ok().and_then(|found| found.tenant.as_deref());
        if !self.caller.sees(tenant) {
            return Err(no_such_key());
        }
        let found =
            found.map_err(|error| Refusal::new(409, "unreadable_record", error.to_string()))?;
        Ok((found, text))
    }
}

/// The current whole second: moments of records have no fraction.
fn second() -> Timestamp {
    Timestamp::from_secs(now().secs())
}

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Refusal::new(500, "internal", "the system has no randomness"))?;
    Ok(bytes)
}

fn stored(record: &KeyRecord) -> Result<String, Refusal> {
    record.to_stored().map_err(|error| Refusal::invalid(error.to_string()))
}

fn outage(outage: Outage) -> Refusal {
    unavailable(&StoreUnavailable::from(outage))
}

/// A repeated call would make another key.
fn outage_of_creation(outage: Outage) -> Refusal {
    let error = StoreUnavailable::from(outage);
    tracing::warn!("admin call failed: {error}");
    let message = format!(
        "{error}; whether the record was written is not known: look for it before a retry, and \
         revoke or rotate it, because its key is lost"
    );
    Refusal::new(503, "store_unavailable", message).retry_after(1)
}

fn changed() -> Refusal {
    Refusal::new(409, "changed", "another call changed the record meanwhile; retry")
}

fn no_such_key() -> Refusal {
    Refusal::new(404, "not_found", format!("there is no such key; `GET {PATH}` lists them"))
}

fn unmanaged() -> Refusal {
    Refusal::new(
        409,
        "keys_not_in_redis",
        "API keys are managed here where `api_keys.redis: true` and `store.redis` are set; \
         the keys of a file are those in `api_keys.file`",
    )
}

#[cfg(test)]
pub(crate) mod tests;
