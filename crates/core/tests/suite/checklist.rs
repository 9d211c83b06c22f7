//! The checklist for tokens, line by line. A row has its line, a sentence on the attempt, and the
//! expected result.

mod access_token;
mod advisories;
mod algorithm;
mod claims;
mod header;
mod identity;
mod json;
mod key_set;
mod shape;
mod signature;
mod times;

use std::collections::BTreeMap;

use crate::harness::Table;

fn tables() -> Vec<Table> {
    [
        access_token::tables(),
        algorithm::tables(),
        claims::tables(),
        header::tables(),
        identity::tables(),
        json::tables(),
        key_set::tables(),
        shape::tables(),
        signature::tables(),
        times::tables(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn every_line_has_rows() {
    let mut rows: BTreeMap<String, usize> = (1..=25)
        .map(|n| format!("J{n:02}"))
        .chain((1..=7).map(|n| format!("A{n:02}")))
        .map(|line| (line, 0))
        .collect();
    for row in tables().iter().flat_map(|table| &table.rows) {
        *rows
            .get_mut(row.line)
            .unwrap_or_else(|| panic!("`{}` is no line of the checklist", row.line)) += 1;
    }
    let without: Vec<&String> =
        rows.iter().filter(|(_, count)| **count == 0).map(|(line, _)| line).collect();
    assert!(without.is_empty(), "without a row: {without:?}");
    let total: usize = rows.values().sum();
    assert!(total >= 500, "{total} rows: {rows:?}");
}
