//! `GET /v1/offenders?limit=`: those whose requests were refused most in the latest time, as this replica
//! has seen them: networks with failed credentials, and holders of valid ones whose requests are denied.

use bytes::Bytes;
use http::{Method, Response, header::ALLOW};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use tollgate_core::time::Timestamp;

use super::{
    bans,
    caller::{AdminAction, Caller},
    record::AdminRecord,
    request,
};
use crate::{
    json_api::{self, Refusal, ok},
    observe::offenders::{DeniedSubject, FailingNetwork, Offenders},
};

/// The path of the lists.
pub(crate) const PATH: &str = "/v1/offenders";

/// Returns a number of offenders of each kind at most; of some tenants where tenants are given, of which
/// networks are none.
pub type OffenderSource = dyn Fn(usize, Option<&[String]>) -> Offenders + Send + Sync;

/// The lists in JSON. Written by the API, read by the command line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedOffenders {
    /// `null`: the policy has no automatic bans, or the networks are hidden.
    pub(crate) networks: Option<ListedNetworks>,
    /// Whether the credential may not see networks, as it is bound to tenants.
    #[serde(default)]
    pub(crate) are_networks_hidden: bool,
    pub(crate) subjects: ListedSubjects,
}

/// The networks with the most failed credentials.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedNetworks {
    pub(crate) window_seconds: u64,
    /// The failures that ban a network.
    pub(crate) limit: u64,
    pub(crate) list: Vec<ListedNetwork>,
}

/// A network with failed credentials.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedNetwork {
    pub(crate) network: String,
    pub(crate) failures: u32,
    pub(crate) refused: u32,
    /// `null`: it is not banned.
    pub(crate) ban: Option<ListedNetworkBan>,
}

/// The ban of a network.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedNetworkBan {
    pub(crate) kind: String,
    /// In seconds since 1970; `null`: until it is lifted.
    pub(crate) until: Option<u64>,
}

/// The holders of credentials with the most denied requests.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedSubjects {
    pub(crate) window_seconds: u64,
    pub(crate) list: Vec<ListedSubject>,
}

/// A holder of credentials whose requests are denied. Its members name it as the body of a ban does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedSubject {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) denials: u32,
    pub(crate) reason: String,
}

/// Handles a call of [`PATH`] that is authorized.
pub(super) fn call(
    offenders: Option<&OffenderSource>,
    caller: Caller<'_>,
    (method, query): (&Method, &str),
    record: &mut AdminRecord<'_>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    if *method != Method::GET {
        return Err(json_api::not_allowed("use GET").with(ALLOW, "GET"));
    }
    record.doing("list_offenders");
    caller.require(AdminAction::ReadBans)?;
    let limit = request::limit(query)?;
    let found = offenders.map(|offenders| offenders(limit, caller.tenants()));
    Ok(ok(&listed(found.unwrap_or_default(), caller.tenants().is_some())))
}

fn listed(offenders: Offenders, are_networks_hidden: bool) -> ListedOffenders {
    let Offenders { networks, subjects } = offenders;
    let networks = networks.map(|networks| ListedNetworks {
        window_seconds: networks.window.as_secs(),
        limit: networks.limit,
        list: networks.list.into_iter().map(ListedNetwork::from).collect(),
    });
    let subjects = ListedSubjects {
        window_seconds: subjects.window.as_secs(),
        list: subjects.list.into_iter().map(ListedSubject::from).collect(),
    };
    ListedOffenders { networks, are_networks_hidden, subjects }
}

impl From<FailingNetwork> for ListedNetwork {
    fn from(found: FailingNetwork) -> Self {
        let FailingNetwork { network, failures, refused, ban } = found;
        let ban = ban.map(|ban| ListedNetworkBan {
            kind: ban.kind.label().to_owned(),
            until: ban.until.map(Timestamp::secs),
        });
        Self { network: network.to_string(), failures, refused, ban }
    }
}

impl From<DeniedSubject> for ListedSubject {
    fn from(found: DeniedSubject) -> Self {
        let DeniedSubject { holder, tenant, denials, reason } = found;
        let mut names = bans::selector(&holder);
        let mut name = |member: &str| match names.remove(member) {
            Some(serde_json::Value::String(name)) => Some(name),
            _ => None,
        };
        Self {
            issuer: name("issuer"),
            subject: name("subject"),
            client: name("client"),
            key: name("key"),
            tenant,
            denials,
            reason: reason.code().to_owned(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
