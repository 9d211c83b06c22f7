//! The time within which a check is answered, whatever it waits for.
//!
//! A check may wait for its message, for a thread that reads its body, and for the store. A proxy
//! waits for the sum, and treats a check that is late as failed, which `failure_mode_allow`
//! forwards: a client that makes its own check slow must not pass by it.

use std::time::{Duration, Instant};

use http::HeaderMap;

/// The time for a check of a proxy that does not name how long it waits. The shipped configurations
/// let the proxy wait two seconds or more.
pub(crate) const CHECK_WITHIN: Duration = Duration::from_millis(1500);

/// The longest time for a check of a proxy that waits longer.
const LONGEST: Duration = Duration::from_secs(10);

/// The time within which a check is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline(Duration);

impl Deadline {
    /// The time for a check that the proxy sent with these headers. gRPC clients name the time that
    /// they wait for (`grpc-timeout`), of which a quarter is left for the way of the answer.
    pub(super) fn of(headers: Option<&HeaderMap>) -> Self {
        let named = headers.and_then(|headers| headers.get("grpc-timeout"));
        let named = named.and_then(|value| parse(value.as_bytes()));
        Self(named.map_or(CHECK_WITHIN, |waits| LONGEST.min(waits / 4 * 3)))
    }

    /// The time for the whole check.
    pub(super) fn within(self) -> Duration {
        self.0
    }

    /// Whether a check that has just begun may wait for so long.
    pub(super) fn allows(self, wait: Duration) -> bool {
        wait <= self.0
    }

    /// The time that is left of a check that began at `since`; `None` for none.
    pub(super) fn left(self, since: Instant) -> Option<Duration> {
        self.0.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_ends_before_its_proxy_stops_waiting() {
        for (timeout, expected) in [
            (None, 1500),
            (Some("2S"), 1500),
            (Some("2000m"), 1500),
            (Some("4S"), 3000),
            (Some("1H"), 10_000),
            (Some("99999999H"), 10_000),
            (Some("1M"), 10_000),
            (Some("200m"), 150),
            (Some("200000u"), 150),
            (Some("99999999n"), 74),
            (Some("0m"), 0),
            // What cannot be read names no time.
            (Some(""), 1500),
            (Some("m"), 1500),
            (Some("200"), 1500),
            (Some("-1m"), 1500),
            (Some("+1m"), 1500),
            (Some("123456789m"), 1500),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(timeout) = timeout {
                headers.insert("grpc-timeout", timeout.parse().unwrap());
            }
            let Deadline(within) = Deadline::of(Some(&headers));
            assert_eq!(within.as_millis(), expected, "{timeout:?}");
        }
        assert_eq!(Deadline::of(None), Deadline(CHECK_WITHIN));
    }

    #[test]
    fn the_time_that_a_check_has_waited_is_not_left() {
        let deadline = Deadline(Duration::from_secs(60));
        let now = Instant::now();
        assert!(deadline.left(now).is_some_and(|left| left > Duration::from_secs(30)));
        assert_eq!(deadline.left(now - Duration::from_secs(60)), None);
        assert!(deadline.allows(Duration::from_secs(60)));
        assert!(!deadline.allows(Duration::from_secs(61)));
    }
}
