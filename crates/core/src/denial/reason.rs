//! The reasons for denials, and the table of their codes, statuses and texts.

/// A stable reason. The client's `code`, the metric label and the audit field are the same word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request has no credential, and the route requires one.
    MissingCredential,
    /// The request has several credentials, or one that can be read in two ways.
    AmbiguousCredential,
    /// The token is not a well-formed JWT.
    MalformedToken,
    /// The issuer may not use the token's algorithm.
    AlgorithmNotAllowed,
    /// No configured issuer has this `iss`.
    UnknownIssuer,
    /// The issuer has no key with this `kid`.
    UnknownKey,
    /// The signature does not verify.
    BadSignature,
    /// `exp` has passed.
    Expired,
    /// `nbf` or `iat` is in the future.
    NotYetValid,
    /// `aud` does not name this service.
    WrongAudience,
    /// `typ` is not the type of an access token.
    WrongTokenType,
    /// A claim is missing, has the wrong type, or is out of bounds.
    InvalidClaim,
    /// The API key is unknown, wrong or expired.
    InvalidApiKey,
    /// The certificate of the client cannot be used.
    InvalidCertificate,
    /// The token is bound to a key, and the request does not prove that the client has it.
    ProofRequired,
    /// The token is bound to another key than that of the client, or the proof of it is wrong.
    InvalidProof,
    /// The token is bound in a way that is not supported.
    UnsupportedConfirmation,
    /// The route does not accept credentials of this kind.
    CredentialNotAccepted,
    /// The issuer of an opaque token states that it is not active.
    InactiveToken,
    /// The credential was revoked.
    Revoked,
    /// The subject, the client, an actor, the tenant or the network is banned.
    Banned,
    /// No route covers the request.
    NoRoute,
    /// The credential lacks a scope.
    InsufficientScope,
    /// The credential may not use this model.
    ModelForbidden,
    /// The body contains a member that the route does not allow, or exceeds a cap.
    FieldForbidden,
    /// The credential may not use this tool.
    ToolForbidden,
    /// The credential may not use prompts of this category, or the prompt has no category.
    CategoryForbidden,
    /// A condition of the route is not true.
    ConditionFailed,
    /// The request names another tenant than the credential, or one of them names none where the
    /// route or a limit needs it.
    TenantMismatch,
    /// The actor of the credential may not use the route.
    ActorForbidden,
    /// A limit counts by address, and the proxy reported none.
    AddressForbidden,
    /// The token of a WebSocket came from a page of another origin than those listed.
    OriginForbidden,
    /// A browser sent the credential by itself, and no page of this service sent the request.
    CsrfFailed,
    /// The request did not come over https.
    InsecureTransport,
    /// The route requires the body, and the proxy did not send it.
    BodyUnavailable,
    /// The request is ambiguous or cannot be read.
    MalformedRequest,
    /// The request names no model.
    ModelMissing,
    /// The body is larger than allowed, or was truncated.
    BodyTooLarge,
    /// The route cannot read a body of this type.
    UnsupportedMediaType,
    /// A rate limit is used up.
    RateLimited,
    /// The budget of a window is used up.
    BudgetExhausted,
    /// As many requests of a client are in flight as a limit allows.
    TooManyInFlight,
    /// The store did not answer.
    StoreUnavailable,
    /// Too many requests are in flight.
    Overloaded,
    /// Keys or policy are not loaded yet.
    NotReady,
    /// Tollgate failed to decide.
    Internal,
}

/// The row of a reason in the table.
struct Meaning {
    code: &'static str,
    http: u16,
    text: &'static str,
}

