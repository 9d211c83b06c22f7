//! The members of requests that a preset's server reads, each with a class: `presets/members/*.yaml`.

mod allow;
mod catalog;
mod compile;
mod table;

use std::sync::LazyLock;

pub(super) use self::allow::allow;
pub use self::catalog::{Catalog, MemberFile, MemberHeader, MemberRoute, MembersError};

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

impl Catalog {
    /// The tables that the program contains.
    ///
    /// # Errors
    /// A file that cannot be used, which a test keeps from happening.
    pub fn load() -> Result<&'static Self, MembersError> {
        CATALOG.as_ref().map_err(Clone::clone)
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
