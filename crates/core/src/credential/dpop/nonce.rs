//! Nonces of the server (RFC 9449 sections 8 and 9): authenticated numbers of a step of time, so that
//! no replica has to remember them.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use thiserror::Error;

use crate::{
    secret::Secret,
    time::{Span, Timestamp},
};

/// The least bytes of a secret.
const MIN_SECRET: usize = 32;

/// The bytes of the tag of a nonce.
const TAG: usize = 16;

/// The text in front of what is authenticated, so that a secret that has another use as well makes
/// no nonces there.
const PURPOSE: &[u8] = b"tollgate dpop nonce\0";

/// The secrets that authenticate nonces. The first one signs, all of them verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonceKeys(Vec<Secret>);

/// The reason why there are no [`NonceKeys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NonceKeyError {
    /// There is no secret.
    #[error("there is no secret")]
    Missing,
    /// A secret is too short.
    #[error("a secret has fewer than {MIN_SECRET} bytes")]
    Short,
}

/// The state of a nonce that a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NonceState {
    /// It is accepted.
    Current,
    /// It is accepted, and about to lapse.
    Lapsing,
    /// It was not made with these secrets, or has lapsed.
    Refused,
}

impl NonceKeys {
    /// Takes secrets of at least 32 bytes.
    ///
    /// # Errors
    /// There is none, or one is too short.
    pub fn new(secrets: Vec<Secret>) -> Result<Self, NonceKeyError> {
        if secrets.is_empty() {
            return Err(NonceKeyError::Missing);
        }
        secrets.iter().try_for_each(Self::check)?;
        Ok(Self(secrets))
    }

    /// Checks the length of a secret.
    ///
    /// # Errors
    /// [`NonceKeyError::Short`].
    pub fn check(secret: &Secret) -> Result<(), NonceKeyError> {
        if secret.expose().len() < MIN_SECRET { Err(NonceKeyError::Short) } else { Ok(()) }
    }

    /// Returns the nonce of the step that contains `now`: 32 characters.
    pub fn issue(&self, life: Span, now: Timestamp) -> String {
        let step = step(life, now).to_be_bytes();
        let tag = self.0.first().map(|secret| tag(secret, step)).unwrap_or_default();
        let mut bytes = [0; 8 + TAG];
        for (to, from) in bytes.iter_mut().zip(step.into_iter().chain(tag)) {
            *to = from;
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Returns the state of a nonce at `now`. One of the next step is accepted as well: the clock of
    /// the replica that made it may be ahead.
    pub(crate) fn state(&self, nonce: &str, life: Span, now: Timestamp) -> NonceState {
        let mut bytes = [0; 8 + TAG];
        let Ok(24) = URL_SAFE_NO_PAD.decode_slice(nonce, &mut bytes) else {
            return NonceState::Refused;
        };
        let Some((number, claimed)) = bytes.split_first_chunk::<8>() else {
            return NonceState::Refused;
        };
        let is_tag = |secret: &Secret| {
            aws_lc_rs::constant_time::verify_slices_are_equal(&tag(secret, *number), claimed)
                .is_ok()
        };
        if !self.0.iter().any(is_tag) {
            return NonceState::Refused;
        }
        let (number, current) = (u64::from_be_bytes(*number), step(life, now));
        if number == current || number == current.saturating_add(1) {
            NonceState::Current
        } else if number.saturating_add(1) == current {
            NonceState::Lapsing
        } else {
            NonceState::Refused
        }
    }
}

fn step(life: Span, now: Timestamp) -> u64 {
    now.secs() / life.secs().max(1)
}

fn tag(secret: &Secret, step: [u8; 8]) -> [u8; TAG] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
    let whole = hmac::sign(&key, &[PURPOSE, &step].concat());
    std::array::from_fn(|at| whole.as_ref().get(at).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Span = Span::from_secs(300);

    fn keys(names: &[u8]) -> NonceKeys {
        let secrets = names.iter().map(|name| Secret::new(vec![*name; MIN_SECRET])).collect();
        NonceKeys::new(secrets).unwrap()
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    #[test]
    fn a_nonce_is_accepted_for_its_life_and_at_most_twice_as_long() {
        let (keys, nonce) = (keys(b"a"), keys(b"a").issue(LIFE, at(10)));
        assert_eq!(nonce.len(), 32);
        for (secs, expected) in [
            (0, NonceState::Current),
            (299, NonceState::Current),
            (300, NonceState::Lapsing),
            (599, NonceState::Lapsing),
            (600, NonceState::Refused),
        ] {
            assert_eq!(keys.state(&nonce, LIFE, at(secs)), expected, "{secs}");
        }
        let ahead = keys.issue(LIFE, at(300));
        assert_eq!(keys.state(&ahead, LIFE, at(299)), NonceState::Current);
        assert_eq!(keys.state(&keys.issue(LIFE, at(600)), LIFE, at(299)), NonceState::Refused);
    }

    #[test]
    fn every_secret_of_the_list_accepts_what_the_first_one_made() {
        let nonce = keys(b"a").issue(LIFE, at(0));
        for names in [&b"a"[..], b"ba", b"ab"] {
            assert_eq!(keys(names).state(&nonce, LIFE, at(0)), NonceState::Current);
        }
        assert_eq!(keys(b"b").state(&nonce, LIFE, at(0)), NonceState::Refused);
    }

    #[test]
    fn a_nonce_that_was_changed_is_refused() {
        let (keys, nonce) = (keys(b"a"), keys(b"a").issue(LIFE, at(0)));
        for place in 0..nonce.len() {
            let mut bytes = nonce.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(keys.state(&changed, LIFE, at(0)), NonceState::Refused, "{place}");
        }
        for other in
            ["", "a", &nonce[1..], &format!("{nonce}A"), &format!("{nonce}="), &"A".repeat(32)]
        {
            assert_eq!(keys.state(other, LIFE, at(0)), NonceState::Refused, "{other}");
        }
    }

    #[test]
    fn secrets_have_a_length() {
        let short = vec![Secret::new(vec![1; MIN_SECRET - 1])];
        assert_eq!(NonceKeys::new(short), Err(NonceKeyError::Short));
        assert_eq!(NonceKeys::new(Vec::new()), Err(NonceKeyError::Missing));
    }
}
