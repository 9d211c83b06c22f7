//! The denied requests of each holder of a valid credential, in a fixed amount of memory: a stolen
//! credential that is tried everywhere, and a client that goes on after its limit, are at the top.

use std::time::{Duration, Instant};

use tollgate_core::{ban::Target, denial::Reason, identity::Principal};

use super::frequency::{EventKey, FrequencyTable};
use crate::observe::offenders::{DeniedSubject, DeniedSubjects};

/// The sets of eight holders that are counted. With the longest names they take some 2 MiB.
const SETS: usize = 64;

/// The time in which denied requests are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The denied requests of all holders.
#[derive(Debug)]
pub(super) struct DeniedRequests {
    table: FrequencyTable<Option<Box<Note>>>,
    started: Instant,
}

/// What the table knows of a holder beside the number of its denied requests.
#[derive(Debug)]
struct Note {
    holder: Target,
    tenant: Option<String>,
    reason: Reason,
}

impl Default for DeniedRequests {
    fn default() -> Self {
        Self { table: FrequencyTable::new(SETS, WINDOW), started: Instant::now() }
    }
}

impl DeniedRequests {
    /// Counts a denied request of a holder, unless the reason is a fault of this side.
    pub(super) fn count(&self, principal: &Principal, reason: Reason) {
        if reason.http() >= 500 {
            return;
        }
        self.table.count(key(principal), self.started.elapsed(), |counted| match counted.note {
            Some(note) if note.tenant.as_deref() == principal.tenant() => note.reason = reason,
            note => {
                let (holder, tenant) = (holder(principal), principal.tenant().map(str::to_owned));
                *note = Some(Box::new(Note { holder, tenant, reason }));
            }
        });
    }

    /// The most denied requests of one holder in the latest minute.
    pub(super) fn most(&self) -> u64 {
        self.table.busiest(self.started.elapsed()).1
    }

    /// The holders with the most denied requests in the latest minute, `most` at most; of some tenants
    /// where `tenants` are given.
    pub(super) fn offenders(&self, most: usize, tenants: Option<&[String]>) -> DeniedSubjects {
        let is_seen = |note: &Note| match (tenants, &note.tenant) {
            (None, _) => true,
            (Some(tenants), Some(tenant)) => tenants.contains(tenant),
            (Some(_), None) => false,
        };
        let list = self.table.top(most, self.started.elapsed(), |found| {
            let note = found.note.as_deref().filter(|note| is_seen(note))?;
            let Note { holder, tenant, reason } = note;
            Some(DeniedSubject {
                holder: holder.clone(),
                tenant: tenant.clone(),
                denials: found.count,
                reason: *reason,
            })
        });
        DeniedSubjects { window: WINDOW, list }
    }
}

/// An API key is a holder itself: each has an end of its own.
fn holder(principal: &Principal) -> Target {
    let (issuer, name) = (principal.issuer().to_owned(), principal.subject().to_owned());
    match principal.key() {
        Some(key) => Target::Key { id: key.id },
        None if principal.is_subject_client() => Target::Client { issuer, client: name },
        None => Target::Subject { issuer, subject: name },
    }
}

fn key(principal: &Principal) -> EventKey {
    match principal.key() {
        Some(key) => {
            let mut halves = [0; 2];
            for (place, byte) in key.id.as_str().bytes().enumerate() {
                if let Some(half) = halves.get_mut(place / 8) {
                    *half = *half << 8 | u64::from(byte);
                }
            }
            halves
        }
        None => principal.revocation().subject().fingerprint().halves(),
    }
}
