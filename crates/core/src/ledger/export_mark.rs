//! The mark of what a chain was exported up to.
//!
//! What was exported may be removed from the store. So the mark is signed by the export, for the entry
//! that it has seen: neither who can write to the store, nor an export of another history of the chain,
//! makes entries removable.

use super::keys::{LedgerKey, LedgerKeys, Mac};

/// The mark of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportMark {
    /// The number of the last entry that was exported.
    pub number: u64,
    /// The MAC of this entry.
    pub mac: Mac,
    /// The name of the key that signed the mark.
    key: String,
    signature: Mac,
}

impl ExportMark {
    /// The mark of an entry of a chain.
    pub fn sign(chain: u32, (number, mac): (u64, Mac), key: &LedgerKey) -> Self {
        let signature = key.mac(&signed_text(chain, number, mac));
        Self { number, mac, key: key.id().to_owned(), signature }
    }

    /// The text of the mark: the number, the MAC, the name of the key, and the signature.
    pub fn text(&self) -> String {
        let Self { number, mac, key, signature } = self;
        format!("{number} {mac} {key} {signature}")
    }

    /// Reads the text of a mark; `None` where it is none.
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (number, mac) = (parts.next()?.parse().ok()?, Mac::parse(parts.next()?)?);
        let (key, signature) = (parts.next()?.to_owned(), Mac::parse(parts.next()?)?);
        parts.next().is_none().then_some(Self { number, mac, key, signature })
    }

    /// Whether one of `keys` has signed the mark for this chain.
    pub fn is_signed(&self, chain: u32, keys: &LedgerKeys) -> bool {
        let text = signed_text(chain, self.number, self.mac);
        keys.get(&self.key).is_some_and(|key| key.has_signed(&text, self.signature))
    }
}

/// The text that is signed. That of an entry begins with a brace.
fn signed_text(chain: u32, number: u64, mac: Mac) -> String {
    format!("exported {chain} {number} {mac}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::entry::tests::keys;

    #[test]
    fn a_mark_is_signed_for_its_entry() {
        let keys = keys();
        let mark = ExportMark::sign(3, (7, Mac::default()), keys.first());
        let read = ExportMark::read(&mark.text()).unwrap();
        assert_eq!(read, mark);
        assert!(read.is_signed(3, &keys));
        assert!(!read.is_signed(4, &keys));
        assert!(!ExportMark { number: 8, ..read }.is_signed(3, &keys));
        for text in ["", "7", "7 a k b", &format!("{} ", mark.text()), &mark.text()[1..]] {
            assert_eq!(ExportMark::read(text), None, "{text}");
        }
    }
}
