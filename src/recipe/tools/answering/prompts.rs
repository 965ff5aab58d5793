//! From a request to what the model reads and how its answer is made.

use super::Failure;
use super::worker::Served;
use crate::data::{Encoded, PadSide, Padding, Place, collate};
use crate::engine::{ImageSource, Prompt, Request, Sampling, Token, TopToken};
use crate::generation::decoding::Decoding;
use crate::generation::settings::{Generation, TokenIds};
use crate::generation::{TokenLogprob, given_log_probs};
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::recipe::tools::{Ready, pad_id};
use crate::settings::Given;
use crate::text::{Conversation, Message, Tokenizer};
use crate::vision::VisionEncoder;
use crate::vlm::VlmInputs;
use std::path::Path;

/// A request that can be answered.
pub(super) struct Prompted {
    pub(super) encoded: Encoded,
    /// How the answer is made; `None` where no token of one is wanted.
    pub(super) decoding: Option<Decoding>,
    /// The prompt's tokens, where they are wanted.
    pub(super) echo: Option<Vec<Token>>,
}

/// Renders and tokenizes the prompt, resolves the settings, and has the prompt itself scored where that is asked for.
pub(super) fn prompted<M: LanguageModel, V: VisionEncoder, P: Projector>(
    served: &Served<M, V, P>,
    request: &Request,
) -> Result<Prompted, Failure> {
    if served.head.is_some() {
        let text =
            format!("{} has a head that yields scores, and none that yields words; ask for its scores", served.info.id);
        return Err(Failure::Invalid(text));
    }
    let encoded = encoded(served, &request.prompt, Upto::Answer)?;
    let length = encoded.input_ids.len();
    if length == 0 {
        return Err(Failure::Invalid("the prompt has no tokens, and there is nothing to go on from".to_owned()));
    }
    let writes = request.sampling.max_new_tokens != Some(0);
    let room = served.context.map(|context| context.saturating_sub(length));
    if room == Some(0) && (writes || served.context < Some(length)) {
        let context = served.context.unwrap_or_default();
        let text = format!("the prompt has {length} tokens, but the model's context has {context}; shorten it");
        return Err(Failure::Invalid(text));
    }
    let decoding = writes.then(|| decoding(served, request, room)).transpose()?;
    let echo = request.echo.then(|| echo(&served.ready, &encoded, request.logprobs));
    Ok(Prompted { encoded, decoding, echo })
}

/// How much of a conversation is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upto {
    /// Up to where its next answer begins.
    Answer,
    /// All that was said.
    End,
}

/// What the model reads. A conversation's answer is up to the model, or is there already.
pub(super) fn encoded<M: LanguageModel, V: VisionEncoder, P: Projector>(
    served: &Served<M, V, P>,
    prompt: &Prompt,
    upto: Upto,
) -> Result<Encoded, Failure> {
    let encoder = &served.ready.encoder;
    let tokenizer = &encoder.tokenizer;
    match prompt {
        Prompt::Chat { conversation, images } => {
            if !served.sees && !images.is_empty() {
                let text = format!("{} sees no images, and the conversation has {}", served.info.id, images.len());
                return Err(Failure::Invalid(text));
            }
            chat(served, conversation, images, upto)
        }
        Prompt::Text(text) => {
            let tokens = tokenizer.encode(text).map_err(|error| Failure::Invalid(error.to_string()))?;
            let first = tokens.first().map(|token| token.id);
            // A text that brings its own, as evaluation harnesses send it, gets no second one.
            let start = tokenizer.bos().filter(|bos| tokenizer.adds_bos() && first != Some(*bos));
            Ok(plain(start.into_iter().chain(tokens.iter().map(|token| token.id)).collect()))
        }
        Prompt::Tokens(ids) => {
            let rows = tokenizer.vocab_size() as u32;
            match ids.iter().find(|&&id| id >= rows) {
                Some(id) => Err(Failure::Invalid(format!("token {id} is none of the {rows} that the tokenizer has"))),
                None => Ok(plain(ids.clone())),
            }
        }
    }
}

