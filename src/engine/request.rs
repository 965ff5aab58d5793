//! What an engine is asked.

use crate::generation::settings::Generation;
use crate::image::ImageSource;
use crate::settings::Given;
use crate::text::Conversation;

/// One prompt and how it is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What messages call it: a record's id, or its line.
    pub id: String,
    /// The model or adapter that answers; `None` is the engine's own choice.
    pub model: Option<String>,
    /// What is answered.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What [`Sampling`] has no word for (beams, contrastive search …), under transformers' names. An engine obeys each of
    /// these settings or refuses the request by the setting's name. It says then all that is said of `do_sample`; a setting
    /// that [`sampling`](Self::sampling) gives too is refused, and so are those that are fields of a request:
    /// `num_return_sequences`, `logprobs`, `top_logprobs`, and `best_of`, where a reward model chooses.
    pub generation: Option<Given<Generation>>,
    /// What tells its draws from those of other requests with the same seed, such as a record's number; `None` is its place
    /// among the requests that are asked together.
    pub key: Option<u64>,
    /// How many answers.
    pub n: usize,
    /// Whether answers come with their tokens' log-probabilities, and with how many of the likeliest alternatives.
    pub logprobs: Option<usize>,
    /// Whether the prompt's own tokens are wanted, with log-probabilities where [`logprobs`](Self::logprobs) asks for them:
    /// `echo`, and what likelihoods of given texts are read from. Not for [`Prompt::Chat`] over HTTP.
    pub echo: bool,
}

impl Request {
    /// One answer to `prompt`, with the engine's defaults.
    pub fn new(id: impl Into<String>, prompt: Prompt) -> Self {
        let (sampling, generation, key) = (Sampling::default(), None, None);
        Self { id: id.into(), model: None, prompt, sampling, generation, key, n: 1, logprobs: None, echo: false }
    }

    /// Further settings that are given, without those that are left open.
    pub(crate) fn further(&self) -> impl Iterator<Item = (&str, &serde_json::Value)> {
        let values = self.generation.iter().flat_map(|given| given.values());
        values.map(|(name, value)| (name.as_str(), value)).filter(|(_, value)| !value.is_null())
    }

    /// What is wrong with a further setting that the request has a field of its own for.
    pub(crate) fn misplaced(&self) -> Option<String> {
        let field = |name: &str| match name {
            "num_return_sequences" => Some("`n` of the request says how many answers there are"),
            "logprobs" | "top_logprobs" => Some("`logprobs` of the request asks for log-probabilities"),
            "best_of" => Some("whoever has a reward model asks for `n` answers and chooses among them"),
            _ => None,
        };
        self.further().find_map(|(name, _)| Some(format!("`{name}` is no setting of a request: {}", field(name)?)))
    }

    /// Places that it takes in a batch.
    pub(crate) fn lanes(&self) -> usize {
        let beams = self.further().find(|(name, _)| *name == "num_beams").and_then(|(_, beams)| beams.as_u64());
        self.n.max(beams.unwrap_or(1) as usize).max(1)
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A conversation, rendered with the model's chat template.
    Chat {
        /// Its turns and tools.
        conversation: Conversation,
        /// The files or bytes of its images, one for each [`Part::Image`](crate::text::Part::Image), in order.
        images: Vec<ImageSource>,
    },
    /// A text as it is.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// How tokens are chosen. `None` and empty lists leave it to the engine: its model's `generation_config.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy.
    pub temperature: Option<f64>,
    /// Keeps this many candidates; 0 keeps all.
    pub top_k: Option<u32>,
    /// Keeps the likeliest candidates up to this mass, in (0, 1].
    pub top_p: Option<f64>,
    /// Keeps candidates of at least this probability, relative to the likeliest one's, in [0, 1].
    pub min_p: Option<f64>,
    /// Keeps the most typical candidates up to this mass, in (0, 1].
    pub typical_p: Option<f64>,
    /// Divides positive logits of tokens that have occurred, and multiplies negative ones.
    pub repetition_penalty: Option<f64>,
    /// Taken off the logit of every token that has been written.
    pub presence_penalty: Option<f64>,
    /// Taken off a token's logit for each time it has been written.
    pub frequency_penalty: Option<f64>,
    /// Length of runs of tokens that may not occur twice; 0 allows all.
    pub no_repeat_ngram_size: Option<u32>,
    /// New tokens before an answer may end.
    pub min_new_tokens: Option<u32>,
    /// New tokens at most.
    pub max_new_tokens: Option<u32>,
    /// Texts that end an answer and are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end an answer, beside the model's own.
    pub stop_ids: Vec<u32>,
    /// Whether the model's own end token is written like any other.
    pub ignore_eos: bool,
    /// Texts that are not written.
    pub bad_words: Vec<String>,
    /// The only tokens that are written; empty allows all.
    pub allowed_tokens: Vec<u32>,
    /// Same seed, same answer.
    pub seed: Option<u64>,
}

/// What a reward model is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRequest {
    /// What messages call it.
    pub id: String,
    /// The model or adapter that scores; `None` is the engine's own choice.
    pub model: Option<String>,
    /// What is scored, the answer included.
    pub prompt: Prompt,
}

/// What an encoder is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedRequest {
    /// What messages call it.
    pub id: String,
    /// The model or adapter that embeds; `None` is the engine's own choice.
    pub model: Option<String>,
    /// What is embedded: [`Prompt::Text`] or [`Prompt::Tokens`].
    pub prompt: Prompt,
    /// How a text's hidden states become one; `None` leaves it to the model.
    pub pooling: Option<Pooling>,
    /// How many of the values are wanted, the first ones; `None` is all.
    pub dimensions: Option<usize>,
}

/// How the hidden states of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The last token's, which in a decoder alone has seen the whole text.
    Last,
    /// The mean of all.
    Mean,
}

/// A model that requests may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its name.
    pub id: String,
    /// The base model, of an adapter.
    pub parent: Option<String>,
}
