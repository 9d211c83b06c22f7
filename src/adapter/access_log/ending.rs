//! How a request ended, by its entry in Envoy's access log.
//!
//! Envoy writes one entry at the end of each request, whatever happened, and further ones while the
//! response arrives. The status alone does not tell a complete response from a cut one: both are
//! 200. A response is complete if the details are `via_upstream` and no flag is set.

use prost::Message as _;
use tollgate_core::limit::usage_report::RequestEnding;

use crate::proto::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, ResponseFlags,
};

/// The details of a response that arrived as a whole.
pub(in crate::adapter) const VIA_UPSTREAM: &str = "via_upstream";

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::adapter) enum Ending {
    /// The response still arrives.
    Running,
    /// The response arrived as a whole.
    Complete,
    /// The upstream redirected or refused the request, before any work.
    Rejected,
    /// No upstream got a byte of the request: a filter answered, or there was no connection.
    NotSent,
    /// The request reached an upstream, and the response did not arrive as a whole.
    Cut,
}

/// Returns how the request of an entry ended; `None` for an entry of another event, such as one
/// attempt of several.
pub(super) fn of(entry: &HttpAccessLogEntry) -> Option<Ending> {
    let common = entry.common_properties.as_ref()?;
    match AccessLogType::try_from(common.access_log_type).ok()? {
        _ if common.intermediate_log_entry => return Some(Ending::Running),
        AccessLogType::DownstreamStart | AccessLogType::DownstreamPeriodic => {
            return Some(Ending::Running);
        }
        AccessLogType::NotSet | AccessLogType::DownstreamEnd => {}
    }
    let response = entry.response.as_ref();
    let details = response.map_or("", |response| response.response_code_details.as_str());
    let code = response.and_then(|response| response.response_code).unwrap_or_default();
    Some(if was_not_sent(common) {
        Ending::NotSent
    } else if details != VIA_UPSTREAM || !common.response_flags.is_empty() {
        Ending::Cut
    } else if is_rejection(code) {
        Ending::Rejected
    } else {
        Ending::Complete
    })
}

/// Returns the cause of a cut response, for the record of its request.
pub(super) fn cause_of_cut(entry: &HttpAccessLogEntry) -> RequestEnding {
    let flags = entry.common_properties.as_ref().map(|common| common.response_flags.as_slice());
    let flags = flags.and_then(|flags| ResponseFlags::decode(flags).ok()).unwrap_or_default();
    if flags.downstream_connection_termination {
        RequestEnding::Disconnected
    } else if flags.upstream_request_timeout
        || flags.stream_idle_timeout
        || flags.upstream_max_stream_duration_reached
        || flags.duration_timeout
    {
        RequestEnding::Timeout
    } else if flags.upstream_remote_reset
        || flags.upstream_connection_termination
        || flags.local_reset
        || flags.upstream_protocol_error
    {
        RequestEnding::Reset
    } else {
        RequestEnding::Cut
    }
}

/// Whether no upstream got the request. An earlier attempt is invisible here and may have: only a
/// single one counts.
fn was_not_sent(common: &AccessLogCommon) -> bool {
    match common.upstream_request_attempt_count {
        0 => true,
        1 if common.upstream_wire_bytes_sent == 0 => {
            let flags = ResponseFlags::decode(common.response_flags.as_slice());
            flags.is_ok_and(|flags| {
                flags.upstream_connection_failure
                    || flags.no_healthy_upstream
                    || flags.upstream_overflow
                    || flags.no_route_found
                    || flags.no_cluster_found
                    || flags.dns_resolution_failure
            })
        }
        _ => false,
    }
}

/// Whether the status is one that a server sends before it works: a redirect, or an error of the
/// client. A server that gave up waiting (408, 499) may have worked.
pub(in crate::adapter) fn is_rejection(code: u32) -> bool {
    matches!(code, 300..=499) && !matches!(code, 408 | 499)
}
