//! Whole answers, of what is heard.

use super::prompts::tokens_of;
use super::reading::{Read, Reader, Reading, Wanted};
use super::{Failure, Job, Listener, LocalEngine, Work};
use crate::engine::{Answer, Choice, EngineError, Finish, Finished, Prompt, Request, ScoreRequest, Token, Usage};
use crate::generation::sequence::Sequence;
use crate::text::{Message, Tokenizer, ToolText};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

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
        let tools = tool_names(&request.prompt);
        let listener = Box::new(Collect { index, id: request.id.clone(), answer, tools, sender, over });
        let key = request.key.unwrap_or(index as u64);
        jobs.push(Work::Write(Box::new(Job { request: request.clone(), key, listener })));
    }
    // At once, so that it is the requests that decide what is computed together, and not the time at which each arrives.
    engine.send(jobs);
    drop(sender);
    hand_over(receiver, &over, finished);
}

/// Sends all requests, the shortest first so that texts of about one length are read together, and hands over what comes back.
pub(super) fn read<T: Send + 'static>(
    engine: &LocalEngine,
    requests: &[ScoreRequest],
    wanted: Wanted,
    take: fn(Read) -> T,
    finished: &mut Finished<'_, T>,
) {
    let (sender, receiver) = channel();
    let over = Arc::new(AtomicBool::new(false));
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&index| length(&requests[index].prompt));
    let mut works = Vec::new();
    for index in order {
        let ScoreRequest { id, model, prompt } = requests[index].clone();
        let reader = Box::new(One { index, id, take, sender: Some(sender.clone()), over: over.clone() });
        works.push(Work::Read(Reading { model, prompt, wanted, reader }));
    }
    engine.send(works);
    drop(sender);
    hand_over(receiver, &over, finished);
}

/// About how long a prompt is.
fn length(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Chat { conversation, .. } => {
            conversation.messages.iter().map(|message| Message::words(message).len()).sum()
        }
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(ids) => ids.len(),
    }
}

type Results<T> = Receiver<(usize, Result<T, EngineError>)>;

fn hand_over<T>(receiver: Results<T>, over: &AtomicBool, finished: &mut Finished<'_, T>) {
    for (index, result) in receiver {
        if finished(index, result).is_break() {
            over.store(true, Ordering::Relaxed);
            return;
        }
    }
}

/// Where the thread that has the model is gone.
fn gone(request: &str) -> EngineError {
    let reason = "the thread that has the model is gone; see what it said before".to_owned();
    EngineError::Failed { request: request.to_owned(), reason }
}

/// What became of a request in words that name it.
fn error(request: &str, failure: Failure) -> EngineError {
    let request = request.to_owned();
    match failure {
        Failure::Invalid(reason) => EngineError::Unsupported { request, reason },
        Failure::Broken(reason) => EngineError::Failed { request, reason },
    }
}

/// Waits for what one text is read as.
struct One<T> {
    index: usize,
    id: String,
    take: fn(Read) -> T,
    /// Taken with the result.
    sender: Option<Sender<(usize, Result<T, EngineError>)>>,
    over: Arc<AtomicBool>,
}

impl<T: Send> Reader for One<T> {
    fn done(mut self: Box<Self>, result: Result<Read, Failure>) {
        if let Some(sender) = self.sender.take() {
            let result = result.map(self.take).map_err(|failure| error(&self.id, failure));
            // Nobody may be there to take it.
            let _ = sender.send((self.index, result));
        }
    }

    fn is_cancelled(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

impl<T> Drop for One<T> {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.send((self.index, Err(gone(&self.id))));
        }
    }
}

/// The functions that a request allows.
fn tool_names(prompt: &Prompt) -> Vec<String> {
    match prompt {
        Prompt::Chat { conversation, .. } => conversation.tool_names(),
        Prompt::Text(_) | Prompt::Tokens(_) => Vec::new(),
    }
}

struct Collect {
    index: usize,
    id: String,
    answer: Answer,
    /// The functions that may be called.
    tools: Vec<String>,
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
            self.send(Err(gone(&self.id)));
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
        let mut answer = Answer { usage, ..std::mem::take(&mut self.answer) };
        if !self.tools.is_empty() {
            for choice in &mut answer.choices {
                let (text, calls) = ToolText::split(&choice.text, &self.tools);
                if !calls.is_empty() && choice.finish == Finish::Stop {
                    choice.finish = Finish::ToolCalls;
                }
                (choice.text, choice.tool_calls) = (text, calls);
            }
        }
        self.send(Ok(answer));
    }

    fn failed(mut self: Box<Self>, failure: Failure) {
        self.send(Err(error(&self.id, failure)));
    }

    fn is_cancelled(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}
