//! The actors of a credential: who acts for its subject (RFC 8693 section 4.1).

use thiserror::Error;

use crate::{json::Json, text::is_identifier};

/// The claim with the current actor. A claim `act` within it is an earlier actor.
const ACT: &str = "act";

/// The most actors of a token.
pub const MAX_ACTORS: usize = 8;

/// The end of the issuer in [`Actors::current_text`]: neither an issuer nor a name has a control
/// character.
const ISSUER_END: char = '\u{1f}';

/// A party that acts for the subject of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor<'a> {
    /// The issuer of the actor, where the claim names one; else the issuer of the credential.
    pub issuer: &'a str,
    /// The actor's name.
    pub subject: &'a str,
}

/// The chain of actors of a credential: the current one, and those that acted before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actors {
    chain: Box<[ActorName]>,
    /// Issuer and name of a current actor of another issuer.
    foreign: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ActorName {
    /// `None` where the claim names no issuer, or that of the credential.
    issuer: Option<Box<str>>,
    subject: Box<str>,
}

/// The reason why a chain of actors is refused: no revocation could find the actors in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum ActorError {
    #[error("the claim `act` is not an object")]
    NoObject,
    #[error("the claim `act` has no `sub` of 1 to 256 printable characters")]
    NoSubject,
    #[error("`iss` of the claim `act` is not text of 1 to 256 printable characters")]
    NoIssuer,
    #[error("the claim `act` has more than {MAX_ACTORS} actors, one within the other")]
    TooMany,
}

impl Actors {
    /// Reads the claim `act` of a token of `issuer`, and each one within it. No actor means that the
    /// subject acts for itself.
    ///
    /// # Errors
    /// The reason why the chain is refused.
    pub(crate) fn of(claims: &Json, issuer: &str) -> Result<Self, ActorError> {
        let mut actors = Vec::new();
        let mut within = claims;
        loop {
            let claim = match within.get(ACT) {
                None | Some(Json::Null) => return Ok(Self::new(actors, issuer)),
                Some(claim @ Json::Map(_)) => claim,
                Some(_) => return Err(ActorError::NoObject),
            };
            if actors.len() == MAX_ACTORS {
                return Err(ActorError::TooMany);
            }
            let subject = name(claim, "sub").ok().flatten().ok_or(ActorError::NoSubject)?;
            let own = name(claim, "iss").map_err(|()| ActorError::NoIssuer)?;
            let own = own.filter(|own| *own != issuer).map(Box::from);
            actors.push(ActorName { issuer: own, subject: subject.into() });
            within = claim;
        }
    }

    fn new(chain: Vec<ActorName>, issuer: &str) -> Self {
        let current = chain.first();
        let foreign = current.and_then(|ActorName { issuer: own, subject }| {
            let own = own.as_deref().filter(|own| *own != issuer)?;
            Some(format!("{own}{ISSUER_END}{subject}").into())
        });
        Self { chain: chain.into(), foreign }
    }

    /// Returns the current actor as one text: its name, or for one of another issuer than that of
    /// the credential its issuer, [`ISSUER_END`], and its name.
    pub(super) fn current_text(&self) -> Option<&str> {
        self.foreign.as_deref().or_else(|| self.chain.first().map(|actor| &*actor.subject))
    }

    /// Returns the actors of a credential of `issuer`, the current one first.
    pub(crate) fn iter<'a>(&'a self, issuer: &'a str) -> impl ExactSizeIterator<Item = Actor<'a>> {
        self.chain.iter().map(move |ActorName { issuer: own, subject }| Actor {
            issuer: own.as_deref().unwrap_or(issuer),
            subject,
        })
    }

    /// Returns the size of what the chain points to, in bytes.
    pub(super) fn heap_size(&self) -> usize {
        let texts = self.chain.iter().map(|ActorName { issuer, subject }| {
            subject.len() + issuer.as_ref().map_or(0, |issuer| issuer.len())
        });
        let foreign = self.foreign.as_ref().map_or(0, |text| text.len());
        size_of_val(&*self.chain) + texts.sum::<usize>() + foreign
    }
}

