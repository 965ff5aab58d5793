//! Alpaca's rows: `{"instruction", "input"?, "output", "system"?, "history"?: [["…", "…"], …]}`.

use serde_json::Value;

use super::row::{self, Row};
use super::turns::{answer, question, said, sample};
use super::{DataError, DataKind, Place, Reading, Sample, TextOnly};
use crate::example::Supervised;
use crate::text::{Conversation, Message, Role};

const OUTPUT: &str = "output";
const HISTORY: &str = "history";

crate::data_component! {
    /// Alpaca's instructions: `instruction` and, on a line of its own, `input` are the question, `output` the answer.
    ///
    /// `system` is the system message, and `history` are earlier questions and answers, which are learned as well.
    ///
    /// # Source
    /// Taori et al. 2023; `system` and `history` as LLaMA-Factory reads them. Alpaca's own frame around the question
    /// ("Below is an instruction …") is a template's affair.
    pub struct AlpacaData, AlpacaDataBuilder {}
}

impl DataKind for AlpacaData {
    type Media = TextOnly;
    type Shape = Supervised;

    const FIELDS: &'static [&'static str] = &["id", "instruction", "input", OUTPUT, "system", HISTORY];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn awaiting(&self, row: &Row) -> Option<Row> {
        if row.get(OUTPUT).is_some_and(|output| !output.is_null() && output.as_str() != Some("")) {
            return None;
        }
        let mut longer = row.clone();
        longer.insert(OUTPUT.into(), "-".into());
        Some(longer)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        let optional = |key: &'static str| row::optional_text(row, key, || key.to_owned(), place);
        let mut turns: Vec<Message> = Vec::new();
        if let Some(system) = optional("system")?.filter(|system| !system.is_empty()) {
            turns.push(Message::text(Role::System, system));
        }
        for (i, [asked, answered]) in history(row, place)?.into_iter().enumerate() {
            turns.push(question(asked, 0, &format!("{HISTORY}[{i}][0]"), place)?);
            turns.extend(answer(said(answered), &format!("{HISTORY}[{i}][1]"), place)?);
        }
        let instruction = row::text(row, "instruction", place)?;
        let words = match optional("input")?.filter(|input| !input.is_empty()) {
            None => instruction.to_owned(),
            Some(input) => format!("{instruction}\n{input}"),
        };
        turns.push(question(&words, 0, "instruction", place)?);
        turns.extend(answer(said(row::text(row, OUTPUT, place)?), OUTPUT, place)?);
        sample(row, place, Conversation::new(turns), Vec::new(), ())
    }
}

fn history<'row>(row: &'row Row, place: &Place) -> Result<Vec<[&'row str; 2]>, DataError> {
    if row::given(row, HISTORY).is_none() {
        return Ok(Vec::new());
    }
    let exchange = |(i, exchange): (usize, &'row Value)| match exchange.as_array().map(Vec::as_slice) {
        Some([Value::String(asked), Value::String(said)]) => Ok([asked.as_str(), said.as_str()]),
        _ => Err(row::wrong_type(place, format!("{HISTORY}[{i}]"), "a question and its answer", exchange)),
    };
    row::list(row, HISTORY, place)?.iter().enumerate().map(exchange).collect()
}
