//! Programs of clients on the pages, run behind a real Envoy.

use super::{
    block::{Block, Kind, blocks},
    none, pages,
};
use crate::rig::{
    envoy::{CURRENT, Envoy},
    model_server::model_server,
    python::with_clients,
    tollgate::{Tollgate, run},
};

const POLICY: &str = r#"
api_keys: { file: "${DIR}/keys.json" }
models:
  - { name: qwen, serves: [qwen] }
  - { name: big, serves: [big-70b] }
routes:
  - preset: vllm
"#;

/// The terms of the key that the programs have.
const TERMS: [&str; 8] = [
    "--subject",
    "batch",
    "--scope",
    "infer:text",
    "--scope",
    "infer:embeddings",
    "--model",
    "qwen",
];

#[test]
#[ignore = "needs a large download: make test-all"]
fn programs_print_what_the_pages_show() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let create = [&["keys", "create", "--file", "keys.json"], &TERMS[..]].concat();
    let key = run(dir, &create).stdout;
    let key = String::from_utf8(key).unwrap();
    let model = model_server();
    let _tollgate = Tollgate::start(dir, POLICY);
    let envoy = Envoy::start(dir, model.port, CURRENT, |config| config);
    let url = format!("http://127.0.0.1:{}", envoy.port);
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (name, text) in pages() {
        let page = blocks(&name, &text);
        for (program, printed) in page.iter().zip(page.iter().skip(1)) {
            if program.kind() != Some(Kind::Python) {
                continue;
            }
            seen += 1;
            assert_eq!(printed.kind(), Some(Kind::Text), "{}: what it prints", program.place);
            let here = program.text.replace("https://api.example.com", &url);
            wrong.extend(difference(program, &here, key.trim(), &printed.text));
        }
    }
    assert!(seen >= 4, "{seen}");
    none(wrong);
}

/// Runs a program, and returns how its output differs from the page.
fn difference(block: &Block, program: &str, key: &str, page: &str) -> Option<String> {
    let mut command = with_clients(&["sdks"]);
    command.args(["-c", program]).env("KEY", key).env("NO_PROXY", "*").env("no_proxy", "*");
    for name in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"] {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    (!output.status.success() || out != page)
        .then(|| format!("{}: printed:\n{out}{err}--- where the page has:\n{page}", block.place))
}
