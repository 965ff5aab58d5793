//! The rows of align-anything's data sets, by the names of its formatters.

mod forms;

use std::path::PathBuf;

use self::forms::{Ask, Form, Preference, Supervision};
use super::responses::{responses, which};
use super::row::{self, Row};
use super::turns::{self, sample};
use super::{DataError, DataKind, Images, LlavaData, Place, Reading, Sample};
use crate::example::{Pairs, Plain, Prompts, Supervised};
use crate::settings::Kind;
use crate::text::Conversation;

crate::data_component! {
    /// align-anything's rows for supervised training; `format` is its formatter's name.
    ///
    /// | format | question | answer |
    /// |---|---|---|
    /// | `AA_T2T` | `prompt` | `response` |
    /// | `AA_TI2T`, `SafeRLHF_V` | `image`, `prompt` | `response` |
    /// | `Alpaca` | `instruction`, a space and `input` | `output` |
    /// | `Aligner` | `##QUESTION: `, `question`, ` ##ANSWER: `, `answer` | `##CORRECTION: `, `correction` |
    /// | `GSM8K` | `question` | `answer` |
    /// | `GQA` | `image_path`, `question` | `answer` |
    /// | `OK-VQA` | `image`, `question` | the most frequent of `answers` |
    /// | `TLDR` | `Please summarize the following text: `, `content` | `summary` |
    /// | `LLaVA_Pretrain`, `ShareGPT-4o` | those of [`LlavaData`] | |
    ///
    /// An image is a file, and comes before the words unless they have an `<image>`. Of `TLDR`'s fourteen wordings, of which
    /// align-anything draws one at random, the first is always taken.
    ///
    /// # Source
    /// align-anything, `configs/format_dataset.py`.
    pub struct AlignSupervisedData, AlignSupervisedDataBuilder {
        /// Which data set's rows they are.
        pub format: String = "AA_TI2T".to_owned() => Kind::choice(forms::SUPERVISED),
    }
}

crate::data_component! {
    /// align-anything's pairs of answers; `format` is its formatter's name.
    ///
    /// | format | question | better | worse |
    /// |---|---|---|---|
    /// | `PKUSafeRLHF` | `prompt` | `response_0` or `_1`, as `better_response_id` says | the other |
    /// | `AA_TI2T` | `image`, `question` | `response_1` or `_2`, as `overall_response` says | the other |
    /// | `SafeRLHF_V_Reward` | `image`, `question` | `response_1` or `_2`, as `more_helpful_response_id` says | the other |
    /// | `AA_TI2T_LLF` | `image`, `prompt` | `refinement` | `response` |
    /// | `RLAIFV`, `SPA_VL` | `image`, `question` | `chosen` | `rejected` |
    /// | `Aligner` | `question` | `correction` | `answer` |
    ///
    /// A row that prefers neither answer is refused, with a reason to count it by. `SPA_VL`'s system message is the
    /// template's affair.
    ///
    /// # Source
    /// align-anything, `configs/format_dataset.py`; for `Aligner`, which is supervised there, Ji et al. 2024.
    pub struct AlignPreferenceData, AlignPreferenceDataBuilder {
        /// Which data set's rows they are.
        pub format: String = "AA_TI2T".to_owned() => Kind::choice(forms::PREFERENCE),
    }
}

crate::data_component! {
    /// align-anything's questions without answers; `format` is its formatter's name: those of [`AlignPreferenceData`], and
    /// `GSM8K` (`question`) and `AA_T2T` (`prompt`).
    ///
    /// # Source
    /// align-anything, `configs/format_dataset.py`.
    pub struct AlignPromptsData, AlignPromptsDataBuilder {
        /// Which data set's rows they are.
        pub format: String = "AA_TI2T".to_owned() => Kind::choice(forms::PROMPTS),
    }
}

impl DataKind for AlignSupervisedData {
    type Media = Images;
    type Shape = Supervised;

    const FIELDS: &'static [&'static str] = forms::SUPERVISED_FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        let form: Form<Supervision> = forms::supervised(&self.format);
        let (answer, field) = match form.target {
            Supervision::Llava => return LlavaData::default().parse(row, place),
            Supervision::Field(key) => (row::text(row, key, place)?.to_owned(), key),
            Supervision::Correction => {
                (format!("##CORRECTION: {}", row::text(row, "correction", place)?), "correction")
            }
            Supervision::MostFrequent(key) => (most_frequent(row, key, place)?, key),
        };
        let (mut conversation, images) = ask(form.ask, form.image, row, place)?;
        // The words before the answer are no answer.
        let bare = if field == "correction" { row::text(row, field, place)? } else { &answer };
        turns::answer(turns::said(bare), field, place)?;
        conversation.messages.extend(turns::said(&answer));
        sample(row, place, conversation, images, ())
    }
}

impl DataKind for AlignPreferenceData {
    type Media = Images;
    type Shape = Pairs;

    const FIELDS: &'static [&'static str] = forms::PREFERENCE_FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs>, DataError> {
        let form = forms::preference(&self.format);
        let pair = match form.target {
            Preference::Fields(fields) => responses(row, fields, 0, Plain, place)?,
            Preference::Judged { fields, by, first } => {
                responses(row, fields, which(row, by, first, place)?, Plain, place)?
            }
        };
        let (conversation, images) = ask(form.ask, form.image, row, place)?;
        sample(row, place, conversation, images, pair)
    }
}

impl DataKind for AlignPromptsData {
    type Media = Images;
    type Shape = Prompts;

    const FIELDS: &'static [&'static str] = forms::PROMPT_FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Prompts>, DataError> {
        let (ask_by, image) = forms::prompt(&self.format);
        let (conversation, images) = ask(ask_by, image, row, place)?;
        sample(row, place, conversation, images, ())
    }
}

/// The question and its images; a format with an image must have one in every row.
fn ask(
    ask: Ask,
    image: Option<&'static str>,
    row: &Row,
    place: &Place,
) -> Result<(Conversation, Vec<PathBuf>), DataError> {
    let images = image.map_or(Ok(Vec::new()), |key| row::images(row, key, place))?;
    if let Some(key) = image.filter(|_| images.is_empty()) {
        return Err(row::missing(place, key, "the path of an image"));
    }
    let text = |key: &str| row::text(row, key, place);
    let (words, field) = match ask {
        Ask::Field(key) => (text(key)?.to_owned(), key),
        Ask::Instruction => {
            let input = row::optional_text(row, "input", || "input".to_owned(), place)?.unwrap_or_default();
            (format!("{} {input}", text("instruction")?).trim_end().to_owned(), "instruction")
        }
        Ask::Aligner => (format!("##QUESTION: {} ##ANSWER: {}", text("question")?, text("answer")?), "question"),
        Ask::Summary => (format!("Please summarize the following text: {}", text("content")?), "content"),
    };
    let question = turns::question(&words, images.len(), field, place)?;
    Ok((Conversation::new(vec![question]), images))
}

/// The answer that most annotators gave; of several, the first.
fn most_frequent(row: &Row, key: &str, place: &Place) -> Result<String, DataError> {
    let answers = row::strings(row, key, place)?;
    let votes = |answer: &str| answers.iter().filter(|other| **other == answer).count();
    let most = answers.iter().map(|answer| votes(answer)).max();
    let first = answers.iter().find(|answer| Some(votes(answer)) == most);
    first.map(|answer| (*answer).to_owned()).ok_or_else(|| row::missing(place, key, "a list of answers"))
}
