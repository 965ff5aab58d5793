//! Text: tokenizers, chat templates and what of a rendered conversation is learned.
//!
//! A [`Conversation`] becomes text through a [`ChatTemplate`] (one of LLaVA's conversations, a checkpoint's Jinja template,
//! turbo-alignment's prefix and suffix, or no markup at all). The [`Rendered`] text carries the byte spans to learn from, so that supervision never depends on counting
//! separators or on searching token ids. [`encode_rendered`] turns it into token ids, a mask and the places of the
//! images.
//!
//! ```
//! use firebrick::text::{ChatTemplate, Conversation, Message, Role};
//!
//! let conversation = Conversation::new(vec![
//!     Message::text(Role::User, "What is it?"),
//!     Message::text(Role::Assistant, "A cat."),
//! ]);
//! let rendered = ChatTemplate::llava("v1")?.render(&conversation)?;
//! assert!(rendered.text.ends_with(" USER: What is it? ASSISTANT: A cat.</s>"));
//! assert_eq!(&rendered.text[rendered.spans[0].clone()], " A cat.</s>");
//! # Ok::<(), firebrick::text::TextError>(())
//! ```

mod conversation;
mod generation_tags;
mod jinja;
mod jinja_env;
mod llava;
mod pieces;
mod plain_text;
mod prefix_suffix;
pub mod sentencepiece;
mod special;
mod steps;
mod stream;
mod supervision;
mod template;
mod tokenizer;
mod tokenizer_bytes;
mod tokenizer_files;
mod tool_calls;
mod whole;

#[cfg(test)]
mod tests;

pub use conversation::{Conversation, Message, Part, Role, ToolCall};
pub use jinja::JinjaTemplate;
pub use llava::LlavaTemplate;
pub use plain_text::PlainTextTemplate;
pub use prefix_suffix::PrefixSuffixTemplate;
pub use special::{AddedTokens, NewToken, SpecialRole, WantedTokens};
pub use steps::{Stepped, encode_steps};
pub use stream::{StopText, TextStream};
pub use supervision::{EncodedText, ImageTokens, check_end_of_turn, encode_rendered};
pub use template::{ChatTemplate, IMAGE_TOKEN, Rendered};
pub use tokenizer::{Token, Tokenizer};
pub use tool_calls::{ToolCallError, ToolText, parse_tool_calls};

use std::path::PathBuf;

/// What can go wrong with a tokenizer, a template or a conversation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A folder without `tokenizer.json`.
    #[error("{}: no tokenizer.json here{hint}", dir.display())]
    MissingTokenizer {
        /// The folder that was searched.
        dir: PathBuf,
        /// What was found instead and what to do, beginning with its own punctuation.
        hint: &'static str,
    },
    /// A file that could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file whose content is not what it should be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// The tokenizer refused a text or a token.
    #[error("the tokenizer failed: {0}")]
    Tokenize(String),
    /// A name that is not one of LLaVA's conversations.
    #[error("unknown template `{name}`; valid names are {valid}")]
    UnknownTemplate {
        /// The name that was given.
        name: String,
        /// The names there are, comma separated.
        valid: String,
    },
    /// A Jinja template that does not compile, or fails on a conversation.
    #[error("chat template `{template}`: {reason}")]
    Template {
        /// The template's name.
        template: String,
        /// What Jinja said.
        reason: String,
    },
    /// A conversation that a template has no words for.
    #[error("template `{template}` cannot express this conversation: {reason}")]
    Inexpressible {
        /// The template's name.
        template: String,
        /// Which message (counted from 1), and why.
        reason: String,
    },
    /// The text to learn from could not be told from the rest.
    #[error(
        "chat template `{template}`: {reason}; put {{% generation %}} … {{% endgeneration %}} around what the assistant \
         writes, or choose another template with `data.template`"
    )]
    NoSpans {
        /// The template's name.
        template: String,
        /// Which message, and what differed.
        reason: String,
    },
    /// Image markers and images do not agree.
    #[error("the text has {markers} `{token}` markers but there are {images} images; one marker per image is required")]
    ImageCount {
        /// The marker's text.
        token: String,
        /// How many markers the text has.
        markers: usize,
        /// How many images the sample has.
        images: usize,
    },
    /// The tokenizer does not know the image marker as one token.
    #[error(
        "the image marker `{token}` should be token {expected} but the tokenizer gives {found:?}; add it to the tokenizer \
         as a special token"
    )]
    ImageToken {
        /// The marker's text.
        token: String,
        /// The id that the model's configuration names.
        expected: u32,
        /// The id that the tokenizer has for the text, if any.
        found: Option<u32>,
    },
    /// An image that would take no tokens.
    #[error("image {image} reserves 0 tokens; an encoder yields at least one feature per image")]
    EmptyImage {
        /// Which image, counted from 1.
        image: usize,
    },
    /// Special tokens that cannot be added as they are asked for.
    #[error("special tokens: {reason}")]
    Special {
        /// Which token, and what to do.
        reason: String,
    },
    /// An answer in steps whose steps cannot be told apart.
    #[error("the answer's steps: {reason}")]
    Steps {
        /// Which step, counted from 1, and why.
        reason: String,
    },
    /// A tokenizer that does not say how a text ends.
    #[error("the tokenizer has no end of sequence; set `tokens.eos_token`, or leave `data.single_eos` at true")]
    NoEos,
    /// A template that never teaches the model to stop.
    #[error(
        "template `{template}` supervises no end-of-turn token: what is learned ends in {last:?}, and the tokenizer's \
         end-of-sequence token is {eos:?}. A model trained so would never stop; choose another template with \
         `data.template` (LLaVA models: `v1`), or put the end marker inside {{% generation %}}"
    )]
    NoEndOfTurn {
        /// The template's name.
        template: String,
        /// The last learned piece of text.
        last: String,
        /// The tokenizer's end-of-sequence token.
        eos: Option<String>,
    },
}
