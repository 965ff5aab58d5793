//! Getters for formatters: the fields of a row, with errors that name the file, the line and the field.

use serde_json::{Map, Value};

use super::{DataError, Place};

/// One row of a data file, its fields in the file's order.
pub type Row = Map<String, Value>;

/// The row's `id`, a string or a number; empty where the row has none (or `null`).
///
/// # Errors
/// [`DataError::WrongType`].
pub fn id(row: &Row, place: &Place) -> Result<String, DataError> {
    match row.get("id") {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(id)) => Ok(id.clone()),
        Some(Value::Number(id)) => Ok(id.to_string()),
        Some(other) => Err(wrong_type(place, "id", "a string or a number", other)),
    }
}

/// The string `row[key]`. `path` is how the field is called in an error, for instance `conversations[1].from`.
///
/// # Errors
/// [`DataError::MissingField`], [`DataError::WrongType`].
pub fn string<'row>(
    row: &'row Row,
    key: &str,
    path: impl FnOnce() -> String,
    place: &Place,
) -> Result<&'row str, DataError> {
    match row.get(key) {
        None => Err(missing(place, path(), "a string")),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong_type(place, path(), "a string", other)),
    }
}

/// The list `row[key]`, whose elements must be objects.
///
/// # Errors
/// [`DataError::MissingField`], [`DataError::WrongType`].
pub fn objects<'row>(row: &'row Row, key: &str, place: &Place) -> Result<Vec<&'row Row>, DataError> {
    let expected = "a list of objects";
    let elements = match row.get(key) {
        None => return Err(missing(place, key, expected)),
        Some(Value::Array(elements)) => elements,
        Some(other) => return Err(wrong_type(place, key, expected, other)),
    };
    let object = |(i, element): (usize, &'row Value)| {
        element.as_object().ok_or_else(|| wrong_type(place, format!("{key}[{i}]"), "an object", element))
    };
    elements.iter().enumerate().map(object).collect()
}

/// The strings of `row[key]`: none where it is absent or `null`, one where it is a string, all of a list of strings.
///
/// # Errors
/// [`DataError::WrongType`].
pub fn strings<'row>(row: &'row Row, key: &str, place: &Place) -> Result<Vec<&'row str>, DataError> {
    let expected = "a string or a list of strings";
    match row.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(elements)) => elements
            .iter()
            .enumerate()
            .map(|(i, element)| {
                element.as_str().ok_or_else(|| wrong_type(place, format!("{key}[{i}]"), "a string", element))
            })
            .collect(),
        Some(other) => Err(wrong_type(place, key, expected, other)),
    }
}

/// The truth value `row[key]`, `false` where it is absent or `null`.
///
/// # Errors
/// [`DataError::WrongType`].
pub fn flag(row: &Row, key: &str, path: impl FnOnce() -> String, place: &Place) -> Result<bool, DataError> {
    match row.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(wrong_type(place, path(), "true or false", other)),
    }
}

/// Hands `each` the path of every field of `row` that is not in `known` (see
/// [`DataKind::FIELDS`](super::DataKind::FIELDS)). Lists are looked into where `known` names fields of their objects.
pub fn unknown_fields(row: &Row, known: &[&str], mut each: impl FnMut(String)) {
    for (key, value) in row {
        if !known.contains(&key.as_str()) {
            each(key.clone());
            continue;
        }
        let prefix = format!("{key}[].");
        let inner: Vec<&str> = known.iter().filter_map(|field| field.strip_prefix(&prefix)).collect();
        if inner.is_empty() {
            continue;
        }
        let elements = value.as_array().into_iter().flatten().filter_map(Value::as_object);
        for inner_key in elements.flat_map(Map::keys) {
            if !inner.contains(&inner_key.as_str()) {
                each(format!("{prefix}{inner_key}"));
            }
        }
    }
}

/// A [`DataError::MissingField`].
pub fn missing(place: &Place, field: impl Into<String>, expected: &'static str) -> DataError {
    DataError::MissingField { place: place.clone(), field: field.into(), expected }
}

/// A [`DataError::WrongType`] that shows a short value and names a long one.
pub fn wrong_type(place: &Place, field: impl Into<String>, expected: &'static str, found: &Value) -> DataError {
    DataError::WrongType { place: place.clone(), field: field.into(), expected, found: describe(found) }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => {
            let short: String = value.chars().take(40).collect();
            let dots = if short.len() < value.len() { "…" } else { "" };
            format!("the string \"{short}{dots}\"")
        }
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::Object(_) => "an object".into(),
    }
}
