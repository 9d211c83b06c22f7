//! The route table: one trie of segments per host pattern.
//!
//! Finding a route takes time proportional to the length of the path, not to the number of routes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use foldhash::fast::FixedState;
use thiserror::Error;

use super::Route;
use crate::{
    denial::{Denial, Reason, listed, malformed},
    pattern::{Captures, Pattern, Segment},
    request::{Host, RequestPath, path::percent_decode},
};

/// A host in `match.hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostPattern {
    /// Any host: no hosts are listed.
    Any,
    /// `*.suffix`: every subdomain, at any depth, as in Envoy's domains.
    Below(String),
    /// Exactly this host.
    Exact(String),
}

/// A text that is not a [`HostPattern`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum HostPatternError {
    /// The text is not a host name.
    #[error("`{0}` is not a host name or `*.` and a host name")]
    Malformed(String),
    /// The host is not written in the form in which hosts are compared.
    #[error("write `{text}` as `{normal}`: hosts are compared in lower case and without port")]
    NotNormal {
        /// The text in the file.
        text: String,
        /// The form in which hosts are compared.
        normal: String,
    },
}

impl HostPattern {
    pub(super) fn parse(text: &str) -> Result<Self, HostPatternError> {
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let host = Host::parse(name.as_bytes())
            .map_err(|_| HostPatternError::Malformed(text.to_owned()))?;
        if host.as_str() != name {
            let prefix = if below { "*." } else { "" };
            return Err(HostPatternError::NotNormal {
                text: text.to_owned(),
                normal: format!("{prefix}{}", host.as_str()),
            });
        }
        Ok(if below { Self::Below(name.to_owned()) } else { Self::Exact(name.to_owned()) })
    }

    /// Whether this pattern covers every host of `other` and additional ones.
    pub(super) fn is_wider_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Below(_) | Self::Exact(_)) => true,
            (Self::Below(suffix), Self::Below(name) | Self::Exact(name)) => {
                name.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            _ => false,
        }
    }
}

/// A map by names of the policy. Clients only look up names, so hash flooding is no concern.
type ByName<T> = HashMap<String, T, FixedState>;

/// All routes, found by host, path and method.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: ByName<Node>,
    below: ByName<Node>,
    any: Node,
}

#[derive(Debug, Default)]
struct Node {
    literals: ByName<Node>,
    one: Option<Box<Node>>,
    rest: Option<Leaf>,
    end: Option<Leaf>,
}

/// The routes that end at a node, by method.
#[derive(Debug, Default)]
struct Leaf {
    methods: Vec<MethodRoute>,
}

#[derive(Debug)]
struct MethodRoute {
    method: String,
    route: Arc<Route>,
    /// The names of the captures on the path to the node.
    names: Vec<String>,
}

/// The error of a route whose place in the table is taken.
#[derive(Debug)]
pub(super) struct DuplicateRoute {
    /// The first method that both routes have.
    pub(super) method: String,
    /// The route in its place.
    pub(super) first: Arc<Route>,
}

