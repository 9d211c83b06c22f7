//! The body of a denial, as OpenAI's and Anthropic's clients read it.
//!
//! It is written without a tree of JSON values, which earns the row of forged tokens from a banned
//! network in `benches/instructions.py`.

use serde::Serialize;

use super::super::Dialect;
use crate::denial::Denial;

/// The body for OpenAI's clients. The members of each body are in the order of their names.
#[derive(Serialize)]
struct OpenAiBody<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    code: &'static str,
    message: &'a str,
    param: Option<&'a str>,
    r#type: &'static str,
}

/// The body for Anthropic's clients.
#[derive(Serialize)]
struct AnthropicBody<'a> {
    error: AnthropicError<'a>,
    r#type: &'static str,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    code: &'static str,
    message: &'a str,
    r#type: &'static str,
}

/// Returns the body of a denial in JSON.
pub(super) fn body(denial: &Denial, dialect: Dialect) -> String {
    let code = denial.reason.code();
    let message = denial.message.as_deref().unwrap_or_else(|| denial.reason.text());
    match dialect {
        Dialect::OpenAi => json_text(&OpenAiBody {
            error: OpenAiError {
                code,
                message,
                param: denial.param.as_deref(),
                r#type: denial.openai_type(),
            },
        }),
        Dialect::Anthropic => json_text(&AnthropicBody {
            error: AnthropicError { code, message, r#type: denial.anthropic_type() },
            r#type: "error",
        }),
    }
}

#[expect(clippy::expect_used, reason = "texts with fixed names are always JSON")]
fn json_text(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("a body of texts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial::Reason;

    #[test]
    fn bodies_have_the_members_of_each_api() {
        let denial = Denial::new(Reason::ModelForbidden, "not in the scopes")
            .with_message("no \"quotes\"")
            .with_param("model");
        let openai = r#"{"error":{"code":"model_forbidden","message":"no \"quotes\"","param":"model","type":"permission_error"}}"#;
        assert_eq!(body(&denial, Dialect::OpenAi), openai);
        let anthropic = r#"{"error":{"code":"model_forbidden","message":"no \"quotes\"","type":"permission_error"},"type":"error"}"#;
        assert_eq!(body(&denial, Dialect::Anthropic), anthropic);
        let text = body(&Denial::new(Reason::Banned, "banned"), Dialect::OpenAi);
        assert!(text.contains(r#""param":null"#), "{text}");
    }
}
