//! The index of the headers that every check reads.
//!
//! [`KnownIndex`] records where these headers are while the list is filled, so that reading one
//! costs no search. It earns the row `normaliser` of `benches/check.rs`; the test below compares it
//! with a search of the whole list.

/// A header that every check reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::request) enum KnownHeader {
    ContentType,
    ContentLength,
    ContentEncoding,
    TransferEncoding,
    Host,
    Authority,
    Method,
    Path,
    Authorization,
    PartialBody,
    ForwardedProto,
    Connection,
    RequestId,
    XApiKey,
    ApiKey,
}

/// Every known header with its name, in the order of the enum.
const ALL: [(KnownHeader, &str); 15] = [
    (KnownHeader::ContentType, "content-type"),
    (KnownHeader::ContentLength, "content-length"),
    (KnownHeader::ContentEncoding, "content-encoding"),
    (KnownHeader::TransferEncoding, "transfer-encoding"),
    (KnownHeader::Host, "host"),
    (KnownHeader::Authority, ":authority"),
    (KnownHeader::Method, ":method"),
    (KnownHeader::Path, ":path"),
    (KnownHeader::Authorization, "authorization"),
    (KnownHeader::PartialBody, "x-envoy-auth-partial-body"),
    (KnownHeader::ForwardedProto, "x-forwarded-proto"),
    (KnownHeader::Connection, "connection"),
    (KnownHeader::RequestId, "x-request-id"),
    (KnownHeader::XApiKey, "x-api-key"),
    (KnownHeader::ApiKey, "api-key"),
];

/// Whether a header's name is `name`, which is in lower case.
pub(super) fn names_equal(header: &[u8], name: &str) -> bool {
    // Names arrive in lower case over HTTP/2, so the slower comparison is rare.
    header == name.as_bytes() || header.eq_ignore_ascii_case(name.as_bytes())
}

impl KnownHeader {
    /// Returns the known header of this name, in any case.
    ///
    /// Length and first letter rule out nearly every other name before the names are compared.
    #[inline]
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        let known = match (name.len(), name.first()? | 0x20) {
            (4, b'h') => Self::Host,
            (5, b':') => Self::Path,
            (7, b':') => Self::Method,
            (7, b'a') => Self::ApiKey,
            (9, b'x') => Self::XApiKey,
            (10, b':') => Self::Authority,
            (10, b'c') => Self::Connection,
            (12, b'c') => Self::ContentType,
            (12, b'x') => Self::RequestId,
            (13, b'a') => Self::Authorization,
            (14, b'c') => Self::ContentLength,
            (16, b'c') => Self::ContentEncoding,
            (17, b't') => Self::TransferEncoding,
            (17, b'x') => Self::ForwardedProto,
            (25, b'x') => Self::PartialBody,
            _ => return None,
        };
        names_equal(name, known.name()).then_some(known)
    }

    /// Returns the name in lower case.
    pub(super) fn name(self) -> &'static str {
        ALL.get(self as usize).map_or("", |(_, name)| name)
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// How often a known header occurs, with the position of its first occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occurrence {
    Absent,
    Once(usize),
    Repeated(usize),
}

/// The positions of the known headers in a list.
#[derive(Debug, Default)]
pub(super) struct KnownIndex {
    /// The position of each known header's first occurrence plus one, or 0.
    first: [u16; ALL.len()],
    /// One bit for each known header that occurs more than once.
    repeated: u16,
}

impl KnownIndex {
    /// Records the header that is added at `position`.
    #[inline]
    pub(super) fn record(&mut self, name: &[u8], position: usize) {
        if let Some(known) = KnownHeader::of(name)
            && let Some(first) = self.first.get_mut(known as usize)
        {
            if *first == 0 {
                // A list too long for the index is refused by `Headers::check`.
                *first = u16::try_from(position + 1).unwrap_or(u16::MAX);
            } else {
                self.repeated |= known.bit();
            }
        }
    }

    /// Looks up a known header.
    pub(super) fn get(&self, known: KnownHeader) -> Occurrence {
        match self.first.get(known as usize).and_then(|first| first.checked_sub(1)) {
            None => Occurrence::Absent,
            Some(first) if self.repeated & known.bit() == 0 => Occurrence::Once(first.into()),
            Some(first) => Occurrence::Repeated(first.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_header_is_recognised_by_its_name_only() {
        for (position, (known, name)) in ALL.into_iter().enumerate() {
            assert_eq!((known as usize, known.name()), (position, name));
            assert_eq!(KnownHeader::of(name.as_bytes()), Some(known));
            assert_eq!(KnownHeader::of(name.to_ascii_uppercase().as_bytes()), Some(known));
            assert_eq!(
                KnownHeader::of(name.replace('-', "_").replace(':', ";").as_bytes()),
                (!name.contains(['-', ':'])).then_some(known)
            );
        }
    }

    #[test]
    fn the_index_agrees_with_a_search_of_the_list() {
        for (known, name) in ALL {
            let upper = name.to_ascii_uppercase();
            for list in [
                vec![],
                vec!["a", "b"],
                vec![name],
                vec!["a", name, "b", &upper, "c"],
                vec!["a", &upper, name, name],
                vec!["x", "content-typf", "content-type"],
            ] {
                let mut index = KnownIndex::default();
                for (position, header) in list.iter().enumerate() {
                    index.record(header.as_bytes(), position);
                }
                let found: Vec<usize> = (0..list.len())
                    .filter(|position| list[*position].eq_ignore_ascii_case(name))
                    .collect();
                let expected = match found.as_slice() {
                    [] => Occurrence::Absent,
                    [only] => Occurrence::Once(*only),
                    [first, ..] => Occurrence::Repeated(*first),
                };
                assert_eq!(index.get(known), expected, "{name} in {list:?}");
            }
        }
    }
}
