//! What the routes of a file need of the proxy besides the check itself.

use tollgate_core::{
    config::{Errors, Path},
    route::{
        RouteEntry,
        preset::{BodyKind, Preset, PresetConfig},
    },
    rule::websocket::WebSocketConfig,
};

use super::File;
use crate::adapter::forward_auth::ForwardAuthConfig;

/// Returns one note for each key that needs something of the proxy.
pub(super) fn of(file: &File) -> Errors {
    let mut notes = Errors::default();
    let rewriting = file.server.listen.http.iter().all(|http| http.dialect.rewrites_protocols());
    key_headers(file, &mut notes);
    for (index, entry) in file.policy.routes.iter().enumerate() {
        let path = Path::root().key("routes").index(index);
        match entry {
            RouteEntry::Preset(preset) => {
                for listed in open_websockets(preset) {
                    notes.push(&path.key("open"), websocket(&listed));
                }
                protocols(preset.websocket.as_ref(), rewriting, &path, &mut notes);
            }
            RouteEntry::Explicit(route) => {
                let paths = &route.matches.paths;
                if route.websocket.is_some() {
                    notes.push(&path.key("websocket"), websocket(&paths.join("`, `")));
                }
                protocols(route.websocket.as_ref(), rewriting, &path, &mut notes);
                if let Some(grpc) = paths.iter().find(|path| is_grpc(path)) {
                    let note = format!(
                        "`{grpc}` looks like gRPC, whose clients may wait for an answer before they end their request: switch the body of the check off for it in the proxy (docs/proxies.md, Streams and WebSockets)"
                    );
                    notes.push(&path.key("match").key("paths"), note);
                }
            }
        }
    }
    notes
}

/// A note where API keys come through a proxy that removes only the headers that it copies.
fn key_headers(file: &File, notes: &mut Errors) {
    let copies = |http: &ForwardAuthConfig| !http.dialect.removes_listed_headers();
    if file.policy.api_keys.is_some() && file.server.listen.http.iter().any(copies) {
        notes.push(
            &Path::root().key("api_keys").key("header"),
            "the proxies of `listen.http` have to copy `X-Api-Key`, `Api-Key` and `X-Tollgate-Key-Id` from the answer, as the files in deploy/ do: otherwise keys reach the upstream (docs/api-keys.md, Sending a key)",
        );
    }
}

/// The paths of the WebSockets that an entry opens.
fn open_websockets(config: &PresetConfig) -> Vec<String> {
    let Ok(preset) = Preset::load(&config.preset) else { return Vec::new() };
    let open = preset.routes.iter().filter(|route| {
        route.body == BodyKind::Websocket
            && route.closed.as_ref().is_none_or(|group| config.open.contains(group))
    });
    open.flat_map(|route| route.paths.clone()).collect()
}

fn websocket(paths: &str) -> String {
    format!(
        "`{paths}` is a WebSocket: the proxy has to forward the upgrade and to end connections (docs/proxies.md, Streams and WebSockets; deploy/envoy and deploy/nginx do for `/v1/realtime`)"
    )
}

/// A note where tokens come in a header that a listener's proxy cannot change.
fn protocols(config: Option<&WebSocketConfig>, rewriting: bool, path: &Path, notes: &mut Errors) {
    if config.is_some_and(|config| config.token_prefix.is_some()) && !rewriting {
        notes.push(
            &path.key("websocket").key("token_prefix"),
            "only Envoy over gRPC and nginx take a token out of `Sec-WebSocket-Protocol`; such requests are refused through the other listeners of `listen.http`",
        );
    }
}

/// Whether a path is that of a gRPC method: `/package.Service/Method`.
fn is_grpc(path: &str) -> bool {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
    else {
        return false;
    };
    service.split('.').count() > 1
        && service.rsplit('.').next().is_some_and(|name| name.starts_with(char::is_uppercase))
        && !method.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_paths_are_known_by_their_form() {
        for path in [
            "/inference.GRPCInferenceService/ModelStreamInfer",
            "/grpc.reflection.v1.ServerReflection/{method}",
            "/a.B/*",
        ] {
            assert!(is_grpc(path), "{path}");
        }
        for path in ["/v1/chat", "/v1.2/models", "/a/b.C", "/", "/a.B/c/d", "/models/qwen2.5"] {
            assert!(!is_grpc(path), "{path}");
        }
    }
}