fn chat<M: LanguageModel, V: VisionEncoder, P: Projector>(
    served: &Served<M, V, P>,
    conversation: &Conversation,
    images: &[ImageSource],
    upto: Upto,
) -> Result<Encoded, Failure> {
    let encoder = &served.ready.encoder;
    let encode = |conversation: &Conversation, images: &[ImageSource]| {
        let encoded = match upto {
            Upto::Answer => encoder.encode_question(conversation, images),
            Upto::End => encoder.encode_whole(conversation, images),
        };
        encoded.map_err(|error| Failure::Invalid(error.to_string()))
    };
    let places: usize = conversation.messages.iter().map(Message::image_count).sum();
    if places != images.len() {
        let text = format!("the messages have {places} places for images, but {} are given", images.len());
        return Err(Failure::Invalid(text));
    }
    let encoded = encode(conversation, images)?;
    if !conversation.tools.is_empty() {
        let without = Conversation { tools: Vec::new(), ..conversation.clone() };
        if encode(&without, images)?.input_ids == encoded.input_ids {
            let text = format!(
                "the chat template of {} has no place for tools; leave them out, or take a checkpoint whose template has",
                served.info.id
            );
            return Err(Failure::Invalid(text));
        }
    }
    Ok(encoded)
}

/// A row of these tokens.
fn plain(input_ids: Vec<u32>) -> Encoded {
    Encoded {
        supervised: vec![false; input_ids.len()],
        input_ids,
        image_positions: Vec::new(),
        pixel_values: Vec::new(),
        image_size: (0, 0),
        id: String::new(),
        index: 0,
        place: Place { file: Path::new("request").into(), line: 1 },
    }
}

fn decoding<M: LanguageModel, V: VisionEncoder, P: Projector>(
    served: &Served<M, V, P>,
    request: &Request,
    room: Option<usize>,
) -> Result<Decoding, Failure> {
    let invalid = |error: crate::settings::SettingError| Failure::Invalid(error.to_string());
    let given = asked(request).map_err(Failure::Invalid)?;
    let mut settings: Generation = served.defaults.under(&given).map_err(invalid)?;
    let own_ends = TokenIds::all(&settings.eos_token_id);
    let mut ends: Vec<u32> = match request.sampling.ignore_eos {
        true => Vec::new(),
        false if given.values().contains_key("eos_token_id") && !own_ends.is_empty() => own_ends,
        false => served.ends.clone(),
    };
    ends.extend(&request.sampling.stop_ids);
    settings.eos_token_id = if ends.is_empty() { Vec::new() } else { vec![TokenIds(ends)] };
    let mut decoding = settings.resolve(&served.ready.encoder.tokenizer).map_err(invalid)?;
    let is_chat = matches!(request.prompt, Prompt::Chat { .. }) && !request.sampling.ignore_eos;
    decoding.stop.strings.extend(served.stop.clone().filter(|_| is_chat));
    if let Some(room) = room {
        decoding.stop.max_new_tokens = Some(decoding.stop.max_new_tokens.map_or(room, |most| most.min(room)));
    }
    Ok(decoding)
}

/// All that the request says of generation, and no more.
fn asked(request: &Request) -> Result<Given<Generation>, String> {
    let plain = request.generation.is_none();
    let mut all = given(&request.sampling, request.n, request.logprobs, plain);
    if let Some(reason) = request.misplaced() {
        return Err(reason);
    }
    if !plain {
        // Also where the checkpoint asks for more.
        all = all.set("num_return_sequences", request.n);
    }
    for (name, value) in request.further() {
        if all.values().contains_key(name) {
            return Err(format!("`{name}` is given twice; leave one of the two out"));
        }
        all = all.set(name, value);
    }
    Ok(all)
}

