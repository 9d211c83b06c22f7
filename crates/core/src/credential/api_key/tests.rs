//! Verification of keys, from the bytes to a principal.

use super::*;
use crate::{
    config::{Errors, Path},
    identity::Generation,
    network::Networks,
    time::Span,
};

const CREATED: Timestamp = Timestamp::from_secs(1_800_000_000);
const DAY: u64 = 86_400;

fn after(seconds: u64) -> Timestamp {
    Timestamp::from_secs(CREATED.secs() + seconds)
}

fn made(id: u8, secret: u8) -> GeneratedKey {
    GeneratedKey::new(&[id; 16], &[secret; 32])
}

fn record(key: &GeneratedKey) -> KeyRecord {
    KeyRecord {
        id: key.id(),
        current: KeySecret { digest: key.digest(), issued: CREATED, weak: false },
        previous: None,
        subject: "ci".into(),
        holder: crate::identity::Holder::Client,
        tenant: Some("acme".into()),
        owner: Some("ann".into()),
        scopes: ["infer:text".to_owned()].into(),
        models: None,
        tier: None,
        limits: Box::default(),
        networks: None,
        labels: Default::default(),
        created: CREATED,
        expires: after(90 * DAY),
    }
}

fn api_keys(section: &str) -> ApiKeys {
    let config: ApiKeysConfig = serde_json::from_str(section).unwrap();
    let mut errors = Errors::default();
    let keys = config.compile(&Path::root(), &mut errors);
    assert!(errors.is_empty(), "{errors:?}");
    keys
}

fn table(records: impl IntoIterator<Item = KeyRecord>) -> Arc<KeyTable> {
    let mut table = KeyTable::new();
    for record in records {
        table.insert(record).unwrap();
    }
    Arc::new(table)
}

