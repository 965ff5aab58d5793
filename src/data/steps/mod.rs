//! TRL's stepwise supervision: `{"prompt", "completions": ["…", …], "labels": [true, false, …]}`.

use serde_json::Value;

use super::row::{self, Row};
use super::turns::{self, sample};
use super::{DataError, DataKind, Place, Reading, RecordError, Sample, TextOnly};
use crate::example::{Step, Steps};

const STEPS: &str = "completions";
const LABELS: &str = "labels";

crate::data_component! {
    /// Answers in steps, each of which is right or wrong. The texts are taken to the letter.
    ///
    /// # Source
    /// TRL 1.16, the dataset type "stepwise supervision"; Uesato et al. 2022, Lightman et al. 2023.
    pub struct StepsData, StepsDataBuilder {}
}

impl DataKind for StepsData {
    type Media = TextOnly;
    type Shape = Steps;

    const FIELDS: &'static [&'static str] = &["id", "prompt", STEPS, LABELS];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Steps>, DataError> {
        let question = turns::question(row::text(row, "prompt", place)?, 0, "prompt", place)?;
        let texts = row::list(row, STEPS, place)?;
        let labels = row::list(row, LABELS, place)?;
        if texts.is_empty() {
            return Err(RecordError::EmptyAnswer { field: STEPS.to_owned() }.at(place));
        }
        if texts.len() != labels.len() {
            let (first_len, second_len) = (texts.len(), labels.len());
            return Err(RecordError::Lengths { first: STEPS, first_len, second: LABELS, second_len }.at(place));
        }
        let steps = texts.iter().zip(labels).enumerate();
        let steps = steps.map(|(i, (text, label))| step(text, label, i, place)).collect::<Result<Vec<_>, _>>()?;
        sample(row, place, turns::context(vec![question], "prompt", place)?, Vec::new(), steps)
    }
}

fn step(text: &Value, label: &Value, i: usize, place: &Place) -> Result<Step, DataError> {
    let path = format!("{STEPS}[{i}]");
    let text = text.as_str().ok_or_else(|| row::wrong_type(place, &path, "a string", text))?;
    if text.trim().is_empty() {
        return Err(RecordError::EmptyAnswer { field: path }.at(place));
    }
    let expected = "true or false";
    let right = label.as_bool().ok_or_else(|| row::wrong_type(place, format!("{LABELS}[{i}]"), expected, label))?;
    Ok(Step { text: text.to_owned(), right })
}
