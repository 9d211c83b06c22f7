use tollgate_core::{
    config::{Errors, Path as ConfigPath},
    credential::api_key::{KeyLifetimes, KeySpec},
    revocation::sha256,
};

use super::*;
use crate::config::compile;

const POLICY: &str = "
api_keys: { file: FILE }
routes: [{ match: { methods: [GET], paths: [/a] }, scopes: [] }]
";
const ONE: &str = "{ id: 7Jk2mN4pQ8rT, subject: ci, created: '2026-11-29T00:00:00Z', digest: 'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad' }";

fn policy(path: &Path) -> Arc<Policy> {
    let text = POLICY.replace("FILE", &path.display().to_string());
    Arc::new(compile(&text, &|_| None).unwrap().policy)
}

#[tokio::test]
async fn a_file_that_changes_is_put_in_force_and_one_with_an_error_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.yaml");
    let policy = policy(&path);
    let hour = Duration::from_secs(3600);
    assert!(matches!(ApiKeyFile::start(&policy, hour), Err(LoadError::Read(_))));
    std::fs::write(&path, format!("keys: [{ONE}]")).unwrap();
    let mut file = ApiKeyFile::start(&policy, hour).unwrap().unwrap();
    assert_eq!(file.table().unwrap().len(), 1);
    assert!(!file.look().await);
    std::fs::write(&path, "keys: [{ id: broken }]").unwrap();
    assert!(!file.look().await && !file.look().await);
    assert_eq!(file.table().unwrap().len(), 1);
    // What is removed is gone with the next look.
    std::fs::write(&path, "keys: []").unwrap();
    assert!(file.look().await);
    assert!(file.table().unwrap().is_empty() && file.status().usable);
}

#[tokio::test]
async fn a_file_that_is_gone_for_too_long_leaves_no_table() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.yaml");
    std::fs::write(&path, format!("keys: [{ONE}]")).unwrap();
    let mut file = ApiKeyFile::start(&policy(&path), Duration::ZERO).unwrap().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(file.look().await);
    assert!(file.table().is_none() && !file.status().usable);
    assert!(!file.look().await);
    std::fs::write(&path, format!("keys: [{ONE}]")).unwrap();
    assert!(file.look().await);
    assert_eq!(file.table().unwrap().len(), 1);
}

#[tokio::test]
async fn a_reload_keeps_the_table_of_the_same_file_and_reads_another_one() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one.yaml"), directory.path().join("two.yaml"));
    let hour = Duration::from_secs(3600);
    std::fs::write(&one, format!("keys: [{ONE}]")).unwrap();
    let file = ApiKeyFile::start(&policy(&one), hour).unwrap();
    let mut file = ApiKeyFile::for_policy(file, &policy(&one), hour).unwrap();
    assert_eq!(file.table().unwrap().len(), 1);
    assert!(file.consequence(false).contains("keeping the previous keys"));
    // It is compiled again for the policy, whose limits and lives may differ.
    assert!(file.look().await && !file.look().await);
    let mut file = ApiKeyFile::for_policy(Some(file), &policy(&two), hour).unwrap();
    assert!(!file.is_usable() && !file.look().await);
    // Nothing is kept where nothing was in force.
    assert!(file.consequence(false).contains("denied with 503 not_ready until it can be used"));
    std::fs::write(&two, "keys: []").unwrap();
    assert!(file.look().await);
    assert!(file.table().unwrap().is_empty());
    let none = compile("routes: [{ match: { paths: [/a] }, public: true }]", &|_| None).unwrap();
    assert!(ApiKeyFile::for_policy(Some(file), &Arc::new(none.policy), hour).is_none());
}

/// The figures of docs/api-keys.md: `cargo test -p tollgate --lib million -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute and several hundred MiB"]
fn a_million_keys_are_held_and_changed_one_at_a_time() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let spec = |number: u32| {
        let digest = tollgate_core::text::hex(&sha256(&number.to_be_bytes()));
        let text = format!(
            r#"{{ "id": "{number:012}", "digest": "sha256:{digest}", "subject": "service-{number}",
                "tenant": "tenant-{}", "owner": "team-{}", "scopes": ["infer:text", "models:read"],
                "created": "2026-11-29T00:00:00Z" }}"#,
            number % 1000,
            number % 300
        );
        let spec: KeySpec = serde_json::from_str(&text).unwrap();
        let mut errors = Errors::default();
        spec.compile(&KeyLifetimes::default(), &ConfigPath::root(), &mut errors).unwrap()
    };
    let before = resident();
    let begun = Instant::now();
    let mut table = KeyTable::new();
    for number in 0..1_000_000 {
        table.insert(spec(number)).unwrap();
    }
    let (made, grown) = (begun.elapsed(), resident() - before);
    let in_force = table.clone();
    let begun = Instant::now();
    for number in 0..1000 {
        let mut next = table.clone();
        next.insert(spec(number * 997)).unwrap();
        table = next;
    }
    let changed = begun.elapsed() / 1000;
    assert_eq!((table.len(), in_force.len()), (1_000_000, 1_000_000));
    println!("{} bytes a key, made in {made:?}, {changed:?} a change", grown / 1_000_000);
    assert!(grown < 700 << 20, "{grown} bytes");
}
