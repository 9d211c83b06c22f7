//! Details of a check that are recorded only on request, for `explain`.

/// What a check read and computed on its way, beside its evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The normalised request; `None` where it could not be read.
    pub request: Option<NormalizedRequest>,
    /// The value of every condition of the route, those after a false one included.
    pub conditions: Vec<ConditionResult>,
    /// The prompt categories of the request.
    pub categories: Vec<String>,
}

/// A request as the rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalizedRequest {
    /// The HTTP method.
    pub method: String,
    /// The host: lower case, without port and trailing dot.
    pub host: String,
    /// The path as it was sent, without the query.
    pub path: String,
    /// The path decoded once, where that differs.
    pub decoded_path: Option<String>,
    /// Whether the client used https.
    pub secure: bool,
    /// Headers of the client that spell an identity header.
    pub spoofed: Vec<String>,
}

/// The value of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionResult {
    /// The name of the condition.
    pub name: String,
    /// The value, or the reason why it has none.
    pub value: Result<bool, String>,
    /// Whether the condition is in shadow.
    pub is_shadow: bool,
}
