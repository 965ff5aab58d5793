//! A backend without a model: it says again what it was told, in an order and with log-probabilities that tests can know.
//!
//! A token is a character; its id is the character's code point.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use firebrick::engine::{
    EmbedRequest, Finish, ImageSource, ModelInfo, Prompt, Request, ScoreRequest, Token, TopToken, Usage,
};
use firebrick::serve::{Backend, Embedding, Event, Events, Refused, Reply, Scored};
use firebrick::text::{Conversation, Message, Role, ToolCall};
use serde_json::json;

/// What a completion goes on with, for ever.
const ON: &str = " and so on";

/// Counts what it does.
#[derive(Debug, Default)]
pub struct Counts {
    pub active: AtomicUsize,
    pub most_active: AtomicUsize,
    pub cancelled: AtomicUsize,
    pub finished: AtomicUsize,
}

/// Says again what it was told.
#[derive(Debug, Default)]
pub struct Echo {
    /// Wait before each piece.
    pub delay: Duration,
    pub counts: Arc<Counts>,
    /// The last request of each kind.
    pub seen: Arc<Mutex<BTreeMap<&'static str, Request>>>,
}

impl Echo {
    pub fn slow(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

impl Backend for Echo {
    fn models(&self) -> Vec<ModelInfo> {
        vec![
            ModelInfo { id: "echo".into(), parent: None },
            ModelInfo { id: "team/adapter".into(), parent: Some("echo".into()) },
        ]
    }

    fn generate(&self, request: Request, events: Events) -> Result<(), Refused> {
        let kind = if matches!(request.prompt, Prompt::Chat { .. }) { "chat" } else { "completion" };
        self.seen.lock().unwrap().insert(kind, request.clone());
        let told = command(&request.prompt);
        match () {
            () if told.contains("say busy") => return Err(Refused::Busy),
            () if told.contains("say no") => return Err(Refused::Invalid("no, says the backend".into())),
            () => {}
        }
        let (delay, counts) = (self.delay, Arc::clone(&self.counts));
        thread::spawn(move || {
            let active = counts.active.fetch_add(1, Ordering::SeqCst) + 1;
            counts.most_active.fetch_max(active, Ordering::SeqCst);
            let ended = answer(&request, &events, delay);
            let count = if ended { &counts.finished } else { &counts.cancelled };
            count.fetch_add(1, Ordering::SeqCst);
            counts.active.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(())
    }

    fn embed(&self, request: EmbedRequest, reply: Reply<Embedding>) -> Result<(), Refused> {
        let text = prompt_text(&request.prompt);
        if text.is_empty() {
            return Err(Refused::Invalid("nothing to embed".into()));
        }
        thread::spawn(move || {
            let mut values = vec![0.0; 4];
            text.chars().for_each(|c| values[c as usize % 4] += 0.1);
            reply.send(Ok(Embedding { values, tokens: text.chars().count() as u64 }));
        });
        Ok(())
    }

    fn score(&self, request: ScoreRequest, reply: Reply<Scored>) -> Result<(), Refused> {
        let text = prompt_text(&request.prompt);
        thread::spawn(move || {
            if !text.contains("say nothing") {
                reply.send(Ok(Scored { score: text.len() as f64 / 4.0, tokens: text.chars().count() as u64 }));
            }
        });
        Ok(())
    }
}

/// Answers; false where nobody listened to the end.
fn answer(request: &Request, events: &Events, delay: Duration) -> bool {
    let (words, told) = (prompt_text(&request.prompt), command(&request.prompt));
    if told.contains("say die") {
        return true;
    }
    let mut written = 0;
    if request.echo && !events.send(Event::Prompt(tokens("", &words, request.logprobs))) {
        return false;
    }
    for choice in 0..request.n {
        let (pieces, finish) = pieces(request, &words, choice);
        let mut context = words.clone();
        for (i, piece) in pieces.iter().enumerate() {
            thread::sleep(delay);
            if told.contains("say oops") && i == 2 {
                return events.send(Event::Failed(Refused::Failed("oops, says the backend".into())));
            }
            written += 1;
            let token = request.logprobs.map(|_| tokens(&context, piece, request.logprobs).remove(0));
            // The token that ends an answer has no text of its own.
            let text = if piece == "\u{3}" { String::new() } else { piece.clone() };
            context.push_str(piece);
            if !events.send(Event::Text { choice, text, token }) {
                return false;
            }
        }
        let tool_calls = call(request);
        let finish = if tool_calls.is_empty() { finish } else { Finish::ToolCalls };
        if !events.send(Event::Finished { choice, finish, tool_calls }) {
            return false;
        }
    }
    let prompt_tokens = words.chars().count() as u64;
    events.send(Event::Done(Usage { prompt_tokens, cached_tokens: 0, completion_tokens: written }))
}

/// The pieces of an answer: words of a chat, with log-probabilities and in completions characters.
fn pieces(request: &Request, words: &str, choice: usize) -> (Vec<String>, Finish) {
    let most = request.sampling.max_new_tokens.unwrap_or(64) as usize;
    let Prompt::Chat { images, .. } = &request.prompt else {
        // A prompt that ends with a full stop is answered with an end.
        if words.ends_with('.') {
            return (vec!["\u{3}".to_owned()], Finish::Stop);
        }
        let endless: String = ON.chars().cycle().take(most).collect();
        let cut = request.sampling.stop.iter().filter_map(|stop| endless.find(stop.as_str())).min();
        let finish = if cut.is_some() { Finish::Stop } else { Finish::Length };
        let end = cut.unwrap_or(endless.len());
        return (endless[..end].chars().map(String::from).collect(), finish);
    };
    let bytes: usize = images.iter().map(|image| if let ImageSource::Bytes(b) = image { b.len() } else { 0 }).sum();
    let told = command(&request.prompt);
    let mut text = format!("You said: {told}");
    if !images.is_empty() {
        text.push_str(&format!(" ({} pictures of {bytes} bytes)", images.len()));
    }
    if choice > 0 {
        text.push_str(&format!(" ({choice})"));
    }
    if let Some((_, written)) = told.split_once("write: ") {
        text = written.to_owned();
    }
    if told.contains("say much") {
        text = "word ".repeat(most);
    }
    let split: Vec<String> = match request.logprobs {
        Some(_) => text.chars().map(String::from).collect(),
        None => text.split_inclusive(' ').map(str::to_owned).collect(),
    };
    let finish = if split.len() > most { Finish::Length } else { Finish::Stop };
    (split.into_iter().take(most).collect(), finish)
}

fn call(request: &Request) -> Vec<ToolCall> {
    let Prompt::Chat { conversation: Conversation { tools, .. }, .. } = &request.prompt else { return Vec::new() };
    let name = tools
        .first()
        .and_then(|tool| tool["function"]["name"].as_str())
        .filter(|_| command(&request.prompt).contains("say call"));
    name.map(|name| ToolCall { id: Some("call_1".into()), ..ToolCall::new(name, json!({"x": 1})) })
        .into_iter()
        .collect()
}

/// What the backend is told: a chat's last question, or a whole prompt.
fn command(prompt: &Prompt) -> String {
    let Prompt::Chat { conversation, .. } = prompt else { return prompt_text(prompt) };
    let last = conversation.messages.iter().rfind(|message| message.role == Role::User);
    last.map(Message::words).unwrap_or_default()
}

fn prompt_text(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(ids) => ids.iter().map(|id| char::from_u32(*id).unwrap_or('\u{fffd}')).collect(),
        Prompt::Chat { conversation, .. } => {
            conversation.messages.iter().map(|message| format!("{}: {}\n", message.role, message.words())).collect()
        }
    }
}

/// A character that occurred among the last sixteen is likely, and then the likeliest; another one is not.
fn tokens(context: &str, text: &str, logprobs: Option<usize>) -> Vec<Token> {
    let mut before: Vec<char> = context.chars().collect();
    let mut tokens = Vec::new();
    let bytes = |c: char| Some(c.to_string().into_bytes());
    for c in text.chars() {
        let likely = before.iter().rev().take(16).any(|other| *other == c);
        let known = logprobs.is_some() && !before.is_empty();
        let logprob = known.then_some(if likely { -0.3 } else { -2.7 });
        let best = if likely { (c, -0.3) } else { ('~', -0.1) };
        let alternatives = [best, ('#', -5.0), ('%', f32::NEG_INFINITY)].into_iter().take(logprobs.unwrap_or(0));
        let top = |(c, logprob): (char, f32)| TopToken { text: c.into(), bytes: bytes(c), logprob };
        let top = if known { alternatives.map(top).collect() } else { Vec::new() };
        tokens.push(Token { text: c.into(), bytes: bytes(c), logprob, top });
        before.push(c);
    }
    tokens
}
