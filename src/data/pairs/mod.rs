//! turbo-alignment's pairs: `{"id", "context": [messages], "answer_w": message, "answer_l": message}`.

use super::message::{self, Messages};
use super::row::{self, Row};
use super::turns::{self, sample};
use super::{DataError, DataKind, Images, Place, Reading, Sample};
use crate::example::{Margin, PairExtra, Pairs, Plain};

const CONTEXT: &str = "context";
const WON: &str = "answer_w";
const LOST: &str = "answer_l";
const FIELDS: &[&str] = &[
    "id",
    CONTEXT,
    "context[].role",
    "context[].content",
    "context[].type",
    "context[].disable_loss",
    "context[].tool_call_id",
    "context[].name",
    WON,
    LOST,
    "precomputed_margin",
    "margin",
];

crate::data_component! {
    /// turbo-alignment's pairs of answers: `answer_w` is better than `answer_l`. Messages are those of
    /// [`ChatData`](super::ChatData).
    ///
    /// `precomputed_margin` is ignored; [`PairsMarginData`] reads it.
    ///
    /// # Source
    /// turbo-alignment, `dataset/pair_preferences`.
    pub struct PairsData, PairsDataBuilder {}
}

crate::data_component! {
    /// As [`PairsData`], each with a margin: by how much the better answer is better (`precomputed_margin`, or `margin`).
    ///
    /// # Source
    /// turbo-alignment, `dataset/pair_preferences`.
    pub struct PairsMarginData, PairsMarginDataBuilder {}
}

impl DataKind for PairsData {
    type Media = Images;
    type Shape = Pairs;

    const FIELDS: &'static [&'static str] = FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn to_row(&self, sample: &Sample<Pairs>) -> Option<Row> {
        let mut row = Row::new();
        row.insert("id".into(), sample.id.clone().into());
        row.insert(CONTEXT.into(), message::chat_row(&sample.conversation.messages, &sample.images));
        row.insert(WON.into(), message::answer_row(&sample.target.chosen));
        row.insert(LOST.into(), message::answer_row(&sample.target.rejected));
        Some(row)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs>, DataError> {
        parse(row, Plain, place)
    }
}

impl DataKind for PairsMarginData {
    type Media = Images;
    type Shape = Pairs<Margin>;

    const FIELDS: &'static [&'static str] = FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn to_row(&self, sample: &Sample<Pairs<Margin>>) -> Option<Row> {
        let mut row = Row::new();
        row.insert("id".into(), sample.id.clone().into());
        row.insert(CONTEXT.into(), message::chat_row(&sample.conversation.messages, &sample.images));
        row.insert(WON.into(), message::answer_row(&sample.target.chosen));
        row.insert(LOST.into(), message::answer_row(&sample.target.rejected));
        row.insert("margin".into(), sample.target.extra.0.into());
        Some(row)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs<Margin>>, DataError> {
        let key = if row.contains_key("margin") { "margin" } else { "precomputed_margin" };
        parse(row, Margin(row::number(row, key, place)?), place)
    }
}

fn parse<X: PairExtra>(row: &Row, extra: X, place: &Place) -> Result<Sample<Pairs<X>>, DataError> {
    let mut reader = Messages::chat(place);
    let context = reader.list(row, CONTEXT)?;
    let chosen = vec![reader.one(row, WON)?];
    let rejected = vec![reader.one(row, LOST)?];
    let pair = turns::pair((chosen, WON), (rejected, LOST), extra, place)?;
    let mut conversation = turns::context(context, CONTEXT, place)?;
    let images = reader.images(&mut conversation.messages)?;
    sample(row, place, conversation, images, pair)
}
