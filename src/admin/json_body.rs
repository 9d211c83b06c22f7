//! Bodies, read strictly.

use tollgate_core::text::control_character;

use crate::json_api::Refusal;
pub(super) use crate::json_api::read;

/// Refuses a text with a control character, which could hide in a list, a log or a terminal.
pub(super) fn check_text(member: &str, text: &str) -> Result<(), Refusal> {
    let Some(found) = control_character(text) else { return Ok(()) };
    let code = u32::from(found);
    Err(Refusal::invalid(format!("`{member}` contains the control character U+{code:04X}")))
}

/// Refuses a text with more than `most` characters.
pub(super) fn check_length(member: &str, text: &str, most: usize) -> Result<(), Refusal> {
    let length = text.chars().count();
    if length > most {
        let message = format!("`{member}` has {length} characters; the most is {most}");
        return Err(Refusal::invalid(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Body {
        #[expect(dead_code, reason = "only whether it can be read is of interest")]
        name: String,
    }

    #[test]
    fn a_body_is_an_object_and_no_list() {
        assert!(read::<Body>(b" \r\n\t{\"name\":\"a\"}\n").is_ok());
        for body in ["[\"a\"]", " [\"a\"]", "\"a\"", "null", "", "7", "\u{feff}{\"name\":\"a\"}"] {
            assert!(read::<Body>(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn characters_that_hide_are_named() {
        for (text, code) in [
            ("a\0", "U+0000"),
            ("a\u{7f}b", "U+007F"),
            ("\u{85}", "U+0085"),
            ("a\u{202e}b", "U+202E"),
            ("a\u{2066}", "U+2066"),
            ("\u{61c}", "U+061C"),
            ("a\u{2028}", "U+2028"),
        ] {
            let error = check_text("note", text).unwrap_err();
            let error = format!("{error:?}");
            assert!(error.contains("`note`") && error.contains(code), "{text:?}: {error}");
        }
        for text in ["", "a b", "\u{5d0}\u{5d1}", "\u{fc}", "\u{1f468}\u{200d}\u{1f469}"] {
            assert!(check_text("note", text).is_ok(), "{text:?}");
        }
    }
}
