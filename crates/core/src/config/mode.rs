//! The mode of a limit, of a condition or of automatic bans.

use schemars::JsonSchema;
use serde::Deserialize;

/// `mode` of a limit, of a condition or of automatic bans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Requests are denied.
    #[default]
    Enforce,
    /// Requests are not denied: the denial is counted and logged.
    Shadow,
}

impl Mode {
    /// Whether requests are not denied.
    pub const fn is_shadow(self) -> bool {
        matches!(self, Self::Shadow)
    }
}