/// What the request's sampling says; `plain` where there is nothing else that could say whether tokens are drawn.
fn given(sampling: &Sampling, n: usize, logprobs: Option<usize>, plain: bool) -> Given<Generation> {
    let mut given = Given::<Generation>::new();
    macro_rules! set {
        ($($name:literal: $value:expr),* $(,)?) => {
            $(if let Some(value) = $value { given = given.set($name, value); })*
        };
    }
    let draws = [sampling.top_p, sampling.min_p, sampling.typical_p].iter().any(Option::is_some);
    let sampled = match sampling.temperature {
        // OpenAI's word for the likeliest token.
        Some(0.0) => Some(false),
        Some(_) => Some(true),
        None if plain && (draws || sampling.top_k.is_some() || n > 1) => Some(true),
        None => None,
    };
    let drawn = sampled != Some(false);
    set! {
        "do_sample": sampled,
        "temperature": sampling.temperature.filter(|_| drawn),
        "top_k": sampling.top_k.filter(|_| drawn),
        "top_p": sampling.top_p.filter(|_| drawn),
        "min_p": sampling.min_p.filter(|_| drawn),
        "typical_p": sampling.typical_p.filter(|_| drawn),
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "no_repeat_ngram_size": sampling.no_repeat_ngram_size,
        "min_new_tokens": sampling.min_new_tokens,
        "max_new_tokens": sampling.max_new_tokens,
        "seed": sampling.seed.map(|seed| seed & i64::MAX as u64),
        "num_return_sequences": (n > 1).then_some(n),
        "logprobs": logprobs.map(|_| true),
        "top_logprobs": logprobs.filter(|top| *top > 0),
        "stop_strings": (!sampling.stop.is_empty()).then_some(&sampling.stop),
        "bad_words": (!sampling.bad_words.is_empty()).then_some(&sampling.bad_words),
        "allowed_token_ids": (!sampling.allowed_tokens.is_empty())
            .then(|| vec![TokenIds(sampling.allowed_tokens.clone())]),
    }
    given
}

/// The prompt's tokens, with what the model thought of each where that is wanted.
fn echo<M: LanguageModel, V: VisionEncoder, P: Projector>(
    ready: &Ready<M, V, P>,
    encoded: &Encoded,
    logprobs: Option<usize>,
) -> Vec<Token> {
    let tokenizer = &ready.encoder.tokenizer;
    let bare = |id: u32| token(tokenizer, id, None, Vec::new());
    let Some(top) = logprobs else {
        return opened(tokenizer, encoded, encoded.input_ids.iter().map(|&id| bare(id)));
    };
    let padding = Padding { token: pad_id(tokenizer), side: PadSide::Right, multiple_of: 1 };
    let batch = collate(std::slice::from_ref(encoded), &padding);
    let found =
        given_log_probs(&ready.loaded.model, &VlmInputs::upload(&batch, &ready.device), &encoded.input_ids, top);
    let first = encoded.input_ids.first().map(|&id| bare(id));
    opened(tokenizer, encoded, first.into_iter().chain(found.iter().map(|logprob| tokens_of(tokenizer, logprob))))
}

/// The first token has nothing in front of it that a decoder could part it from.
fn opened(tokenizer: &Tokenizer, encoded: &Encoded, tokens: impl Iterator<Item = Token>) -> Vec<Token> {
    let mut tokens: Vec<Token> = tokens.collect();
    if let (Some(first), Some(id)) = (tokens.first_mut(), encoded.input_ids.first()) {
        first.text = tokenizer.decode_all(&[*id]);
    }
    tokens
}

/// A token with its log-probabilities, in words.
pub(super) fn tokens_of(tokenizer: &Tokenizer, logprob: &TokenLogprob) -> Token {
    let top = logprob.top.iter().map(|&(id, logprob)| {
        let (text, bytes) = (tokenizer.text_within(id), tokenizer.bytes_within(id));
        TopToken { text, bytes, logprob }
    });
    token(tokenizer, logprob.id, Some(logprob.logprob), top.collect())
}

fn token(tokenizer: &Tokenizer, id: u32, logprob: Option<f32>, top: Vec<TopToken>) -> Token {
    let (text, bytes) = (tokenizer.text_within(id), tokenizer.bytes_within(id));
    Token { text, bytes, logprob, top }
}
