//! Presets: the routes of an inference server, with the scopes that each one requires. A request
//! that a preset does not list is denied.
//!
//! The data is in `presets/*.yaml` and is read with the same strict reader as the configuration
//! file. Scopes: `infer:*` uses GPU time, `tokenize` CPU time, `models:read`, `metrics:read` and
//! `docs:read` reveal information, `admin:*` changes the server for all users, and `infer:alias` is
//! a second path to another route's function.

mod expand;
pub mod members;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

pub(super) use self::expand::expand;
pub use self::expand::{
    PresetConfig, PresetFieldsConfig, PresetMatchConfig, PresetModelConfig, UnknownMembers,
};
use crate::{
    config::Document,
    pattern::Pattern,
    rule::model::{ModelSource, ModelSourceError},
};

/// The name and the text of each preset.
const SOURCES: [(&str, &str); 10] = [
    ("vllm", include_str!("presets/vllm.yaml")),
    ("sglang", include_str!("presets/sglang.yaml")),
    ("lmdeploy", include_str!("presets/lmdeploy.yaml")),
    ("ms-swift", include_str!("presets/ms-swift.yaml")),
    ("hunyuanocr", include_str!("presets/hunyuanocr.yaml")),
    ("llama-cpp", include_str!("presets/llama-cpp.yaml")),
    ("tgi", include_str!("presets/tgi.yaml")),
    ("ollama", include_str!("presets/ollama.yaml")),
    ("triton", include_str!("presets/triton.yaml")),
    ("ray-serve", include_str!("presets/ray-serve.yaml")),
];

/// Returns the names of all presets.
pub fn names() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(name, _)| *name)
}

/// The routes of an inference server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// The name for `preset:`.
    pub name: String,
    /// The server's full name.
    pub server: String,
    /// The version of the server from which the routes were read.
    pub read_from: String,
    /// The revision of this list.
    pub revision: u32,
    /// The server's default port.
    pub port: u16,
    /// What the server's own authentication covers, and what it does not.
    pub own_auth: String,
    /// The separator between model and LoRA adapter in a name.
    pub adapter_separator: Option<char>,
    /// The routes of the server.
    pub routes: Vec<PresetRoute>,
}

/// Routes of a preset with the same requirements.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PresetRoute {
    /// The methods. GET includes HEAD.
    pub methods: Vec<String>,
    /// The paths, as in `match.paths`.
    pub paths: Vec<String>,
    /// Whether the routes require no credential.
    #[serde(default)]
    pub public: bool,
    /// The scopes that the routes require, all of them.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Where a request names its model.
    pub model: ModelPlace,
    /// The type of the body.
    pub body: BodyKind,
    /// Whether the response may be a stream.
    #[serde(default)]
    pub streaming: bool,
    /// The closed group: the routes are denied unless `open` lists it.
    pub closed: Option<String>,
    /// The harm that an unauthorised client can do with the route.
    pub risk: String,
}

/// Where a route of a preset names its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelPlace {
    /// A location that `model.from` of a route can express.
    Source(ModelSource, String),
    /// No location: the server has one model.
    Fixed,
    /// A location that a check cannot read or compare.
    Hidden,
    /// No location: the route uses no model.
    None,
}

impl fmt::Display for ModelPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source(_, text) => text,
            Self::Fixed => "fixed",
            Self::Hidden => "hidden",
            Self::None => "none",
        })
    }
}

impl FromStr for ModelPlace {
    type Err = ModelSourceError;

