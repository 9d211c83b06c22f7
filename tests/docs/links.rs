//! Links lead somewhere: to a file, and to a heading of it.

use super::{none, pages, root};

/// The targets of the links on a page, outside of fenced blocks.
pub(super) fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Text in code is no link.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for part in prose.split("](").skip(1) {
            links.push(part.split(')').next().unwrap().to_owned());
        }
    }
    links
}

/// The anchors that GitHub gives to the headings of a page.
fn anchors(text: &str) -> Vec<String> {
    let headings = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| -> String {
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for (page, text) in pages() {
        for link in links(&text) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = root().join(&page).parent().unwrap().join(file);
            let target = if file.is_empty() { root().join(&page) } else { target };
            if !target.exists() {
                wrong.push(format!("{page}: `{link}` leads nowhere"));
            } else if !anchor.is_empty()
                && !anchors(&std::fs::read_to_string(&target).unwrap()).contains(&anchor.to_owned())
            {
                wrong.push(format!("{page}: `{link}`: no such heading"));
            }
        }
    }
    none(wrong);
}

/// Every page below `docs` is named by an index: the `README.md` of its own directory if there is
/// one, otherwise `docs/README.md`, which also names the other indexes.
#[test]
fn an_index_names_every_page() {
    let index_of = |page: &str| {
        let own = format!("{}/README.md", page.rsplit_once('/').unwrap().0);
        let has_own = own != page && root().join(&own).exists();
        if has_own { own } else { "docs/README.md".to_owned() }
    };
    let mut wrong = Vec::new();
    for (page, _) in pages() {
        if !page.starts_with("docs/") || page == "docs/README.md" {
            continue;
        }
        let index = index_of(&page);
        let link = page.strip_prefix(index.strip_suffix("README.md").unwrap()).unwrap().to_owned();
        if !links(&super::page(&index)).contains(&link) {
            wrong.push(format!("{index} does not name {link}"));
        }
    }
    none(wrong);
}
