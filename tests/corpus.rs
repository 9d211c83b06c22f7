//! The decision corpus: every row of `tests/cases` through the core, and through gRPC.

mod grpc;
mod stored;

use std::{collections::BTreeSet, path::PathBuf};

use tollgate::policy_test::{Case, CaseFile, Observed, Verdict, compare};
use tollgate_core::{
    check::{Prepared, PreparedHead, prepare, prepare_head},
    decision::Decision,
    denial::{MAX_CAUSE, Reason},
    snapshot::Snapshot,
};

/// A row and the file that it comes from.
pub(crate) struct Row {
    pub(crate) file: String,
    pub(crate) case: Case,
}

impl Row {
    pub(crate) fn place(&self) -> String {
        format!("{}:{}: {}", self.file, self.case.line.unwrap_or(0), self.case.name)
    }
}

/// Every case file, read, in the order of their names.
pub(crate) fn files() -> Vec<(String, CaseFile)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut files = Vec::new();
    let mut wrong = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.ends_with(".yaml"), "`{name}` in tests/cases is no case file");
        match CaseFile::parse(&std::fs::read_to_string(&path).unwrap()) {
            Ok(file) => files.push((name, file)),
            Err(errors) => wrong.extend(errors.iter().map(|error| format!("{name}: {error}"))),
        }
    }
    assert!(wrong.is_empty(), "case files that cannot be read:\n{}", wrong.join("\n"));
    files
}

pub(crate) fn rows(files: &[(String, CaseFile)]) -> Vec<(Row, Snapshot)> {
    let mut rows = Vec::new();
    for (name, file) in files {
        let snapshot = file.snapshot().unwrap_or_else(|error| panic!("{name}: {error}"));
        rows.extend(
            file.cases(None)
                .unwrap()
                .into_iter()
                .map(|case| (Row { file: name.clone(), case }, snapshot.clone())),
        );
    }
    rows
}

#[test]
fn every_row_has_its_expected_result() {
    let files = files();
    let rows = rows(&files);
    let mut failures = Vec::new();
    for (row, snapshot) in &rows {
        let observed = Observed::of(&row.case.decide(snapshot), snapshot, "decision-1");
        let Some(expect) = &row.case.expect else {
            failures.push(format!("{}: it expects nothing", row.place()));
            continue;
        };
        if let Err(difference) = compare(expect, &observed) {
            let cause = observed.internal.as_ref().map_or("", |internal| internal.cause.as_str());
            failures.push(format!("{}\n    {difference}\n    cause: {cause}", row.place()));
        }
        if let Some(place) = leak(&row.case, &observed) {
            failures.push(format!("{}\n    the credential is in {place}", row.place()));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} rows fail:\n{}",
        failures.len(),
        rows.len(),
        failures.join("\n")
    );
    assert!(rows.len() >= 150, "the corpus has only {} rows", rows.len());
}

#[test]
fn head_and_body_come_to_the_decision_of_the_whole() {
    let files = files();
    let mut needed = 0;
    let rows = rows(&files);
    for (Row { file, case }, snapshot) in &rows {
        let store = case.store(snapshot);
        let decided = |prepared| {
            let outcome = match prepared {
                Prepared::Decided(outcome) => outcome,
                Prepared::Pending(pending) => {
                    case.store(snapshot).conclude(pending, case.now, case.outage)
                }
            };
            let observed = Observed::of(&outcome, snapshot, "decision-1");
            (outcome.evidence.stage, format!("{observed:?}"))
        };
        let whole = decided(prepare(snapshot, case.request.raw(), case.now, &mut store.hooks()));
        let (head, body) = case.request.raw().split();
        let parts = decided(match prepare_head(snapshot, head, case.now, &mut store.hooks()) {
            PreparedHead::Complete(prepared) => prepared,
            PreparedHead::NeedsBody(head) => {
                needed += 1;
                head.with_body(body, &mut store.hooks())
            }
        });
        assert_eq!(whole, parts, "{file}: {}", case.name);
    }
    assert!(needed > 50 && needed < rows.len() - 50, "{needed} of {} need the body", rows.len());
}

