//! The decision corpus through the core alone: every row of `tests/cases` has its expected result.
//!
//! The sidecar's tests send the same rows through every protocol. Here they need no server and no
//! build of the sidecar, so that an error of the core is found with the tests of the core.

use std::path::PathBuf;

use tollgate_core::snapshot::Snapshot;

use crate::sidecar::policy_test::{Case, CaseFile, Observed, compare};

/// The least number of rows, so that a directory that was moved fails the test.
const MIN_ROWS: usize = 1000;

fn difference(case: &Case, snapshot: &Snapshot) -> Option<String> {
    let observed = Observed::of(&case.decide(snapshot), snapshot, "decision-1");
    let Some(expect) = &case.expect else { return Some("it expects nothing".to_owned()) };
    compare(expect, &observed).err().map(|difference| difference.to_string())
}

#[test]
fn every_row_has_its_expected_result() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases");
    let (mut rows, mut failures) = (0, Vec::new());
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        #[expect(clippy::disallowed_methods, reason = "the rows are files")]
        let text = std::fs::read_to_string(&path).unwrap();
        let file = CaseFile::parse(&text).unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
        let snapshot = file.snapshot().unwrap();
        for case in file.cases(None).unwrap() {
            rows += 1;
            if let Some(difference) = difference(&case, &snapshot) {
                failures.push(format!("{name}: {}\n    {difference}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} rows fail:\n{}", failures.len(), failures.join("\n"));
    assert!(rows >= MIN_ROWS, "the corpus has only {rows} rows");
}