fn verified(
    text: &str,
    tables: &[Option<Arc<KeyTable>>],
    now: Timestamp,
) -> Result<Arc<Principal>, (Reason, Check, String)> {
    let keys = api_keys(r#"{ "file": "/keys.yaml" }"#);
    let context = KeyContext {
        tables,
        keys: &keys,
        names: PolicyNames {
            has_limit: &|name, _| name == "known",
            has_tier: &|name| name == "gold",
        },
        denylists: &[],
    };
    let key = ApiKey::read(text.as_bytes())
        .map_err(|denial| (denial.reason, Check::Shape, denial.cause.into_owned()))?;
    verify(key, context, now).map_err(|rejection| {
        assert!(rejection.settled.is_none() && rejection.denial.message.is_none());
        (rejection.denial.reason, rejection.check, rejection.denial.cause.into_owned())
    })
}

fn cause(text: &str, tables: &[Option<Arc<KeyTable>>], now: Timestamp) -> (Check, String) {
    let (reason, check, cause) = verified(text, tables, now).unwrap_err();
    assert_eq!(reason, Reason::InvalidApiKey, "{cause}");
    (check, cause)
}

#[test]
fn a_key_becomes_the_principal_of_its_record() {
    let key = made(1, 2);
    let record = KeyRecord {
        tier: Some("gold".into()),
        models: Some(["llama".into()].into()),
        limits: [("known".into(), "5/1m".parse().unwrap())].into(),
        networks: Some(Networks::parse(&["10.0.0.0/8"]).unwrap()),
        ..record(&key)
    };
    let principal = verified(key.expose(), &[Some(table([record]))], after(1)).unwrap();
    assert_eq!(principal.kind().label(), "api_key");
    assert_eq!((principal.issuer(), principal.subject()), (ISSUER, "ci"));
    assert_eq!((principal.tenant(), principal.client()), (Some("acme"), Some("ann")));
    assert!(principal.has_scope("infer:text"));
    assert_eq!(principal.expires_at(), after(90 * DAY).secs());
    let terms = principal.key().unwrap();
    assert_eq!((terms.id, terms.tier.as_deref()), (key.id(), Some("gold")));
    assert!(terms.allows_model("llama") && !terms.allows_model("other") && !terms.weak);
    assert_eq!(terms.quota("known").map(|quota| quota.to_string()), Some("5/1m".to_owned()));
    // It is revoked by its id, by the digest of the key, and by what it names.
    let listed: Vec<String> = principal
        .revocation()
        .exact()
        .chain(principal.revocation().before())
        .map(|(_, key)| key)
        .collect();
    let issuer = || ISSUER.to_owned();
    for target in [
        revocation::Target::Jti { issuer: issuer(), jti: key.id().to_string() },
        revocation::Target::Token { sha256: *key.digest().bytes() },
        revocation::Target::Subject { issuer: issuer(), subject: "ci".into() },
        revocation::Target::Client { issuer: issuer(), client: "ann".into() },
        revocation::Target::Tenant { tenant: "acme".into() },
    ] {
        assert!(listed.contains(&target.key()), "{target:?}");
    }
}

#[test]
fn what_is_wrong_with_a_key_is_in_the_cause_and_never_the_key() {
    let key = made(1, 2);
    let tables = [Some(table([record(&key)]))];
    let (check, text) = cause(made(9, 2).expose(), &tables, after(1));
    assert_eq!(check, Check::Key);
    assert_eq!(text, format!("no record has the id `{}`", made(9, 2).id()));
    let (check, text) = cause(made(1, 3).expose(), &tables, after(1));
    assert_eq!(check, Check::Signature);
    assert_eq!(text, format!("the secret of the key `{}` is wrong, or was rotated", key.id()));
    let (check, text) = cause(key.expose(), &tables, after(90 * DAY));
    assert_eq!(check, Check::Times);
    assert!(text.contains("expired at 2027-"), "{text}");
    let mistyped = key.expose().replace(&key.expose()[20..24], "0000");
    let (check, text) = cause(&mistyped, &tables, after(1));
    assert_eq!(check, Check::Shape);
    assert!(text.contains("checksum"), "{text}");
    let (_, text) = cause("sk-foreign-0123456789", &tables, after(1));
    assert_eq!(text, "no record has the digest of the key");
    for printed in [format!("{:?}", ApiKey::read(key.expose().as_bytes())), format!("{key:?}")] {
        assert!(!printed.contains(&key.expose()[17..60]), "{printed}");
    }
}

#[test]
fn a_key_that_was_issued_in_the_future_is_refused_beyond_a_minute() {
    let key = made(1, 2);
    let tables = [Some(table([record(&key)]))];
    let before = |seconds| Timestamp::from_secs(CREATED.secs() - seconds);
    assert!(verified(key.expose(), &tables, before(60)).is_ok());
    let (check, cause) = cause(key.expose(), &tables, before(61));
    assert!(check == Check::Times && cause.contains("in the future"), "{cause}");
}

#[test]
fn a_source_that_is_not_read_yet_may_know_the_key() {
    let key = made(1, 2);
    let known = Some(table([record(&key)]));
    assert!(verified(key.expose(), &[None, known.clone()], after(1)).is_ok());
    let keys = api_keys(r#"{ "file": "/keys.yaml" }"#);
    let other = made(9, 9);
    let context = KeyContext {
        tables: &[None, known],
        keys: &keys,
        names: PolicyNames { has_limit: &|_, _| false, has_tier: &|_| false },
        denylists: &[],
    };
    let rejection =
        verify(ApiKey::read(other.expose().as_bytes()).unwrap(), context, after(1)).unwrap_err();
    assert_eq!(rejection.denial.reason, Reason::NotReady);
}

#[test]
fn a_key_whose_record_is_not_copied_is_rejected_with_the_id_of_the_record() {
    let (key, foreign) = (made(1, 2), "sk-litellm-0123456789");
    let weak = KeySecret { digest: KeyDigest::of(foreign.as_bytes()), issued: CREATED, weak: true };
    let imported = record(&key).rotated(key.digest(), after(1), after(2), after(9));
    let imported = KeyRecord { current: weak.clone(), ..imported };
    let keys = api_keys(r#"{ "file": "/keys.yaml" }"#);
    let missing = |table: &KeyTable, text: &str| {
        let context = KeyContext {
            tables: &[Some(table.clone().into())],
            keys: &keys,
            names: PolicyNames { has_limit: &|_, _| false, has_tier: &|_| false },
            denylists: &[],
        };
        let rejection = verify(ApiKey::read(text.as_bytes()).unwrap(), context, after(1)).err()?;
        let expected =
            if rejection.record.is_some() { Reason::NotReady } else { Reason::InvalidApiKey };
        assert_eq!((rejection.denial.reason, rejection.check), (expected, Check::Key));
        rejection.record
    };
    let mut table = KeyTable::new();
    for text in [key.expose(), foreign] {
        assert_eq!(missing(&table, text), None);
    }
    // The id is found whatever the secret is, and a foreign key by its digest.
    table.set_uncopied(key.id(), [&weak.digest]);
    for text in [key.expose(), made(1, 9).expose(), foreign] {
        assert_eq!(missing(&table, text), Some(key.id()));
    }
    for text in [made(2, 2).expose(), "sk-litellm-012345678"] {
        assert_eq!(missing(&table, text), None);
    }
    assert_eq!((table.len(), table.uncopied(), table.is_uncopied(&key.id())), (0, 1, true));
    // With its record it is a key as any other one, until the record is given up.
    table.insert(imported).unwrap();
    assert_eq!((table.len(), table.uncopied(), table.is_uncopied(&key.id())), (1, 0, false));
    table.add_uncopied_digest(key.id(), &KeyDigest::of(b"other"));
    assert_eq!(missing(&table, foreign), None);
    assert!(verified(foreign, &[Some(table.clone().into())], after(1)).is_ok());
    table.set_uncopied(key.id(), []);
    assert_eq!((missing(&table, foreign), table.uncopied_ids().count()), (None, 1));
    table.add_uncopied_digest(key.id(), &weak.digest);
    assert_eq!(missing(&table, foreign), Some(key.id()));
    // A revoked key is unknown at once.
    assert!(table.remove(&key.id()).is_none());
    assert_eq!((missing(&table, key.expose()), missing(&table, foreign)), (None, None));
}

#[test]
fn two_secrets_work_during_the_grace_and_never_three() {
    let (first, second, third) = (made(1, 2), made(1, 3), made(1, 4));
    let rotated =
        record(&first).rotated(second.digest(), after(10), after(10 + DAY), after(10 + 90 * DAY));
    let tables = [Some(table([rotated.clone()]))];
    for now in [after(11), after(9 + DAY)] {
        assert!(verified(first.expose(), &tables, now).is_ok());
        assert!(verified(second.expose(), &tables, now).is_ok());
    }
    // The end of the grace is the end of the validity that a cache may keep.
    let old = verified(first.expose(), &tables, after(11)).unwrap();
    assert_eq!(old.validity().until, after(10 + DAY));
    let (check, text) = cause(first.expose(), &tables, after(10 + DAY));
    assert_eq!(check, Check::Times);
    assert!(text.contains("rotated, and its grace ended"), "{text}");
    assert!(verified(second.expose(), &tables, after(11 + DAY)).is_ok());
    // The id is the same, and so are revocations of the id; the time of issue is the secret's own.
    let new = verified(second.expose(), &tables, after(11)).unwrap();
    assert_eq!(new.key().unwrap().id, old.key().unwrap().id);
    assert_eq!(new.revocation().jti_digest(), old.revocation().jti_digest());
    assert_eq!((old.issued_at(), new.issued_at()), (Some(CREATED.secs()), Some(after(10).secs())));
    // Rotated twice: the first secret ends at once, whatever its grace was.
    let twice = rotated.rotated(third.digest(), after(20), after(20 + DAY), after(20 + 90 * DAY));
    let tables = [Some(table([twice]))];
    assert!(verified(third.expose(), &tables, after(21)).is_ok());
    assert!(verified(second.expose(), &tables, after(21)).is_ok());
    assert_eq!(cause(first.expose(), &tables, after(21)).0, Check::Signature);
    // Without grace the previous secret ends at once.
    let at_once = record(&first).rotated(second.digest(), after(10), after(10), after(90 * DAY));
    assert!(at_once.previous.is_none());
}

#[test]
fn a_rotation_does_not_extend_the_secret_before() {
    let (first, second) = (made(1, 2), made(1, 3));
    let ends = |at| KeyRecord { expires: after(at), ..record(&first) };
    // Its end is within the grace.
    let rotated = ends(20).rotated(second.digest(), after(10), after(10 + DAY), after(90 * DAY));
    let tables = [Some(table([rotated]))];
    assert_eq!(verified(first.expose(), &tables, after(11)).unwrap().validity().until, after(20));
    assert_eq!(cause(first.expose(), &tables, after(20)).0, Check::Times);
    assert!(verified(second.expose(), &tables, after(20)).is_ok());
    // It has ended before the rotation, and does not come back.
    for at in [9, 10] {
        let grace = after(10 + DAY);
        let rotated = ends(at).rotated(second.digest(), after(10), grace, after(90 * DAY));
        assert!(rotated.previous.is_none(), "{at}");
    }
}

#[test]
fn a_foreign_key_is_found_by_its_digest_and_is_weak() {
    let text = "sk-litellm-0123456789";
    let key = made(1, 2);
    let foreign = KeySecret { digest: KeyDigest::of(text.as_bytes()), issued: CREATED, weak: true };
    let imported = KeyRecord { current: foreign, ..record(&key) };
    let tables = [Some(table([imported.clone()]))];
    let principal = verified(text, &tables, after(1)).unwrap();
    assert!(principal.key().unwrap().weak && principal.key().unwrap().id == key.id());
    assert_eq!(cause("sk-litellm-012345678", &tables, after(1)).0, Check::Key);
    // After a rotation both forms work, and only the new one is not weak.
    let rotated = imported.rotated(key.digest(), after(10), after(DAY), after(90 * DAY));
    let tables = [Some(table([rotated]))];
    assert!(verified(text, &tables, after(11)).unwrap().key().unwrap().weak);
    assert!(!verified(key.expose(), &tables, after(11)).unwrap().key().unwrap().weak);
    assert!(verified(text, &tables, after(DAY)).is_err());
    // A digest that is not marked is not found without an id.
    let unmarked = KeyRecord {
        current: KeySecret { digest: KeyDigest::of(text.as_bytes()), issued: CREATED, weak: false },
        ..record(&key)
    };
    assert_eq!(cause(text, &[Some(table([unmarked]))], after(1)).0, Check::Key);
    // The reverse: a key of Tollgate's format that is marked.
    let marked = KeyRecord {
        current: KeySecret { digest: key.digest(), issued: CREATED, weak: true },
        ..record(&key)
    };
    let (check, text) = cause(key.expose(), &[Some(table([marked]))], after(1));
    assert!(check == Check::Signature && text.contains("remove `weak`"), "{text}");
}

#[test]
fn a_record_that_does_not_fit_the_policy_admits_nothing() {
    let key = made(1, 2);
    let tier = KeyRecord { tier: Some("silver".into()), ..record(&key) };
    let (check, text) = cause(key.expose(), &[Some(table([tier]))], after(1));
    assert_eq!(check, Check::Claims);
    assert!(text.contains("the tier `silver`"), "{text}");
    let limit =
        KeyRecord { limits: [("unknown".into(), "5/1m".parse().unwrap())].into(), ..record(&key) };
    let (_, text) = cause(key.expose(), &[Some(table([limit]))], after(1));
    assert!(text.contains("the limit `unknown`"), "{text}");
    // A life beyond the policy's ends with it.
    let long = KeyRecord { expires: after(400 * DAY), ..record(&key) };
    let principal = verified(key.expose(), &[Some(table([long]))], after(1)).unwrap();
    assert_eq!(principal.validity().until, after(90 * DAY));
}

#[test]
fn a_change_of_a_record_ends_its_results_and_no_others() {
    let (one, two) = (made(1, 2), made(3, 4));
    let first = table([record(&one), record(&two)]);
    let tables = [Some(Arc::clone(&first))];
    let results = [&one, &two].map(|key| verified(key.expose(), &tables, after(1)).unwrap());
    let current = |table: &KeyTable, principal: &Principal| {
        let terms = principal.key().unwrap();
        table.is_current(&terms.id, terms.serial, &principal.validity().keys.generation)
    };
    assert!(results.iter().all(|result| current(&first, result)));
    let mut changed = (*first).clone();
    changed.insert(KeyRecord { subject: "cd".into(), ..record(&one) }).unwrap();
    assert_eq!(results.each_ref().map(|result| current(&changed, result)), [false, true]);
    changed.remove(&two.id()).unwrap();
    assert_eq!(results.each_ref().map(|result| current(&changed, result)), [false, false]);
    // The table that checks may still read is as it was, and another table shares no serial number.
    assert_eq!((first.len(), changed.len()), (2, 1));
    assert!(results.iter().all(|result| current(&first, result)));
    let replaced = table([record(&one), record(&two)]);
    assert!(!results.iter().any(|result| current(&replaced, result)));
    assert!(!first.is_current(&one.id(), 1, &Generation::new()));
}

#[test]
fn two_foreign_keys_never_share_a_digest() {
    let foreign = KeySecret { digest: KeyDigest::of(b"sk-1"), issued: CREATED, weak: true };
    let with = |key: &GeneratedKey| KeyRecord { current: foreign.clone(), ..record(key) };
    let (one, two) = (made(1, 2), made(3, 4));
    let mut table = KeyTable::new();
    assert_eq!(table.insert(with(&one)), Ok(None));
    assert_eq!(
        table.insert(with(&two)).unwrap_err(),
        KeyTableError::SameDigest(one.id(), two.id())
    );
    assert_eq!(table.len(), 1);
    // The same id again is a change; its digest is free once the record is removed.
    assert!(table.insert(with(&one)).unwrap().is_some());
    assert!(table.remove(&one.id()).is_some() && table.remove(&one.id()).is_none());
    assert_eq!(table.insert(with(&two)), Ok(None));
    assert_eq!(table.iter().count(), 1);
}

#[test]
fn a_record_is_read_as_it_is_written() {
    let key = made(1, 2);
    let full = KeyRecord {
        tier: Some("gold".into()),
        models: Some(Box::default()),
        limits: [("known".into(), "5/1m".parse().unwrap())].into(),
        networks: Some(Networks::parse(&["10.0.0.0/8", "::1"]).unwrap()),
        labels: [("team".to_owned(), "search".to_owned())].into(),
        ..record(&key).rotated(made(1, 3).digest(), after(10), after(DAY), after(80 * DAY))
    };
    for record in [record(&key), full] {
        let text = serde_json::to_string(&KeySpec::from(&record)).unwrap();
        let spec: KeySpec = serde_json::from_str(&text).unwrap();
        let mut errors = Errors::default();
        let read = spec.compile(&KeyLifetimes::default(), &Path::root(), &mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(read, Some(record));
    }
}

#[test]
fn records_that_are_wrong_are_refused_with_their_place() {
    let spec = |change: &str| {
        let base = format!(
            r#"{{ "id": "7Jk2mN4pQ8rT", "digest": "{}", "subject": "ci", "created": "2026-11-29T00:00:00Z" }}"#,
            KeyDigest::of(b"x")
        );
        let mut base: serde_json::Value = serde_json::from_str(&base).unwrap();
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        for (name, value) in change.as_object().unwrap() {
            base[name] = value.clone();
        }
        let spec: KeySpec = serde_json::from_value(base).unwrap();
        let mut errors = Errors::default();
        let record = spec.compile(&KeyLifetimes::default(), &Path::root(), &mut errors);
        assert_eq!(record.is_some(), errors.is_empty());
        (record, errors.len())
    };
    let (plain, _) = spec("{}");
    let plain = plain.unwrap();
    assert_eq!(plain.expires.micros() - plain.created.micros(), DEFAULT_LIFE.micros());
    for (change, count) in [
        (r#"{ "subject": "" }"#, 1),
        (r#"{ "subject": "a\nb", "owner": "", "tenant": "\u0000" }"#, 3),
        (r#"{ "scopes": ["a b", "c"] }"#, 1),
        (r#"{ "models": [""] }"#, 1),
        (r#"{ "networks": [] }"#, 1),
        (r#"{ "expires": "2027-06-01T00:00:00Z" }"#, 1),
        (r#"{ "expires": "2026-11-28T00:00:00Z" }"#, 1),
        (r#"{ "labels": { "": "x" } }"#, 1),
    ] {
        assert_eq!(spec(change).1, count, "{change}");
    }
    assert_eq!(spec(r#"{ "models": [] }"#).0.unwrap().models.map(|list| list.len()), Some(0));
}

#[test]
fn a_faulty_section_is_an_error() {
    for (section, count) in [
        (r#"{ "file": "/k" }"#, 0),
        (r#"{ "file": "/k", "max_life": "365d", "grace": "0s" }"#, 0),
        ("{}", 1),
        (r#"{ "file": "/k", "header": [] }"#, 1),
        (r#"{ "file": "/k", "header": ["api-key", "api-key"] }"#, 1),
        (r#"{ "file": "/k", "max_life": "0s" }"#, 1),
        (r#"{ "file": "/k", "max_life": "4000d" }"#, 1),
        (r#"{ "file": "/k", "grace": "31d" }"#, 1),
    ] {
        let config: ApiKeysConfig = serde_json::from_str(section).unwrap();
        let mut errors = Errors::default();
        config.compile(&Path::root(), &mut errors);
        assert_eq!(errors.len(), count, "{section}");
    }
    let keys = api_keys(r#"{ "file": "/k", "header": ["x-api-key"] }"#);
    assert!(!keys.is_bearer && keys.headers == ["x-api-key"]);
    assert_eq!(keys.lifetimes.grace(), Span::from_secs(DAY));
}
