//! Tools: the functions that a request declares or chooses, and the calls of JSON-RPC messages to
//! an MCP server.

use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{model::is_template, scope::missing_scopes};
use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason, malformed, shown},
    identity::Principal,
    request::{
        Headers,
        body::{BodyFacts, Message},
    },
    text::is_scope,
};

/// `mcp` of a route: its body is JSON-RPC for an MCP server (Model Context Protocol). The body
/// decides; the headers `Mcp-Method` and `Mcp-Name`, if they are sent, must equal it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct McpConfig {
    /// The scope for `tools/call`, with `{name}` for the tool's name. Default `tool:{name}`.
    #[serde(default = "tool_name")]
    pub tools: String,
    /// The scope for `prompts/get`, with `{name}` for the prompt's name. Default `tool:{name}`.
    #[serde(default = "tool_name")]
    pub prompts: String,
    /// The scope for `resources/read`, `resources/subscribe` and `resources/unsubscribe`, with
    /// `{name}` for the URI. Default `tool:{name}`.
    #[serde(default = "tool_name")]
    pub resources: String,
    /// Methods that require no scope besides the route's; `notifications/*` covers all methods with
    /// this prefix. Every other method is refused.
    #[serde(default = "open_methods")]
    pub methods: Vec<String>,
}

fn tool_name() -> String {
    "tool:{name}".into()
}

fn open_methods() -> Vec<String> {
    [
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "completion/complete",
        "logging/setLevel",
        "notifications/*",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Compiles a template such as `tool:{name}` and records an error.
pub(super) fn compile_template(template: &str, path: &Path, errors: &mut Errors) -> String {
    if !is_template(template, "{name}") || !template.contains("{name}") {
        errors.push(
            path,
            format!("`{template}` is not a scope for tools; write one word with `{{name}}`, such as `tool:{{name}}`"),
        );
    }
    template.to_owned()
}

impl McpConfig {
    /// Compiles the rule, which is its own configuration, and records every error.
    pub(super) fn compile(&self, path: &Path, errors: &mut Errors) -> Self {
        for (key, template) in
            [("tools", &self.tools), ("prompts", &self.prompts), ("resources", &self.resources)]
        {
            compile_template(template, &path.key(key), errors);
        }
        for (index, method) in self.methods.iter().enumerate() {
            if ["tools/call", "prompts/get", "resources/read"].contains(&method.as_str()) {
                errors.push(
                    &path.key("methods").index(index),
                    format!("`{method}` always needs a scope; remove it here"),
                );
            }
        }
        self.clone()
    }

    /// Checks the scopes of every message.
    pub(super) fn authorize(
        &self,
        principal: &Principal,
        headers: &Headers<'_>,
        facts: &BodyFacts<'_>,
    ) -> Result<(), Denial> {
        let (method, name) = (headers.one("mcp-method")?, headers.one("mcp-name")?);
        match facts.messages.as_slice() {
            [message] if !facts.batch => check_headers(message, method, name)?,
            _ if method.is_some() || name.is_some() => {
                return Err(malformed("a list of messages has a header that names one method"));
            }
            _ => {}
        }
        let mut needed = Vec::new();
        for message in &facts.messages {
            if let Some(scope) = self.needed(message)?
                && !principal.has_scope(&scope)
                && !needed.contains(&scope)
            {
                needed.push(scope);
            }
        }
        if needed.is_empty() { Ok(()) } else { Err(missing(needed, principal)) }
    }

    /// Returns the scope that one message requires, if any.
    fn needed(&self, message: &Message<'_>) -> Result<Option<String>, Denial> {
        // A message without a method is a response to a message of the server.
        let Some(method) = message.method.as_deref() else { return Ok(None) };
        let (template, name) = match method {
            "tools/call" => (&self.tools, &message.name),
            "prompts/get" => (&self.prompts, &message.name),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                (&self.resources, &message.uri)
            }
            _ => {
                let open = self.methods.iter().any(|known| {
                    known
                        .strip_suffix('*')
                        .map_or_else(|| known == method, |prefix| method.starts_with(prefix))
                });
                return if open {
                    Ok(None)
                } else {
                    Err(Denial::new(
                        Reason::ToolForbidden,
                        format!("the JSON-RPC method `{}` is not open on the route", shown(method)),
                    )
                    .with_message("this method is not open here")
                    .with_param("method"))
                };
            }
        };
        let Some(name) = name.as_deref() else {
            return Err(
                malformed("a JSON-RPC message calls something without a name").with_param("params")
            );
        };
        scope(template, name).map(Some)
    }
}

/// Checks that the headers of one message equal its body.
fn check_headers(
    message: &Message<'_>,
    method: Option<&[u8]>,
    name: Option<&[u8]>,
) -> Result<(), Denial> {
    let equal = |header: Option<&[u8]>, body: Option<&str>| match header {
        None => true,
        Some(value) => body.is_some_and(|body| {
            value == body.as_bytes() || decoded(value).is_some_and(|text| text == body.as_bytes())
        }),
    };
    let named = message.name.as_deref().or(message.uri.as_deref());
    if equal(method, message.method.as_deref()) && equal(name, named) {
        Ok(())
    } else {
        Err(malformed("the headers Mcp-Method and Mcp-Name contradict the body"))
    }
}

/// Decodes MCP's encoding of names that are not header values: `=?base64?...?=`.
fn decoded(value: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(value.strip_prefix(b"=?base64?")?.strip_suffix(b"?=")?).ok()
}

/// Checks the scopes of the tools of a chat request.
pub(super) fn check_tools(
    template: &str,
    principal: &Principal,
    facts: &BodyFacts<'_>,
) -> Result<(), Denial> {
    let mut needed = Vec::new();
    for name in &facts.tools {
        let scope = scope(template, name)?;
        if !principal.has_scope(&scope) && !needed.contains(&scope) {
            needed.push(scope);
        }
    }
    if needed.is_empty() { Ok(()) } else { Err(missing(needed, principal)) }
}

/// Returns the scope for a name. A name with characters that scopes exclude is refused.
fn scope(template: &str, name: &str) -> Result<String, Denial> {
    let scope = template.replace("{name}", name);
    if is_scope(&scope) && !name.is_empty() {
        Ok(scope)
    } else {
        Err(forbidden(format!("no scope can name the tool `{}`", shown(name))))
    }
}

fn missing(needed: Vec<String>, principal: &Principal) -> Denial {
    let message = match needed.as_slice() {
        [scope] => format!("this tool needs the scope `{scope}`"),
        scopes => format!("these tools need the scopes `{}`", scopes.join("`, `")),
    };
    let purpose = if needed.len() == 1 { "of a tool" } else { "of tools" };
    let cause = missing_scopes(purpose, &needed, false, principal);
    forbidden(cause).with_message(message).with_scopes(needed)
}

fn forbidden(cause: String) -> Denial {
    Denial::new(Reason::ToolForbidden, cause).with_param("tools")
}
