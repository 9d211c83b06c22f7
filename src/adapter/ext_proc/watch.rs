//! The watch over one stream of events: its tokens, and its credential.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost_types::{Struct, Value, value::Kind};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tollgate_core::{
    decision::{Dialect, answer::error_event},
    denial::Reason,
    limit::reservation::{Reservation, ReservationKeys},
};

use super::events::Events;
use crate::{
    adapter::{
        access_log::{
            report::{RESERVATION, most_tokens, text},
            usage::{self, CUT, NAMESPACE},
        },
        response_meter::scan::Scanner,
    },
    engine::check::{Checker, StreamGuard},
    proto::envoy::config::core::v3::Metadata,
};

/// The interval at which the credential of a stream is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// The time for which a part of an event is held, from its last piece on.
const HELD: Duration = Duration::from_secs(2);

/// The key of the guard's name.
const GUARD: &str = "guard";

/// A stream that may be cut.
pub(super) struct Watch {
    id: String,
    dialect: Dialect,
    /// The most tokens that the request may use, where it holds some.
    most: Option<u64>,
    scanner: Scanner,
    events: Events,
    /// Whether a piece of the body has arrived. Before that, Envoy takes no piece either: it would reset
    /// the response.
    has_begun: bool,
    /// The reason to cut the stream when its first piece arrives.
    ended: Option<Reason>,
    /// When the part of an event that is held is forwarded.
    held_until: Option<Instant>,
    /// The task that ends when the credential does.
    credential: JoinSet<Reason>,
}

impl Watch {
    /// Starts to watch a stream, by what the check returned; `None` for one that is not to be cut.
    pub(super) fn start(
        checker: &Arc<Checker>,
        metadata: &Metadata,
        keys: Option<&ReservationKeys>,
        content_type: &[u8],
        is_encoded: bool,
    ) -> Option<Self> {
        let id = text(metadata, GUARD)?;
        let guard = checker.take_guard(id)?;
        let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
        if is_encoded || !kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream") {
            return None;
        }
        let reservation = text(metadata, RESERVATION).zip(keys);
        let reservation = reservation.and_then(|(text, keys)| Reservation::open(text, keys).ok());
        let dialect = guard.dialect;
        let mut credential = JoinSet::new();
        credential.spawn(end_of_credential(Arc::clone(checker), guard));
        Some(Self {
            id: id.to_owned(),
            dialect,
            most: reservation.as_ref().and_then(most_tokens),
            scanner: Scanner::of(content_type, is_encoded),
            events: Events::default(),
            has_begun: false,
            ended: None,
            held_until: None,
            credential,
        })
    }

    /// Reads a piece of the body. Returns what is forwarded, and the reason to cut the stream behind
    /// it.
    pub(super) fn read(&mut self, piece: &[u8]) -> (Bytes, Option<Reason>) {
        self.has_begun = true;
        if let Some(reason) = self.ended {
            return (Bytes::new(), Some(reason));
        }
        let has_usage = self.scanner.read(piece);
        let whole = self.events.push(piece);
        self.held_until = self.events.holds().then(|| Instant::now() + HELD);
        // A count at the end of a stream comes too late: all of the answer has been forwarded.
        let reading = has_usage.then(|| usage::of_members(self.scanner.members()));
        let reading = reading.filter(|it| it.is_continuous || it.has_usage_in_each_event);
        let tokens = reading.and_then(|reading| reading.tokens);
        let is_beyond = tokens.zip(self.most).is_some_and(|(tokens, most)| tokens > most);
        (whole, is_beyond.then_some(Reason::BudgetExhausted))
    }

    /// Removes the end of the stream that is no whole event.
    pub(super) fn rest(&mut self) -> Bytes {
        self.events.take()
    }

    /// Waits for the end of the credential, or for the time for which a part of an event is held:
    /// `None`. Envoy keeps the trailers of a response until all of its body is answered.
    pub(super) async fn wait(&mut self) -> Option<Reason> {
        let credential = &mut self.credential;
        let ended = async {
            match credential.join_next().await {
                Some(Ok(reason)) => reason,
                // The task neither panics nor is it cancelled before the watch is dropped.
                Some(Err(_)) | None => std::future::pending().await,
            }
        };
        let held = async {
            match self.held_until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            biased;
            reason = ended => reason,
            () = held => return None,
        };
        if !self.has_begun {
            self.ended = Some(reason);
            return std::future::pending().await;
        }
        Some(reason)
    }

    /// Removes the part of an event that is held, which is forwarded.
    pub(super) fn release(&mut self) -> Bytes {
        self.held_until = None;
        self.events.release()
    }

    /// Returns the last event of a stream that is cut.
    pub(super) fn last_event(&self, reason: Reason) -> String {
        tracing::info!(decision_id = self.id, reason = reason.code(), "a stream is cut");
        let event = error_event(reason, self.dialect);
        if self.events.is_between() { event } else { format!("\n\n{event}") }
    }
}

/// Ends with the credential of a stream.
async fn end_of_credential(checker: Arc<Checker>, guard: StreamGuard) -> Reason {
    loop {
        if let Some(reason) = checker.ended(&guard).await {
            return reason;
        }
        sleep(EVERY).await;
    }
}

/// The mark by which the entry of the access log tells a response that was cut from a complete one.
pub(super) fn mark_of_cut() -> Struct {
    let value = |kind| Value { kind: Some(kind) };
    let mark = Struct { fields: [(CUT.to_owned(), value(Kind::BoolValue(true)))].into() };
    Struct { fields: [(NAMESPACE.to_owned(), value(Kind::StructValue(mark)))].into() }
}
