//! Two responses to one prompt, of which a field names the better.

use super::row::{self, Row};
use super::{DataError, Place, turns};
use crate::example::{Pair, PairExtra};

/// The pair of two responses of which number `chosen` (0 or 1) is the chosen one.
pub(super) fn responses<X: PairExtra>(
    row: &Row,
    fields: [&'static str; 2],
    chosen: usize,
    extra: X,
    place: &Place,
) -> Result<Pair<X>, DataError> {
    let [chosen, rejected] = if chosen == 0 { fields } else { [fields[1], fields[0]] };
    let answer = |field: &'static str| Ok::<_, DataError>((turns::said(row::text(row, field, place)?), field));
    turns::pair(answer(chosen)?, answer(rejected)?, extra, place)
}

/// Which of two responses, counted from `first`, the field names, as 0 or 1. Tables hold such numbers as strings, too.
pub(super) fn which(row: &Row, key: &str, first: i64, place: &Place) -> Result<usize, DataError> {
    let expected = if first == 0 { "0 or 1" } else { "1 or 2" };
    let value = row.get(key).ok_or_else(|| row::missing(place, key, expected))?;
    let number = match value {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        // A column of whole numbers in which some are missing becomes one of fractions: 1.0.
        value => value.as_i64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0).map(|n| n as i64)),
    };
    match number {
        Some(number) if number == first => Ok(0),
        Some(number) if number == first + 1 => Ok(1),
        Some(number) => {
            let found = number.to_string();
            Err(super::RecordError::NoPreference { field: key.to_owned(), found }.at(place))
        }
        None => Err(row::wrong_type(place, key, expected, value)),
    }
}
