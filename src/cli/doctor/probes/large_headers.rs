//! Headers of clients that the proxy copies into its own call. Where the call becomes larger than
//! Tollgate's listener accepts (`max_header_bytes`), the check fails before Tollgate can deny it, and
//! the proxy decides.

use super::{Probes, Verdict};
use crate::cli::doctor::wire::Reply;

const REMEDY: &str = "the proxy copies headers of its clients into its own call, which becomes larger than Tollgate accepts: set `max_header_bytes` of the listener (128KiB by default) above twice the proxy's limit for headers (`max_request_headers_kb` in Envoy), or lower that limit; and keep `failure_mode_allow: false`";

/// The sizes that are tried, in bytes, until the proxy refuses one: below and above the limits of
/// common proxies (8, 16, 60 and 96 KiB, 1 MiB) and of gRPC servers (8 and 16 KiB).
const SIZES: [usize; 10] =
    [1_000, 7_000, 12_000, 17_000, 30_000, 45_000, 58_000, 90_000, 120_000, 250_000];

/// The headers that proxies and their tracers copy.
const NAMES: [&str; 4] = ["tracestate", "baggage", "b3", "x-request-id"];

/// A sampled parent, without which tracers copy nothing.
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The meaning of an answer to a request without a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Tollgate denied it.
    Denied,
    /// The headers were refused for their size.
    TooLarge,
    /// The upstream answered.
    Passed,
    /// The check failed: the answer is neither Tollgate's nor a refusal of the size.
    Failed,
}

fn meaning(reply: Option<&Reply>) -> Meaning {
    let Some(reply) = reply else { return Meaning::TooLarge };
    match (reply.code(), reply.status) {
        (Some(_), 400..) => Meaning::Denied,
        (_, ..400) | (None, 404) => Meaning::Passed,
        (None, 400 | 413 | 414 | 431) => Meaning::TooLarge,
        _ => Meaning::Failed,
    }
}

impl Probes<'_> {
    /// Tests that large headers do not make the check itself fail.
    pub(super) async fn large_headers(&mut self) -> anyhow::Result<()> {
        let name = "large_headers_do_not_break_the_check";
        let request = self.protected.clone();
        let (method, path) = (request.method, request.path.clone());
        let (mut largest, mut passed, mut failed) = (0, Vec::new(), Vec::new());
        for header in NAMES {
            for size in SIZES {
                let value = format!("tollgate={}", "x".repeat(size));
                let headers = [("traceparent", PARENT), (header, value.as_str())];
                let reply = self.send(method, &path, &headers, request.rest()).await?;
                let status = reply.as_ref().map_or(0, |reply| reply.status);
                let detail = || format!("`{header}` of {size} bytes: {status}");
                match meaning(reply.as_ref()) {
                    Meaning::Denied => largest = largest.max(size),
                    Meaning::TooLarge => break,
                    Meaning::Passed => {
                        passed.push(detail());
                        break;
                    }
                    Meaning::Failed => {
                        failed.push(detail());
                        break;
                    }
                }
            }
        }
        if !passed.is_empty() {
            let detail = format!("{}: the request was not stopped", passed.join("; "));
            self.add(name, Verdict::Leak, detail, Some(REMEDY));
        } else if !failed.is_empty() {
            let detail = format!("{}: not an answer of Tollgate", failed.join("; "));
            self.add(name, Verdict::Fault, detail, Some(REMEDY));
        } else {
            let detail = format!("{method} {path}: denied by Tollgate with up to {largest} bytes");
            self.add(name, Verdict::Ok, detail, None);
        }
        Ok(())
    }
}
