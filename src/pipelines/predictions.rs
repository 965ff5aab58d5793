//! Files of predictions, read line by line.

use super::Prediction;
use crate::data::message::Messages;
use crate::data::row::Row;
use crate::data::turns::{context, sample};
use crate::data::{DataError, DataKind, Dataset, Images, Place, Sample};
use crate::example::Prompts;
use std::path::PathBuf;

crate::component! {
    /// The lines of a prediction file as prompts: the turns that the model was shown, without its answers.
    pub struct PredictionData, PredictionDataBuilder {}
}

impl DataKind for PredictionData {
    type Media = Images;
    type Shape = Prompts;

    const FIELDS: &'static [&'static str] =
        &["id", "dataset_name", "messages", "label", "meta", "answers", "predicted_label", "rewards"];

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Prompts>, DataError> {
        let mut reader = Messages::chat(place);
        let mut conversation = context(reader.list(row, "messages")?, "messages", place)?;
        let images = reader.images(&mut conversation.messages)?;
        sample(row, place, conversation, images, ())
    }
}

/// The records of prediction files, in the files' order: .jsonl or .json, both also as .gz, and .parquet.
#[derive(Debug)]
pub struct Predictions {
    data: Dataset<PredictionData>,
}

impl Predictions {
    /// Opens the files and finds their records.
    ///
    /// # Errors
    /// [`DataError`] of files that cannot be read or hold no record.
    pub fn open(files: &[PathBuf]) -> Result<Self, DataError> {
        Ok(Self { data: Dataset::open(PredictionData::default(), files, &[])? })
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Never true: files without records are refused.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Where record `index` stands.
    ///
    /// # Panics
    /// Where `index` is not below [`len`](Self::len).
    pub fn place(&self, index: usize) -> Place {
        self.data.place(index)
    }

    /// Record `index`.
    ///
    /// # Errors
    /// [`DataError::Malformed`] where it is not JSON, [`DataError::Refused`] where it is not of the form of a [`Prediction`].
    ///
    /// # Panics
    /// Where `index` is not below [`len`](Self::len).
    pub fn read(&self, index: usize) -> Result<Prediction, DataError> {
        let row = self.data.row(index)?;
        serde_json::from_value(row.into()).map_err(|error| {
            let reason = format!(
                "this is no line of a prediction file: {error}; such a line is {{\"id\", \"messages\", \"answers\": \
                 [{{\"id\", \"content\"}}]}}, as the inference recipes write it"
            );
            DataError::Refused { place: self.place(index), reason }
        })
    }

    /// All records.
    ///
    /// # Errors
    /// Those of the first record that cannot be read, as of [`read`](Self::read).
    pub fn all(&self) -> Result<Vec<(Place, Prediction)>, DataError> {
        (0..self.len()).map(|index| Ok((self.place(index), self.read(index)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(lines: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        file
    }

    #[test]
    fn lines_are_read_and_what_is_no_prediction_is_named() {
        let good = r#"{"id": 1, "messages": [{"role": "user", "content": "Hi"}], "answers": [{"id": 0, "content": "x"}], "odd": 2}"#;
        let file = file(&format!("{good}\n\n{{\"messages\": []}}\n{{\"id\": 2, \"answers\": [{{\"id\": 0}}]}}\n"));
        let read = Predictions::open(&[file.path().to_owned()]).unwrap();
        assert_eq!((read.len(), read.is_empty()), (3, false));
        let first = read.read(0).unwrap();
        assert_eq!((first.id.as_str(), first.rest["odd"].as_i64()), ("1", Some(2)));
        let sample = read.data.sample(0).unwrap();
        assert_eq!(sample.conversation.messages[0].words(), "Hi");
        for (index, line, says) in [(1, ":3: ", "missing field `id`"), (2, ":4: ", "missing field `content`")] {
            let said = read.read(index).unwrap_err().to_string();
            assert!(said.contains(line) && said.contains(says), "{said}");
        }
        assert!(read.all().is_err());
    }
}
