//! The pages that list the sections which need a restart list those of the code.

use tollgate::config::ServerConfig;
use tollgate_core::{config::keys_of, policy::PolicyConfig};

use super::{none, page};

/// The quoted words between two texts of a page, in the order of the alphabet.
fn listed<'a>(text: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    let after = text.split_once(from).unwrap_or_else(|| panic!("no `{from}`")).1;
    let list = after.split_once(to).unwrap_or_else(|| panic!("no `{to}`")).0;
    let mut words: Vec<&str> = list.split(['`', '"']).skip(1).step_by(2).collect();
    words.sort_unstable();
    words
}

#[test]
fn the_sections_that_need_a_restart_are_those_of_the_code() {
    let (operations, rules) = (page("docs/operations.md"), page("deploy/prometheus/rules.yaml"));
    let chart = page("deploy/helm/tollgate/templates/_config.tpl");
    let (restart, reload) = (keys_of::<ServerConfig>(), keys_of::<PolicyConfig>());
    let lists = [
        ("docs/operations.md, restart", &operations, "- **Restart.**", "change only", restart),
        ("docs/operations.md, reload", &operations, "policy sections (", ")", reload),
        ("rules.yaml", &rules, "A change of ", "needs a restart", restart),
        ("the chart's `rollOn: needed`", &chart, "omit $config", "-}}", reload),
    ];
    let wrong = lists.into_iter().filter_map(|(place, page, from, to, sections)| {
        let mut sections = sections.to_vec();
        sections.sort_unstable();
        let listed = listed(page, from, to);
        (listed != sections).then(|| format!("{place}: {listed:?} instead of {sections:?}"))
    });
    none(wrong.collect());
}
