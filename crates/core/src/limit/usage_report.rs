//! What a report says of a request that has ended, beside what it is charged: for its record in the
//! ledger.

use serde::{Deserialize, Serialize};

/// What is known of a request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    /// How the request ended.
    #[serde(rename = "e")]
    pub ending: RequestEnding,
    /// Where its number of tokens comes from.
    #[serde(rename = "b")]
    pub basis: Basis,
    /// What the server reported.
    #[serde(flatten)]
    pub counts: UsageCounts,
}

/// What a server counts of a response: its tokens by their kinds, and what else models have prices for.
/// `None` where the server does not report it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageCounts {
    /// The tokens of the input, those from a cache among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    /// The tokens of the output, those of reasoning among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
    /// The tokens of the input that a cache had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<u64>,
    /// The tokens of the output that are reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<u64>,
    /// The images that were generated, or that the request has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<u64>,
    /// The seconds of audio or video; a part of a second counts as a whole one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

impl UsageCounts {
    /// Nothing is reported.
    pub const NONE: Self = Self {
        input: None,
        output: None,
        cached: None,
        reasoning: None,
        images: None,
        seconds: None,
    };
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestEnding {
    /// The response arrived as a whole.
    Complete,
    /// The upstream redirected or refused the request.
    Rejected,
    /// The client disconnected before the end of the response.
    Disconnected,
    /// The upstream, or the proxy, reset the stream.
    Reset,
    /// A timeout of the proxy ended the response.
    Timeout,
    /// The response was cut, and the cause is not known.
    Cut,
    /// No server got the request.
    NotSent,
    /// No end was reported.
    Unreported,
}

/// Where the number of tokens of a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The server reported the usage of the whole response.
    Reported,
    /// The server reported the usage with each event until the response was cut.
    Running,
    /// Nothing was used.
    Unused,
    /// No usage was reported: an estimate by the prompt and the bytes of the response.
    Estimate,
    /// No usage was reported: all that the request held.
    Hold,
    /// The route has a fixed charge.
    Fixed,
}

impl Basis {
    /// Whether the number is one that the server reported, or that needs no report.
    pub const fn is_actual(self) -> bool {
        match self {
            Self::Reported | Self::Running | Self::Unused | Self::Fixed => true,
            Self::Estimate | Self::Hold => false,
        }
    }
}

impl UsageReport {
    /// A request whose end was not reported.
    pub const UNREPORTED: Self =
        Self { ending: RequestEnding::Unreported, basis: Basis::Hold, counts: UsageCounts::NONE };

    /// A request that no server got.
    pub const NOT_SENT: Self =
        Self { ending: RequestEnding::NotSent, basis: Basis::Unused, counts: UsageCounts::NONE };

    /// Returns the report as it is of a request with so many tokens: one that used nothing by the
    /// report of its end may have been seen running, and what was counted then is charged.
    #[must_use]
    pub fn with_tokens(self, tokens: u64) -> Self {
        match self.basis {
            Basis::Unused if tokens > 0 => Self { basis: Basis::Running, ..self },
            _ => self,
        }
    }

    /// Returns the report as a text, which [`read`](Self::read) reads.
    pub fn text(&self) -> String {
        // Numbers and names have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the text of a report; `None` where it is none.
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let counts = UsageCounts { input: Some(3), output: Some(4), ..UsageCounts::NONE };
        let report =
            UsageReport { ending: RequestEnding::Complete, basis: Basis::Reported, counts };
        let text = r#"{"e":"complete","b":"reported","input":3,"output":4}"#;
        assert_eq!(report.text(), text);
        assert_eq!(UsageReport::NOT_SENT.text(), r#"{"e":"not_sent","b":"unused"}"#);
        for report in [report, UsageReport::UNREPORTED, UsageReport::NOT_SENT] {
            assert_eq!(UsageReport::read(report.text().as_bytes()), Some(report));
        }
        assert_eq!(UsageReport::read(b""), None);
    }
}
