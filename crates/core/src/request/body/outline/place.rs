//! The places of a document that metering reads, and the names that lead to them.

use std::sync::LazyLock;

use super::super::{
    names::{Found, Names},
    plan::{SETTINGS, answer_bounds},
    print::{KeyText, Print},
};

/// The place of a value in the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Document,
    /// `messages`, or `input`.
    Messages,
    Message,
    /// The `content` of a message, or of the result of a tool.
    Content,
    /// An element of a content.
    Part,
    /// The type of a part.
    Type,
    /// A member of a part that holds a medium.
    Medium,
    /// An object of settings in the document, or a list of them.
    Settings,
    StreamOptions,
    /// A member of the document or of settings that is noted.
    Noted,
    /// Any other place, below which there is no message.
    Other,
}

/// The members that have a place: in the document, in settings, in a message, a part and a medium.
static MEMBERS: LazyLock<[Members; 5]> = LazyLock::new(|| {
    let noted = [
        "tools",
        "functions",
        "stream",
        "background",
        "previous_response_id",
        "conversation",
        "chat_template",
        "template",
        "prompt",
    ];
    let media = [
        "image_url",
        "input_audio",
        "audio_url",
        "video_url",
        "source",
        "image",
        "audio",
        "video",
        "data",
        "url",
    ];
    [
        Members::default()
            .with(&["messages", "input"], Place::Messages)
            .with(&SETTINGS, Place::Settings)
            .with(&["stream_options"], Place::StreamOptions)
            .with(&noted, Place::Noted)
            .with(answer_bounds(), Place::Noted),
        Members::default().with(answer_bounds(), Place::Noted),
        Members::default().with(&["content"], Place::Content),
        Members::default()
            .with(&["content"], Place::Content)
            .with(&["type"], Place::Type)
            .with(&media, Place::Medium),
        Members::default().with(&["url", "data"], Place::Medium),
    ]
});

/// Names of members with their places.
#[derive(Default)]
struct Members {
    names: Names,
    places: Vec<Place>,
}

impl Members {
    fn with(mut self, names: &[&str], place: Place) -> Self {
        for name in names {
            self.names.set(*name, self.places.len());
        }
        self.places.push(place);
        self
    }
}

impl Place {
    /// The place of a member of an object.
    #[inline]
    pub(super) fn of_member<'k>(self, key: Print, text: impl FnOnce() -> KeyText<'k>) -> Self {
        let [document, settings, message, part, medium] = &*MEMBERS;
        let members = match self {
            Self::Document => document,
            Self::Settings => settings,
            Self::Message => message,
            Self::Part => part,
            Self::Medium => medium,
            _ => return Self::Other,
        };
        match members.names.find(key, text) {
            Found::Place(at) => members.places.get(at).copied().unwrap_or(Self::Other),
            Found::Variant(_) | Found::None => Self::Other,
        }
    }

    /// The place of an element of a list.
    pub(super) fn of_element(self) -> Self {
        match self {
            Self::Messages => Self::Message,
            Self::Content => Self::Part,
            Self::Settings => Self::Settings,
            _ => Self::Other,
        }
    }
}
