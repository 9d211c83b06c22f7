//! What a decision changes, owned: it is carried out after the check has ended, because a check
//! reads headers that Envoy frees at the first change.

use tollgate::engine::check::{Answer, CheckAnswer};
use tollgate_core::{
    decision::{
        Dialect, Failure, Outcome,
        answer::{self, DeniedAnswer, HeaderList},
    },
    denial::Denial,
    rule::size::BodyChanges,
    secret::Secret,
    time::Span,
};

use crate::{
    host::{HeaderMap, Stream},
    request::{HeadView, LentHead},
};

/// The namespace of the dynamic metadata.
pub(crate) const NAMESPACE: &str = "tollgate";

/// The fact with the text of a reservation.
const RESERVATION: &str = "reservation";

/// What a decision changes.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The request is forwarded with these changes.
    Allow(Box<Allow>),
    /// The request is answered.
    Deny(Box<Reply>),
}

/// The changes of a request that is forwarded.
#[derive(Debug)]
pub(crate) struct Allow {
    /// The headers to set, each with whether the request has it.
    set: HeaderList,
    present: Vec<bool>,
    credential: Option<Secret>,
    /// Headers that the request has and the upstream must not get.
    removed: Vec<String>,
    facts: Facts,
    /// The headers of the response.
    pub(crate) response: HeaderList,
    /// What is written into the body.
    pub(crate) changes: Option<BodyChanges>,
    /// The text of the reservation, which is settled with the response.
    pub(crate) reservation: Option<Box<str>>,
}

/// An answer to the client.
#[derive(Debug)]
pub(crate) struct Reply {
    answer: DeniedAnswer,
    facts: Facts,
}

/// Facts for the access log, by name.
type Facts = Vec<(&'static str, Box<str>)>;

impl Effect {
    /// Returns the effect of an answer to the request with this head.
    pub(crate) fn of<'h>(answered: &CheckAnswer<'_>, head: &impl HeadView<'h>) -> Self {
        // The reservation stays in the module, which settles it.
        let facts = answered.metadata.iter().filter(|(name, _)| *name != RESERVATION);
        let facts = facts.map(|(name, value)| (name, value.into())).collect();
        match &answered.answer {
            Answer::Allow(answer) => {
                let set = HeaderList::of(|list| answer.set(list));
                let names = Names::of(head.lines().map(|(name, _)| name));
                let has = |name: &str| names.may_have(name) && head.has(name);
                let removed = answer.removed().filter(|name| has(name));
                Self::Allow(Box::new(Allow {
                    present: set.names().map(has).collect(),
                    credential: answer.upstream_credential.cloned(),
                    removed: removed.map(std::borrow::Cow::into_owned).collect(),
                    set,
                    facts,
                    response: HeaderList::of(|list| answer.response(list)),
                    changes: answered.metadata.changes.cloned(),
                    reservation: answered.metadata.reservation.map(Box::from),
                }))
            }
            Answer::Deny(answer) => Self::Deny(Box::new(Reply { answer: copy(answer), facts })),
            Answer::Fail(failure) => {
                let answer = failed(failure, Dialect::of_target(head.path()), answered.decision_id);
                Self::Deny(Box::new(Reply { answer, facts }))
            }
        }
    }

    /// Returns the text of the reservation of a request that is allowed.
    pub(crate) fn reservation(&self) -> Option<&str> {
        match self {
            Self::Allow(allow) => allow.reservation.as_deref(),
            Self::Deny(_) => None,
        }
    }
}

/// One bit for each header of a list, by the length and the last byte of its name: most names that
/// are absent are known to be so without a search.
#[derive(Clone, Copy)]
struct Names(u64);

impl Names {
    fn of<'n>(names: impl Iterator<Item = &'n [u8]>) -> Self {
        Self(names.fold(0, |bits, name| bits | Self::bit(name)))
    }

    fn may_have(self, name: &str) -> bool {
        self.0 & Self::bit(name.as_bytes()) != 0
    }

    fn bit(name: &[u8]) -> u64 {
        let last = name.last().copied().unwrap_or_default();
        1 << ((name.len() + 7 * usize::from(last)) % 64)
    }
}

fn copy(answer: &DeniedAnswer) -> DeniedAnswer {
    DeniedAnswer {
        reason: answer.reason,
        status: answer.status,
        headers: answer.headers.clone(),
        body: answer.body.clone(),
    }
}