impl Reason {
    /// Every reason, for metrics that are registered in advance and for the documentation.
    pub const ALL: [Self; 46] = [
        Self::MissingCredential,
        Self::AmbiguousCredential,
        Self::MalformedToken,
        Self::AlgorithmNotAllowed,
        Self::UnknownIssuer,
        Self::UnknownKey,
        Self::BadSignature,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongAudience,
        Self::WrongTokenType,
        Self::InvalidClaim,
        Self::InvalidApiKey,
        Self::InvalidCertificate,
        Self::ProofRequired,
        Self::InvalidProof,
        Self::UnsupportedConfirmation,
        Self::CredentialNotAccepted,
        Self::InactiveToken,
        Self::Revoked,
        Self::Banned,
        Self::NoRoute,
        Self::InsufficientScope,
        Self::ModelForbidden,
        Self::FieldForbidden,
        Self::ToolForbidden,
        Self::CategoryForbidden,
        Self::ConditionFailed,
        Self::TenantMismatch,
        Self::ActorForbidden,
        Self::AddressForbidden,
        Self::OriginForbidden,
        Self::CsrfFailed,
        Self::InsecureTransport,
        Self::BodyUnavailable,
        Self::MalformedRequest,
        Self::ModelMissing,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::RateLimited,
        Self::BudgetExhausted,
        Self::TooManyInFlight,
        Self::StoreUnavailable,
        Self::Overloaded,
        Self::NotReady,
        Self::Internal,
    ];

    const fn meaning(self) -> Meaning {
        const fn of(code: &'static str, http: u16, text: &'static str) -> Meaning {
            Meaning { code, http, text }
        }
        match self {
            Self::MissingCredential => of(
                "missing_credential",
                401,
                "no credential was sent; send `Authorization: Bearer <token>`",
            ),
            Self::AmbiguousCredential => of(
                "ambiguous_credential",
                401,
                "more than one credential was sent; send exactly one",
            ),
            Self::MalformedToken => {
                of("malformed_token", 401, "the token is not a well-formed signed JWT")
            }
            Self::AlgorithmNotAllowed => of(
                "algorithm_not_allowed",
                401,
                "the token is signed with an algorithm that its issuer may not use",
            ),
            Self::UnknownIssuer => {
                of("unknown_issuer", 401, "the token comes from an issuer that is not trusted here")
            }
            Self::UnknownKey => {
                of("unknown_key", 401, "no key of the token's issuer fits the token")
            }
            Self::BadSignature => of("bad_signature", 401, "the token's signature does not verify"),
            Self::Expired => of("expired", 401, "the token has expired; get a new one"),
            Self::NotYetValid => {
                of("not_yet_valid", 401, "the token is not valid yet; check the clocks")
            }
            Self::WrongAudience => {
                of("wrong_audience", 401, "the token was issued for another service")
            }
            Self::WrongTokenType => of("wrong_token_type", 401, "the token is not an access token"),
            Self::InvalidClaim => {
                of("invalid_claim", 401, "a claim of the token is missing or not acceptable")
            }
            Self::InvalidApiKey => {
                of("invalid_api_key", 401, "the API key is not valid; get a new one")
            }
            Self::InvalidCertificate => {
                of("invalid_certificate", 401, "the client certificate cannot be used here")
            }
            Self::ProofRequired => of(
                "proof_required",
                401,
                "the token is bound to a key of the client, and the request has no proof of it",
            ),
            Self::InvalidProof => of(
                "invalid_proof",
                401,
                "the request does not prove that the client has the key of its token",
            ),
            Self::UnsupportedConfirmation => of(
                "unsupported_confirmation",
                401,
                "the token is bound to a key in a way that is not supported here",
            ),
            Self::CredentialNotAccepted => of(
                "credential_not_accepted",
                401,
                "this endpoint does not accept credentials of this kind",
            ),
            Self::InactiveToken => of(
                "inactive_token",
                401,
                "the token has expired or was revoked, or its issuer does not know it; get a new one",
            ),
            Self::Revoked => of("revoked", 401, "the credential has been revoked"),
            Self::Banned => of("banned", 403, "access from here is banned"),
            Self::NoRoute => of("no_route", 403, "this method and path are not open here"),
            Self::InsufficientScope => of(
                "insufficient_scope",
                403,
                "the credential lacks a scope that this endpoint needs",
            ),
            Self::ModelForbidden => {
                of("model_forbidden", 403, "the credential may not use this model")
            }
            Self::FieldForbidden => of(
                "field_forbidden",
                403,
                "the body holds a field or a value that is not allowed here",
            ),
            Self::ToolForbidden => {
                of("tool_forbidden", 403, "the credential may not use this tool")
            }
            Self::CategoryForbidden => {
                of("category_forbidden", 403, "the credential may not use prompts of this category")
            }
            Self::ConditionFailed => {
                of("condition_failed", 403, "a condition of this endpoint is not met")
            }
            Self::TenantMismatch => of(
                "tenant_mismatch",
                403,
                "the request and the credential do not name the same tenant",
            ),
            Self::ActorForbidden => of(
                "actor_forbidden",
                403,
                "the actor that the credential names may not use this endpoint",
            ),
            Self::AddressForbidden => of(
                "address_forbidden",
                403,
                "the client's address is not known, and this endpoint is counted by address",
            ),
            Self::OriginForbidden => {
                of("origin_forbidden", 403, "a page of this origin may not send a token here")
            }
            Self::CsrfFailed => of(
                "csrf_failed",
                403,
                "the browser sent the credential by itself, and the request does not come from a page of this service",
            ),
            Self::InsecureTransport => {
                of("insecure_transport", 403, "this endpoint is only served over https")
            }
            Self::BodyUnavailable => {
                of("body_unavailable", 403, "the request's body did not reach the policy check")
            }
            Self::MalformedRequest => of(
                "malformed_request",
                400,
                "the request can be read in more than one way and was refused",
            ),
            Self::ModelMissing => of("model_missing", 400, "the request names no model"),
            Self::BodyTooLarge => of("body_too_large", 413, "the request's body is too large"),
            Self::UnsupportedMediaType => of(
                "unsupported_media_type",
                415,
                "send the body as `application/json`, in UTF-8 and without content encoding",
            ),
            Self::RateLimited => {
                of("rate_limited", 429, "rate limit reached; retry after the time given")
            }
            Self::BudgetExhausted => {
                of("budget_exhausted", 429, "the budget is used up; retry after the time given")
            }
            Self::TooManyInFlight => of(
                "too_many_in_flight",
                429,
                "too many of your requests are in flight; retry when one has ended",
            ),
            Self::StoreUnavailable => of(
                "store_unavailable",
                503,
                "limits and revocations cannot be checked at the moment; retry shortly",
            ),
            Self::Overloaded => {
                of("overloaded", 503, "too many requests are in flight; retry shortly")
            }
            Self::NotReady => of("not_ready", 503, "the gate is starting; retry shortly"),
            Self::Internal => of("internal", 503, "the gate failed to decide; retry shortly"),
        }
    }

