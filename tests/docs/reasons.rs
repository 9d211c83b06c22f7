//! `docs/faq.md` says of every reason what happened and what to do.

use tollgate_core::denial::Reason;

use super::{none, page};

#[test]
fn every_reason_is_explained() {
    let page = page("docs/faq.md");
    let mut wrong = Vec::new();
    for reason in Reason::ALL {
        let heading = format!("\n### `{}` ({})\n", reason.code(), reason.http());
        let Some((_, rest)) = page.split_once(&heading) else {
            wrong.push(format!("docs/faq.md has no heading `{}`", heading.trim()));
            continue;
        };
        let section = rest.split("\n#").next().unwrap();
        if !section.contains("**What to do.**") || section.trim().len() < 150 {
            wrong.push(format!(
                "docs/faq.md: `{}`: what happened, and **What to do.**",
                reason.code()
            ));
        }
    }
    let headings = page.lines().filter(|line| line.starts_with("### `")).count();
    if headings != Reason::ALL.len() {
        wrong.push(format!(
            "docs/faq.md explains {headings} reasons, and there are {}",
            Reason::ALL.len()
        ));
    }
    none(wrong);
}
