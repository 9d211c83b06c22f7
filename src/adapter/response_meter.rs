//! Meters the response to a request with a reservation, inside of the proxy: the counterpart of the
//! filters and the access log of a sidecar, with the same readers of usage and the same table of
//! charges.

mod document;
pub(super) mod scan;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinHandle};
use tollgate_core::{
    admission::{Settlement, Usage},
    limit::{reservation::Reservation, usage_report::RequestEnding},
};

use self::scan::Scanner;
use super::access_log::{
    ending::{Ending, VIA_UPSTREAM, is_rejection},
    report::Report,
    usage,
};
use crate::engine::settler::{ReportProblem, Settler};

/// The part of a reservation's life after which it is renewed.
const BEATS: u32 = 4;

/// The shortest time between two renewals.
const LEAST_BEAT: Duration = Duration::from_millis(100);

/// Flags of a response after which no upstream got the request: no healthy host, no connection, an
/// open circuit breaker, no route, no cluster, no address.
const NOT_SENT: u64 = 0x02 | 0x20 | 0x80 | 0x100 | 0x100_0000 | 0x400_0000;

/// The end of a response, as the proxy reports it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseEnd<'a> {
    /// The status; 0 where there was none.
    pub status: u32,
    /// The details of the response in Envoy's words.
    pub details: &'a [u8],
    /// Envoy's flags of the response, as bits.
    pub flags: u64,
    /// The number of upstreams that were tried.
    pub attempts: u64,
}

impl ResponseEnd<'_> {
    fn ending(&self) -> Ending {
        let was_not_sent = match self.attempts {
            0 => true,
            1 => self.flags & NOT_SENT != 0,
            _ => false,
        };
        if was_not_sent {
            Ending::NotSent
        } else if self.details != VIA_UPSTREAM.as_bytes() || self.flags != 0 {
            Ending::Cut
        } else if is_rejection(self.status) {
            Ending::Rejected
        } else {
            Ending::Complete
        }
    }

    /// The cause of a cut response.
    fn cause_of_cut(&self) -> RequestEnding {
        let has = |flags: u64| self.flags & flags != 0;
        if has(DISCONNECTED) {
            RequestEnding::Disconnected
        } else if has(TIMEOUT) {
            RequestEnding::Timeout
        } else if has(RESET) {
            RequestEnding::Reset
        } else {
            RequestEnding::Cut
        }
    }
}

/// Envoy's flags of a response that the client did not wait for, of one that a timeout ended, and of
/// one that was reset.
const DISCONNECTED: u64 = 0x4000;
const TIMEOUT: u64 = 0x04 | 0x1_0000 | 0x8_0000 | 0x40_0000;
const RESET: u64 = 0x08 | 0x10 | 0x40 | 0x80_0000;

/// The meter of one response. A meter that is dropped before its end settles what was cut.
#[derive(Debug)]
pub struct ResponseMeter {
    settler: Arc<Settler>,
    reservation: Option<Reservation>,
    scanner: Scanner,
    asks_continuous: bool,
    /// The bytes of the body so far.
    bytes: u64,
    /// The tokens so far, for the renewals.
    seen: Arc<AtomicU64>,
    beats: JoinHandle<()>,
}

impl ResponseMeter {
    /// Starts to meter the response to a request, by the text of its reservation.
    /// `asks_continuous`: the request asks for the usage in each event. `None` where the reservation
    /// cannot be opened: it expires, and is charged then.
    pub fn start(
        settler: &Arc<Settler>,
        reservation: &str,
        asks_continuous: bool,
        runtime: &Handle,
    ) -> Option<Self> {
        let Some(keys) = settler.keys() else {
            settler.count_problem(ReportProblem::NoSecret);
            return None;
        };
        let Ok(reservation) = Reservation::open(reservation, &keys) else {
            settler.count_problem(ReportProblem::Forged);
            return None;
        };
        let seen = Arc::<AtomicU64>::default();
        let beats =
            runtime.spawn(renew(Arc::clone(settler), reservation.clone(), Arc::clone(&seen)));
        Some(Self {
            settler: Arc::clone(settler),
            reservation: Some(reservation),
            scanner: Scanner::default(),
            asks_continuous,
            bytes: 0,
            seen,
            beats,
        })
    }

    /// Reads the headers of the response: its content type decides how its body is read.
    pub fn on_headers(&mut self, content_type: &[u8], is_encoded: bool) {
        self.scanner = Scanner::of(content_type, is_encoded);
    }

    /// Reads a piece of the body.
    pub fn on_body(&mut self, piece: &[u8]) {
        self.bytes = self.bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if self.scanner.read(piece) {
            let reading = usage::of_members(self.scanner.members());
            self.seen.store(reading.tokens.unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Settles the request.
    pub fn end(mut self, end: &ResponseEnd<'_>) {
        self.settle(end.ending(), end.cause_of_cut());
    }

    fn settle(&mut self, ending: Ending, cause_of_cut: RequestEnding) {
        let Some(reservation) = self.reservation.take() else { return };
        self.beats.abort();
        let mut reading = usage::of_members(self.scanner.members());
        reading.is_continuous |= self.asks_continuous && reading.has_usage_in_each_event;
        let learnt = |history| self.settler.histories().learnt(history);
        let mut report = Report::of(reservation, ending, reading, self.bytes, learnt);
        report.set_cause_of_cut(cause_of_cut);
        report.submit(&self.settler);
    }
}

impl Drop for ResponseMeter {
    fn drop(&mut self) {
        self.settle(Ending::Cut, RequestEnding::Cut);
    }
}

/// Renews what a request holds while its response arrives.
async fn renew(settler: Arc<Settler>, reservation: Reservation, seen: Arc<AtomicU64>) {
    let every = (reservation.life.std() / BEATS).max(LEAST_BEAT);
    loop {
        tokio::time::sleep(every).await;
        let usage = Usage::Running(seen.load(Ordering::Relaxed));
        settler.submit(Settlement { reservation: reservation.clone(), usage, report: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_response_is_read_as_in_an_access_log() {
        let end = |status, details: &'static str, flags, attempts| {
            ResponseEnd { status, details: details.as_bytes(), flags, attempts }.ending()
        };
        for (about, ending, expected) in [
            ("complete", end(200, "via_upstream", 0, 1), Ending::Complete),
            ("an error of the server", end(500, "via_upstream", 0, 1), Ending::Complete),
            ("refused by the server", end(422, "via_upstream", 0, 1), Ending::Rejected),
            ("the server gave up", end(408, "via_upstream", 0, 1), Ending::Complete),
            ("the client left", end(200, "via_upstream", 0x4000, 1), Ending::Cut),
            (
                "the client left early",
                end(0, "downstream_remote_disconnect", 0x4000, 1),
                Ending::Cut,
            ),
            ("a reset", end(503, "upstream_reset_before_response_started", 0x40, 1), Ending::Cut),
            (
                "no connection",
                end(503, "upstream_reset_before_response_started", 0x20, 1),
                Ending::NotSent,
            ),
            ("no healthy host", end(503, "no_healthy_upstream", 0x02, 1), Ending::NotSent),
            ("no connection at last", end(503, "upstream_reset", 0x20, 2), Ending::Cut),
            ("another filter answered", end(403, "rbac_access_denied", 0, 0), Ending::NotSent),
        ] {
            assert_eq!(ending, expected, "{about}");
        }
    }
}
