//! Rows of picture, question and answer.

use firebrick::data::{DataError, Images, Place, Reading, Row, Sample, row};
use firebrick::example::Supervised;
use firebrick::prelude::*;
use firebrick::settings::Kind;
use firebrick::text::{Conversation, Message, Part, Role};

firebrick::component! {
    /// `{"id"?, "picture": "a.png", "question": "…", "answer": "…"}`.
    pub struct PictureQuestions, PictureQuestionsBuilder {
        /// The most tokens a record may have, image tokens included.
        pub max_tokens_count: usize = 512 => Kind::count(),
    }
}

impl DataKind for PictureQuestions {
    type Media = Images;
    type Shape = Supervised;

    const FIELDS: &'static [&'static str] = &["id", "picture", "question", "answer"];

    fn reading(&self) -> Reading {
        Reading { max_tokens_count: self.max_tokens_count, ..Reading::default() }
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        let text = |key: &'static str| row::string(row, key, || key.to_owned(), place);
        let question = vec![Part::Image, Part::Text(text("question")?.to_owned())];
        Ok(Sample {
            id: row::id(row, place)?,
            conversation: Conversation::new(vec![
                Message::new(Role::User, question),
                Message::text(Role::Assistant, text("answer")?),
            ]),
            images: vec![text("picture")?.into()],
            target: (),
            dropped_leading: 0,
            place: place.clone(),
        })
    }
}
