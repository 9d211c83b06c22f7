//! Content parts: the names of images, audio, video and files in a JSON body.
//!
//! vLLM recognises a part by its `type`, and without a type by its key; SGLang's `/generate` and
//! Ollama take lists beside the text. Both are searched for, at any depth of everything that can
//! hold content.

use std::sync::LazyLock;

use super::names::{Found, Names};

/// The kind of a content part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Image,
    Audio,
    Video,
    File,
}

/// The number of content parts of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The number of images.
    pub images: u64,
    /// The number of audio clips.
    pub audio: u64,
    /// The number of videos.
    pub videos: u64,
    /// The number of files and documents.
    pub files: u64,
}

impl Parts {
    pub(super) fn add(&mut self, kind: Kind, count: u64) {
        let counter = match kind {
            Kind::Image => &mut self.images,
            Kind::Audio => &mut self.audio,
            Kind::Video => &mut self.videos,
            Kind::File => &mut self.files,
        };
        *counter = counter.saturating_add(count);
    }

    /// Adds the larger of two counts for each kind: an object that is an image by its type and by
    /// its key is one image.
    pub(super) fn add_larger(&mut self, a: PartCounts, b: PartCounts) {
        if a == PartCounts::default() && b == PartCounts::default() {
            return;
        }
        let PartCounts([images, audio, videos, files]) = a;
        let PartCounts([more_images, more_audio, more_videos, more_files]) = b;
        self.add(Kind::Image, images.max(more_images).into());
        self.add(Kind::Audio, audio.max(more_audio).into());
        self.add(Kind::Video, videos.max(more_videos).into());
        self.add(Kind::File, files.max(more_files).into());
    }
}

/// The number of content parts of each kind in one object, in the order of [`Kind`]. Sixteen bytes,
/// because each object of a body saves and restores those of the object around it (`cargo bench
/// --bench body`, "depth").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PartCounts([u32; 4]);

impl PartCounts {
    /// Adds one part.
    pub(super) fn add(&mut self, kind: Kind) {
        if let Some(count) = self.0.get_mut(kind as usize) {
            *count = count.saturating_add(1);
        }
    }
}

/// What a part is by its `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartType {
    /// A medium or a file, whatever the case of the type.
    Medium(Kind),
    /// Nothing but text.
    Text,
    Unknown,
}

const TYPES: [(&str, Kind); 15] = [
    ("image_url", Kind::Image),
    ("input_image", Kind::Image),
    ("image", Kind::Image),
    ("image_pil", Kind::Image),
    ("image_embeds", Kind::Image),
    ("input_audio", Kind::Audio),
    ("audio_url", Kind::Audio),
    ("audio_embeds", Kind::Audio),
    ("audio", Kind::Audio),
    ("video_url", Kind::Video),
    ("input_video", Kind::Video),
    ("video", Kind::Video),
    ("file", Kind::File),
    ("input_file", Kind::File),
    ("document", Kind::File),
];

/// The names of [`TYPES`] and then those of [`TEXT_PARTS`], with their indices: most parts have a type
/// (`cargo bench --bench body`, "parts of a message").
static PART_TYPES: LazyLock<Names> = LazyLock::new(|| {
    let mut names = Names::default();
    let all = TYPES.iter().map(|(name, _)| name).chain(&TEXT_PARTS);
    all.enumerate().for_each(|(index, name)| names.set(*name, index));
    names
});

impl PartType {
    pub(super) fn of(part_type: &str) -> Self {
        let known = match PART_TYPES.look_up(part_type) {
            Found::Place(index) => Some(index),
            Found::Variant(name) if name.eq_ignore_ascii_case(part_type) => {
                PART_TYPES.get(name).filter(|index| *index < TYPES.len())
            }
            Found::Variant(_) | Found::None => None,
        };
        match known {
            Some(index) => TYPES.get(index).map_or(Self::Text, |(_, kind)| Self::Medium(*kind)),
            None => Self::Unknown,
        }
    }
}

