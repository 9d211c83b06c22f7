//! The store as the admin API and the command line use it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tollgate_core::{
    admission::Outage, ban, credential::api_key::KeyRecord, identity::KeyId, revocation::Target,
    time::Timestamp,
};

use super::{EntryPage, Revocations, bans::Bans, keys::KeyRecords};
use crate::store::{
    BanQuery, Entry, KeyPage, KeyWrite, NewBan, PAGE_MAX, Page, Position, Redis, Revocation, Store,
    StoreUnavailable,
};

/// A store whose revocations and bans can be changed.
#[derive(Clone)]
pub struct StoreRevocations(pub Arc<dyn Store>);

impl std::fmt::Debug for StoreRevocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreRevocations")
    }
}

impl StoreRevocations {
    fn or_cause<T>(&self, answer: Result<T, Outage>) -> Result<T, StoreUnavailable> {
        answer.map_err(|outage| StoreUnavailable::of(&*self.0, outage))
    }
}

impl Revocations for StoreRevocations {
    type Error = StoreUnavailable;

    async fn revoke(&self, revocation: &Revocation) -> Result<(), StoreUnavailable> {
        self.or_cause(self.0.revoke(revocation).await)
    }

    async fn reinstate(&self, target: &Target) -> Result<bool, StoreUnavailable> {
        self.or_cause(self.0.reinstate(target).await)
    }

    async fn list(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<EntryPage, StoreUnavailable> {
        Ok(self.or_cause(self.0.list(after, limit.clamp(1, PAGE_MAX)).await)?.into())
    }
}

impl Bans for StoreRevocations {
    type Error = StoreUnavailable;

    async fn ban(&self, ban: &NewBan) -> Result<Entry, StoreUnavailable> {
        self.or_cause(self.0.ban(ban).await)
    }

    async fn lift(&self, target: &ban::Target) -> Result<bool, StoreUnavailable> {
        self.or_cause(self.0.lift(target).await)
    }

    async fn list_bans(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<EntryPage, StoreUnavailable> {
        Ok(self.or_cause(self.0.list_bans(after, limit.clamp(1, PAGE_MAX)).await)?.into())
    }

    async fn bans_of(&self, query: &BanQuery) -> Result<Vec<Entry>, StoreUnavailable> {
        self.or_cause(self.0.bans_of(query).await)
    }
}

impl KeyRecords for Redis {
    fn read<'a>(&'a self, id: &'a KeyId) -> BoxFuture<'a, Result<Option<String>, Outage>> {
        Box::pin(self.key(id))
    }

    fn write<'a>(
        &'a self,
        record: &'a KeyRecord,
        text: &'a str,
        replaces: Option<&'a str>,
    ) -> BoxFuture<'a, Result<KeyWrite, Outage>> {
        Box::pin(self.write_key(record, text, replaces))
    }

    fn remove<'a>(&'a self, id: &'a KeyId) -> BoxFuture<'a, Result<bool, Outage>> {
        Box::pin(self.remove_key(id))
    }

    fn last_uses<'a>(
        &'a self,
        ids: &'a [KeyId],
    ) -> BoxFuture<'a, Result<Vec<Option<Timestamp>>, Outage>> {
        Box::pin(Redis::last_uses(self, ids))
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<KeyPage, Outage>> {
        Box::pin(self.list_keys(after, limit))
    }
}

impl From<Page> for EntryPage {
    fn from(page: Page) -> Self {
        Self { entries: page.entries, next: page.next }
    }
}
