//! Answers: whatever a denial repeats, its headers fit into what every proxy reads.

use proptest::prelude::{Strategy, any, prop, prop_assert, prop_oneof, proptest};
use tollgate_core::{
    decision::{
        Dialect, Outcome,
        answer::{MAX_DENIED_BYTES, denied},
    },
    denial::{Denial, Reason, json_width},
    limit::{LimitKind, LimitStatus, Verdict},
    time::Span,
};

use super::cases;

/// Text of a client: long, with characters that grow when they are encoded.
fn text() -> impl Strategy<Value = String> {
    let unit = prop_oneof![
        any::<char>().prop_map(String::from),
        prop::sample::select(vec!["x", "\"", "\\", "\n", "\u{1}", "\u{e9}", "\u{1f600}", "`"])
            .prop_map(str::to_owned),
    ];
    (prop::collection::vec(unit, 0..20), 0..500_usize)
        .prop_map(|(units, n)| units.concat().repeat(n))
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn every_denial_fits_into_what_every_proxy_reads(
        message in text(),
        param in text(),
        scopes in prop::collection::vec("[!#-~]{1,300}", 0..300),
        limits in prop::collection::vec("[a-z.-]{1,64}", 0..100),
        numbers in any::<[u64; 5]>(),
    ) {
        let [limit, window, remaining, retry_after, reset] = numbers;
        for reason in Reason::ALL {
            for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
                let denial = Denial::new(reason, "")
                    .with_message(message.clone())
                    .with_param(param.clone())
                    .with_scopes(scopes.clone())
                    .with_retry_after(Span::from_micros(retry_after));
                let mut evidence = Outcome::refused(denial.clone()).evidence;
                evidence.dialect = dialect;
                evidence.limits = limits.iter().enumerate().map(|(at, name)| LimitStatus {
                    name: name.as_str().into(),
                    kind: [LimitKind::TokenBudget, LimitKind::Requests, LimitKind::InFlight][at % 3],
                    limit,
                    window,
                    verdict: Verdict { admitted: false, remaining, retry_after, reset },
                }).collect();
                let answer = denied(&denial, &evidence, &"f".repeat(32));
                let headers: usize =
                    answer.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
                let body: usize = answer.body.chars().map(ascii_width).sum();
                prop_assert!(
                    headers + body <= MAX_DENIED_BYTES,
                    "{}: {headers} and {body} bytes", reason.code()
                );
            }
        }
    }
}

/// The width of a character of JSON, whose own escapes are written already.
fn ascii_width(character: char) -> usize {
    if character.is_ascii() { 1 } else { json_width(character) }
}
