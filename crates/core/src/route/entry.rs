//! One entry of `routes`.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{EnumAccess, VariantAccess as _, Visitor},
};

use super::{OnOutage, RouteConfig, preset::PresetConfig};
use crate::config::variant_by_key;

/// One entry of `routes`: with `preset`, all routes of an inference server; with `match`, one route.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum RouteEntry {
    /// All routes of an inference server.
    Preset(Box<PresetConfig>),
    /// A single route.
    Explicit(Box<RouteConfig>),
}

impl<'de> Deserialize<'de> for RouteEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        variant_by_key(deserializer, &["preset", "match"], RouteEntryVisitor)
    }
}

/// Reads the map as the type that its key names.
struct RouteEntryVisitor;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RouteEntryKind {
    Preset,
    Match,
}

impl<'de> Visitor<'de> for RouteEntryVisitor {
    type Value = RouteEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a route with `match`, or a preset with `preset`")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<RouteEntry, A::Error> {
        match access.variant()? {
            (RouteEntryKind::Preset, map) => map.newtype_variant().map(RouteEntry::Preset),
            (RouteEntryKind::Match, map) => map.newtype_variant().map(RouteEntry::Explicit),
        }
    }
}

impl RouteEntry {
    /// Whether any request that the entry covers requires a credential.
    pub fn needs_credential(&self) -> bool {
        match self {
            Self::Preset(_) => true,
            Self::Explicit(route) => !route.public,
        }
    }

    /// Returns the entry's behaviour in an outage of the store.
    pub fn on_outage(&self) -> OnOutage {
        match self {
            Self::Preset(preset) => preset.on_outage,
            Self::Explicit(route) => route.on_outage,
        }
    }

    /// Whether the entry ends streams with their credentials.
    pub(crate) fn cuts_streams(&self) -> bool {
        match self {
            Self::Preset(preset) => preset.cut_streams,
            Self::Explicit(route) => route.cut_streams,
        }
    }

    /// Returns the hosts that the entry covers; none means any host.
    pub fn hosts(&self) -> &[String] {
        match self {
            Self::Preset(preset) => &preset.matches.hosts,
            Self::Explicit(route) => &route.matches.hosts,
        }
    }
}
