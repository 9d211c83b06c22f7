//! The actor of a credential: who acts for its subject (RFC 8693 section 4.1).

use crate::{json::Json, text::is_identifier};

/// The claim with the actor. A claim `act` within it is an earlier actor, which is not read.
pub(crate) const ACT: &str = "act";

/// The party that acts for the subject of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor<'a> {
    /// The issuer of the actor, where the claim names one; else the issuer of the credential.
    pub issuer: &'a str,
    /// The actor's name.
    pub subject: &'a str,
}

/// Reads the claim `act`; `None` where the subject acts for itself.
///
/// # Errors
/// The reason why the claim names no actor.
pub(super) fn read<'a>(
    claim: Option<&'a Json>,
    issuer: &'a str,
) -> Result<Option<Actor<'a>>, &'static str> {
    match claim {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Map(_)) => {}
        Some(_) => return Err("the claim `act` is not an object"),
    }
    let text = |name: &str| match claim.and_then(|claim| claim.get(name)) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) if is_identifier(text) => Ok(Some(text.as_str())),
        Some(_) => Err(()),
    };
    let subject = text("sub").ok().flatten();
    let subject = subject.ok_or("the claim `act` has no `sub` of 1 to 256 printable characters")?;
    let own = text("iss").map_err(|()| "`iss` of the claim `act` is not text")?;
    Ok(Some(Actor { issuer: own.unwrap_or(issuer), subject }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_actor_is_read_and_no_other() {
        let actor = |issuer, subject| Ok(Some(Actor { issuer, subject }));
        for (claim, expected) in [
            (r#"{"sub":"agent"}"#, actor("i", "agent")),
            (r#"{"sub":"agent","iss":"other"}"#, actor("other", "agent")),
            (r#"{"sub":"agent","act":{"sub":"first"}}"#, actor("i", "agent")),
            ("null", Ok(None)),
            (r#""agent""#, Err("the claim `act` is not an object")),
            ("[]", Err("the claim `act` is not an object")),
            ("{}", Err("the claim `act` has no `sub` of 1 to 256 printable characters")),
            (
                r#"{"act":{"sub":"first"}}"#,
                Err("the claim `act` has no `sub` of 1 to 256 printable characters"),
            ),
            (r#"{"sub":7}"#, Err("the claim `act` has no `sub` of 1 to 256 printable characters")),
            (r#"{"sub":"a","iss":7}"#, Err("`iss` of the claim `act` is not text")),
        ] {
            let json: Json = serde_json::from_str(claim).unwrap();
            assert_eq!(read(Some(&json), "i"), expected, "{claim}");
        }
        assert_eq!(read(None, "i"), Ok(None));
    }
}
