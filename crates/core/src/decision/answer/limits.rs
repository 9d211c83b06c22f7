//! The headers about limits that a client gets.

use super::list::{HeaderSink, push_number};
use crate::{
    limit::{LimitStatus, Unit},
    time::Span,
};

/// Writes `x-ratelimit-*` for the limits of requests and of tokens with least room (OpenAI's names
/// and durations), and `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers) for
/// all limits.
pub(super) fn rate_limit_headers(limits: &[LimitStatus], to: &mut impl HeaderSink) {
    let of = |unit| tightest(limits.iter().filter(move |status| status.kind.unit() == unit));
    if let Some(requests) = of(Unit::Requests) {
        to.number("x-ratelimit-limit-requests", requests.limit);
        to.number("x-ratelimit-remaining-requests", requests.verdict.remaining);
        to.header("x-ratelimit-reset-requests", |text| {
            go_duration(text, Span::from_micros(requests.verdict.reset))
        });
    }
    if let Some(tokens) = of(Unit::Tokens) {
        to.number("x-ratelimit-limit-tokens", tokens.limit);
        to.number("x-ratelimit-remaining-tokens", tokens.verdict.remaining);
        to.header("x-ratelimit-reset-tokens", |text| {
            go_duration(text, Span::from_micros(tokens.verdict.reset))
        });
    }
    if limits.is_empty() {
        return;
    }
    let seconds = |micros: u64| micros.div_ceil(1_000_000);
    // To the nearest second: the interval of `7/1m` is rounded up, and its window is still a minute.
    let window = |micros: u64| (micros.saturating_add(500_000) / 1_000_000).max(1);
    to.header("ratelimit-policy", |text| {
        list(text, limits, |text, status| {
            text.extend_from_slice(b";q=");
            push_number(text, status.limit);
            text.extend_from_slice(status.kind.unit().parameter());
            if status.window > 0 {
                text.extend_from_slice(b";w=");
                push_number(text, window(status.window));
            }
        });
    });
    to.header("ratelimit", |text| {
        list(text, limits, |text, status| {
            text.extend_from_slice(b";r=");
            push_number(text, status.verdict.remaining);
            if status.window > 0 {
                text.extend_from_slice(b";t=");
                push_number(text, seconds(status.verdict.reset));
            }
        });
    });
}

/// The limit with the smallest part of its units left.
fn tightest<'a>(limits: impl Iterator<Item = &'a LimitStatus>) -> Option<&'a LimitStatus> {
    limits.min_by(|a, b| {
        let left = |status: &LimitStatus, other: &LimitStatus| {
            u128::from(status.verdict.remaining) * u128::from(other.limit.max(1))
        };
        left(a, b).cmp(&left(b, a)).then(b.verdict.retry_after.cmp(&a.verdict.retry_after))
    })
}

/// The most bytes of a list of limits. The limits of a route beyond it are not listed.
const MAX_LIST: usize = 320;

/// Appends `"name"` and its parameters for each limit.
fn list(
    text: &mut Vec<u8>,
    limits: &[LimitStatus],
    parameters: impl Fn(&mut Vec<u8>, &LimitStatus),
) {
    let start = text.len();
    for (index, status) in limits.iter().enumerate() {
        let end = text.len();
        if index > 0 {
            text.extend_from_slice(b", ");
        }
        text.push(b'"');
        text.extend_from_slice(status.name.as_bytes());
        text.push(b'"');
        parameters(text, status);
        if index > 0 && text.len() - start > MAX_LIST {
            return text.truncate(end);
        }
    }
}

/// Appends a duration in the form of Go, which OpenAI sends: `6m0s`, `1.5s`, `20ms`.
fn go_duration(text: &mut Vec<u8>, span: Span) {
    let millis = span.micros().div_ceil(1000);
    if (1..1000).contains(&millis) {
        push_number(text, millis);
        return text.extend_from_slice(b"ms");
    }
    let (hours, minutes, rest) = (millis / 3_600_000, millis / 60_000 % 60, millis % 60_000);
    if hours > 0 {
        push_number(text, hours);
        text.push(b'h');
    }
    if hours > 0 || minutes > 0 {
        push_number(text, minutes);
        text.push(b'm');
    }
    push_number(text, rest / 1000);
    let fraction = rest % 1000;
    if fraction > 0 {
        text.push(b'.');
        // Without the zeros at the end, with those in front.
        text.extend_from_slice(match fraction {
            0..10 => b"00",
            10..100 => b"0",
            _ => b"",
        });
        let shortest = if fraction % 100 == 0 {
            fraction / 100
        } else if fraction % 10 == 0 {
            fraction / 10
        } else {
            fraction
        };
        push_number(text, shortest);
    }
    text.push(b's');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decision::answer::HeaderList,
        limit::{LimitKind, Verdict},
    };

    fn status(name: &str, limit: u64, remaining: u64, reset: u64) -> LimitStatus {
        LimitStatus {
            name: name.into(),
            kind: LimitKind::Rate,
            limit,
            window: limit * 1_000_000,
            verdict: Verdict { admitted: remaining > 0, remaining, retry_after: 0, reset },
        }
    }

    #[test]
    fn a_list_ends_with_the_last_limit_that_fits() {
        let name = "n".repeat(60);
        for count in 1..40 {
            let limits = vec![status(&name, 1, 1, 0); count];
            let head = "h".repeat(MAX_LIST);
            let mut text = head.clone().into_bytes();
            list(&mut text, &limits, |text, _| text.extend_from_slice(b";q=1"));
            let entry = format!("\"{name}\";q=1");
            let fitting = (1..=count)
                .rev()
                .find(|count| *count == 1 || count * (entry.len() + 2) - 2 <= MAX_LIST)
                .unwrap();
            let expected = format!("{head}{}", vec![entry; fitting].join(", "));
            assert_eq!(String::from_utf8(text).unwrap(), expected, "{count}");
        }
        // The first one is listed whatever its length.
        let long = "n".repeat(MAX_LIST + 1);
        let mut text = Vec::new();
        list(&mut text, &[status(&long, 1, 1, 0)], |_, _| {});
        assert_eq!(text.len(), long.len() + 2);
    }

    #[test]
    fn durations_are_go_s() {
        for (micros, text) in [
            (0, "0s"),
            (20_000, "20ms"),
            (1_000_000, "1s"),
            (1_500_000, "1.5s"),
            (1_050_000, "1.05s"),
            (1_005_000, "1.005s"),
            (61_120_000, "1m1.12s"),
            (360_000_000, "6m0s"),
            (3_661_000_000, "1h1m1s"),
            (500, "1ms"),
        ] {
            let mut written = Vec::new();
            go_duration(&mut written, Span::from_micros(micros));
            assert_eq!(String::from_utf8(written).unwrap(), text);
        }
    }

    #[test]
    fn the_tightest_limit_is_shown_and_all_are_listed() {
        let mut headers = HeaderList::default();
        rate_limit_headers(
            &[status("a", 60, 30, 30_000_000), status("b", 100, 10, 90_000_000)],
            &mut headers,
        );
        assert_eq!(
            headers.iter().collect::<Vec<_>>(),
            [
                ("x-ratelimit-limit-requests", "100"),
                ("x-ratelimit-remaining-requests", "10"),
                ("x-ratelimit-reset-requests", "1m30s"),
                ("ratelimit-policy", "\"a\";q=60;w=60, \"b\";q=100;w=100"),
                ("ratelimit", "\"a\";r=30;t=30, \"b\";r=10;t=90"),
            ]
        );
    }
}
