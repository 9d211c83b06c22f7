//! The matrix in docs/operations.md.
//! `TOLLGATE_WRITE_DOCS=1 cargo test --test main degraded::page` writes it.

use std::{fmt::Write as _, time::Duration};

use super::{
    SCENES,
    row::{Answer, Row},
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
const BEGIN: &str = "<!-- The matrix: generated from tests/degraded. -->\n";
const END: &str = "<!-- The end of the matrix. -->\n";

/// The tables of all scenes.
fn tables() -> String {
    let mut text = String::new();
    let (mut heading, mut before) = ("", None);
    for scene in SCENES {
        if scene.heading != heading {
            heading = scene.heading;
            before = None;
            write!(
                text,
                "\n### {heading}\n\n| when | answers | metrics and log | recovery |\n|---|---|---|---|\n"
            )
            .unwrap();
        }
        for row in scene.rows {
            // A row may have a second scene, which takes longer.
            let line = line(row, before);
            if !text.contains(&format!("| {} |", row.condition)) {
                text.push_str(&line);
            }
            before = Some(row);
        }
    }
    text.push('\n');
    text
}

/// The line of a row, in which answers that are those of the row before are not repeated.
fn line(row: &Row, before: Option<&Row>) -> String {
    let answers: Vec<String> = match before.is_some_and(|before| before.answers == row.answers) {
        true => vec!["as above".to_owned()],
        false => row.answers.iter().map(answer).collect(),
    };
    let metrics = row.metrics.iter().map(|metric| format!("`{}`", metric.text()));
    let log = row.log.iter().map(|line| format!("log: `{}`", line.replace('`', "'")));
    let audit = row.audit.iter().map(|line| format!("audit: `{line}`"));
    let seen: Vec<String> = metrics.chain(log).chain(audit).collect();
    let recovered: Vec<String> =
        row.recovered.iter().map(|metric| format!("`{}`", metric.text())).collect();
    let recovery = match recovered.as_slice() {
        [] => row.recovery.to_owned(),
        metrics => format!("{}; {}", row.recovery, metrics.join(", ")),
    };
    format!(
        "| {} | {} | {} | {recovery} |\n",
        row.condition,
        answers.join("<br>"),
        seen.join("<br>")
    )
}

fn answer(answer: &Answer) -> String {
    let mut text = format!("{}: {}", answer.to, answer.status);
    if !answer.reason.is_empty() {
        write!(text, " `{}`", answer.reason).unwrap();
    }
    for (name, value) in answer.headers {
        write!(text, ", `{name}: {value}`").unwrap();
    }
    text
}

/// The head of a table of `make chaos`.
pub(super) fn title(heading: &str) -> String {
    format!("{heading:<76} {:>7}  result  answers", "took")
}

/// A row of a table of `make chaos`. Rows of a scene have its time.
pub(super) fn summary(row: &Row, took: Duration, holds: bool) -> String {
    let answers: Vec<String> = row.answers.iter().map(answer).collect();
    let result = if holds { "holds" } else { "FAILED" };
    format!(
        "{:<76} {:>5.1} s  {result:<6}  {}",
        row.condition,
        took.as_secs_f64(),
        answers.join("; ")
    )
}

#[test]
fn the_page_is_generated_from_the_rows() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the beginning of the matrix");
    let (_, after) = rest.split_once(END).expect("the end of the matrix");
    let made = format!("{before}{BEGIN}{}{END}{after}", tables());
    if std::env::var_os("TOLLGATE_WRITE_DOCS").is_some() {
        // Another test may read the page.
        let new = format!("{PAGE}.new");
        std::fs::write(&new, &made).unwrap();
        std::fs::rename(new, PAGE).unwrap();
    }
    assert!(
        std::fs::read_to_string(PAGE).unwrap() == made,
        "the matrix in docs/operations.md differs from the rows; run \
         `TOLLGATE_WRITE_DOCS=1 cargo test --test main degraded::page`"
    );
}
