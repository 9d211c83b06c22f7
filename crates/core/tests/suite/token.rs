//! Tokens as raw text, so that every malformed token can be expressed.

use tollgate_testkit::TokenParts;

use crate::keys::Signer;

/// The time of every check, in seconds: 2023-11-14T22:13:20Z.
pub const NOW: u64 = 1_700_000_000;

/// The members of a JSON object, each value as raw JSON text.
#[derive(Clone, Debug)]
pub struct Members(Vec<(String, String)>);

impl Members {
    /// A header with this `alg` and `kid`.
    pub fn header(alg: &str, kid: &str) -> Self {
        Self(Vec::new()).text("alg", alg).text("kid", kid)
    }

    /// Claims that every issuer accepts, with this `iss`.
    pub fn claims(iss: &str) -> Self {
        Self(Vec::new())
            .text("iss", iss)
            .text("aud", "inference-api")
            .text("sub", "user-1")
            .with("exp", &(NOW + 600).to_string())
            .with("iat", &(NOW - 60).to_string())
            .text("jti", "id-1")
    }

    /// Sets a member to raw JSON.
    #[must_use]
    pub fn with(mut self, name: &str, raw: &str) -> Self {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, value)) => *value = raw.to_owned(),
            None => self.0.push((name.to_owned(), raw.to_owned())),
        }
        self
    }

    /// Sets a member to a string.
    #[must_use]
    pub fn text(self, name: &str, text: &str) -> Self {
        self.with(name, &serde_json::to_string(text).unwrap())
    }

    /// Adds a member, even where one has that name. The name is raw as well, so that it can be
    /// escaped.
    #[must_use]
    pub fn twice(mut self, name: &str, raw: &str) -> Self {
        self.0.push((name.to_owned(), raw.to_owned()));
        self
    }

    /// Removes a member.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.retain(|(known, _)| known != name);
        self
    }

    /// The object's text.
    pub fn json(&self) -> String {
        let members: Vec<String> =
            self.0.iter().map(|(name, raw)| format!("\"{name}\":{raw}")).collect();
        format!("{{{}}}", members.join(","))
    }
}

/// A token in compact serialization of any bytes, with a signature over them.
pub fn signed(signer: Signer, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
    tollgate_testkit::signed(header, payload, |message| signer.infallible(message)).unwrap()
}

/// The three parts of a token.
pub fn parts(token: &str) -> TokenParts<'_> {
    TokenParts::of(token).unwrap()
}

/// Changes the lowest bit of the last character: the same bytes to a decoder that ignores stray
/// bits.
pub fn with_stray_bit(part: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    assert_ne!(part.len() % 4, 0, "a part of whole groups has no stray bits");
    let last = ALPHABET.iter().position(|byte| *byte == part.as_bytes()[part.len() - 1]).unwrap();
    format!("{}{}", &part[..part.len() - 1], char::from(ALPHABET[last ^ 1]))
}
