//! The audit line of an event of an API key.

use super::{
    json::{Object, name},
    line::TEXT,
};
use crate::observe::{key_events::KeyEvent, rfc3339::Rfc3339};

/// The line of an event.
pub(crate) struct KeyLine<'a>(pub(crate) &'a KeyEvent<'a>);

impl KeyLine<'_> {
    /// Writes the line. Fields without a value are omitted.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Self(event) = self;
        let mut line = Object::open(out);
        line.plain(name!("time"), &Rfc3339(event.time).digits());
        line.plain(name!("event"), b"key");
        line.plain(name!("action"), event.kind.label().as_bytes());
        line.plain(name!("key_id"), event.id.digits());
        if let Some(record) = event.record {
            line.text(name!("sub"), record.subject.as_bytes(), TEXT);
            if let Some(tenant) = &record.tenant {
                line.text(name!("tenant"), tenant.as_bytes(), TEXT);
            }
            if let Some(owner) = &record.owner {
                line.text(name!("client"), owner.as_bytes(), TEXT);
            }
        }
        if let Some(network) = event.network {
            line.plain(name!("network"), network.to_string().as_bytes());
        }
        if let Some(end) = event.end {
            line.number(name!("exp"), end.secs());
        }
        line.close();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tollgate_core::{credential::api_key::KeyRecord, time::Timestamp};

    use super::*;
    use crate::observe::key_events::KeyEventKind;

    #[test]
    fn a_line_has_what_is_known_of_the_key_and_no_digest() {
        let id = "7Jk2mN4pQ8rT".parse().unwrap();
        let text = r#"{"id":"7Jk2mN4pQ8rT","digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","subject":"ci \"x\"","tenant":"acme","owner":"ann","created":"2026-11-29T00:00:00Z"}"#;
        let record = KeyRecord::from_stored(id, text).unwrap();
        let event = KeyEvent {
            kind: KeyEventKind::NewNetwork,
            time: Timestamp::from_secs(1_795_318_921),
            id,
            record: Some(&record),
            end: Some(Timestamp::from_secs(1_800_000_000)),
            network: Some(tollgate_core::network::Network::parse("192.0.2.0/24").unwrap()),
        };
        let written = |event: &KeyEvent<'_>| {
            let mut line = Vec::new();
            KeyLine(event).write(&mut line);
            serde_json::from_slice::<Value>(&line).unwrap()
        };
        assert_eq!(
            written(&event),
            json!({
                "time": "2026-11-22T03:42:01.000000Z", "event": "key", "action": "new_network",
                "key_id": "7Jk2mN4pQ8rT", "sub": "ci \"x\"", "tenant": "acme", "client": "ann",
                "network": "192.0.2.0/24", "exp": 1_800_000_000_u64,
            })
        );
        let event = KeyEvent {
            kind: KeyEventKind::Expired,
            record: None,
            end: None,
            network: None,
            ..event
        };
        assert_eq!(
            written(&event),
            json!({
                "time": "2026-11-22T03:42:01.000000Z", "event": "key", "action": "expired",
                "key_id": "7Jk2mN4pQ8rT",
            })
        );
    }
}
