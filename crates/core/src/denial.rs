//! Denials, and the table of their reasons.

mod credential_failure;
mod reason;
mod would_deny;

use std::{borrow::Cow, sync::Arc};

use self::reason::{anthropic_type, openai_type};
pub use self::{
    credential_failure::CredentialFailure,
    reason::Reason,
    would_deny::{MAX_RULE, MAX_WOULD_DENY, ShadowDenial, WouldDeny},
};
use crate::{
    text::{has_invisible, with_invisible_escaped},
    time::Span,
};

/// The most characters of [`Denial::message`], counted as JSON in ASCII needs them: [`json_width`].
pub const MAX_MESSAGE: usize = 512;
/// The most characters of [`Denial::param`], counted in the same way.
pub const MAX_PARAM: usize = 256;
/// The most characters of [`Denial::cause`], counted in the same way: an audit line has room for it.
pub const MAX_CAUSE: usize = 768;
/// The most scopes in [`Denial::needed`].
pub const MAX_SCOPES: usize = 16;
/// The most bytes of all scopes in [`Denial::needed`], with a space after each.
pub const MAX_SCOPE_BYTES: usize = 512;

/// A refused request: the reason is for the client, the cause for the operator.
///
/// INVARIANT: message, parameter and scopes may repeat the client's input, so they are bounded
/// where they are set. A proxy that cannot read an answer treats the check as failed, and may then
/// forward the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The stable code, and with it the HTTP and gRPC status.
    pub reason: Reason,
    /// The exact cause, for the audit line and `explain`. Never contains a secret.
    pub cause: Cow<'static, str>,
    /// The sentence for the client, if it is more exact than the reason's default text.
    pub message: Option<String>,
    /// The field of the request that caused the denial (OpenAI's `param`).
    pub param: Option<String>,
    /// Whether `param` is a member that the policy or a preset lists: one of few names.
    pub listed: bool,
    /// The scopes that are required (RFC 6750 section 3, attribute `scope`): as many as there is
    /// room for.
    pub needed: Vec<String>,
    /// Whether scopes are required, also where none of them has room in [`Denial::needed`].
    pub needs_scopes: bool,
    /// The time after which a retry may succeed.
    pub retry_after: Option<Span>,
    /// Whether the client's network is banned: the status is then 429, and a client that follows
    /// `x-should-retry` sends the request no more.
    pub is_network_banned: bool,
    /// The names in the request that the audit line reports, where they are known.
    pub claimed: Option<Box<Claimed>>,
    /// The failure of the credential that counts against the client's network.
    pub failure: Option<CredentialFailure>,
}

/// Names that a refused request contains, for the audit line. They are not proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// The issuer of the policy that the credential names.
    pub issuer: Option<Arc<str>>,
    /// The model: by its policy name if the policy has it, otherwise as the request spells it.
    pub model: Option<String>,
}

impl Denial {
    /// Creates a denial with the reason's default text. A cause beyond [`MAX_CAUSE`] is cut.
    pub fn new(reason: Reason, cause: impl Into<Cow<'static, str>>) -> Self {
        let cause = match cause.into() {
            Cow::Owned(text) if has_invisible(&text) => {
                Cow::Owned(cut(with_invisible_escaped(&text), MAX_CAUSE))
            }
            Cow::Owned(text) => Cow::Owned(cut(text, MAX_CAUSE)),
            constant => constant,
        };
        Self {
            reason,
            cause,
            message: None,
            param: None,
            listed: false,
            needed: Vec::new(),
            needs_scopes: false,
            retry_after: None,
            is_network_banned: false,
            claimed: None,
            failure: match reason {
                Reason::BadSignature => Some(CredentialFailure::BadSignature),
                Reason::MalformedToken => Some(CredentialFailure::Malformed),
                _ => None,
            },
        }
    }

    /// Returns the HTTP status of the response: that of the reason, and 429 for a banned network.
    pub const fn http(&self) -> u16 {
        if self.is_network_banned { 429 } else { self.reason.http() }
    }