    /// Returns the stable word: `code` in error bodies, `reason` in metrics and audit lines.
    pub const fn code(self) -> &'static str {
        self.meaning().code
    }

    /// Returns the HTTP status of the response. That of one denial may differ:
    /// [`Denial::http`](super::Denial::http).
    pub const fn http(self) -> u16 {
        self.meaning().http
    }

    /// Returns the gRPC code of the `CheckResponse`: 16 (UNAUTHENTICATED) for 401, else 7
    /// (PERMISSION_DENIED).
    ///
    /// Some Envoy versions treat every other code as a failure of the check.
    pub const fn grpc(self) -> u16 {
        match self.http() {
            401 => 16,
            _ => 7,
        }
    }

    /// Returns the sentence for the client.
    pub const fn text(self) -> &'static str {
        self.meaning().text
    }
}

/// Returns OpenAI's `error.type` for an HTTP status.
pub(crate) const fn openai_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        503 => "server_error",
        _ => "invalid_request_error",
    }
}

/// Returns Anthropic's `error.type` for an HTTP status.
pub(crate) const fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_statuses_are_the_contract() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(
                [400, 401, 403, 413, 415, 429, 503].contains(&reason.http()),
                "{}",
                reason.code()
            );
            assert!([7, 16].contains(&reason.grpc()), "{}", reason.code());
        }
    }
}
