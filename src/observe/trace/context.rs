//! The trace that a check belongs to: W3C Trace Context (<https://www.w3.org/TR/trace-context/>),
//! read from what the proxy sends.

use http::HeaderMap;
use tollgate_core::request::Headers;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// The longest `tracestate` that is passed on. The recommendation demands 512 bytes at least, and
/// permits to drop a longer one.
const MOST_STATE: usize = 512;

/// The span that a check belongs under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: u128,
    pub(super) span: u64,
    pub(super) sampled: bool,
    /// `tracestate`, as it was sent.
    pub(super) state: String,
}

impl Parent {
    /// Returns the parent that the proxy's call names for itself, or else that of the checked
    /// request. The parent of the call is the closer one: a tracing Envoy opens a span for the call
    /// and sends it in the call's metadata.
    pub(super) fn find(call: Option<&HeaderMap>, request: &Headers<'_>) -> Option<Self> {
        let of_call = |call: &HeaderMap| {
            let values = |name| call.get_all(name).iter().map(http::HeaderValue::as_bytes);
            Self::read(values(PARENT), values(STATE))
        };
        call.and_then(of_call).or_else(|| Self::read(request.all(PARENT), request.all(STATE)))
    }

    /// Two `traceparent`s count as none (section 3.2.2); several `tracestate`s are one list
    /// (section 3.3.1).
    fn read<'v>(
        mut parent: impl Iterator<Item = &'v [u8]>,
        state: impl Iterator<Item = &'v [u8]>,
    ) -> Option<Self> {
        let (trace, span, sampled) = parse(parent.next()?)?;
        if parent.next().is_some() {
            return None;
        }
        let state = state.collect::<Vec<_>>().join(&b',');
        let state = String::from_utf8(state).ok().filter(|state| {
            state.len() <= MOST_STATE
                && state.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        });
        Some(Self { trace, span, sampled, state: state.unwrap_or_default() })
    }
}

/// Reads `version-traceid-parentid-flags` (section 3.2). A later version may have more fields.
fn parse(value: &[u8]) -> Option<(u128, u64, bool)> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = text.split('-');
    let mut next = |digits| parts.next().and_then(|part| hex(part, digits));
    let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    let more = parts.next().is_some();
    if version == 0xff || (version == 0 && more) || trace == 0 || span == 0 {
        return None;
    }
    Some((trace, u64::try_from(span).ok()?, flags & 1 == 1))
}

/// Reads exactly so many lower-case hex digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let good =
        text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    good.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers<'a>(list: &[(&'a str, &'a str)]) -> Headers<'a> {
        let mut headers = Headers::default();
        for (name, value) in list {
            headers.push(name, value.as_bytes());
        }
        headers
    }

    #[test]
    fn the_example_of_the_recommendation_is_read() {
        let parent = Parent::find(
            None,
            &headers(&[
                ("TraceParent", GOOD),
                ("tracestate", "congo=t61"),
                ("tracestate", "rojo=1"),
            ]),
        );
        let expected = Parent {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span: 0x00f0_67aa_0ba9_02b7,
            sampled: true,
            state: "congo=t61,rojo=1".into(),
        };
        assert_eq!(parent, Some(expected));
    }

    #[test]
    fn what_is_no_traceparent_starts_a_new_trace() {
        for (value, read, why) in [
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
                true,
                "not sampled, but a parent",
            ),
            (
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later",
                true,
                "a newer version may have more",
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
                false,
                "version 00 has four parts",
            ),
            (
                "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                false,
                "version ff is forbidden",
            ),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false, "an empty trace id"),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false, "an empty span id"),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false, "upper case"),
            ("00-4bf92f3577b34da6a3ce929d0e0e47-00f067aa0ba902b7-01", false, "too short"),
            (
                "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                false,
                "a sign is no digit",
            ),
            ("", false, "nothing"),
            ("00", false, "half of it"),
        ] {
            assert_eq!(
                Parent::find(None, &headers(&[("traceparent", value)])).is_some(),
                read,
                "{why}"
            );
        }
        assert_eq!(
            Parent::find(None, &headers(&[("traceparent", GOOD), ("traceparent", GOOD)])),
            None,
            "two of them"
        );
        assert_eq!(
            Parent::find(None, &headers(&[("tracestate", "a=b")])),
            None,
            "no parent at all"
        );
    }

    #[test]
    fn the_call_s_own_context_goes_before_the_request_s() {
        let mut call = HeaderMap::new();
        let request = [("traceparent", GOOD)];
        let span = |call: &HeaderMap| Parent::find(Some(call), &headers(&request)).unwrap().span;
        assert_eq!(span(&call), 0x00f0_67aa_0ba9_02b7);
        call.insert(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000aa-01".parse().unwrap(),
        );
        assert_eq!(span(&call), 0xaa);
    }

    #[test]
    fn a_state_that_is_too_long_or_unreadable_is_left_out() {
        for state in ["x".repeat(513), "a=\u{1}".to_owned(), "é".to_owned()] {
            let parent =
                Parent::find(None, &headers(&[("traceparent", GOOD), ("tracestate", &state)]))
                    .unwrap();
            assert_eq!(parent.state, "");
        }
    }
}