impl RouteTable {
    pub(super) fn insert(
        &mut self,
        host: &HostPattern,
        pattern: &Pattern,
        methods: &[String],
        route: &Arc<Route>,
    ) -> Result<(), DuplicateRoute> {
        let mut node = match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Below(suffix) => self.below.entry(suffix.clone()).or_default(),
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
        };
        let names = pattern.names();
        for segment in &pattern.segments {
            node = match segment {
                Segment::Literal(text) => node.literals.entry(text.clone()).or_default(),
                Segment::One(_) => node.one.get_or_insert_default(),
                Segment::Rest(_) => {
                    return node.rest.get_or_insert_default().add(methods, route, &names);
                }
                Segment::Below => {
                    node.end.get_or_insert_default().add(methods, route, &names)?;
                    node.literals
                        .entry(String::new())
                        .or_default()
                        .end
                        .get_or_insert_default()
                        .add(methods, route, &names)?;
                    return node.rest.get_or_insert_default().add(methods, route, &names);
                }
            };
        }
        node.end.get_or_insert_default().add(methods, route, &names)
    }

    /// Returns the route that covers a request, and the values of its captures.
    ///
    /// ```
    /// use tollgate_core::{
    ///     config::{Document, Errors},
    ///     denial::Reason,
    ///     policy::{Policy, PolicyConfig},
    ///     request::{Host, RequestPath},
    /// };
    ///
    /// let text = "routes: [{ match: { paths: [/health, '/files/{name}'] }, public: true }]";
    /// let config: PolicyConfig =
    ///     Document::parse(text, &|_| None).and_then(|document| document.read()).expect("a policy");
    /// let policy = Policy::compile(&config, &mut Errors::default()).expect("no errors");
    ///
    /// let host = Host::parse(b"api.example.com").expect("a host");
    /// let path = RequestPath::parse(b"/files/a%20b").expect("a path");
    /// let (_, captures) = policy.routes.find(&host, &path, "GET").expect("a route");
    /// assert_eq!(captures.get("name"), Some("a b"));
    ///
    /// let denial = policy.routes.find(&host, &path, "DELETE").expect_err("GET only");
    /// assert_eq!(denial.reason, Reason::NoRoute);
    /// ```
    ///
    /// # Errors
    /// `no_route`; `malformed_request` if the raw and the decoded path have different routes,
    /// captures of different values, or if only one of them has a route.
    pub fn find(
        &self,
        host: &Host,
        path: &RequestPath<'_>,
        method: &str,
    ) -> Result<(&Arc<Route>, Captures), Denial> {
        let raw = self.lookup(host, path.raw());
        if !path.is_encoded() {
            return raw.ok_or_else(no_route)?.route(method, str::to_owned);
        }
        // The raw path decides for literals. A capture may contain an encoded character if decoding
        // it changes nothing else.
        let ambiguous = || malformed("the path means different things encoded and decoded");
        match (raw, self.lookup(host, path.decoded())) {
            (None, None) => Err(no_route()),
            (Some(raw), Some(decoded)) if std::ptr::eq(raw.leaf, decoded.leaf) => {
                let (route, captures) = raw.route(method, percent_decoded)?;
                let (_, same) = decoded.route(method, str::to_owned)?;
                if captures == same { Ok((route, captures)) } else { Err(ambiguous()) }
            }
            _ => Err(ambiguous()),
        }
    }

    fn lookup<'t, 'p>(&'t self, host: &Host, path: &'p str) -> Option<Match<'t, 'p>> {
        let host = host.as_str();
        let exact = self.exact.get(host).and_then(|node| node.walk(path));
        exact.or_else(|| self.lookup_below(host, path)).or_else(|| self.any.walk(path))
    }

    /// Looks up the suffixes of a host, the longest first.
    fn lookup_below<'t, 'p>(&'t self, host: &str, path: &'p str) -> Option<Match<'t, 'p>> {
        if self.below.is_empty() {
            return None;
        }
        let suffixes = host.match_indices('.').filter_map(|(at, _)| host.get(at + 1..));
        suffixes.filter_map(|suffix| self.below.get(suffix)).find_map(|node| node.walk(path))
    }
}

fn no_route() -> Denial {
    Denial::new(Reason::NoRoute, "no route has this host and path")
}

/// Decodes a part of a path that `find` has decoded as a whole, so it cannot fail.
fn percent_decoded(text: &str) -> String {
    percent_decode(text).unwrap_or_else(|| text.to_owned())
}

struct Match<'t, 'p> {
    leaf: &'t Leaf,
    values: Vec<&'p str>,
}

impl<'t> Match<'t, '_> {
    fn route(
        &self,
        method: &str,
        decode: impl Fn(&str) -> String,
    ) -> Result<(&'t Arc<Route>, Captures), Denial> {
        let Some(MethodRoute { route, names, .. }) =
            self.leaf.methods.iter().find(|known| known.method == method)
        else {
            let listed = listed(self.leaf.methods.iter().map(|known| known.method.as_str()));
            let cause = format!("the route does not list this method; it lists {listed}");
            return Err(Denial::new(Reason::NoRoute, cause));
        };
        let mut captures = BTreeMap::new();
        for (name, value) in names.iter().zip(&self.values) {
            captures.insert(name.clone(), decode(value));
        }
        Ok((route, Captures(captures)))
    }
}

impl Leaf {
    /// Adds a route. An explicit route takes precedence over one of a preset with the same host,
    /// path and method, regardless of their order.
    fn add(
        &mut self,
        methods: &[String],
        route: &Arc<Route>,
        names: &[String],
    ) -> Result<(), DuplicateRoute> {
        for method in methods {
            let new_entry = || MethodRoute {
                method: method.clone(),
                route: Arc::clone(route),
                names: names.to_vec(),
            };
            let Some(known) = self.methods.iter_mut().find(|known| known.method == *method) else {
                self.methods.push(new_entry());
                continue;
            };
            match (known.route.from_preset, route.from_preset) {
                (false, true) => {}
                (true, true) | (false, false) => {
                    return Err(DuplicateRoute {
                        method: method.clone(),
                        first: Arc::clone(&known.route),
                    });
                }
                (true, false) => *known = new_entry(),
            }
        }
        Ok(())
    }
}

