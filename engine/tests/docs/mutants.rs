//! The table of planted bugs has a row for each, in the order of the code.

use super::pages::{cells, hold, table};
use engine::mutant::Mutant;
use std::collections::BTreeMap;

/// What stands in a row until `make mutants` has run with that bug.
const NOT_RUN: &str = "not run yet";

#[test]
fn every_planted_bug_has_a_row() {
    hold("docs/mutants.md", "mutants", |written| {
        // What a run said of a bug is kept; what the code says of it is the code's.
        let rows = written.lines().filter_map(cells).map(|row| (row[0].clone(), row));
        let known: BTreeMap<String, Vec<String>> = rows.collect();
        let rows = Mutant::ALL.iter().map(|(_, name, what)| {
            let name = format!("`{name}`");
            let said = |column: usize| known.get(&name).and_then(|row| row.get(column)).cloned();
            let (seeds, by) = (said(2), said(3));
            let by = by.unwrap_or_else(|| NOT_RUN.into());
            [name, what.to_string(), seeds.unwrap_or_default(), by]
        });
        table(["planted bug", "what it does", "seeds", "caught by"], rows)
    });
}
