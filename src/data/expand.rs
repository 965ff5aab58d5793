//! Rows that hold several records or none.
//!
//! Most data kinds have a record in each row, and a data set of them indexes rows without reading them. Where
//! [`DataKind::EXPANDS`], a row has to be read once to know how many records it holds: [`count`] when the file is opened,
//! [`nth`] when a record is asked for.

use std::collections::BTreeMap;

use super::row::{self, Row};
use super::{DataError, DataKind, Place};

/// The records of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expanded {
    /// Each as a row of its own, which [`DataKind::parse`] reads.
    pub rows: Vec<Row>,
    /// How many records the row might have held and does not, by reason.
    pub dropped: BTreeMap<&'static str, usize>,
}

impl Expanded {
    /// A row that is one record.
    pub fn one(row: Row) -> Self {
        Self { rows: vec![row], dropped: BTreeMap::new() }
    }

    /// Counts a record that is left out.
    pub fn drop(&mut self, reason: &'static str) {
        *self.dropped.entry(reason).or_insert(0) += 1;
    }
}

/// How many records a data set makes of a row, and what it drops.
///
/// A row that cannot be read or expanded is one record: asking for it gives its error, so that the reading's
/// `bad_record` decides about it as about any other.
pub fn count<K: DataKind>(
    kind: &K,
    row: Result<Row, DataError>,
    place: &Place,
) -> (usize, BTreeMap<&'static str, usize>) {
    match row.and_then(|row| kind.expand(row, place)) {
        Ok(expanded) => (expanded.rows.len(), expanded.dropped),
        Err(_) => (1, BTreeMap::new()),
    }
}

/// Record `nth` of a row, counted from 0.
///
/// # Errors
/// Those of [`DataKind::expand`], and [`DataError::MissingField`] where the row has no such record.
pub fn nth<K: DataKind>(kind: &K, row: Row, nth: usize, place: &Place) -> Result<Row, DataError> {
    let mut rows = kind.expand(row, place)?.rows;
    if nth < rows.len() {
        return Ok(rows.swap_remove(nth));
    }
    Err(row::missing(place, format!("record {nth} of this row"), "as many records as when the file was opened"))
}
