//! Records of data files as questions.

use crate::data::message::chat_row;
use crate::data::{
    AlpacaData, ChatData, ClassificationData, DataError, DataKind, Dataset, LlavaData, MessagesData,
    MessagesImagesData, PairsData, Place, PreferenceData, PromptsData, ShareGptData,
};
use crate::example::Shape;
use crate::pipelines::Prediction;
use crate::pipelines::judging::question_of;
use crate::pipelines::record::with_calls;
use crate::text::{Conversation, Message, Role, ToolCall};
use clap::ValueEnum;
use serde_json::Value;
use std::path::PathBuf;

/// Kinds of data whose records are questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataFormat {
    /// LLaVA's: {"conversations": [{"from": "human", "value"}, …], "image"}
    Llava,
    /// turbo-alignment's: {"messages": [{"role": "user", "content"}, {"role": "bot", …}]}
    Chat,
    /// Hugging Face's messages, of text alone
    Messages,
    /// Hugging Face's messages, with images
    MessagesImages,
    /// {"conversations": [{"from": "human", "value"}, {"from": "gpt", …}]}, of text alone
    ShareGpt,
    /// {"instruction", "input", "output"}
    Alpaca,
    /// {"prompt"}, without an answer
    #[value(name = "prompts")]
    PromptRows,
    /// turbo-alignment's pairs; the better answer is the right one
    // Its own name is a type's: the compiler would call that by its whole path in every message about a recipe.
    #[value(name = "pairs")]
    PairRows,
    /// TRL's pairs: {"prompt", "chosen", "rejected"}; the chosen answer is the right one
    Preference,
    /// turbo-alignment's classified conversations: {"messages", "label"}
    Classification,
}

/// A record that is to be answered.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// What the record says, and what was answered.
    pub(super) record: Prediction,
    pub(super) place: Place,
    /// The turns that the model is shown.
    pub(super) conversation: Conversation,
    pub(super) images: Vec<PathBuf>,
}

impl DataFormat {
    /// The records of these files.
    pub(super) fn questions(self, files: &[PathBuf], images: &[PathBuf]) -> Result<Vec<Question>, DataError> {
        macro_rules! of {
            ($($name:ident: $kind:ty),* $(,)?) => {
                match self { $(Self::$name => questions(<$kind>::default(), files, images),)* }
            };
        }
        of! {
            Llava: LlavaData, Chat: ChatData, Messages: MessagesData, MessagesImages: MessagesImagesData,
            ShareGpt: ShareGptData, Alpaca: AlpacaData, PromptRows: PromptsData, PairRows: PairsData,
            Preference: PreferenceData, Classification: ClassificationData,
        }
    }
}

fn questions<K: DataKind>(kind: K, files: &[PathBuf], images: &[PathBuf]) -> Result<Vec<Question>, DataError> {
    let data = Dataset::open(kind, files, images)?;
    let question = |index: usize| {
        let row = data.row(index)?;
        // Of a row that ends with a question an answer is made up, so that it can be read; it is right by no means.
        let longer = data.kind().awaiting(&row);
        let sample = data.read(index, longer.as_ref().unwrap_or(&row))?;
        let mut conversation = <K::Shape as Shape>::shown(&sample.conversation, &sample.target);
        // What the record ends with is the answer; a conversation that ends with somebody else's words has none.
        let spoken = conversation.messages.iter().rev().take_while(|message| message.role == Role::Assistant).count();
        let answers = conversation.messages.split_off(conversation.messages.len() - spoken);
        let answer = answers.first().filter(|_| longer.is_none()).map(in_words);
        let mut images = sample.images;
        images.truncate(conversation.image_count());
        let messages = match chat_row(&conversation.messages, &images) {
            Value::Array(messages) => messages,
            _ => Vec::new(),
        };
        let record = question_of(row, sample.id, messages, answer.as_deref());
        Ok(Question { record, place: sample.place, conversation, images })
    };
    (0..data.len()).map(question).collect()
}

/// A message's words with its calls.
fn in_words(message: &Message) -> String {
    let calls = message.tool_calls.iter().map(ToolCall::to_json).collect();
    with_calls(&message.words(), Some(&Value::Array(calls)))
}