/// Returns the text of a member of an actor.
fn name<'j>(claim: &'j Json, member: &str) -> Result<Option<&'j str>, ()> {
    match claim.get(member) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) if is_identifier(text) && !text.trim().is_empty() => Ok(Some(text)),
        Some(_) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(claims: &str) -> Result<Actors, ActorError> {
        Actors::of(&serde_json::from_str(claims).unwrap(), "i")
    }

    #[test]
    fn a_chain_is_read_from_the_current_actor_to_the_first() {
        for (claims, expected) in [
            (r#"{}"#, &[][..]),
            (r#"{"act":null}"#, &[]),
            (r#"{"act":{"sub":"agent"}}"#, &[("i", "agent")]),
            (r#"{"act":{"sub":"agent","iss":"other","client_id":7}}"#, &[("other", "agent")]),
            (
                r#"{"act":{"sub":"agent","iss":"other","act":{"sub":"first","act":null}}}"#,
                &[("other", "agent"), ("i", "first")],
            ),
        ] {
            let actors = read(claims).unwrap();
            let found: Vec<_> =
                actors.iter("i").map(|Actor { issuer, subject }| (issuer, subject)).collect();
            assert_eq!(found, expected, "{claims}");
        }
    }

    #[test]
    fn the_text_of_an_actor_is_not_that_of_another_one() {
        for (claims, expected) in [
            (r#"{}"#, None),
            (r#"{"act":{"sub":"agent"}}"#, Some("agent")),
            (r#"{"act":{"sub":"agent","iss":"i"}}"#, Some("agent")),
            (r#"{"act":{"sub":"agent","iss":"other"}}"#, Some("other\u{1f}agent")),
            (r#"{"act":{"sub":"agent","act":{"sub":"x","iss":"other"}}}"#, Some("agent")),
        ] {
            assert_eq!(read(claims).unwrap().current_text(), expected, "{claims}");
        }
        assert_eq!(read(r#"{"act":{"sub":"other\u001fagent"}}"#), Err(ActorError::NoSubject));
    }

    #[test]
    fn a_chain_with_an_actor_that_cannot_be_named_is_refused() {
        let long = format!(r#"{{"act":{{"sub":"{}"}}}}"#, "a".repeat(257));
        for (claims, expected) in [
            (r#"{"act":"agent"}"#, ActorError::NoObject),
            (r#"{"act":[{"sub":"a"}]}"#, ActorError::NoObject),
            (r#"{"act":false}"#, ActorError::NoObject),
            (r#"{"act":{}}"#, ActorError::NoSubject),
            (r#"{"act":{"act":{"sub":"first"}}}"#, ActorError::NoSubject),
            (r#"{"act":{"sub":7}}"#, ActorError::NoSubject),
            (r#"{"act":{"sub":null}}"#, ActorError::NoSubject),
            (r#"{"act":{"sub":" "}}"#, ActorError::NoSubject),
            (r#"{"act":{"sub":"a\nb"}}"#, ActorError::NoSubject),
            (long.as_str(), ActorError::NoSubject),
            (r#"{"act":{"sub":"a","iss":7}}"#, ActorError::NoIssuer),
            (r#"{"act":{"sub":"a","iss":""}}"#, ActorError::NoIssuer),
            (r#"{"act":{"sub":"a","act":"b"}}"#, ActorError::NoObject),
            (r#"{"act":{"sub":"a","act":{"sub":"b","act":{"sub":[]}}}}"#, ActorError::NoSubject),
        ] {
            assert_eq!(read(claims), Err(expected), "{claims}");
        }
    }

    #[test]
    fn a_chain_has_at_most_eight_actors() {
        let chain = |depth: usize| {
            let open = r#"{"sub":"a","act":"#.repeat(depth - 1);
            format!(r#"{{"act":{open}{{"sub":"a"}}{}}}"#, "}".repeat(depth - 1))
        };
        assert_eq!(read(&chain(MAX_ACTORS)).unwrap().iter("i").len(), MAX_ACTORS);
        assert_eq!(read(&chain(MAX_ACTORS + 1)), Err(ActorError::TooMany));
        assert_eq!(read(&chain(60)), Err(ActorError::TooMany));
    }
}