/// The answer to a request whose check failed: inside of the proxy no other part decides about it.
fn failed(failure: &Failure, dialect: Dialect, decision_id: &str) -> DeniedAnswer {
    let denial =
        Denial::new(failure.reason, failure.cause.clone()).with_retry_after(Span::from_secs(1));
    let mut outcome = Outcome::refused(denial.clone());
    outcome.evidence.dialect = dialect;
    answer::denied(&denial, &outcome.evidence, decision_id)
}

impl Allow {
    /// Changes the headers of the request, and writes the facts.
    pub(crate) fn apply(&self, stream: &mut Stream) {
        write_facts(stream, &self.facts);
        for (header, is_present) in self.set.bytes().zip(&self.present) {
            write(stream, HeaderMap::Request, header, *is_present);
        }
        if let Some(credential) = &self.credential {
            write(stream, HeaderMap::Request, ("authorization", credential.expose()), true);
        }
        for name in &self.removed {
            stream.remove_header(HeaderMap::Request, name.as_bytes());
        }
        // The usage of a compressed response cannot be read.
        if self.reservation.is_some() {
            stream.remove_header(HeaderMap::Request, b"accept-encoding");
        }
    }

    /// Whether the request asks for the usage in each event of its stream.
    pub(crate) fn asks_continuous_usage(&self) -> bool {
        let options = self.changes.as_ref().and_then(|changes| changes.stream_options.as_ref());
        let wanted = options.and_then(|options| options.get("continuous_usage_stats"));
        wanted.is_some_and(|wanted| *wanted == true)
    }
}

impl Reply {
    /// Answers the request. The stream may end during the call.
    pub(crate) fn send(&self, stream: &mut Stream) {
        write_facts(stream, &self.facts);
        let Self { answer, .. } = self;
        let headers = answer.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        // The host would report success: its function takes no status of gRPC, and passes 0.
        let is_grpc = LentHead::of(stream).has_grpc_answer();
        let grpc = is_grpc.then(|| (&b"grpc-status"[..], grpc_status(answer.status)));
        let headers = headers.chain(grpc);
        stream.respond(answer.status, headers, answer.body.as_bytes(), answer.reason.code());
    }
}

/// Returns the status of gRPC for one of HTTP, as Envoy maps them for a sidecar (gRPC, "HTTP to gRPC
/// Status Code Mapping").
pub(crate) const fn grpc_status(status: u16) -> &'static [u8] {
    match status {
        400 => b"13",
        401 => b"16",
        403 => b"7",
        404 => b"12",
        429 | 502..=504 => b"14",
        _ => b"2",
    }
}

/// Writes headers of a response over those of the upstream.
pub(crate) fn write_response(stream: &mut Stream, response: &HeaderList) {
    let present: Vec<bool> = {
        let headers = stream.headers(HeaderMap::Response);
        let names = Names::of(headers.iter().map(|(name, _)| name));
        let has = |name: &str| {
            names.may_have(name) && headers.iter().any(|(header, _)| header == name.as_bytes())
        };
        response.names().map(has).collect()
    };
    for (header, is_present) in response.bytes().zip(present) {
        write(stream, HeaderMap::Response, header, is_present);
    }
}

/// Writes a header. To add one that is absent costs the host less than to search for it.
fn write(stream: &mut Stream, map: HeaderMap, (name, value): (&str, &[u8]), is_present: bool) {
    if is_present {
        stream.set_header(map, name.as_bytes(), value);
    } else {
        stream.add_header(map, name.as_bytes(), value);
    }
}

fn write_facts(stream: &mut Stream, facts: &Facts) {
    if facts.is_empty() {
        return;
    }
    let facts: Vec<(&str, &str)> = facts.iter().map(|(name, value)| (*name, &**value)).collect();
    stream.set_metadata(NAMESPACE, &facts);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_there_is_never_taken_for_absent() {
        let lists: [&[&str]; 3] = [&[], &["host"], &["x-tollgate-subject", "accept", "", "é"]];
        for list in lists {
            let names = Names::of(list.iter().map(|name| name.as_bytes()));
            assert!(list.iter().all(|name| names.may_have(name)), "{list:?}");
        }
        assert!(!Names::of([&b"accept"[..]].into_iter()).may_have("x-tollgate-subject"));
    }
}
