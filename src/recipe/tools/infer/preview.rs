//! A few predictions for people.

use crate::pipelines::Prediction;
use crate::recipe::RecipeError;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Characters of a text that are shown.
const SHOWN: usize = 100;

/// Prints the first `count` records of a file.
pub(super) fn show(file: &Path, count: usize) -> Result<(), RecipeError> {
    let lines = BufReader::new(std::fs::File::open(file).map_err(RecipeError::io(file))?).lines();
    for line in lines.take(count) {
        let line = line.map_err(RecipeError::io(file))?;
        // It was written a moment ago.
        let Ok(prediction) = serde_json::from_str::<Prediction>(&line) else { continue };
        say!();
        for (name, text) in rows(&prediction) {
            say!("  {name:>10}  {text}");
        }
    }
    Ok(())
}

/// What is shown of a record: names and texts.
fn rows(prediction: &Prediction) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, text: &str| rows.push((name.to_owned(), short(text)));
    row("record", &prediction.id);
    let turn = |message: &Value, name: &str| message[name].as_str().unwrap_or_default().to_owned();
    let asked = prediction.messages.iter().rev().find(|message| !turn(message, "content").is_empty());
    let words = prediction.messages.iter().rev().find(|message| message["type"].as_str() != Some("image"));
    if let Some(message) = words.or(asked) {
        row(&turn(message, "role"), &turn(message, "content"));
    }
    if let Some(error) = prediction.rest.get("error").and_then(Value::as_str) {
        row("error", error);
    }
    for answer in &prediction.answers {
        let name = if prediction.answers.len() == 1 { "answer".to_owned() } else { format!("answer {}", answer.id) };
        let reward = prediction.rewards.as_ref().and_then(|rewards| rewards.get(&answer.id));
        let figures = [("score", answer.sequence_score.as_ref()), ("reward", reward)];
        let figures: Vec<String> =
            figures.into_iter().filter_map(|(name, value)| Some(format!("{name} {:.4}", value?))).collect();
        let content = short(&answer.content);
        let text = if figures.is_empty() { content } else { format!("{content}  ({})", figures.join(", ")) };
        rows.push((name, text));
    }
    if let Some(class) = &prediction.predicted_label {
        let given = prediction.rest.get("probabilities").and_then(|all| all.get(class.as_u64()? as usize)?.as_f64());
        rows.push(("predicted".to_owned(), format!("{class} ({:.4})", given.unwrap_or_default())));
    }
    if let Some(label) = &prediction.label {
        let text = label.as_str().map_or_else(|| label.to_string(), str::to_owned);
        rows.push(("label".to_owned(), short(&text)));
    }
    rows
}

/// One line of a text, without what a terminal would obey.
fn short(text: &str) -> String {
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN + 1).collect();
    match line.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_shown_in_lines() {
        let line = r#"{"id": "a", "messages": [{"role": "user", "type": "image", "content": "x.png"},
            {"role": "user", "content": "Why?\nNow"}], "answers": [{"id": "0", "content": "So\u001b", "sequence_score": -0.5}],
            "label": 3, "rewards": {"0": 2.0}, "predicted_label": 1, "probabilities": [0.25, 0.75]}"#;
        let rows = rows(&serde_json::from_str(line).unwrap());
        let texts: Vec<String> = rows.iter().map(|(name, text)| format!("{name}: {text}")).collect();
        let expected = [
            "record: a",
            "user: Why? Now",
            "answer: So   (score -0.5000, reward 2.0000)",
            "predicted: 1 (0.7500)",
            "label: 3",
        ];
        assert_eq!(texts, expected);
        assert_eq!(short(&"é".repeat(200)).chars().count(), SHOWN + 1);
    }
}
