//! Records of API keys in answers: without digests, with the state of the key.

use serde_json::{Value, json};
use tollgate_core::{
    credential::api_key::{GeneratedKey, KeyLifetimes, KeyRecord, KeySpec},
    identity::KeyId,
    time::Timestamp,
};

use crate::store::StoredKey;

/// Returns the record of a key without its digests, with its state at `now`.
pub(super) fn record(record: &KeyRecord, now: Timestamp, lifetimes: &KeyLifetimes) -> Value {
    let mut value = json!(KeySpec::from(record));
    if let Some(members) = value.as_object_mut() {
        members.remove("digest");
        members.insert("state".to_owned(), json!(record.state(now, lifetimes).label()));
        if let Some(previous) = members.get_mut("previous").and_then(Value::as_object_mut) {
            previous.remove("digest");
        }
    }
    value
}

/// Returns the one answer that contains a key.
pub(super) fn made(
    key: &GeneratedKey,
    made: &KeyRecord,
    now: Timestamp,
    lifetimes: &KeyLifetimes,
) -> Value {
    json!({ "key": key.expose(), "record": record(made, now, lifetimes) })
}

/// Returns an entry of the list for a record that cannot be read.
pub(super) fn unreadable(stored: &StoredKey) -> Value {
    json!({ "id": String::from_utf8_lossy(&stored.id), "state": "unreadable" })
}

/// Reads a record of the list; `None` for one that cannot be read.
pub(super) fn read(stored: &StoredKey) -> Option<KeyRecord> {
    let id: KeyId = std::str::from_utf8(&stored.id).ok()?.parse().ok()?;
    KeyRecord::from_stored(id, stored.text.as_deref()?).ok()
}
