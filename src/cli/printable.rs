//! Text for a terminal. What a server, a token or a file contains is shown with escapes for
//! everything that controls a terminal or changes the order of a text.

use serde::Serialize;

/// Whether a character is no text: controls (C0, DEL, C1), controls of the direction of text,
/// characters without width, separators of lines, and tags.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Returns a text in one line, with escapes such as `\u{1b}` and `\n`.
pub(crate) fn printable(text: &str) -> String {
    escaped(text, |_| false, |character, to| to.extend(character.escape_default()))
}

/// Returns a text of several lines, as [`printable`] does for each.
pub(crate) fn printable_lines(text: &str) -> String {
    let is_line_feed = |character| character == '\n';
    escaped(text, is_line_feed, |character, to| to.extend(character.escape_default()))
}

/// Returns a value as JSON whose strings have JSON's escapes.
pub(crate) fn json(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(json_text(&serde_json::to_string(value)?))
}

/// Returns a value as JSON in several lines, with escapes as [`json`] has them.
pub(crate) fn json_lines(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(json_text(&serde_json::to_string_pretty(value)?))
}

/// Returns equal JSON in which strings have escapes. Outside of strings JSON is ASCII, and its only
/// control characters are line feeds.
fn json_text(json: &str) -> String {
    let is_line_feed = |character| character == '\n';
    escaped(json, is_line_feed, |character, to| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            to.push_str(&format!("\\u{unit:04x}"));
        }
    })
}

fn escaped(
    text: &str,
    is_kept: impl Fn(char) -> bool,
    escape: impl Fn(char, &mut String),
) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unprintable(character) && !is_kept(character) {
            escape(character, &mut shown);
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a hostile server puts into its texts: a link (OSC 8), a sequence (CSI) with ESC and as
    /// C1, a title (OSC), a reversed text (RLO), a text that is not seen.
    pub(crate) const HOSTILE: &str = "\u{1b}]8;;http://evil\u{1b}\\x\u{1b}[2J\u{9b}31m\u{9d}0;t\u{7}\u{202e}cba\u{2066}\u{200b}\u{e0041}\u{7f}";

    /// Asserts that a terminal shows the text as it is.
    pub(crate) fn assert_plain(text: &str) {
        let unprintable = |c: &char| is_unprintable(*c) && *c != '\n';
        assert_eq!(text.chars().find(unprintable), None, "{text:?}");
    }

    #[test]
    fn nothing_that_controls_a_terminal_is_printed() {
        assert_eq!(printable("caf\u{e9} \u{1b}[2J\u{9b}1m\n"), "caf\u{e9} \\u{1b}[2J\\u{9b}1m\\n");
        assert_eq!(printable("a\u{202e}b\u{2066}\u{feff}"), "a\\u{202e}b\\u{2066}\\u{feff}");
        assert_eq!(printable_lines("a\n\u{1b}]0;x\u{7}\r\n"), "a\n\\u{1b}]0;x\\u{7}\\r\n");
        for text in [printable(HOSTILE), printable_lines(HOSTILE)] {
            assert_plain(&text);
        }
        assert_eq!(printable("\u{4f60}\u{597d} \u{1f600}"), "\u{4f60}\u{597d} \u{1f600}");
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "a": HOSTILE, HOSTILE: ["\u{e9}", "\u{e0041}", "\n"] });
        for text in [json(&value).unwrap(), json_lines(&value).unwrap()] {
            assert_plain(&text);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }
        assert_eq!(json(&"\u{9b}\u{e0041}").unwrap(), r#""\u009b\udb40\udc41""#);
    }
}