impl Node {
    fn walk<'t, 'p>(&'t self, path: &'p str) -> Option<Match<'t, 'p>> {
        let mut values = Vec::new();
        let leaf = self.descend(path.strip_prefix('/')?, &mut values)?;
        Some(Match { leaf, values })
    }

    /// Finds the leaf for `rest`, which starts at a segment: literals first, then captures, then
    /// the rest. Values captured on the way to a dead end are removed.
    fn descend<'t, 'p>(&'t self, rest: &'p str, values: &mut Vec<&'p str>) -> Option<&'t Leaf> {
        let (segment, tail) = match memchr::memchr(b'/', rest.as_bytes())
            .and_then(|slash| rest.split_at_checked(slash))
        {
            Some((segment, tail)) => (segment, tail.get(1..)),
            None => (rest, None),
        };
        let before = values.len();
        if let Some(leaf) =
            self.literals.get(segment).and_then(|node| node.after_segment(tail, values))
        {
            return Some(leaf);
        }
        values.truncate(before);
        if let Some(node) = self.one.as_deref().filter(|_| !segment.is_empty()) {
            values.push(segment);
            if let Some(leaf) = node.after_segment(tail, values) {
                return Some(leaf);
            }
            values.truncate(before);
        }
        let leaf = self.rest.as_ref().filter(|_| !rest.is_empty())?;
        values.push(rest);
        Some(leaf)
    }

    /// Continues after the segment that led to this node, with another segment or at the end.
    fn after_segment<'t, 'p>(
        &'t self,
        tail: Option<&'p str>,
        values: &mut Vec<&'p str>,
    ) -> Option<&'t Leaf> {
        match tail {
            Some(tail) => self.descend(tail, values),
            None => self.end.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{CredentialKind, CredentialKinds},
        route::OnOutage,
        rule::{content::Content, scope::ScopeRule},
    };

    fn table(routes: &[(&str, &str, &[&str])]) -> RouteTable {
        let mut table = RouteTable::default();
        for (host, path, methods) in routes {
            let route = Arc::new(Route {
                holds: Vec::new(),
                sizing: None,
                fixed_tokens: None,
                name: format!("{host}{path}"),
                public: false,
                scopes: ScopeRule::All(Vec::new()),
                model: None,
                conditions: Vec::new(),
                websocket: None,
                shadow: crate::rule::shadow::ShadowRules::default(),
                shadow_content: None,
                content: Content::default(),
                resource_metadata: None,
                actors: None,
                tenant: None,
                limits: Vec::new(),
                on_outage: OnOutage::Deny,
                credentials: CredentialKinds::from_iter([CredentialKind::Jwt]),
                audience: None,
                ambient: false,
                cut_streams: false,
                accepted: None,
                algs: None,
                forward_credential: false,
                upstream_key: None,
                from_preset: false,
            });
            let host =
                if host.is_empty() { HostPattern::Any } else { HostPattern::parse(host).unwrap() };
            let methods: Vec<String> = methods.iter().map(|method| (*method).to_owned()).collect();
            table.insert(&host, &Pattern::parse(path).unwrap(), &methods, &route).unwrap();
        }
        table
    }

    fn find(
        table: &RouteTable,
        host: &str,
        path: &str,
        method: &str,
    ) -> Result<(String, Captures), Reason> {
        let path = RequestPath::parse(path.as_bytes()).map_err(|denial| denial.reason)?;
        let host = Host::parse(host.as_bytes()).unwrap();
        table
            .find(&host, &path, method)
            .map(|(route, captures)| (route.name.clone(), captures))
            .map_err(|denial| denial.reason)
    }

    #[test]
    fn the_best_match_wins() {
        let table = table(&[
            ("", "/v1/models", &["GET"]),
            ("", "/v1/{x}", &["GET"]),
            ("", "/v1/{x*}", &["GET"]),
            ("", "/v1/{x}/end", &["GET"]),
            ("", "/v1/models/{m*}", &["GET"]),
            ("", "/files/*", &["GET"]),
            ("api.example.com", "/v1/*", &["GET"]),
            ("*.example.com", "/v1/{x}", &["GET"]),
            ("*.a.example.com", "/deep", &["GET"]),
        ]);
        for (host, path, expected) in [
            ("h", "/v1/models", "/v1/models"),
            ("h", "/v1/other", "/v1/{x}"),
            ("h", "/v1/a/b", "/v1/{x*}"),
            ("h", "/v1/a/end", "/v1/{x}/end"),
            ("h", "/v1/models/a/b", "/v1/models/{m*}"),
            ("h", "/v1/models/end", "/v1/models/{m*}"),
            ("h", "/files", "/files/*"),
            ("h", "/files/", "/files/*"),
            ("h", "/files/a/b", "/files/*"),
            ("api.example.com", "/v1/models", "api.example.com/v1/*"),
            ("API.example.com:443", "/v1", "api.example.com/v1/*"),
            ("x.example.com", "/v1/models", "*.example.com/v1/{x}"),
            ("x.y.example.com", "/v1/models", "*.example.com/v1/{x}"),
            ("x.a.example.com", "/deep", "*.a.example.com/deep"),
            ("x.a.example.com", "/v1/m", "*.example.com/v1/{x}"),
            ("example.com", "/v1/models", "/v1/models"),
            ("x.example.com", "/files/a", "/files/*"),
        ] {
            assert_eq!(
                find(&table, host, path, "GET").map(|(name, _)| name).as_deref(),
                Ok(expected),
                "{host}{path}"
            );
        }
        for (host, path) in [
            ("h", "/"),
            ("h", "/v1"),
            ("h", "/v1/"),
            ("h", "/V1/models"),
            ("h", "/filesx"),
            ("h", "/deep"),
        ] {
            assert_eq!(
                find(&table, host, path, "GET").map(|(name, _)| name),
                Err(Reason::NoRoute),
                "{host}{path}"
            );
        }
    }

    #[test]
    fn a_method_never_falls_through_to_a_wider_route() {
        let table = table(&[("", "/v1/admin/*", &["GET"]), ("", "/v1/*", &["GET", "POST"])]);
        assert_eq!(find(&table, "h", "/v1/admin/x", "POST").map(drop), Err(Reason::NoRoute));
        assert_eq!(
            find(&table, "h", "/v1/x", "POST").map(|(name, _)| name).as_deref(),
            Ok("/v1/*")
        );
    }

    #[test]
    fn captures_take_encoded_characters_only_if_nothing_else_changes() {
        let table = table(&[
            ("", "/v1/models/{model*}", &["GET"]),
            ("", "/v2/{m}/infer", &["GET"]),
            ("", "/v1/models/special", &["GET"]),
            ("", "/a/{x}/{y*}", &["GET"]),
        ]);
        let captured = |path: &str, name: &str| {
            find(&table, "h", path, "GET")
                .map(|(_, captures)| captures.get(name).unwrap().to_owned())
        };
        assert_eq!(captured("/v1/models/Qwen%2FQwen2", "model").as_deref(), Ok("Qwen/Qwen2"));
        assert_eq!(captured("/v1/models/Qwen/Qwen2", "model").as_deref(), Ok("Qwen/Qwen2"));
        assert_eq!(captured("/v2/a%20b/infer", "m").as_deref(), Ok("a b"));
        for path in [
            "/v2/a%2fb/infer",
            "/v1/models/%73pecial",
            "/v1/mod%65ls/x",
            "/a/b%2fc/d",
            "/v1%2fmodels/x",
        ] {
            assert_eq!(captured(path, "model"), Err(Reason::MalformedRequest), "{path}");
        }
        assert_eq!(find(&table, "h", "/no%20where", "GET").map(drop), Err(Reason::NoRoute));
    }

    #[test]
    fn two_identical_matches_are_an_error() {
        let mut table = table(&[("", "/v1/{a}", &["GET"]), ("", "/x/{rest*}", &["GET"])]);
        let (route, _) = table
            .find(&Host::parse(b"h").unwrap(), &RequestPath::parse(b"/v1/x").unwrap(), "GET")
            .unwrap();
        let route = Arc::clone(route);
        let mut insert = |path: &str, method: &str| {
            table.insert(
                &HostPattern::Any,
                &Pattern::parse(path).unwrap(),
                &[method.into()],
                &route,
            )
        };
        assert!(insert("/v1/{b}", "GET").is_err());
        assert!(insert("/v1/{b}", "POST").is_ok());
        assert!(insert("/x/*", "GET").is_err());
    }

    #[test]
    fn hosts_are_written_as_they_are_compared() {
        for text in ["API.example.com", "a.b:443", "*.*.a", "*", "*a.b", "a.b."] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }
}
