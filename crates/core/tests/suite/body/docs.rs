//! The examples of `docs/bodies.md` compile.

use super::Bodies;

#[test]
fn examples_in_the_documentation_compile() {
    let text = include_str!("../../../../../docs/bodies.md");
    let examples: Vec<&str> = text
        .split("```yaml ")
        .skip(1)
        // The rest of its first line states the kind of the block: see tests/docs/block.rs.
        .map(|rest| rest.split_once('\n').unwrap().1.split("```").next().unwrap())
        .collect();
    assert_eq!(examples.len(), 4);
    for example in examples {
        let scopes = if example.contains("scopes:") { "" } else { "    scopes: []\n" };
        let policy = match example {
            whole if whole.starts_with("models:") => whole.to_owned(),
            routes if routes.starts_with("  - match:") => format!("routes:\n{routes}"),
            keys => {
                format!("routes:\n  - match: {{ methods: [POST], paths: [/x] }}\n{scopes}{keys}")
            }
        };
        Bodies::new(&format!("\n{policy}"));
    }
}