    fn from_str(text: &str) -> Result<Self, ModelSourceError> {
        match text {
            "none" => Ok(Self::None),
            "fixed" => Ok(Self::Fixed),
            "hidden" => Ok(Self::Hidden),
            _ => text.parse().map(|source| Self::Source(source, text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for ModelPlace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for ModelPlace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The type of a route's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyKind {
    /// No body, or one that is ignored.
    None,
    /// A JSON document.
    Json,
    /// A form, `multipart/form-data`.
    Multipart,
    /// Messages after an upgrade.
    Websocket,
    /// A body that decisions do not depend on.
    Any,
}

/// A preset that cannot be loaded.
#[derive(Debug, Error)]
pub enum PresetError {
    /// No preset has this name.
    #[error("there is no preset `{0}`; known: {1}")]
    Unknown(String, String),
    /// The preset's data is invalid. A test loads every preset.
    #[error("the preset `{0}` cannot be read: {1}")]
    Broken(&'static str, String),
}

impl Preset {
    /// Loads the preset `name`.
    ///
    /// # Errors
    /// The name is not one of [`names`].
    pub fn load(name: &str) -> Result<Self, PresetError> {
        let Some((name, text)) = SOURCES.iter().find(|(known, _)| *known == name) else {
            return Err(PresetError::Unknown(
                name.to_owned(),
                names().collect::<Vec<_>>().join(", "),
            ));
        };
        let read = Document::parse(text, &|_| None).and_then(|document| document.read());
        read.map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            PresetError::Broken(name, lines.join("; "))
        })
    }

    /// Returns the route that covers a method and a path, closed or not, and the path as listed.
    pub fn find(&self, method: &str, path: &str) -> Option<(&PresetRoute, &str)> {
        let covering = self
            .routes
            .iter()
            .flat_map(|route| route.paths.iter().map(move |listed| (route, listed.as_str())));
        let best = covering
            .filter_map(|(route, listed)| {
                Pattern::parse(listed).ok()?.covers(path).map(|ranks| (ranks, route, listed))
            })
            .filter(|(_, route, _)| route.has_method(method))
            .max_by(|(a, ..), (b, ..)| a.cmp(b));
        best.map(|(_, route, listed)| (route, listed))
    }

    /// Returns the closed groups, which `open` may list.
    pub fn closed(&self) -> Vec<&str> {
        distinct(self.routes.iter().filter_map(|route| route.closed.as_deref()))
    }

    /// Returns the scopes that the routes require.
    pub fn scopes(&self) -> Vec<&str> {
        distinct(self.routes.iter().flat_map(|route| route.scopes.iter().map(String::as_str)))
    }
}

fn distinct<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut list: Vec<&str> = Vec::new();
    for word in words {
        if !list.contains(&word) {
            list.push(word);
        }
    }
    list
}

impl PresetRoute {
    /// Whether the routes cover a method.
    pub fn has_method(&self, method: &str) -> bool {
        self.methods.iter().any(|listed| listed == method || (listed == "GET" && method == "HEAD"))
    }

    /// Returns the danger of the route if it is open to every client.
    pub fn danger(&self) -> Danger {
        let shows = |scope: &str| scope.ends_with(":read");
        if self.public {
            Danger::None
        } else if self.closed.is_none()
            && !self.scopes.is_empty()
            && self.scopes.iter().all(|scope| shows(scope))
        {
            Danger::Leak
        } else {
            Danger::Serious
        }
    }
}

/// The danger of a route that is open to every client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Danger {
    /// No danger: the route is meant to be open.
    None,
    /// The route reveals information, but changes and costs nothing.
    Leak,
    /// The route uses resources, changes the server, or reveals data of other users.
    Serious,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_complete() {
        for name in names() {
            let preset = Preset::load(name).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(preset.name, name);
            for route in &preset.routes {
                let at = format!("{name} {:?} {:?}", route.methods, route.paths);
                assert!(!route.methods.is_empty() && !route.paths.is_empty(), "{at}");
                assert!(
                    route.public == route.scopes.is_empty(),
                    "{at}: either public or with a scope"
                );
                assert!(route.risk.ends_with('.'), "{at}: a sentence on the risk");
                assert!(
                    !route.public || (route.closed.is_none() && route.model == ModelPlace::None),
                    "{at}"
                );
                let admin = route.scopes.iter().any(|scope| scope.starts_with("admin:"));
                assert!(!admin || route.scopes.len() == 1, "{at}");
                assert!(!admin || route.model == ModelPlace::None, "{at}");
                let infers = route
                    .scopes
                    .iter()
                    .any(|scope| scope.starts_with("infer:") || scope == "ocr_api_access");
                assert!(
                    !infers || route.closed.is_some() || route.model != ModelPlace::None,
                    "{at}: where is the model?"
                );
                assert!(
                    route.body != BodyKind::Websocket || route.closed.is_some(),
                    "{at}: opened by name only"
                );
                let form = matches!(&route.model, ModelPlace::Source(ModelSource::Form(_), _));
                assert_eq!(form, route.body == BodyKind::Multipart, "{at}");
                let in_body = matches!(&route.model, ModelPlace::Source(ModelSource::Body(_), _));
                assert!(!in_body || route.body == BodyKind::Json, "{at}");
            }
        }
    }

    #[test]
    fn the_error_for_an_unknown_name_lists_the_known_ones() {
        let error = Preset::load("vlm").unwrap_err().to_string();
        assert!(error.contains("`vlm`") && error.contains("vllm, sglang"), "{error}");
    }

    #[test]
    fn the_closest_route_is_found() {
        let triton = Preset::load("triton").unwrap();
        let found = |method: &str, path: &str| triton.find(method, path).map(|(_, listed)| listed);
        assert_eq!(found("GET", "/v2/models/stats"), Some("/v2/models/stats"));
        assert_eq!(found("HEAD", "/v2/models/m"), Some("/v2/models/{model}"));
        assert_eq!(found("POST", "/v2/models/m/infer"), Some("/v2/models/{model}/infer"));
        assert_eq!(
            found("POST", "/v2/cudasharedmemory/region/x/register"),
            Some("/v2/cudasharedmemory/*")
        );
        assert_eq!(found("POST", "/v2/models/m"), None);
    }

    #[test]
    fn routes_have_a_danger() {
        let vllm = Preset::load("vllm").unwrap();
        let danger = |method: &str, path: &str| vllm.find(method, path).unwrap().0.danger();
        assert_eq!(danger("GET", "/health"), Danger::None);
        assert_eq!(danger("GET", "/metrics"), Danger::Leak);
        assert_eq!(danger("GET", "/v1/responses/r"), Danger::Serious);
        assert_eq!(danger("POST", "/pooling"), Danger::Serious);
        assert_eq!(danger("POST", "/collective_rpc"), Danger::Serious);
    }
}
