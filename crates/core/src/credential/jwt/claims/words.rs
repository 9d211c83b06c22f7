//! Claims with several words: roles and scopes.
//!
//! Scopes only give rights, so that a list loses an element with a space, which cannot be a scope.
//! Every other element that is unusable refuses the token: a control character is an attack, another
//! type a mistake, and roles can restrict.

use crate::{
    denial::{Denial, Reason},
    identity::ClaimPath,
    json::Json,
};

/// The most bytes of an element that a cause shows.
const MAX_SHOWN: usize = 60;
/// The most omitted elements that are remembered.
const MAX_OMITTED: usize = 8;

/// Whether a claim has a type that words are read from, acceptable or not.
pub(super) fn is_textual(claim: Option<&Json>) -> bool {
    matches!(claim, Some(Json::Text(_) | Json::List(_)))
}

/// Reads the roles: a list of strings, one string, or the names of an object's members.
///
/// # Errors
/// `invalid_claim`, which names the claim and the element.
pub(super) fn roles(claim: Option<&Json>, path: &ClaimPath) -> Result<Vec<String>, Denial> {
    let words = elements(claim, path, "roles")?;
    words.into_iter().map(|element| element.word(path, "role").map(str::to_owned)).collect()
}

/// The scopes of all claims.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    pub(super) scopes: Vec<String>,
    /// Why elements were omitted, one sentence each.
    pub(super) omitted: Vec<String>,
}

impl Scopes {
    /// Adds the scopes of a claim: a string, which is split at spaces, a list of strings, or the
    /// names of an object's members.
    ///
    /// # Errors
    /// `invalid_claim` for another type, or for a control character in a string.
    pub(super) fn add(&mut self, claim: Option<&Json>, path: &ClaimPath) -> Result<(), Denial> {
        if let Some(Json::Text(text)) = claim {
            // Only a space separates (RFC 6749 section 3.3), so that a tab would be a part of a scope.
            if text.chars().any(char::is_control) {
                return Err(unusable(path, "a scope has a control character"));
            }
            self.scopes.extend(text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned));
            return Ok(());
        }
        for element in elements(claim, path, "scopes")? {
            let word = element.word(path, "scope")?;
            // The upstream gets scopes as one string, where a space separates them: one element must
            // not become two there.
            if word.contains(char::is_whitespace) {
                self.omit(format!("the scope {} of `{path}` has a space", quoted(word)));
            } else if !word.is_empty() {
                self.scopes.push(word.to_owned());
            }
        }
        Ok(())
    }

    fn omit(&mut self, why: String) {
        if self.omitted.len() < MAX_OMITTED {
            self.omitted.push(why);
        }
    }
}

enum Element<'j> {
    Word(&'j str),
    Other(&'j Json),
}

impl<'j> Element<'j> {
    /// Returns the text of an element without control characters.
    fn word(self, path: &ClaimPath, part: &str) -> Result<&'j str, Denial> {
        match self {
            Self::Word(word) if !word.chars().any(char::is_control) => Ok(word),
            Self::Word(word) => {
                let word = quoted(word);
                Err(unusable(path, &format!("the {part} {word} has a control character")))
            }
            Self::Other(json) => {
                Err(unusable(path, &format!("an element is {}, not text", json.type_name())))
            }
        }
    }
}

/// The elements of a claim. An object has the names of its members, where each of them is an object:
/// a member such as `admin: false` may mean that the name is not held.
fn elements<'j>(
    claim: Option<&'j Json>,
    path: &ClaimPath,
    part: &str,
) -> Result<Vec<Element<'j>>, Denial> {
    match claim {
        None => Ok(Vec::new()),
        Some(Json::Text(text)) => Ok(vec![Element::Word(text)]),
        Some(Json::List(items)) => Ok(items
            .iter()
            .map(|item| item.text().map_or(Element::Other(item), Element::Word))
            .collect()),
        Some(Json::Map(members))
            if !members.is_empty()
                && members.iter().all(|(_, value)| matches!(value, Json::Map(_))) =>
        {
            Ok(members.iter().map(|(name, _)| Element::Word(name)).collect())
        }
        Some(Json::Map(_)) => {
            Err(unusable(path, &format!("the {part} are an object with members that are none")))
        }
        Some(other) => {
            let found = other.type_name();
            Err(unusable(path, &format!("the {part} are {found}, not text or a list of texts")))
        }
    }
}

fn unusable(path: &ClaimPath, why: &str) -> Denial {
    Denial::new(Reason::InvalidClaim, format!("the claim `{path}`: {why}"))
}

/// An element for a cause: bounded, without control characters.
fn quoted(word: &str) -> String {
    let end = word.char_indices().map(|(at, _)| at).find(|at| *at > MAX_SHOWN);
    let shown = end.and_then(|end| word.get(..end)).unwrap_or(word);
    let more = if shown.len() < word.len() { "..." } else { "" };
    format!("`{}{more}`", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> ClaimPath {
        serde_json::from_str("[\"realm_access\", \"roles\"]").unwrap()
    }

    fn json(text: &str) -> Json {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_list_of_scopes_loses_the_elements_with_a_space() {
        let claim =
            json("[\"models:read\", \"GPU Team Leads\", \"\", \"a\u{3000}b\", \"模型:千问\"]");
        let mut scopes = Scopes::default();
        scopes.add(Some(&claim), &path()).unwrap();
        assert_eq!(scopes.scopes, ["models:read", "模型:千问"]);
        assert_eq!(
            scopes.omitted,
            [
                "the scope `GPU Team Leads` of `realm_access.roles` has a space",
                "the scope `a\\u{3000}b` of `realm_access.roles` has a space",
            ]
        );
        for claim in ["[\"a\", 7]", "[\"a\", \"b\\n\"]", "[null]", "{}"] {
            assert!(Scopes::default().add(Some(&json(claim)), &path()).is_err(), "{claim}");
        }
    }

    #[test]
    fn a_list_of_roles_names_the_element_that_cannot_be_a_role() {
        for (claim, expected) in [
            ("[\"a\", 7]", "the claim `realm_access.roles`: an element is a number, not text"),
            (
                "[\"a\", \"b\\n\"]",
                "the claim `realm_access.roles`: the role `b\\n` has a control character",
            ),
            (
                "7",
                "the claim `realm_access.roles`: the roles are a number, not text or a list of texts",
            ),
        ] {
            let denial = roles(Some(&json(claim)), &path()).unwrap_err();
            assert_eq!(denial.cause, expected);
        }
        let good = roles(Some(&json("[\"GPU Team Leads\", \"\"]")), &path()).unwrap();
        assert_eq!(good, ["GPU Team Leads", ""]);
    }

    #[test]
    fn names_of_members_are_words_only_where_each_member_is_an_object() {
        let zitadel = json("{\"models:read\": {\"123\": \"acme.example.com\"}, \"b\": {}}");
        assert_eq!(roles(Some(&zitadel), &path()).unwrap(), ["models:read", "b"]);
        for claim in ["{\"admin\": false}", "{\"a\": {}, \"admin\": null}", "{\"admin\": true}"] {
            assert!(roles(Some(&json(claim)), &path()).is_err(), "{claim}");
            assert!(Scopes::default().add(Some(&json(claim)), &path()).is_err(), "{claim}");
        }
    }

    #[test]
    fn a_long_element_is_cut_in_the_cause() {
        let denial =
            roles(Some(&json(&format!("[\"{}\\n\"]", "é".repeat(500)))), &path()).unwrap_err();
        assert!(denial.cause.len() < 250 && denial.cause.contains("..."), "{}", denial.cause);
    }
}
