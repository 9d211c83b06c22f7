//! The store as the admin API and the command line revoke through it.

use std::sync::Arc;

use thiserror::Error;
use tollgate_core::{admission::Outage, revocation::Target, time::Timestamp};

use super::{Listed, Page, Revocation, Revocations};
use crate::store::{self, InvalidRevocation, PAGE_MAX, Store};

/// A store to revoke in.
#[derive(Clone)]
pub struct StoreRevocations(pub Arc<dyn Store>);

impl std::fmt::Debug for StoreRevocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreRevocations")
    }
}

/// Why a revocation could not be made, taken back or listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RevocationError {
    /// The store cannot be asked; asking again does no harm.
    #[error("the store cannot be asked ({})", .0.label())]
    Outage(Outage),
    /// It is none that can be made.
    #[error(transparent)]
    Invalid(#[from] InvalidRevocation),
    /// A cursor that no page gave.
    #[error("the cursor is none that a page gave")]
    Cursor,
}

impl Revocations for StoreRevocations {
    type Error = RevocationError;

    async fn revoke(&self, revocation: &Revocation) -> Result<(), RevocationError> {
        let Revocation { target, at, ttl, note } = revocation.clone();
        let revocation = store::Revocation::new(target, Timestamp::from_secs(at), ttl, note)?;
        self.0.revoke(&revocation).await.map_err(RevocationError::Outage)
    }

    async fn reinstate(&self, target: &Target) -> Result<bool, RevocationError> {
        self.0.reinstate(target).await.map_err(RevocationError::Outage)
    }

    async fn list(&self, limit: usize, cursor: Option<&str>) -> Result<Page, RevocationError> {
        let offset: usize = cursor.unwrap_or("0").parse().map_err(|_| RevocationError::Cursor)?;
        let limit = limit.clamp(1, PAGE_MAX);
        let page = self.0.list(offset, limit).await.map_err(RevocationError::Outage)?;
        let seen = offset.saturating_add(page.entries.len());
        let next =
            (!page.entries.is_empty() && (seen as u64) < page.total).then(|| seen.to_string());
        let entries = page
            .entries
            .into_iter()
            .map(|entry| Listed {
                key: entry.key,
                at: entry.at.secs(),
                expires: entry.ends.secs(),
                note: entry.note,
            })
            .collect();
        Ok(Page { entries, next })
    }
}
