//! Content parts: how servers name images, audio, video and files in a JSON body.
//!
//! vLLM takes a part by its `type`, and without one by its key; SGLang's `/generate` and Ollama take lists beside the text.
//! So both are looked for, at any depth of everything that can hold content.

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Image,
    Audio,
    Video,
    File,
}

/// How many parts of each kind a body has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Images.
    pub images: u64,
    /// Audio clips.
    pub audio: u64,
    /// Videos.
    pub videos: u64,
    /// Files and documents.
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

    /// An object that says by its type and by its key that it is an image is one image.
    pub(super) fn add_larger(&mut self, a: Self, b: Self) {
        self.images = self.images.saturating_add(a.images.max(b.images));
        self.audio = self.audio.saturating_add(a.audio.max(b.audio));
        self.videos = self.videos.saturating_add(a.videos.max(b.videos));
        self.files = self.files.saturating_add(a.files.max(b.files));
    }
}

/// The kind of a part by its `type`, compared without case.
pub(super) fn kind(part_type: &str) -> Option<Kind> {
    const TYPES: [(&str, Kind); 14] = [
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
    ];
    let document = part_type.eq_ignore_ascii_case("document").then_some(Kind::File);
    TYPES
        .iter()
        .find(|(name, _)| part_type.eq_ignore_ascii_case(name))
        .map(|(_, kind)| *kind)
        .or(document)
}

/// Members that hold a medium, a reference to one, or a list of either.
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

/// Members of content that hold what a model said or what a tool is given, not parts.
pub(super) const SKIPPED: [&str; 6] =
    ["input", "arguments", "annotations", "parameters", "logprobs", "tool_calls"];

/// Members of the document that hold what a prompt says.
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

/// Members of those, and of their parts, that hold text or parts with text.
pub(super) const TEXT_KEYS: [&str; 4] = ["content", "text", "output", "prompt_string"];

/// Members of the document that stand for text and cannot be read: tokens, and embeddings.
pub(super) const UNREADABLE: [&str; 5] =
    ["input_ids", "prompt_token_ids", "token_ids", "prompt_embeds", "input_embeds"];

/// Members of the document that hold schemas and settings, not parts.
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

/// The longest path a server would open.
const PATH_MAX: usize = 4096;

/// Whether a reference may make the server fetch a URL or open a file. `data:` URLs do not. Bare base64 is told from a
/// path only by its length, so a short one counts as a path.
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
    fn only_inline_data_is_not_foreign() {
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
