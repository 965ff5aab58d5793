//! turbo-alignment's classified conversations: `{"id", "messages": [messages], "label": 2 | [0, 1, 1] | 0.5}`.

use serde_json::Value;

use super::message::{self, Messages};
use super::row::{self, Row};
use super::turns::{self, sample};
use super::{DataError, DataKind, Images, Place, Reading, Sample};
use crate::example::{Label, Labelled};

const TURNS: &str = "messages";
const LABEL: &str = "label";

crate::data_component! {
    /// Conversations with a label. Messages are those of [`ChatData`](super::ChatData); they may end with anybody's.
    ///
    /// A whole `label` is a class, counted from 0; a list of numbers has one for each output (0 or 1 where several
    /// classes may hold at once, any number in regression), and a single number with a fraction part, be it `1.0`, is the
    /// value of the only output.
    ///
    /// # Source
    /// turbo-alignment, `dataset/classification`; lists and fractions as transformers' problem types have them.
    pub struct ClassificationData, ClassificationDataBuilder {}
}

impl DataKind for ClassificationData {
    type Media = Images;
    type Shape = Labelled;

    const FIELDS: &'static [&'static str] = &[
        "id",
        TURNS,
        "messages[].role",
        "messages[].content",
        "messages[].type",
        "messages[].disable_loss",
        "messages[].tool_call_id",
        "messages[].name",
        LABEL,
    ];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn to_row(&self, sample: &Sample<Labelled>) -> Option<Row> {
        let mut row = Row::new();
        row.insert("id".into(), sample.id.clone().into());
        row.insert(TURNS.into(), message::chat_row(&sample.conversation.messages, &sample.images));
        let label = match &sample.target {
            Label::Class(class) => (*class).into(),
            Label::Values(values) => values.clone().into(),
        };
        row.insert(LABEL.into(), label);
        Some(row)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Labelled>, DataError> {
        let mut reader = Messages::chat(place);
        let messages = reader.list(row, TURNS)?;
        let label = label(row, place)?;
        let mut conversation = turns::context(messages, TURNS, place)?;
        let images = reader.images(&mut conversation.messages)?;
        sample(row, place, conversation, images, label)
    }
}

fn label(row: &Row, place: &Place) -> Result<Label, DataError> {
    let expected = "a class (0, 1, …), a number with a fraction part, or a list of numbers";
    let value = row.get(LABEL).ok_or_else(|| row::missing(place, LABEL, expected))?;
    let wrong = || row::wrong_type(place, LABEL, expected, value);
    match value {
        Value::Number(number) if number.is_f64() => {
            Ok(Label::Values(vec![number.as_f64().filter(|value| value.is_finite()).ok_or_else(wrong)?]))
        }
        Value::Number(number) => {
            let class = number.as_u64().and_then(|class| usize::try_from(class).ok());
            Ok(Label::Class(class.ok_or_else(wrong)?))
        }
        Value::Array(elements) if !elements.is_empty() => {
            let number = |(i, element): (usize, &Value)| {
                let number = element.as_f64().filter(|value| value.is_finite());
                number.ok_or_else(|| row::wrong_type(place, format!("{LABEL}[{i}]"), "a finite number", element))
            };
            Ok(Label::Values(elements.iter().enumerate().map(number).collect::<Result<_, _>>()?))
        }
        _ => Err(wrong()),
    }
}
