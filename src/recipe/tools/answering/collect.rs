//! Whole answers, of what is heard.

use super::prompts::tokens_of;
use super::{Failure, Job, Listener, LocalEngine};
use crate::engine::{Answer, Choice, EngineError, Finish, Finished, Request, Token, Usage};
use crate::generation::sequence::Sequence;
use crate::text::Tokenizer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

/// Sends all requests, and hands over what comes back until there is nothing more, or nobody wants it.
pub(super) fn generate(engine: &LocalEngine, requests: &[Request], finished: &mut Finished<'_, Answer>) {
    let (sender, receiver) = channel();
    let over = Arc::new(AtomicBool::new(false));
    let mut jobs = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let model = request.model.clone().unwrap_or_else(|| engine.name.clone());
        let open = Choice {
            text: String::new(),
            tokens: Vec::new(),
            score: None,
            tool_calls: Vec::new(),
            finish: Finish::Stop,
        };
        let answer = Answer { model, choices: vec![open; request.n.max(1)], ..Answer::default() };
        let (sender, over) = (Some(sender.clone()), over.clone());
        let listener = Box::new(Collect { index, id: request.id.clone(), answer, sender, over });
        jobs.push(Job { request: request.clone(), key: request.key.unwrap_or(index as u64), listener });
    }
    // At once, so that it is the requests that decide what is computed together, and not the time at which each arrives.
    engine.send(jobs);
    drop(sender);
    for (index, result) in receiver {
        if finished(index, result).is_break() {
            over.store(true, Ordering::Relaxed);
            return;
        }
    }
}

struct Collect {
    index: usize,
    id: String,
    answer: Answer,
    /// Taken with the result.
    sender: Option<Sender<(usize, Result<Answer, EngineError>)>>,
    over: Arc<AtomicBool>,
}

impl Collect {
    fn send(&mut self, result: Result<Answer, EngineError>) {
        if let Some(sender) = self.sender.take() {
            // Nobody may be there to take it.
            let _ = sender.send((self.index, result));
        }
    }
}

impl Drop for Collect {
    fn drop(&mut self) {
        if self.sender.is_some() {
            let reason = "the thread that has the model is gone; see what it said before".to_owned();
            let error = EngineError::Failed { request: self.id.clone(), reason };
            self.send(Err(error));
        }
    }
}

impl Listener for Collect {
    fn prompt(&mut self, tokens: Vec<Token>) {
        self.answer.prompt = tokens;
    }

    fn text(&mut self, choice: usize, text: String, token: Option<Token>) -> bool {
        if let Some(choice) = self.answer.choices.get_mut(choice) {
            choice.text.push_str(&text);
            choice.tokens.extend(token);
        }
        !self.is_cancelled()
    }

    fn finished(&mut self, choice: usize, finish: Finish) {
        if let Some(choice) = self.answer.choices.get_mut(choice) {
            choice.finish = finish;
        }
    }

    fn whole(&mut self, choice: usize, sequence: &Sequence, tokenizer: &Tokenizer) {
        let Some(choice) = self.answer.choices.get_mut(choice) else { return };
        choice.score = sequence.score;
        // Beams are told as a whole, and so are their tokens.
        if choice.tokens.is_empty() {
            choice.tokens = sequence.logprobs.iter().map(|logprob| tokens_of(tokenizer, logprob)).collect();
        }
    }

    fn done(mut self: Box<Self>, usage: Usage) {
        let answer = Answer { usage, ..std::mem::take(&mut self.answer) };
        self.send(Ok(answer));
    }

    fn failed(mut self: Box<Self>, failure: Failure) {
        let request = self.id.clone();
        let error = match failure {
            Failure::Invalid(reason) => EngineError::Unsupported { request, reason },
            Failure::Broken(reason) => EngineError::Failed { request, reason },
        };
        self.send(Err(error));
    }

    fn is_cancelled(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}
