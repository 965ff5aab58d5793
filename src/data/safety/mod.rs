//! PKU-SafeRLHF's rows: `{"prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe",
//! "safer_response_id", "better_response_id"}`.

use super::responses::{responses, which};
use super::row::{self, Row};
use super::turns::{self, sample};
use super::{DataError, DataKind, Place, Reading, Sample, TextOnly};
use crate::example::{Pair, PairExtra, Pairs, Plain, Safety};

const RESPONSES: [&str; 2] = ["response_0", "response_1"];
const FIELDS: &[&str] = &[
    "id",
    "prompt",
    "response_0",
    "response_1",
    "is_response_0_safe",
    "is_response_1_safe",
    "safer_response_id",
    "better_response_id",
];

crate::data_component! {
    /// PKU-SafeRLHF's pairs for cost models: the chosen answer is the *more harmful* one, since it costs more, and each is
    /// marked as harmless or not.
    ///
    /// # Source
    /// Ji et al. 2024, the columns `safer_response_id` and `is_response_*_safe`; Dai et al. 2023 for the order.
    pub struct SafetyData, SafetyDataBuilder {}
}

crate::data_component! {
    /// PKU-SafeRLHF's pairs for reward models and preference losses: the chosen answer is the more helpful one
    /// (`better_response_id`).
    ///
    /// # Source
    /// Ji et al. 2024.
    pub struct HelpfulnessData, HelpfulnessDataBuilder {}
}

impl DataKind for SafetyData {
    type Media = TextOnly;
    type Shape = Pairs<Safety>;

    const FIELDS: &'static [&'static str] = FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs<Safety>>, DataError> {
        let safer = which(row, "safer_response_id", 0, place)?;
        let safe = [row::truth(row, "is_response_0_safe", place)?, row::truth(row, "is_response_1_safe", place)?];
        parse(row, 1 - safer, Safety([safe[1 - safer], safe[safer]]), place)
    }
}

impl DataKind for HelpfulnessData {
    type Media = TextOnly;
    type Shape = Pairs;

    const FIELDS: &'static [&'static str] = FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs>, DataError> {
        parse(row, which(row, "better_response_id", 0, place)?, Plain, place)
    }
}

fn parse<X: PairExtra>(row: &Row, chosen: usize, extra: X, place: &Place) -> Result<Sample<Pairs<X>>, DataError> {
    let question = turns::question(row::text(row, "prompt", place)?, 0, "prompt", place)?;
    let pair: Pair<X> = responses(row, RESPONSES, chosen, extra, place)?;
    sample(row, place, turns::context(vec![question], "prompt", place)?, Vec::new(), pair)
}
