//! The store as the admin API and the command line use it.

use std::sync::Arc;

use tollgate_core::{admission::Outage, revocation::Target};

use super::{EntryPage, Revocations, StoreUnavailable};
use crate::store::{PAGE_MAX, Revocation, Store};

/// A store whose revocations can be changed.
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
        let page = self.0.list(offset, limit.clamp(1, PAGE_MAX)).await?;
        let seen = offset.saturating_add(page.entries.len());
        let is_last = page.entries.is_empty() || seen as u64 >= page.total;
        Ok(EntryPage { entries: page.entries, next: (!is_last).then_some(seen) })
    }
}
