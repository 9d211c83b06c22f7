//! A fixed set of header names, which every request is compared with.

/// A set of header names in lower case.
///
/// Every check compares each header with the set and lists it in the answer, so that it is a sorted
/// list with a filter in front: with a tree, `make bench-instructions` counts 4 % more.
#[derive(Clone, Debug, Default)]
pub struct HeaderNames {
    sorted: Box<[String]>,
    /// The lengths of the names modulo 64, one bit each.
    lengths: u64,
    /// The last letters of the names modulo 32, in which both cases are equal, one bit each.
    lasts: u32,
}

impl HeaderNames {
    /// Returns the names in alphabetical order.
    pub fn iter(&self) -> std::slice::Iter<'_, String> {
        self.sorted.iter()
    }

    /// Whether the set has exactly this name.
    pub fn contains(&self, name: &str) -> bool {
        self.sorted.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    /// Whether some server reads `header` as one of the names: in any case, with `_` or other
    /// punctuation in place of `-`.
    #[inline]
    pub fn contains_like(&self, header: &[u8]) -> bool {
        let last = header.last().map_or(0, |last| last & 31);
        self.lengths >> (header.len() & 63) & 1 == 1
            && self.lasts >> last & 1 == 1
            && self.compare(header)
    }

    #[inline(never)]
    fn compare(&self, header: &[u8]) -> bool {
        self.sorted.iter().filter(|name| name.len() == header.len()).any(|name| {
            // From the end: most names begin alike.
            let mut pairs = header.iter().rev().zip(name.as_bytes().iter().rev());
            pairs.all(|(one, other)| plain(*one) == plain(*other))
        })
    }
}

impl FromIterator<String> for HeaderNames {
    fn from_iter<T: IntoIterator<Item = String>>(names: T) -> Self {
        let mut sorted: Vec<String> = names.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let lengths = sorted.iter().fold(0, |lengths, name| lengths | 1 << (name.len() & 63));
        let last = |name: &String| match name.as_bytes().last() {
            Some(last) if last.is_ascii_alphanumeric() => 1 << (last & 31),
            // Other punctuation may be in its place.
            _ => u32::MAX,
        };
        let lasts = sorted.iter().fold(0, |lasts, name| lasts | last(name));
        Self { sorted: sorted.into_boxed_slice(), lengths, lasts }
    }
}

/// Returns a byte of a name as servers read it that treat all punctuation, and both cases, alike.
#[inline]
pub(crate) fn plain(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> HeaderNames {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_set_is_sorted_and_has_each_name_once() {
        let set = names(&["x-b", "x-a", "x-b"]);
        assert_eq!(set.iter().collect::<Vec<_>>(), ["x-a", "x-b"]);
        assert!(set.contains("x-b") && !set.contains("X-B") && !set.contains("x"));
        assert!(!HeaderNames::default().contains("") && !HeaderNames::default().contains_like(b""));
    }

    #[test]
    fn every_spelling_of_a_name_is_found() {
        let set = names(&["x-body-compressed", "serve_multiplexed_model_id"]);
        for name in [
            "x-body-compressed",
            "X-Body_Compressed",
            "serve-multiplexed-model-id",
            "Serve_Multiplexed_Model_Id",
        ] {
            assert!(set.contains_like(name.as_bytes()), "{name}");
        }
        for name in ["x-body-compressed-x", "x-body", "body-compressed", "servemultiplexedmodelid"]
        {
            assert!(!set.contains_like(name.as_bytes()), "{name}");
        }
        assert!(names(&["x-"]).contains_like(b"X_"), "a name that ends in punctuation");
        let long = "a".repeat(64 + "x-body-compressed".len());
        assert!(!set.contains_like(long.as_bytes()));
    }
}
