//! A checkpoint's tokenizer as generation needs it.

use super::settings::Vocabulary;
use super::stop::Detokenizer;
use crate::text::{TextStream, Tokenizer};

impl Vocabulary for Tokenizer {
    fn encode(&self, text: &str) -> Vec<u32> {
        // A text that cannot be encoded has no tokens, which the caller reports with the text.
        self.encode(text).map(|tokens| tokens.iter().map(|token| token.id).collect()).unwrap_or_default()
    }

    fn special_id(&self, text: &str) -> Option<u32> {
        self.token_id(text).filter(|&id| self.is_added(id))
    }
}

impl Detokenizer for TextStream {
    fn push(&mut self, id: u32) -> Option<String> {
        self.push(id)
    }

    fn finish(&mut self) -> Option<String> {
        self.finish()
    }

    fn fork(&self) -> Box<dyn Detokenizer> {
        Box::new(self.clone())
    }
}
