//! The members of requests that a preset's server reads, each with a class: `presets/members/*.yaml`.

mod compile;
mod table;

use std::{collections::BTreeMap, sync::LazyLock};

use thiserror::Error;

use crate::request::body::members::{TableId, Tables};

/// Each file's name and its text: the public APIs that presets start from, then the presets.
const SOURCES: [(&str, &str); 12] = [
    ("openai", include_str!("../presets/members/openai.yaml")),
    ("anthropic", include_str!("../presets/members/anthropic.yaml")),
    ("vllm", include_str!("../presets/members/vllm.yaml")),
    ("sglang", include_str!("../presets/members/sglang.yaml")),
    ("lmdeploy", include_str!("../presets/members/lmdeploy.yaml")),
    ("ms-swift", include_str!("../presets/members/ms-swift.yaml")),
    ("hunyuanocr", include_str!("../presets/members/hunyuanocr.yaml")),
    ("llama-cpp", include_str!("../presets/members/llama-cpp.yaml")),
    ("tgi", include_str!("../presets/members/tgi.yaml")),
    ("ollama", include_str!("../presets/members/ollama.yaml")),
    ("triton", include_str!("../presets/members/triton.yaml")),
    ("ray-serve", include_str!("../presets/members/ray-serve.yaml")),
];

/// The files, read once: they are part of the program.
static CATALOG: LazyLock<Result<Catalog, MembersError>> =
    LazyLock::new(|| compile::compile(&SOURCES));

/// Why the tables cannot be used, which a test keeps from happening.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MembersError {
    /// A file is not of the form that it must have.
    #[error("members/{0}.yaml cannot be read: {1}")]
    Unreadable(String, String),
    /// A table or a row contradicts itself or others.
    #[error("members/{0}.yaml: {1}")]
    Wrong(String, String),
    /// There is no file of the name.
    #[error("there is no file members/{0}.yaml")]
    Missing(String),
}

/// All tables, and the routes of each file that use them.
#[derive(Debug)]
pub struct Catalog {
    tables: Tables,
    /// The tables of each file, in its order, by their full names.
    names: BTreeMap<String, TableId>,
    files: BTreeMap<String, MemberFile>,
}

/// What a file says of the routes and headers of its server.
#[derive(Debug)]
pub struct MemberFile {
    /// Its routes.
    pub routes: Vec<MemberRoute>,
    /// Its headers.
    pub headers: Vec<MemberHeader>,
}

/// Routes whose requests have the same tables. A place without a table has no member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRoute {
    /// Their paths, as the preset lists them.
    pub paths: Vec<String>,
    /// Their methods.
    pub methods: Vec<String>,
    /// The table of the JSON body.
    pub json: Option<TableId>,
    /// The table of the form's fields.
    pub form: Option<TableId>,
    /// The table of the query's parameters.
    pub query: Option<TableId>,
    /// The header with the length of the JSON at the beginning of the body.
    pub prefix: Option<String>,
}

/// Headers that a server reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberHeader {
    /// Their names.
    pub names: Vec<String>,
    /// Whether they are removed from every request that passes.
    pub removed: bool,
    /// The reason, one sentence.
    pub why: String,
}

impl Catalog {
    /// The tables that the program contains.
    ///
    /// # Errors
    /// A file that cannot be used, which a test keeps from happening.
    pub fn load() -> Result<&'static Self, MembersError> {
        CATALOG.as_ref().map_err(Clone::clone)
    }

    /// All tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The tables of one file by name, in alphabetical order.
    pub fn tables_of<'c>(&'c self, file: &'c str) -> impl Iterator<Item = TableId> + 'c {
        self.names
            .iter()
            .filter(move |(name, _)| name.split_once('/').is_some_and(|(home, _)| home == file))
            .map(|(_, id)| *id)
    }

    /// One file.
    ///
    /// # Errors
    /// A name without a file.
    pub fn file(&self, name: &str) -> Result<&MemberFile, MembersError> {
        self.files.get(name).ok_or_else(|| MembersError::Missing(name.to_owned()))
    }
}

impl MemberFile {
    /// The tables of a method and a path as the preset lists it.
    pub fn find(&self, method: &str, path: &str) -> Option<&MemberRoute> {
        self.routes.iter().find(|route| {
            route.methods.iter().any(|known| known == method)
                && route.paths.iter().any(|known| known == path)
        })
    }

    /// Headers that are removed from every request that passes.
    pub fn removed_headers(&self) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(|header| header.removed)
            .flat_map(|header| header.names.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::preset::{BodyKind, Preset, names};

    #[test]
    fn every_file_is_read_and_names_tables_that_exist() {
        let catalog = Catalog::load().unwrap_or_else(|error| panic!("{error}"));
        for (name, _) in SOURCES {
            let file = catalog.file(name).unwrap();
            assert!(!file.routes.is_empty(), "{name}");
            assert!(catalog.tables_of(name).next().is_some() || name == "hunyuanocr", "{name}");
        }
        assert_eq!(catalog.file("vlm").err(), Some(MembersError::Missing("vlm".into())));
    }

    #[test]
    fn every_route_that_reads_a_body_of_clients_has_a_table() {
        let catalog = Catalog::load().unwrap();
        for name in names() {
            let preset = Preset::load(name).unwrap();
            let file = catalog.file(name).unwrap();
            for route in &preset.routes {
                let admin = route.scopes.iter().any(|scope| scope.starts_with("admin:"));
                let reads = !matches!(route.body, BodyKind::None | BodyKind::Websocket);
                for (method, path) in route
                    .methods
                    .iter()
                    .filter(|method| matches!(method.as_str(), "POST" | "PUT" | "PATCH"))
                    .flat_map(|method| route.paths.iter().map(move |path| (method, path)))
                {
                    let found = file.find(method, path);
                    assert_eq!(
                        found.is_some(),
                        reads && !admin && !route.public,
                        "{name} {method} {path}"
                    );
                    let form = found.is_some_and(|route| route.form.is_some());
                    assert!(form || route.body != BodyKind::Multipart, "{name} {path}");
                }
            }
        }
    }

    #[test]
    fn a_table_starts_with_the_members_of_those_it_is_like() {
        let catalog = Catalog::load().unwrap();
        let chat = catalog.file("vllm").unwrap().find("POST", "/v1/chat/completions").unwrap();
        let table = catalog.tables().get(chat.json.unwrap()).unwrap();
        let class = |name: &str| table.members.get(name).map(|member| member.class.to_string());
        assert_eq!(table.name, "vllm/chat");
        assert_eq!(class("temperature").as_deref(), Some("plain"), "of openai/chat");
        assert_eq!(class("priority").as_deref(), Some("denied"), "of vllm/generation");
        assert_eq!(class("max_tokens").as_deref(), Some("capped by `max_tokens`"));
        assert_eq!(class("top_logprobs").as_deref(), Some("at most 20"));
        let message = table.members.get("messages").unwrap().of.unwrap();
        assert_eq!(catalog.tables().get(message).unwrap().name, "vllm/message", "its own row");
        let functions = table.members.get("functions").unwrap().of.unwrap();
        assert_eq!(
            catalog.tables().get(functions).unwrap().name,
            "openai/function",
            "a row of another file names tables of that file"
        );
    }

    #[test]
    fn headers_that_undo_a_denial_are_removed() {
        let catalog = Catalog::load().unwrap();
        let removed: Vec<&str> = catalog.file("vllm").unwrap().removed_headers().collect();
        assert!(removed.contains(&"x-vllm-priority") && !removed.contains(&"x-request-id"));
    }
}