/// An operator can explain every denial from the audit line: its cause has every name in the answer.
#[test]
fn the_cause_of_a_denial_is_at_least_as_exact_as_its_answer() {
    // The operator's own text, which the name of the condition leads to.
    const OWN_TEXT: [Reason; 1] = [Reason::ConditionFailed];
    let files = files();
    let (mut compared, mut models, mut issuers, mut wrong) = (0, 0, 0, Vec::new());
    for (row, snapshot) in &rows(&files) {
        let Decision::Deny(denial) = row.case.decide(snapshot).decision else { continue };
        let message = denial.message.clone().unwrap_or_default();
        let message = message.strip_suffix("...").unwrap_or(&message);
        let quoted = message.split('`').skip(1).step_by(2).map(str::to_owned);
        let numbers = message.split(|c: char| !c.is_ascii_digit()).filter(|text| !text.is_empty());
        let member = [Reason::FieldForbidden, Reason::MalformedRequest].contains(&denial.reason);
        let named: BTreeSet<String> = quoted
            .chain(numbers.map(str::to_owned))
            .chain(denial.needed.clone())
            .chain(denial.param.clone().filter(|_| member))
            .filter(|_| !OWN_TEXT.contains(&denial.reason))
            .collect();
        compared += named.len();
        let claimed = denial.claimed.clone().unwrap_or_default();
        for name in named.iter().chain(&claimed.model) {
            if !denial.cause.contains(name.as_str()) {
                wrong.push(format!("{}\n    `{name}` is not in: {}", row.place(), denial.cause));
            }
        }
        assert_eq!(
            claimed.model.is_some(),
            denial.reason == Reason::ModelForbidden,
            "{}",
            row.place()
        );
        models += usize::from(claimed.model.is_some());
        issuers += usize::from(claimed.issuer.is_some());
        if denial.cause.chars().count() > MAX_CAUSE {
            wrong.push(format!("{}\n    the cause is too long", row.place()));
        }
    }
    assert!(wrong.is_empty(), "{} causes lack a name:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared >= 100 && models >= 10 && issuers >= 20, "{compared}, {models}, {issuers}");
}

/// The part of an answer that contains the token of the request. No answer may contain it.
fn leak(case: &Case, observed: &Observed) -> Option<&'static str> {
    let token = case.token.as_deref().filter(|token| token.len() > 32)?;
    let contains = |list: &[(String, String)]| list.iter().any(|(_, value)| value.contains(token));
    let body = observed.body.as_ref().is_some_and(|body| body.to_string().contains(token));
    let cause = observed.internal.as_ref().is_some_and(|internal| internal.cause.contains(token));
    [
        ("the body", body),
        ("the cause", cause),
        ("the response", contains(&observed.response)),
        ("the request", contains(&observed.set)),
    ]
    .into_iter()
    .find_map(|(place, found)| found.then_some(place))
}

#[test]
fn every_row_expects_enough_to_fail() {
    let files = files();
    let mut wrong = Vec::new();
    let mut names = BTreeSet::new();
    for (row, _) in rows(&files) {
        let Some(expect) = &row.case.expect else { continue };
        let enough = match expect.decision {
            Verdict::Allow => expect.route.is_some(),
            Verdict::Deny => expect.status.is_some() && expect.reason.is_some(),
            Verdict::Fail => expect.reason.is_some(),
        };
        if !enough {
            wrong
                .push(format!("{}: an allow names its route, a denial its status and reason, a failure its reason", row.place()));
        }
        if !names.insert((row.file.clone(), row.case.name.clone())) {
            wrong.push(format!("{}: another row has the same name", row.place()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_reason_the_core_can_give_has_a_row() {
    // `overloaded` is decided before a check begins; `internal` needs a store with a wrong answer.
    const ELSEWHERE: [Reason; 2] = [Reason::Overloaded, Reason::Internal];
    let files = files();
    let expected: BTreeSet<String> = rows(&files)
        .into_iter()
        .filter_map(|(row, _)| row.case.expect.and_then(|expect| expect.reason))
        .collect();
    let missing: Vec<&str> = Reason::ALL
        .into_iter()
        .filter(|reason| !ELSEWHERE.contains(reason))
        .map(Reason::code)
        .filter(|code| !expected.contains(*code))
        .collect();
    assert!(missing.is_empty(), "no row expects: {}", missing.join(", "));
}

#[test]
fn the_example_in_the_docs_has_its_expected_result() {
    let docs =
        std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/cases.md"))
            .unwrap();
    let example = docs.split_once("```yaml cases\n").unwrap().1.split_once("```").unwrap().0;
    let file = CaseFile::parse(example).unwrap_or_else(|errors| panic!("{errors:?}"));
    let snapshot = file.snapshot().unwrap();
    for case in file.cases(None).unwrap() {
        let observed = Observed::of(&case.decide(&snapshot), &snapshot, "decision-1");
        assert_eq!(compare(case.expect.as_ref().unwrap(), &observed), Ok(()), "{}", case.name);
    }
}
