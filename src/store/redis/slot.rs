//! The slots of a Redis Cluster: which keys are on one node.

/// The number of slots.
pub(super) const SLOTS: u16 = 16384;

/// Returns the slot of a key, as the specification of Redis Cluster defines it: CRC-16 (XMODEM) of
/// the text between the first `{` and the next `}`, or of the whole key where that is empty.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    crc16(tag_of(key).unwrap_or(key)) % SLOTS
}

/// The hash tag of a key.
fn tag_of(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let after = key.get(open + 1..)?;
    let close = after.iter().position(|byte| *byte == b'}')?;
    after.get(..close).filter(|tag| !tag.is_empty())
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // As `CLUSTER KEYSLOT` of Redis 7.0 answers.
        for (key, slot) in [
            ("123456789", 0x31c3),
            ("foo", 12182),
            ("{foo}:bar", 12182),
            ("a{foo}{x}", 12182),
            ("foo{}", slot_of(b"foo{}")),
            ("{tollgate}:format", slot_of(b"tollgate")),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_ne!(slot_of(b"{}a"), slot_of(b"{}b"), "an empty tag is none");
    }
}
