//! Getters for formatters: the fields of a row, with errors that name the file, the line and the field.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{DataError, Place, RecordError};

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

/// The string `row[key]` of the row itself.
///
/// # Errors
/// [`DataError::MissingField`], [`DataError::WrongType`].
pub fn text<'row>(row: &'row Row, key: &str, place: &Place) -> Result<&'row str, DataError> {
    string(row, key, || key.to_owned(), place)
}

/// The string `row[key]`; `None` where it is absent or `null`, as columns of tables are.
///
/// # Errors
/// [`DataError::WrongType`].
pub fn optional_text<'row>(
    row: &'row Row,
    key: &str,
    path: impl FnOnce() -> String,
    place: &Place,
) -> Result<Option<&'row str>, DataError> {
    given(row, key).map(|_| string(row, key, path, place)).transpose()
}

/// The value `row[key]`; `None` where it is absent or `null`.
pub fn given<'row>(row: &'row Row, key: &str) -> Option<&'row Value> {
    row.get(key).filter(|value| !value.is_null())
}

/// The number `row[key]`.
///
/// # Errors
/// [`DataError::MissingField`], [`DataError::WrongType`], also where it is infinite or none.
pub fn number(row: &Row, key: &str, place: &Place) -> Result<f64, DataError> {
    let expected = "a finite number";
    let value = row.get(key).ok_or_else(|| missing(place, key, expected))?;
    value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| wrong_type(place, key, expected, value))
}

/// The truth value `row[key]`, which must be there.
///
/// # Errors
/// [`DataError::MissingField`], [`DataError::WrongType`].
pub fn truth(row: &Row, key: &str, place: &Place) -> Result<bool, DataError> {
    let expected = "true or false";
    let value = row.get(key).ok_or_else(|| missing(place, key, expected))?;
    value.as_bool().ok_or_else(|| wrong_type(place, key, expected, value))
}

/// The elements of the list `row[key]`.
///
/// # Errors
/// [`DataError::MissingField`], [`DataError::WrongType`].
pub fn list<'row>(row: &'row Row, key: &str, place: &Place) -> Result<&'row [Value], DataError> {
    match row.get(key) {
        None => Err(missing(place, key, "a list")),
        Some(Value::Array(elements)) => Ok(elements),
        Some(other) => Err(wrong_type(place, key, "a list", other)),
    }
}

/// The image files of `row[key]`: none where it is absent or `null`, else one or a list of them (see [`image()`]).
///
/// # Errors
/// As [`image()`].
pub fn images(row: &Row, key: &str, place: &Place) -> Result<Vec<PathBuf>, DataError> {
    match given(row, key) {
        None => Ok(Vec::new()),
        Some(Value::Array(elements)) => {
            elements.iter().enumerate().map(|(i, element)| image(element, || format!("{key}[{i}]"), place)).collect()
        }
        Some(value) => Ok(vec![image(value, || key.to_owned(), place)?]),
    }
}

/// The image file that `value` names: a path, also as `file://…` or as `{"path": "…"}`, which is how tables write images.
///
/// # Errors
/// [`DataError::WrongType`], and [`RecordError::NoImageFile`] for addresses, data URLs and bytes.
pub fn image(value: &Value, path: impl FnOnce() -> String, place: &Place) -> Result<PathBuf, DataError> {
    let named = match value {
        Value::Object(fields) => ["path", "url"].into_iter().find_map(|key| given(fields, key)).unwrap_or(value),
        value => value,
    };
    let found = match named {
        Value::String(name) if name.starts_with("data:") => "a data URL".to_owned(),
        Value::String(name) if name.starts_with("http://") || name.starts_with("https://") => {
            let short: String = name.chars().take(80).collect();
            format!("the address {short}")
        }
        Value::String(name) => return Ok(PathBuf::from(name.strip_prefix("file://").unwrap_or(name))),
        Value::Object(fields) if given(fields, "bytes").is_some() => "the picture's own bytes".to_owned(),
        _ => return Err(wrong_type(place, path(), "the path of an image", value)),
    };
    Err(RecordError::NoImageFile { field: path(), found }.at(place))
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