    /// Returns OpenAI's `error.type`.
    pub const fn openai_type(&self) -> &'static str {
        openai_type(self.http())
    }

    /// Returns Anthropic's `error.type`.
    pub const fn anthropic_type(&self) -> &'static str {
        anthropic_type(self.http())
    }

    /// Replaces the default text for the client. A text beyond [`MAX_MESSAGE`] is cut.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(cut(message.into(), MAX_MESSAGE));
        self
    }

    /// Counts the credential against the client's network: see [`Denial::failure`].
    #[must_use]
    pub(crate) fn with_failure(mut self, failure: CredentialFailure) -> Self {
        self.failure = Some(failure);
        self
    }

    /// Records the model that the request names. A name beyond [`MAX_PARAM`] is cut.
    #[must_use]
    pub fn with_model(mut self, model: &str) -> Self {
        self.claimed.get_or_insert_default().model = Some(shown(model));
        self
    }

    /// Records the issuer that the credential names.
    #[must_use]
    pub fn with_issuer(mut self, issuer: &Arc<str>) -> Self {
        self.claimed.get_or_insert_default().issuer = Some(Arc::clone(issuer));
        self
    }

    /// Names the field of the request that caused the denial. A name beyond [`MAX_PARAM`] is cut.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(cut(param.into(), MAX_PARAM));
        self
    }

    /// Names a member that the policy or a preset lists.
    #[must_use]
    pub fn with_listed_member(mut self, place: impl Into<String>) -> Self {
        self.listed = true;
        self.with_param(place)
    }

    /// The member that was forbidden, as a metric's label: the last two names of its place, or `other` for a
    /// member that is not listed, whose name is the client's. `None` for other denials.
    pub fn member_label(&self) -> Option<&str> {
        let place = self.param.as_deref().filter(|_| self.reason == Reason::FieldForbidden)?;
        if !self.listed {
            return Some("other");
        }
        let start = place.rmatch_indices('.').nth(1).map_or(0, |(dot, _)| dot + 1);
        place.get(start..)
    }

    /// Lists the required scopes, in their order. Those beyond [`MAX_SCOPES`] and
    /// [`MAX_SCOPE_BYTES`] are left out, never cut: a part of a scope is another scope.
    #[must_use]
    pub fn with_scopes(mut self, scopes: impl IntoIterator<Item = String>) -> Self {
        let mut scopes = scopes.into_iter().peekable();
        self.needs_scopes = scopes.peek().is_some();
        self.needed = fitting(scopes);
        self
    }

    /// Sets the time after which a retry may succeed.
    #[must_use]
    pub fn with_retry_after(mut self, span: Span) -> Self {
        self.retry_after = Some(span);
        self
    }
}

/// Returns the scopes that an answer has room for: [`MAX_SCOPES`] and [`MAX_SCOPE_BYTES`].
pub(crate) fn fitting<S: AsRef<str>>(scopes: impl IntoIterator<Item = S>) -> Vec<S> {
    let mut room = MAX_SCOPE_BYTES;
    let fits = |scope: &S| {
        let rest = room.checked_sub(scope.as_ref().len() + 1);
        room = rest.unwrap_or(room);
        rest.is_some()
    };
    scopes.into_iter().filter(fits).take(MAX_SCOPES).collect()
}

/// Returns a text of the client for a cause, cut at [`MAX_PARAM`].
pub(crate) fn shown(text: &str) -> String {
    cut(text.chars().take(MAX_PARAM + 1).collect(), MAX_PARAM)
}

/// Lists names for a cause, each in backticks: as many as there is room for, and the number of the
/// others.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const ROOM: usize = 256;
    let (mut list, mut omitted) = (String::new(), 0_usize);
    for name in names {
        if omitted > 0 || (list.len() + name.len() > ROOM && !list.is_empty()) {
            omitted += 1;
            continue;
        }
        let separator = if list.is_empty() { "" } else { ", " };
        list = format!("{list}{separator}`{}`", shown(name));
    }
    if omitted > 0 { format!("{list} and {omitted} more") } else { list }
}

/// Returns the number of characters that one character needs as JSON in ASCII: the body of an
/// answer is sent in a header to proxies that forward no other.
pub fn json_width(character: char) -> usize {
    match character {
        '"' | '\\' => 2,
        ' '..='~' => 1,
        // `\u00e9`, for each UTF-16 unit.
        _ => 6 * character.len_utf16(),
    }
}

/// Cuts a text at `most` characters of JSON in ASCII, and marks the cut.
fn cut(mut text: String, most: usize) -> String {
    const MARK: &str = "...";
    // No character is wider per byte than a control character.
    if text.len() * 6 <= most {
        return text;
    }
    let (mut width, mut end) = (0, 0);
    for (at, character) in text.char_indices() {
        width += json_width(character);
        if width > most {
            text.truncate(end);
            text.push_str(MARK);
            return text;
        }
        if width + MARK.len() <= most {
            end = at + character.len_utf8();
        }
    }
    text
}

