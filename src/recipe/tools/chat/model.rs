//! A checkpoint that answers a conversation.

use super::error::ChatError;
use super::settings::Settings;
use super::talk::{Picture, Said, Speaker};
use crate::generation::driver::{Batch, Request};
use crate::generation::row::RowSettings;
use crate::generation::{Lanes, Reuse};
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::recipe::tools::{Ready, end_tokens, pad_id};
use crate::text::{Conversation, StopText};
use crate::vision::VisionEncoder;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// The conversation, and the one that it was before `/undo` or `/reset`.
const REUSE: Reuse = Reuse { rows: 2, tokens: usize::MAX };

/// Tokens that an answer is expected to have at the most; a longer one moves its cache once in a while.
const ROOM: usize = 512;

/// A model with what it has read.
pub(super) struct Model<'a, M: LanguageModel, V: VisionEncoder, P: Projector> {
    ready: &'a Ready<M, V, P>,
    batch: Batch<Lanes<'a, M::Model, V::Model, P::Model>>,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    /// Text that ends one, where that is no token.
    stop: Option<String>,
    /// Tokens of prompt and answer; `None` where the checkpoint does not say.
    context: Option<usize>,
}

impl<'a, M: LanguageModel, V: VisionEncoder, P: Projector> Model<'a, M, V, P> {
    pub(super) fn new(ready: &'a Ready<M, V, P>) -> Self {
        let Ready { loaded, encoder, device } = ready;
        let tokenizer = &encoder.tokenizer;
        let lanes = Lanes::new(&loaded.model, pad_id(tokenizer), ROOM, device).with_reuse(REUSE);
        let context = loaded.folder.text_config().value()["max_position_embeddings"].as_u64();
        let stop = encoder.template.stop().filter(|stop| StopText::is_shown(tokenizer, stop));
        Self {
            ready,
            batch: Batch::new(lanes),
            ends: end_tokens(&loaded.folder.dir, encoder),
            stop: stop.map(|stop| stop.to_string()),
            context: context.map(|tokens| tokens as usize),
        }
    }
}

impl<M: LanguageModel, V: VisionEncoder, P: Projector> Speaker for Model<'_, M, V, P> {
    fn picture(&self, path: &Path) -> Result<Picture, ChatError> {
        match self.ready.encoder.pixels(path)? {
            Some(pixels) => Ok(Picture { path: path.to_owned(), pixels: pixels.into() }),
            None => Err(ChatError::NoVision(path.to_owned())),
        }
    }

    fn answer(
        &mut self,
        conversation: &Conversation,
        pictures: &[Picture],
        settings: &Settings,
        number: u64,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Said, ChatError> {
        let encoder = &self.ready.encoder;
        let pixels: Vec<&[f32]> = pictures.iter().map(|picture| &*picture.pixels).collect();
        let encoded = encoder.encode_question_with(conversation, &pixels)?;
        let prompt = encoded.input_ids.len();
        let mut decoding = settings.decoding(&encoder.tokenizer, &self.ends, self.stop.as_deref())?;
        let limit = decoding.stop.limit(prompt);
        let room = self.context.map_or(limit, |context| limit.min(context.saturating_sub(prompt)));
        if room == 0 {
            let context = self.context.filter(|context| *context <= prompt).or(decoding.stop.max_length);
            return Err(ChatError::Full { tokens: prompt, context: context.unwrap_or_default() });
        }
        decoding.stop.max_new_tokens = Some(room);
        let settings = RowSettings {
            decoding: Arc::new(decoding),
            prompt: encoded.input_ids.clone(),
            key: number,
            detokenizer: Some(Box::new(encoder.tokenizer.stream())),
        };
        let mut shown = 0;
        let mut heard = |text: &str| {
            shown += text.len();
            on_text(text)
        };
        let requests = vec![Request { prompt: encoded, settings }];
        let admitted = self.batch.admit(requests, &mut |_, event| heard(&event.text));
        let row = admitted.map_err(|error| ChatError::Conversation(error.to_string()))?.first().copied();
        let reused = self.batch.take_reused().first().map_or(0, |(_, tokens)| *tokens);
        let done = loop {
            if let Some((_, done)) = self.batch.take_done().pop() {
                break done?;
            }
            // Searches that show nothing before they end can be stopped as well.
            if let (ControlFlow::Break(()), Some(row)) = (heard(""), row) {
                self.batch.cancel(row);
                continue;
            }
            let stepped = self.batch.step(&mut |_, event| heard(&event.text));
            stepped.map_err(|error| ChatError::Conversation(error.to_string()))?;
        };
        let Some(best) = done.into_iter().next() else {
            return Err(ChatError::Conversation("the model gave no answer".to_owned()));
        };
        if let Some(rest) = best.text.get(shown..).filter(|rest| !rest.is_empty()) {
            // What was held back in case that it was the beginning of a stop string.
            let _ = on_text(rest);
        }
        let full = self.context.is_some_and(|context| prompt + best.ids.len() >= context);
        Ok(Said { text: best.text, finish: best.finish, prompt, reused, written: best.ids.len(), full })
    }
}
