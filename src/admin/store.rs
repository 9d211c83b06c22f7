//! The store as the admin API and the command line use it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tollgate_core::{
    admission::Outage, ban, credential::api_key::KeyRecord, identity::KeyId, revocation::Target,
    time::Timestamp,
};

use super::{EntryPage, Revocations, StoreUnavailable, bans::Bans, keys::KeyRecords};
use crate::store::{
    BanQuery, Entry, KeyPage, KeyWrite, NewBan, PAGE_MAX, Page, Redis, Revocation, Store,
};

/// A store whose revocations and bans can be changed.
#[derive(Clone)]
pub struct StoreRevocations(pub Arc<dyn Store>);

impl std::fmt::Debug for StoreRevocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreRevocations")
    }
}

impl From<Outage> for StoreUnavailable {
    fn from(outage: Outage) -> Self {
        Self(outage)
    }
}

impl Revocations for StoreRevocations {
    type Error = StoreUnavailable;

    async fn revoke(&self, revocation: &Revocation) -> Result<(), StoreUnavailable> {
        Ok(self.0.revoke(revocation).await?)
    }

    async fn reinstate(&self, target: &Target) -> Result<bool, StoreUnavailable> {
        Ok(self.0.reinstate(target).await?)
    }

    async fn list(&self, offset: usize, limit: usize) -> Result<EntryPage, StoreUnavailable> {
        Ok(numbered(offset, self.0.list(offset, limit.clamp(1, PAGE_MAX)).await?))
    }
}

impl Bans for StoreRevocations {
    type Error = StoreUnavailable;

    async fn ban(&self, ban: &NewBan) -> Result<Entry, StoreUnavailable> {
        Ok(self.0.ban(ban).await?)
    }

    async fn lift(&self, target: &ban::Target) -> Result<bool, StoreUnavailable> {
        Ok(self.0.lift(target).await?)
    }

    async fn list_bans(&self, offset: usize, limit: usize) -> Result<EntryPage, StoreUnavailable> {
        Ok(numbered(offset, self.0.list_bans(offset, limit.clamp(1, PAGE_MAX)).await?))
    }

    async fn bans_of(&self, query: &BanQuery) -> Result<Vec<Entry>, StoreUnavailable> {
        Ok(self.0.bans_of(query).await?)
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

    fn list(&self, offset: usize, limit: usize) -> BoxFuture<'_, Result<KeyPage, Outage>> {
        Box::pin(self.list_keys(offset, limit))
    }
}

/// Adds the offset of the next page.
fn numbered(offset: usize, page: Page) -> EntryPage {
    let seen = offset.saturating_add(page.entries.len());
    let is_last = page.entries.is_empty() || seen as u64 >= page.total;
    EntryPage { entries: page.entries, next: (!is_last).then_some(seen) }
}