/// Members that contain media, a reference to media, or a list of either.
pub(super) const KEYS: [(&str, Kind); 18] = [
    ("image_url", Kind::Image),
    ("input_image", Kind::Image),
    ("image", Kind::Image),
    ("images", Kind::Image),
    ("image_data", Kind::Image),
    ("image_pil", Kind::Image),
    ("image_embeds", Kind::Image),
    ("multimodal_data", Kind::Image),
    ("multi_modal_data", Kind::Image),
    ("input_audio", Kind::Audio),
    ("audio_url", Kind::Audio),
    ("audio_data", Kind::Audio),
    ("audio_embeds", Kind::Audio),
    ("video_url", Kind::Video),
    ("input_video", Kind::Video),
    ("video", Kind::Video),
    ("video_data", Kind::Video),
    ("file_url", Kind::File),
];

/// Members of content that contain output of a model or arguments of a tool instead of parts.
pub(super) const SKIPPED: [&str; 6] =
    ["input", "arguments", "annotations", "parameters", "logprobs", "tool_calls"];

/// Types of parts and items that contain text, or calls and answers of tools as text.
const TEXT_PARTS: [&str; 34] = [
    "text",
    "input_text",
    "output_text",
    "refusal",
    "thinking",
    "redacted_thinking",
    "reasoning",
    "reasoning_text",
    "summary_text",
    "message",
    "function",
    "custom",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "tool_use",
    "tool_result",
    "tool_reference",
    "server_tool_use",
    "mcp_call",
    "mcp_list_tools",
    "mcp_tool_use",
    "mcp_tool_result",
    "web_search_call",
    "web_search_result",
    "web_search_tool_result",
    "file_search_call",
    "code_interpreter_call",
    "search_result",
    "compaction",
    "ephemeral",
    "object",
    "content",
];

/// Whether data of this media type in base64 are a medium, and not text.
pub(super) fn is_inline_medium(media_type: &str) -> bool {
    let starts = |prefix: &str| {
        media_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    ["image/", "audio/", "video/"].into_iter().any(starts)
        || media_type.eq_ignore_ascii_case("application/pdf")
}

/// Members of the document that contain the text of a prompt.
pub(super) const TEXTS: [&str; 13] = [
    "messages",
    "prompt",
    "input",
    "inputs",
    "text",
    "texts",
    "query",
    "queries",
    "documents",
    "system",
    "system_prompt",
    "instructions",
    "suffix",
];

/// Members of [`TEXTS`] and of their parts that contain text or parts with text.
pub(super) const TEXT_KEYS: [&str; 9] = [
    "content",
    "text",
    "output",
    "prompt_string",
    "refusal",
    "thinking",
    "reasoning",
    "reasoning_content",
    "summary",
];

/// Members of the document whose strings reach the prompt at any depth: tools, and schemas of the answer.
pub(super) const FREE_TEXTS: [&str; 4] =
    ["tools", "functions", "response_format", "chat_template_kwargs"];

/// Members of the document that replace text by tokens or embeddings.
pub(super) const UNREADABLE: [&str; 5] =
    ["input_ids", "prompt_token_ids", "token_ids", "prompt_embeds", "input_embeds"];

/// Members of the document that contain schemas and settings instead of parts.
pub(super) const SCHEMAS: [&str; 14] = [
    "tools",
    "functions",
    "tool_choice",
    "response_format",
    "structured_outputs",
    "guided_json",
    "json_schema",
    "format",
    "metadata",
    "logit_bias",
    "chat_template_kwargs",
    "mm_processor_kwargs",
    "sampling_params",
    "options",
];

/// The length of the longest path that a server opens.
const PATH_MAX: usize = 4096;

/// Whether a reference may make the server fetch a URL or open a file. `data:` URLs do not.
///
/// Bare base64 differs from a path only by its length, so a short one counts as a path.
pub(super) fn is_external(reference: &str) -> bool {
    let data = reference.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
    !data
        && (reference.len() <= PATH_MAX
            || reference.bytes().take(PATH_MAX).any(|b| matches!(b, b':' | b'.' | b'\\')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inline_data_is_not_external() {
        for reference in [
            "http://169.254.169.254/",
            "HTTPS://x",
            "file:///etc/passwd",
            "/data/x.png",
            "x.png",
            "ftp://x",
            " data:,",
            "",
            "iVBORw0KGgo=",
        ] {
            assert!(is_external(reference), "{reference}");
        }
        assert!(is_external(&format!("http://x/?{}", "a".repeat(PATH_MAX))));
        assert!(!is_external("data:image/png;base64,AAAA") && !is_external("DATA:,x"));
        assert!(!is_external(&"/9j/4AAQ".repeat(1000)), "bare base64 too long for a path");
    }
}
