//! Claims with several words: roles and scopes.
//!
//! Scopes only give rights, so that a list loses an element that cannot be a scope. An element that
//! cannot be a role refuses the token, because roles can restrict.

use thiserror::Error;

use crate::{
    denial::{Denial, Reason},
    identity::ClaimPath,
    json::Json,
};

/// The most bytes of an element that a cause shows.
const MAX_SHOWN: usize = 60;
/// The most omitted elements that are remembered.
const MAX_OMITTED: usize = 8;

/// The reason why words cannot be read from a claim: the claim, and the element.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Unusable {
    /// The claim or an element has another type, a mistake of the issuer.
    #[error("{0}")]
    Type(String),
    /// A text has a control character, which may be an attack.
    #[error("{0}")]
    Control(String),
}

impl From<Unusable> for Denial {
    fn from(unusable: Unusable) -> Self {
        Self::new(Reason::InvalidClaim, unusable.to_string())
    }
}

/// Reads the roles: a list of strings, one string, or the names of an object's members.
///
/// # Errors
/// The claim, or the first element that cannot be a role.
pub(super) fn roles(claim: &Json, path: &ClaimPath) -> Result<Vec<String>, Unusable> {
    let words = elements(claim, path, "roles")?;
    let word = |element: &Element<'_>| element.word(path, "role").map(str::to_owned);
    // A control character anywhere is the reason, so that no other type hides it.
    let control = words.iter().find_map(|element| match word(element) {
        Err(error @ Unusable::Control(_)) => Some(error),
        _ => None,
    });
    control.map_or_else(|| words.iter().map(word).collect(), Err)
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
    /// The claim has another type, or a string a control character.
    pub(super) fn add(&mut self, claim: Option<&Json>, path: &ClaimPath) -> Result<(), Unusable> {
        let Some(claim) = claim else { return Ok(()) };
        if let Json::Text(text) = claim {
            // Only a space separates (RFC 6749 section 3.3), so that a tab would be a part of a scope.
            if text.chars().any(char::is_control) {
                let why = "a scope has a control character, and only a space separates scopes";
                return Err(Unusable::Control(named(path, why)));
            }
            self.scopes.extend(text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned));
            return Ok(());
        }
        for element in elements(claim, path, "scopes")? {
            match element.word(path, "scope") {
                Err(unusable) => self.omit(unusable.to_string()),
                // The upstream gets scopes as one string, where a space separates them: one element
                // must not become two there.
                Ok(word) if word.contains(char::is_whitespace) => {
                    self.omit(format!("the scope {} of `{path}` has a space", quoted(word)));
                }
                Ok("") => {}
                Ok(word) => self.scopes.push(word.to_owned()),
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
    fn word(&self, path: &ClaimPath, part: &str) -> Result<&'j str, Unusable> {
        match self {
            Self::Word(word) if !word.chars().any(char::is_control) => Ok(word),
            Self::Word(word) => {
                let why = format!("the {part} {} has a control character", quoted(word));
                Err(Unusable::Control(named(path, &why)))
            }
            Self::Other(json) => {
                let why = format!("an element is {}, not text", json.type_name());
                Err(Unusable::Type(named(path, &why)))
            }
        }
    }
}

/// The elements of a claim. An object has the names of its members, where each of them is an object:
/// a member such as `admin: false` may mean that the name is not held.
fn elements<'j>(
    claim: &'j Json,
    path: &ClaimPath,
    part: &str,
) -> Result<Vec<Element<'j>>, Unusable> {
    let why = match claim {
        Json::Text(text) => return Ok(vec![Element::Word(text)]),
        Json::List(items) => {
            return Ok(items
                .iter()
                .map(|item| item.text().map_or(Element::Other(item), Element::Word))
                .collect());
        }
        Json::Map(members)
            if !members.is_empty()
                && members.iter().all(|(_, value)| matches!(value, Json::Map(_))) =>
        {
            return Ok(members.iter().map(|(name, _)| Element::Word(name)).collect());
        }
        Json::Map(_) => format!("the {part} are an object with members that are none"),
        other => format!("the {part} are {}, not text or a list of texts", other.type_name()),
    };
    Err(Unusable::Type(named(path, &why)))
}

fn named(path: &ClaimPath, why: &str) -> String {
    format!("the claim `{path}`: {why}")
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
        assert!(Scopes::default().add(Some(&json("{}")), &path()).is_err());
    }

    #[test]
    fn a_list_of_scopes_loses_every_element_that_cannot_be_one() {
        let claim = json("[\"a\", \"b\\tc\", null, 7, [\"d\"], {\"e\": true}, \"\", \"f\"]");
        let mut scopes = Scopes::default();
        scopes.add(Some(&claim), &path()).unwrap();
        assert_eq!(scopes.scopes, ["a", "f"]);
        let expected = [
            "the scope `b\\tc` has a control character",
            "an element is null, not text",
            "an element is a number, not text",
            "an element is a list, not text",
            "an element is an object, not text",
        ];
        assert_eq!(
            scopes.omitted,
            expected.map(|why| format!("the claim `realm_access.roles`: {why}"))
        );
    }

    #[test]
    fn the_first_elements_without_a_use_are_named() {
        let claim = json(&format!("[{}\"a\"]", "null,".repeat(MAX_OMITTED + 1)));
        let mut scopes = Scopes::default();
        scopes.add(Some(&claim), &path()).unwrap();
        assert_eq!((scopes.scopes.len(), scopes.omitted.len()), (1, MAX_OMITTED));
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
            assert_eq!(roles(&json(claim), &path()).unwrap_err().to_string(), expected);
        }
        let both = roles(&json("[7, \"b\\n\"]"), &path()).unwrap_err();
        assert!(matches!(both, Unusable::Control(_)), "{both}");
        let good = roles(&json("[\"GPU Team Leads\", \"\"]"), &path()).unwrap();
        assert_eq!(good, ["GPU Team Leads", ""]);
    }

    #[test]
    fn names_of_members_are_words_only_where_each_member_is_an_object() {
        let zitadel = json("{\"models:read\": {\"123\": \"acme.example.com\"}, \"b\": {}}");
        assert_eq!(roles(&zitadel, &path()).unwrap(), ["models:read", "b"]);
        for claim in ["{\"admin\": false}", "{\"a\": {}, \"admin\": null}", "{\"admin\": true}"] {
            assert!(roles(&json(claim), &path()).is_err(), "{claim}");
            assert!(Scopes::default().add(Some(&json(claim)), &path()).is_err(), "{claim}");
        }
    }

    #[test]
    fn a_long_element_is_cut_in_the_cause() {
        let long = json(&format!("[\"{}\\n\"]", "é".repeat(500)));
        let error = roles(&long, &path()).unwrap_err().to_string();
        assert!(error.len() < 250 && error.contains("..."), "{error}");
        let of = |length| "a".repeat(length);
        assert_eq!(quoted(&of(MAX_SHOWN)), format!("`{}`", of(MAX_SHOWN)));
        assert_eq!(quoted(&of(MAX_SHOWN + 1)), format!("`{}`", of(MAX_SHOWN + 1)));
        assert_eq!(quoted(&of(MAX_SHOWN + 3)), format!("`{}...`", of(MAX_SHOWN + 1)));
    }
}
