//! Rows of a question and several answers, ranked.

use firebrick::data::{DataError, Place, RecordError, Row, Sample, TextOnly, row, turns};
use firebrick::example::{Pairs, Plain};
use firebrick::prelude::*;
use firebrick::settings::Kind;
use firebrick::text::Role;

const ANSWERS: &str = "answers";
const BEST: &str = "best";
const WORST: &str = "worst";

firebrick::data_component! {
    /// `{"question": "…", "answers": ["…", …], "best": 2, "worst": 0}`: the best answer against the worst.
    pub struct RankedAnswers, RankedAnswersBuilder {
        /// Words that stand before every question.
        pub preface: Option<String> = None => Kind::text().or_none(),
    }
}

impl DataKind for RankedAnswers {
    type Media = TextOnly;
    type Shape = Pairs;

    const FIELDS: &'static [&'static str] = &["id", "question", ANSWERS, BEST, WORST];

    fn reading(&self) -> firebrick::data::Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs>, DataError> {
        let question = turns::question(row::text(row, "question", place)?, 0, "question", place)?;
        let preface = self.preface.iter().map(|words| firebrick::text::Message::text(Role::System, words));
        let conversation = turns::context(preface.chain([question]).collect(), "question", place)?;
        let answers = row::strings(row, ANSWERS, place)?;
        let answer = |key: &'static str| {
            let number = row::number(row, key, place)?;
            let words = answers.get(number as usize).filter(|_| number >= 0.0 && number.fract() == 0.0);
            let found = || RecordError::NoPreference { field: key.to_owned(), found: number.to_string() }.at(place);
            Ok::<_, DataError>((turns::said(words.ok_or_else(found)?), key))
        };
        let pair = turns::pair(answer(BEST)?, answer(WORST)?, Plain, place)?;
        turns::sample(row, place, conversation, Vec::new(), pair)
    }
}
