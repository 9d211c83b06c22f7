//! The model in the id of a reservation, and what expired of each.

use std::collections::BTreeMap;

use super::BucketId;

/// The tags of models whose expired tokens are counted apart; those of further ones have none.
const MOST_TAGS: usize = 1024;

/// Four bytes that stand for the model of a request in the id of its reservation, so that a store
/// that knows only the id can tell what expired. Two models of a thousand share a tag with a
/// probability of 10^-4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelTag(pub u32);

impl ModelTag {
    /// The tag of requests without a model.
    pub const NONE: Self = Self(0);

    /// Returns the tag of a model, by its name in the policy.
    pub fn of(model: &str) -> Self {
        let [high, _] = BucketId::of(model).halves();
        Self(u32::try_from(high >> 32).unwrap_or_default())
    }
}

/// The tokens that were charged for reservations without a report, by the tags of their models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpiredTokens(BTreeMap<ModelTag, u64>);

impl ExpiredTokens {
    /// Adds the tokens of an expired reservation.
    pub fn add(&mut self, model: ModelTag, tokens: u64) {
        let has_room = self.0.len() < MOST_TAGS || self.0.contains_key(&model);
        let sum = self.0.entry(if has_room { model } else { ModelTag::NONE }).or_default();
        *sum = sum.saturating_add(tokens);
    }

    /// The sums by tag.
    pub fn sums(&self) -> impl Iterator<Item = (ModelTag, u64)> {
        self.0.iter().map(|(tag, tokens)| (*tag, *tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tags_of_expired_tokens_are_bounded() {
        let mut expired = ExpiredTokens::default();
        for tag in 1..=2000 {
            expired.add(ModelTag(tag), 1);
        }
        expired.add(ModelTag(1), 5);
        assert_eq!(expired.sums().count(), MOST_TAGS + 1);
        let of = |tag| expired.sums().find(|(known, _)| *known == tag).unwrap().1;
        assert_eq!((of(ModelTag(1)), of(ModelTag::NONE)), (6, 2000 - MOST_TAGS as u64));
    }

    #[test]
    fn a_tag_is_the_begin_of_a_hash() {
        // printf qwen | sha256sum
        assert_eq!(ModelTag::of("qwen"), ModelTag(0x67f2_d225));
        assert_ne!(ModelTag::of("qwen"), ModelTag::of("qwen2"));
    }
}
