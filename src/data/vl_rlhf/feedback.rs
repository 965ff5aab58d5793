//! VLFeedback's ratings become pairs.

use serde_json::{Value, json};

use super::super::expand::Expanded;
use super::super::row::{self, Row};
use super::super::{DataError, Place};

const COMPLETIONS: &str = "completions";

/// Scores nearer than this are the same: means of small whole numbers differ by far more, their rounding by far less.
const SAME: f64 = 1e-9;

/// One answer to the row's prompt.
struct Completion<'row> {
    said: &'row str,
    /// The mean of its ratings; `None` where one of them is not a number ("N/A").
    score: Option<f64>,
}

/// The pairs of a row, as rows of `{"id"?, "img_path", "prompt", "chosen", "rejected"}`.
pub(super) fn expand(row: &Row, widest: bool, margin: f64, place: &Place) -> Result<Expanded, DataError> {
    let completions = completions(row, place)?;
    let mut expanded = Expanded::default();
    let mut pairs: Vec<(usize, usize, f64)> = Vec::new();
    for first in 0..completions.len() {
        for second in first + 1..completions.len() {
            match (completions[first].score, completions[second].score) {
                (Some(a), Some(b)) if (a - b).abs() < SAME => expanded.drop("ratings tie"),
                (Some(a), Some(b)) if (a - b).abs() < margin - SAME => expanded.drop("ratings within score_margin"),
                (Some(a), Some(b)) if a > b => pairs.push((first, second, a - b)),
                (Some(a), Some(b)) => pairs.push((second, first, b - a)),
                _ => expanded.drop("not rated in numbers"),
            }
        }
    }
    if widest {
        let widest = pairs.iter().map(|pair| pair.2).fold(0.0, f64::max);
        let before = pairs.len();
        pairs.retain(|pair| pair.2 > widest - SAME);
        (pairs.len()..before).for_each(|_| expanded.drop("not the widest pair"));
    }
    if completions.len() < 2 {
        expanded.drop("fewer than two answers");
    }
    let id = row::id(row, place)?;
    let images = ["img_path", "image"].into_iter().find_map(|key| Some((key, row::given(row, key)?)));
    for (chosen, rejected, _) in pairs {
        let mut pair = Row::new();
        if !id.is_empty() {
            pair.insert("id".into(), format!("{id}-{chosen}-{rejected}").into());
        }
        pair.extend(images.map(|(key, value)| (key.to_owned(), value.clone())));
        pair.insert("prompt".into(), row::text(row, "prompt", place)?.into());
        pair.insert("chosen".into(), completions[chosen].said.into());
        pair.insert("rejected".into(), completions[rejected].said.into());
        expanded.rows.push(pair);
    }
    Ok(expanded)
}

/// The row's answers, given as lists of columns or as a list of objects.
fn completions<'row>(row: &'row Row, place: &Place) -> Result<Vec<Completion<'row>>, DataError> {
    let expected = "a list of `{\"annotations\", \"response\"}`, or two lists of those names";
    let value = row.get(COMPLETIONS).ok_or_else(|| row::missing(place, COMPLETIONS, expected))?;
    if let Value::Object(columns) = value {
        let column = |key: &str, path: &str| match columns.get(key) {
            Some(Value::Array(elements)) => Ok(elements),
            Some(other) => Err(row::wrong_type(place, path, "a list", other)),
            None => Err(row::missing(place, path, "a list")),
        };
        let said = column("response", "completions.response")?;
        let rated = column("annotations", "completions.annotations")?;
        if said.len() != rated.len() {
            let (first, second) = ("completions.response", "completions.annotations");
            let lengths = (said.len(), rated.len());
            return Err(
                super::RecordError::Lengths { first, first_len: lengths.0, second, second_len: lengths.1 }.at(place)
            );
        }
        return said
            .iter()
            .zip(rated)
            .enumerate()
            .map(|(i, (said, rated))| completion(said, rated, i, place))
            .collect();
    }
    let mut all = Vec::new();
    for (i, object) in row::objects(row, COMPLETIONS, place)?.into_iter().enumerate() {
        let field = |key: &str| {
            object.get(key).ok_or_else(|| row::missing(place, format!("{COMPLETIONS}[{i}].{key}"), "a value"))
        };
        all.push(completion(field("response")?, field("annotations")?, i, place)?);
    }
    Ok(all)
}

fn completion<'row>(said: &'row Value, rated: &Value, i: usize, place: &Place) -> Result<Completion<'row>, DataError> {
    let path = |key: &str| format!("{COMPLETIONS}[{i}].{key}");
    let said = said.as_str().ok_or_else(|| row::wrong_type(place, path("response"), "a string", said))?;
    let expected = "an object of `{\"Rating\"}` by aspect";
    let aspects = rated.as_object().ok_or_else(|| row::wrong_type(place, path("annotations"), expected, rated))?;
    let mut ratings = Vec::with_capacity(aspects.len());
    for (aspect, value) in aspects {
        let rating = value.as_object().map(|fields| fields.get("Rating").unwrap_or(&Value::Null));
        let rating = rating.ok_or_else(|| row::wrong_type(place, path("annotations"), expected, &json!(aspect)))?;
        ratings.push(match rating {
            Value::String(text) => text.trim().parse::<f64>().ok().filter(|rating| rating.is_finite()),
            rating => rating.as_f64(),
        });
    }
    let rated: Option<Vec<f64>> = ratings.into_iter().collect();
    let score = rated.filter(|all| !all.is_empty()).map(|all| all.iter().sum::<f64>() / all.len() as f64);
    Ok(Completion { said, score })
}
