//! What the server asks of whoever answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::admit::Slot;
use crate::engine::{EmbedRequest, Finish, ModelInfo, Request, ScoreRequest, Token, Usage};
use crate::text::ToolCall;

/// Whoever answers. Its methods return at once, and are called on the thread that moves everybody's events: the work is
/// done elsewhere.
///
/// At most [`ServeSettings::slots`](super::ServeSettings::slots) answers are asked for at a time: a request takes as many
/// slots as it wants answers, and holds them until its [`Events`] or [`Reply`] is dropped.
pub trait Backend: Send + Sync + 'static {
    /// The models and adapters that requests may name, the default first.
    fn models(&self) -> Vec<ModelInfo>;

    /// Whether it can still answer; where it cannot, `/health` says so.
    fn is_alive(&self) -> bool {
        true
    }

    /// Begins to answer. `request.model` is one of [`models`](Self::models); images are [bytes] whose header was checked.
    ///
    /// In this order, for each prompt: [`Event::Prompt`] where `request.echo` is set; for every choice any number of
    /// [`Event::Text`] and one [`Event::Finished`], choices mixed as they come; [`Event::Done`]. Or, at any time,
    /// [`Event::Failed`]. Then `events` is dropped.
    ///
    /// `request.sampling.max_new_tokens` is always set, and may be more than the model's context has room for: then the answer
    /// ends there, with [`Finish::Length`].
    ///
    /// With `request.logprobs`, every token must come, also the one that ends an answer (with no text): clients count them.
    ///
    /// [bytes]: crate::engine::ImageSource::Bytes
    ///
    /// # Errors
    /// [`Refused`] where it does not begin.
    fn generate(&self, request: Request, events: Events) -> Result<(), Refused>;

    /// Begins to embed a text.
    ///
    /// # Errors
    /// [`Refused`] where it does not begin; always, where the model is no encoder.
    fn embed(&self, request: EmbedRequest, reply: Reply<Embedding>) -> Result<(), Refused> {
        let _ = (request, reply);
        Err(Refused::Unsupported("this model makes no embeddings".to_owned()))
    }

    /// Begins to score a conversation or a text.
    ///
    /// # Errors
    /// [`Refused`] where it does not begin; always, where the model is no reward model.
    fn score(&self, request: ScoreRequest, reply: Reply<Scored>) -> Result<(), Refused> {
        let _ = (request, reply);
        Err(Refused::Unsupported("this model gives no scores".to_owned()))
    }

    /// Begins to classify a conversation or a text.
    ///
    /// # Errors
    /// [`Refused`] where it does not begin; always, where the model is no classifier.
    fn classify(&self, request: ScoreRequest, reply: Reply<Classified>) -> Result<(), Refused> {
        let _ = (request, reply);
        Err(Refused::Unsupported("this model knows no classes".to_owned()))
    }
}

/// How likely each class is.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// The probability of each class.
    pub probabilities: Vec<f64>,
    /// Their names.
    pub labels: Vec<String>,
    /// Tokens of what was classified.
    pub tokens: u64,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// Too much to do: 429.
    Busy,
    /// The request cannot be obeyed, for instance because it is longer than the model's context: 400 with these words.
    Invalid(String),
    /// The model cannot do that at all: 400 with these words.
    Unsupported(String),
    /// Something broke: 500 with these words.
    Failed(String),
}

/// What happens while a request is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt's tokens.
    Prompt(Vec<Token>),
    /// An answer goes on.
    Text {
        /// Which answer.
        choice: usize,
        /// What is to be shown; empty where a token ends in the middle of a character, or might begin a stop text.
        text: String,
        /// The token, where log-probabilities were asked for.
        token: Option<Token>,
    },
    /// An answer has ended.
    Finished {
        /// Which answer.
        choice: usize,
        /// Why.
        finish: Finish,
        /// The functions that it calls.
        tool_calls: Vec<ToolCall>,
    },
    /// All answers have ended.
    Done(Usage),
    /// There will be no answer.
    Failed(Refused),
}

/// Where a backend sends what happens. Dropped, it gives its slots back.
#[derive(Debug)]
pub struct Events {
    pub(super) prompt: usize,
    pub(super) sender: UnboundedSender<(usize, Event)>,
    pub(super) cancel: Cancel,
    pub(super) slot: Slot,
}

impl Events {
    /// Sends an event; never waits. False where nobody listens any more: the work can be given up.
    pub fn send(&self, event: Event) -> bool {
        !self.cancel.is_cancelled() && self.sender.send((self.prompt, event)).is_ok()
    }

    /// Whether nobody listens any more.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// What tells it to others.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// How many answers' slots this holds.
    pub fn slots(&self) -> usize {
        self.slot.size()
    }
}

/// Where a backend sends a result of one piece. Dropped, it gives its slot back.
#[derive(Debug)]
pub struct Reply<T> {
    pub(super) sender: oneshot::Sender<Result<T, Refused>>,
    pub(super) cancel: Cancel,
    pub(super) slot: Slot,
}

impl<T> Reply<T> {
    /// Sends the result.
    pub fn send(self, result: Result<T, Refused>) {
        // Nobody may be there to take it.
        let _ = self.sender.send(result);
        drop(self.slot);
    }

    /// Whether nobody waits for it any more.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

/// A text's embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// As wide as the model.
    pub values: Vec<f32>,
    /// Tokens of the text.
    pub tokens: u64,
}

/// A score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Higher is better.
    pub score: f64,
    /// Tokens of what was scored.
    pub tokens: u64,
}

/// Says whether somebody still wants an answer.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Whether nobody wants it any more.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
