//! The examples of `docs/conditions.md` compile.

use super::ISSUER;
use crate::gate::compile;

#[test]
fn examples_in_the_documentation_compile() {
    let text = include_str!("../../../../docs/conditions.md");
    let examples: Vec<&str> = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() > 5);
    for example in examples {
        let policy = format!("{ISSUER}{example}");
        assert!(compile(&policy).is_ok(), "{example}: {}", compile(&policy).unwrap_err());
    }
}
