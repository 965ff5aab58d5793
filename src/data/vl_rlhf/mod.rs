//! VL-RLHF's pairs: `{"image"?, "prompt", "chosen", "rejected"}`, RLHF-V's and VLFeedback's rows.

mod feedback;

use std::path::PathBuf;

use serde_json::Value;

use super::expand::Expanded;
use super::row::{self, Row};
use super::turns::{self, sample};
use super::{DataError, DataKind, Images, Place, Reading, RecordError, Sample};
use crate::example::{Pairs, Plain};
use crate::settings::Kind;
use crate::text::Message;

const CHOSEN: &str = "chosen";
const REJECTED: &str = "rejected";

crate::data_component! {
    /// Pairs about a picture (`plain_dpo`): `{"image"?: path or list, "prompt", "chosen", "rejected"}`.
    ///
    /// `<image>` in the prompt is where the picture stands; without, it comes first.
    ///
    /// # Source
    /// VL-RLHF, `plain_dpo`.
    pub struct PlainDpoData, PlainDpoDataBuilder {}
}

crate::data_component! {
    /// RLHF-V's pairs: `{"image_path" | "image", "text": "{\"question\", \"chosen\", \"rejected\"}"}`.
    ///
    /// `text` is a string of JSON or an object; where there is none, the three are fields of the row, as RLAIF-V has them.
    ///
    /// # Source
    /// Yu et al. 2024; VL-RLHF, `rlhfv`.
    pub struct RlhfvData, RlhfvDataBuilder {}
}

crate::data_component! {
    /// VLFeedback's rows, each of which holds several pairs or none: `{"id"?, "img_path", "prompt", "completions":
    /// {"annotations": [{"Helpfulness": {"Rating": "4"}, …}, …], "response": ["…", …]}}`, or `completions` as a list of
    /// `{"annotations", "response"}`.
    ///
    /// An answer's score is the mean of its ratings, and of two answers that with the higher score is chosen. Ties, pairs of
    /// an answer that was not rated in numbers, and pairs closer than `score_margin` are dropped and counted. The row must
    /// be [expanded](crate::data::expand) before it is read.
    ///
    /// # Source
    /// Li et al. 2023; VL-RLHF, `vlfeedback_paired`, whose default (`score_margin=-1`) is `pairs: "widest"` here.
    pub struct VlFeedbackData, VlFeedbackDataBuilder {
        /// Which pairs of a row are taken: all of them, or those whose scores differ most.
        pub pairs: String = "all".to_owned() => Kind::choice(&["all", "widest"]),
        /// By how much two scores must differ at least.
        pub score_margin: f64 = 0.0 => Kind::number().at_least(0.0),
    }
}

impl DataKind for PlainDpoData {
    type Media = Images;
    type Shape = Pairs;

    const FIELDS: &'static [&'static str] = &["id", "image", "prompt", CHOSEN, REJECTED];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn to_row(&self, sample: &Sample<Pairs>) -> Option<Row> {
        let mut row = Row::new();
        row.insert("id".into(), sample.id.clone().into());
        if let Some(image) = sample.images.first() {
            row.insert("image".into(), image.display().to_string().into());
        }
        let words = |messages: &[Message]| -> Value { messages.iter().map(Message::words).collect::<String>().into() };
        let question: String = sample.conversation.messages.iter().map(|m| turns::join_images(&m.content)).collect();
        row.insert("prompt".into(), question.into());
        row.insert(CHOSEN.into(), words(&sample.target.chosen));
        row.insert(REJECTED.into(), words(&sample.target.rejected));
        Some(row)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs>, DataError> {
        pair(row, (row, ""), "prompt", row::images(row, "image", place)?, place)
    }
}

impl DataKind for RlhfvData {
    type Media = Images;
    type Shape = Pairs;

    const FIELDS: &'static [&'static str] = &["id", "image_path", "image", "text", "question", CHOSEN, REJECTED];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs>, DataError> {
        let key = if row::given(row, "image_path").is_some() { "image_path" } else { "image" };
        let images = row::images(row, key, place)?;
        if images.is_empty() {
            return Err(row::missing(place, "image_path", "the path of an image"));
        }
        match row::given(row, "text") {
            None => pair(row, (row, ""), "question", images, place),
            Some(Value::Object(inner)) => pair(row, (inner, "text."), "question", images, place),
            Some(Value::String(text)) => {
                let inner: Row = serde_json::from_str(text).map_err(|error| {
                    RecordError::Json { field: "text".to_owned(), detail: error.to_string() }.at(place)
                })?;
                pair(row, (&inner, "text."), "question", images, place)
            }
            Some(other) => Err(row::wrong_type(place, "text", "a string of JSON", other)),
        }
    }
}

impl DataKind for VlFeedbackData {
    type Media = Images;
    type Shape = Pairs;

    const FIELDS: &'static [&'static str] = &[
        "id",
        "img_path",
        "image",
        "prompt",
        "completions",
        "completions[].annotations",
        "completions[].response",
        "completions[].model",
        CHOSEN,
        REJECTED,
    ];
    const EXPANDS: bool = true;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn expand(&self, row: Row, place: &Place) -> Result<Expanded, DataError> {
        feedback::expand(&row, self.pairs == "widest", self.score_margin, place)
    }

    /// Reads one of the rows that [`expand`](Self::expand) makes.
    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs>, DataError> {
        let key = if row::given(row, "img_path").is_some() { "img_path" } else { "image" };
        pair(row, (row, ""), "prompt", row::images(row, key, place)?, place)
    }
}

/// The pair whose texts are in `inner`: the row itself, or an object in it whose path is the prefix of their names.
fn pair(
    row: &Row,
    inner: (&Row, &str),
    asked: &'static str,
    images: Vec<PathBuf>,
    place: &Place,
) -> Result<Sample<Pairs>, DataError> {
    let (texts, prefix) = inner;
    let [asked_path, chosen_path, rejected_path] = [asked, CHOSEN, REJECTED].map(|key| format!("{prefix}{key}"));
    let text = |key: &str, path: &str| row::string(texts, key, || path.to_owned(), place);
    let question = turns::question(text(asked, &asked_path)?, images.len(), &asked_path, place)?;
    let chosen = turns::said(text(CHOSEN, &chosen_path)?);
    let rejected = turns::said(text(REJECTED, &rejected_path)?);
    let pair = turns::pair((chosen, &chosen_path), (rejected, &rejected_path), Plain, place)?;
    sample(row, place, turns::context(vec![question], asked, place)?, images, pair)
}
