//! The times of refreshes.

use std::time::Duration;

use http::{HeaderMap, header};

use super::plan::Pace;
use crate::bounded_file;

/// Bounds and waits that are not configurable. Tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The shortest time between two fetches, whatever `Cache-Control: max-age` demands.
    pub shortest: Duration,
    /// The longest time between two fetches, whatever `Cache-Control: max-age` permits: a removed
    /// key must stop verifying.
    pub longest: Duration,
    /// The wait after a first failure, doubled with each further one.
    pub first_retry: Duration,
    /// The longest wait after a failure.
    pub last_retry: Duration,
    /// The interval in which files are read.
    pub file_poll: Duration,
    /// The time between two reads of a secret that has changed. Both must return the same.
    pub look_again: Duration,
    /// The shortest time between two warnings about one issuer.
    pub warn_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(60),
            longest: Duration::from_secs(3600),
            first_retry: Duration::from_secs(1),
            last_retry: Duration::from_secs(60),
            file_poll: Duration::from_secs(3),
            look_again: bounded_file::LOOK_AGAIN,
            warn_every: Duration::from_secs(60),
        }
    }
}

impl Timing {
    /// Returns the time to the next fetch after a good one, before jitter.
    ///
    /// It is at most half of `max_stale`: keys must not lapse between two good fetches, one of
    /// which may be missed.
    pub(super) fn usual(&self, fresh_for: Option<Duration>, pace: &Pace) -> Duration {
        let wanted =
            fresh_for.map_or(pace.refresh, |fresh| fresh.clamp(self.shortest, self.longest));
        pace.max_stale.map_or(wanted, |stale| wanted.min(stale / 2))
    }

    /// Returns the time to the next fetch after `failures` consecutive failures, before jitter. It
    /// is never longer than the usual one.
    pub(super) fn retry(&self, failures: u32, usual: Duration) -> Duration {
        let doubled = self
            .first_retry
            .saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.last_retry).min(usual)
    }
}

/// Shortens a time by up to a tenth, so that replicas that started together do not fetch together,
/// and no fetch is late.
pub(super) fn earlier(span: Duration) -> Duration {
    span.mul_f64(rand::random_range(0.9..=1.0))
}

/// Returns the freshness of an answer (RFC 9111 section 4.2): `max-age` less `Age`. `None` when the
/// server does not declare it, or sends `no-store` or `no-cache`: the configured interval applies
/// then.
pub(super) fn fresh_for(headers: &HeaderMap) -> Option<Duration> {
    let directives =
        headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut max_age: Option<u64> = None;
    for directive in directives.flat_map(|value| value.split(',')).map(str::trim) {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache")
        {
            return None;
        }
        let Some((name, seconds)) = directive.split_once('=') else { continue };
        if name.trim().eq_ignore_ascii_case("max-age")
            && let Ok(seconds) = seconds.trim().trim_matches('"').parse::<u64>()
        {
            max_age = Some(max_age.map_or(seconds, |earlier| earlier.min(seconds)));
        }
    }
    let age = headers
        .get(header::AGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.trim().parse().ok());
    max_age.map(|seconds| Duration::from_secs(seconds.saturating_sub(age.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(refresh: u32, max_stale: u32) -> Pace {
        Pace {
            refresh: SECOND * refresh,
            max_stale: Some(SECOND * max_stale),
            cool_down: SECOND,
            timeout: SECOND,
        }
    }

    #[test]
    fn the_server_says_when_within_bounds() {
        let timing = Timing::default();
        for (what, fresh, refresh, max_stale, expected) in [
            ("the server does not say", None, 600, 86_400, 600),
            ("it says ten minutes", Some(600), 60, 86_400, 600),
            ("zero would be a storm", Some(0), 600, 86_400, 60),
            ("a year would keep removed keys", Some(31_536_000), 600, 86_400, 3600),
            ("the operator's own interval is taken as it is", None, 5, 86_400, 5),
            ("keys must not lapse between fetches", Some(3600), 600, 600, 300),
            ("nor with an interval above max_stale", None, 600, 10, 5),
        ] {
            let usual = timing.usual(fresh.map(Duration::from_secs), &pace(refresh, max_stale));
            assert_eq!(usual.as_secs(), expected, "{what}");
        }
    }

    #[test]
    fn retries_double_up_to_a_bound() {
        let timing = Timing::default();
        let waits: Vec<u64> =
            (1..=9).map(|failures| timing.retry(failures, SECOND * 600).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(timing.retry(u32::MAX, SECOND * 600).as_secs(), 60);
        assert_eq!(timing.retry(9, SECOND * 3).as_secs(), 3, "never later than the usual fetch");
    }

    #[test]
    fn jitter_is_early_and_at_most_a_tenth() {
        for _ in 0..1000 {
            let jittered = earlier(SECOND * 100);
            assert!((SECOND * 90..=SECOND * 100).contains(&jittered), "{jittered:?}");
        }
    }

    #[test]
    fn freshness_is_read_from_the_headers() {
        for (lines, expected) in [
            (&[][..], None),
            (&[("cache-control", "max-age=300")], Some(300)),
            (&[("cache-control", "public, MAX-AGE=300, must-revalidate")], Some(300)),
            (&[("cache-control", "max-age=\"300\"")], Some(300)),
            (&[("cache-control", "max-age=300"), ("cache-control", "max-age=20")], Some(20)),
            (&[("cache-control", "max-age=300"), ("age", "100")], Some(200)),
            (&[("cache-control", "max-age=300"), ("age", "900")], Some(0)),
            (&[("cache-control", "max-age=300, no-store")], None),
            (&[("cache-control", "no-cache")], None),
            (&[("cache-control", "s-maxage=300")], None),
            (&[("cache-control", "max-age=-1")], None),
            (&[("cache-control", "max-age=99999999999999999999")], None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            assert_eq!(fresh_for(&headers), expected.map(Duration::from_secs), "{lines:?}");
        }
    }
}
