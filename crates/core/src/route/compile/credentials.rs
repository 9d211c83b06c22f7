//! What a route accepts: kinds of credentials, and the audience of tokens.

use crate::{
    config::{Errors, Path},
    identity::{CredentialKind, CredentialKinds},
    route::{CompileContext, RouteConfig, resource::ResourceMetadata},
};

/// Returns the place of the route's resource among those of the policy.
pub(super) fn audience(
    config: &RouteConfig,
    context: &mut CompileContext<'_>,
    path: &Path,
    errors: &mut Errors,
) -> Option<usize> {
    let audience = config.audience.as_deref()?;
    if !context.issuers.list().iter().any(|issuer| issuer.admits_audience(audience)) {
        let root = path.parent().parent();
        let message = format!(
            "no issuer has `{audience}` in its `audiences`, so that no token opens the route"
        );
        errors.push_presuming(&path.key("audience"), &[root.key("issuers")], message);
    }
    let algs = context.algs.map(|algs| &**algs);
    let resources = &mut context.resources;
    let known = resources.iter().position(|known| known.resource == audience);
    let place = known.unwrap_or_else(|| {
        resources.push(ResourceMetadata::new(audience, context.issuers, algs));
        resources.len() - 1
    });
    if let (Some(scopes), Some(resource)) = (&config.scopes, resources.get_mut(place)) {
        resource.add(scopes);
    }
    Some(place)
}

/// Checks what a route with credentials that browsers send by themselves needs.
pub(super) fn check_cookies(
    config: &RouteConfig,
    credentials: CredentialKinds,
    context: &CompileContext<'_>,
    path: &Path,
    errors: &mut Errors,
) {
    if config.ambient && context.cookies.is_none() {
        let cookies = path.parent().parent().key("cookies");
        let message = "`ambient` needs the section `cookies` with the `origins` of your pages";
        errors.push_presuming(&path.key("ambient"), &[cookies], message);
    }
    let has_cookies = credentials.contains(CredentialKind::Cookie) && config.credentials.is_some();
    if has_cookies && config.forward_credential {
        errors.push(
            &path.key("forward_credential"),
            "a cookie is never forwarded; remove this, or `cookie` from `credentials`",
        );
    }
}

/// Returns the kinds of credentials that the route accepts: no kind that is not named or default
/// opens a route.
pub(super) fn credentials(
    config: &RouteConfig,
    context: &CompileContext<'_>,
    path: &Path,
    errors: &mut Errors,
) -> CredentialKinds {
    let Some(kinds) = &config.credentials else {
        // Other kinds are accepted only where a route names them.
        let keys = context.api_keys.map(|_| CredentialKind::ApiKey);
        let kinds = std::iter::once(CredentialKind::Jwt).chain(keys);
        #[cfg(test)]
        let kinds = kinds.chain([CredentialKind::Test]);
        return kinds.collect();
    };
    let at = path.key("credentials");
    if kinds.is_empty() {
        errors.push(&at, "list at least one kind: jwt, api_key, certificate, cookie, opaque_token");
    }
    for (index, kind) in kinds.iter().enumerate() {
        let root = path.parent().parent();
        if kinds.iter().take(index).any(|earlier| earlier == kind) {
            errors.push(&at.index(index), format!("`{}` is listed twice", kind.label()));
        }
        let (is_configured, section) = match kind {
            CredentialKind::ApiKey => (context.api_keys.is_some(), "api_keys"),
            CredentialKind::Certificate => (context.accepts_certificates, "client_certificates"),
            CredentialKind::Cookie
                if context.cookies.is_none_or(|cookies| cookies.name.is_none()) =>
            {
                (false, "cookies")
            }
            CredentialKind::OpaqueToken if !context.issuers.introspects() => {
                let message = "`opaque_token` needs an issuer with `introspection`";
                errors.push_presuming(&at.index(index), &[root.key("issuers")], message);
                continue;
            }
            _ => (!context.issuers.list().is_empty(), "issuers"),
        };
        if !is_configured {
            let message = format!("`{}` needs the section `{section}`", kind.label());
            errors.push_presuming(&at.index(index), &[root.key(section)], message);
        }
    }
    kinds.iter().copied().collect()
}
