//! The stages of a check, in their order: one list for evidence, spans and `explain`.

/// A stage of a check. The order of the variants is the order in which a request passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The request is read and can be understood in one way only.
    Request,
    /// The request came over https, where the policy requires it.
    Transport,
    /// The client's network is not banned, as far as it is known without a call to the store.
    Network,
    /// A route covers the request.
    Route,
    /// The request carries one credential. Not on public routes.
    Credential,
    /// The credential is verified, check by check. Not on public routes.
    Verification(Check),
    /// The principal has the scopes of the route.
    Scopes,
    /// No limit of the route is remembered to be used up.
    Refusals,
    /// The body is read as far as the route needs it.
    Body,
    /// The principal may use the model.
    Model,
    /// The conditions of the route are true.
    Conditions,
    /// The content of the body is allowed: members, tools, categories, caps.
    Content,
    /// The limits of the route know what to count by.
    Limits,
    /// The store decides: nothing of the request is banned, the credential is not revoked, and
    /// every limit has room.
    Store,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 22] = [
        Self::Request,
        Self::Transport,
        Self::Network,
        Self::Route,
        Self::Credential,
        Self::Verification(Check::Shape),
        Self::Verification(Check::Header),
        Self::Verification(Check::Issuer),
        Self::Verification(Check::Algorithm),
        Self::Verification(Check::Key),
        Self::Verification(Check::Signature),
        Self::Verification(Check::Times),
        Self::Verification(Check::Audience),
        Self::Verification(Check::Claims),
        Self::Scopes,
        Self::Refusals,
        Self::Body,
        Self::Model,
        Self::Conditions,
        Self::Content,
        Self::Limits,
        Self::Store,
    ];

    /// The name of the stage, the same for all checks of a credential: `explain` prints it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Transport => "transport",
            Self::Network => "network",
            Self::Route => "route",
            Self::Credential => "credential",
            Self::Verification(_) => "token",
            Self::Scopes => "scopes",
            Self::Refusals => "refusals",
            Self::Body => "body",
            Self::Model => "model",
            Self::Conditions => "conditions",
            Self::Content => "content",
            Self::Limits => "limits",
            Self::Store => "store",
        }
    }
}

/// A check of a credential. Each kind of credential has those that apply to it, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// The form: for a JWT three parts of base64url.
    Shape,
    /// The header: for a JWT a known `alg`, nothing critical, the `typ` of an access token.
    Header,
    /// The issuer: the policy has one for this credential.
    Issuer,
    /// The algorithm: the issuer may use it.
    Algorithm,
    /// The key: the keys of the source are loaded, and one of them fits.
    Key,
    /// The signature, or another proof that the key was used.
    Signature,
    /// The times: for a JWT `exp`, `nbf`, `iat` and the lifetime.
    Times,
    /// The audience: the credential is for this service.
    Audience,
    /// The claims: what is required is present, and an identity can be made of it.
    Claims,
}

impl Check {
    /// The name of the check.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Shape => "shape",
            Self::Header => "header",
            Self::Issuer => "issuer",
            Self::Algorithm => "algorithm",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Times => "times",
            Self::Audience => "audience",
            Self::Claims => "claims",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_listed_in_their_order() {
        assert!(Stage::ALL.is_sorted_by(|earlier, later| earlier < later));
        assert!(Stage::Credential < Stage::Verification(Check::Shape));
        assert!(Stage::Verification(Check::Claims) < Stage::Scopes);
    }
}