/// Creates a 400 whose cause is shown to both operator and client. The cause is a constant, so it
/// never contains bytes of the client.
pub(crate) fn malformed(cause: &'static str) -> Denial {
    Denial::new(Reason::MalformedRequest, cause)
        .with_message(format!("the request was refused: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_client_are_cut() {
        let width = |text: &str| text.chars().map(json_width).sum::<usize>();
        for unit in ["x", "\"", "\u{1}", "\u{e9}", "\u{1f600}", "a\u{7f}"] {
            let denial = Denial::new(Reason::ToolForbidden, "")
                .with_message(unit.repeat(200_000))
                .with_param(unit.repeat(200_000));
            let (message, param) = (denial.message.unwrap(), denial.param.unwrap());
            assert!((MAX_MESSAGE - 24..=MAX_MESSAGE).contains(&width(&message)), "{unit:?}");
            assert!((MAX_PARAM - 24..=MAX_PARAM).contains(&width(&param)), "{unit:?}");
            assert!(message.starts_with(unit) && message.ends_with("..."), "{unit:?}");
        }
        for text in [String::new(), "x".repeat(MAX_MESSAGE), "\u{1f600}".into()] {
            let denial = Denial::new(Reason::NoRoute, "").with_message(text.clone());
            assert_eq!(denial.message, Some(text));
        }
    }

    #[test]
    fn a_cause_is_bounded_and_lists_as_many_names_as_fit() {
        for unit in ["x", "\"", "\u{1}", "\u{1f600}"] {
            let long = unit.repeat(200_000);
            let width = |text: &str| text.chars().map(json_width).sum::<usize>();
            let denial = Denial::new(Reason::ModelForbidden, long.clone()).with_model(&long);
            assert!(width(&denial.cause) <= MAX_CAUSE, "{unit:?}");
            let model = denial.claimed.unwrap().model.unwrap();
            assert!(width(&model) <= MAX_PARAM && model.ends_with("..."), "{unit:?}");
        }
        assert_eq!(listed([]), "");
        assert_eq!(listed(["a", "b:c"]), "`a`, `b:c`");
        let names: Vec<String> = (0..100).map(|number| format!("scope:{number:02}")).collect();
        let list = listed(names.iter().map(String::as_str));
        assert!(list.starts_with("`scope:00`, `scope:01`, ") && list.len() < 300, "{list}");
        let shown = list.matches('`').count() / 2;
        assert!(list.ends_with(&format!(" and {} more", 100 - shown)), "{list}");
    }

    #[test]
    fn scopes_are_listed_whole_and_as_many_as_fit() {
        let listed = |scopes: Vec<String>| {
            let denial = Denial::new(Reason::ToolForbidden, "").with_scopes(scopes);
            (denial.needed.len(), denial.needed.join(" ").len(), denial.needs_scopes)
        };
        assert_eq!(listed(vec![]), (0, 0, false));
        assert_eq!(listed(vec!["a".into(), "b".into()]), (2, 3, true));
        assert_eq!(listed(vec!["a".into(); 200]), (16, 31, true));
        assert_eq!(listed(vec!["x".repeat(1000); 200]), (0, 0, true));
        assert_eq!(listed(vec!["x".repeat(511), "y".into()]), (1, 511, true));
        assert_eq!(listed(vec!["x".repeat(255); 3]), (2, 511, true));
    }

    #[test]
    fn the_label_of_a_member_is_one_of_few() {
        let denial =
            |place: &str| Denial::new(Reason::FieldForbidden, "x").with_listed_member(place);
        for (place, label) in [
            ("priority", "priority"),
            ("sampling_params.regex", "sampling_params.regex"),
            ("messages[].content[].image_url.uuid", "image_url.uuid"),
        ] {
            assert_eq!(denial(place).member_label(), Some(label), "{place}");
        }
        let unlisted = Denial::new(Reason::FieldForbidden, "x").with_param("of-the-client");
        assert_eq!(unlisted.member_label(), Some("other"));
        assert_eq!(Denial::new(Reason::NoRoute, "x").with_param("y").member_label(), None);
    }
}
