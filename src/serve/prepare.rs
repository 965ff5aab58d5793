//! Requests as they travel to requests as the backend takes them.

use std::path::Path;
use std::sync::Arc;

use axum::http::StatusCode;

use super::body::parse;
use super::error::ApiError;
use super::images::Pictures;
use super::settings::Limits;
use crate::engine::{EmbedRequest, ImageSource, ModelInfo, Pooling, Prompt, Request, Sampling, ScoreRequest};
use crate::openai::{
    self, ChatMessage, ChatRequest, CompletionRequest, Content, ContentPart, EmbeddingPooling, EmbeddingRequest,
    Encoding, Input, SamplingFields, ScoreInput, StreamOptions, WireToolCall,
};
use crate::text::{Conversation, Message, Part, Role, ToolCall};

/// Stop texts and unwanted words at most.
const MOST_TEXTS: usize = 64;
/// New tokens of a completion that names no number, as at OpenAI's.
const COMPLETION_TOKENS: u32 = 16;

/// What requests are measured by.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    pub limits: Limits,
    pub images_root: Option<&'a Path>,
    pub models: Vec<ModelInfo>,
    /// Prompts that are let in at once.
    pub most_prompts: usize,
    /// The request's id, which is in the answer and in the log.
    pub id: &'a str,
}

/// What is to be answered, and in which form.
#[derive(Debug)]
pub(super) struct Prepared {
    pub requests: Vec<Request>,
    pub form: Form,
}

/// The form of an answer.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub model: String,
    pub choices: usize,
    pub echo: bool,
    pub logprobs: Option<usize>,
    pub stream: bool,
    pub include_usage: bool,
    /// The functions that may be called.
    pub tools: Vec<String>,
    /// The prompts that were sent as texts, where they are to be repeated.
    pub texts: Arc<[Option<Arc<str>>]>,
}

impl Rules<'_> {
    pub fn chat(&self, body: &[u8]) -> Result<Prepared, ApiError> {
        let request = ChatRequest::read(parse(body)?)?;
        let model = self.model(&request.model)?;
        let (messages, images) = self.messages(request.messages, "messages", &mut self.pictures())?;
        let conversation = Conversation::new(messages).with_tools(request.tools);
        let sampling = self.sampling(request.sampling, None)?;
        let logprobs = (request.logprobs == Some(true)).then(|| request.top_logprobs.unwrap_or_default() as usize);
        let mut form = form(model, sampling.1, logprobs, request.stream, request.stream_options);
        form.tools = conversation.tool_names();
        let requests = vec![self.request(&form, 0, Prompt::Chat { conversation, images }, sampling.0)];
        Ok(Prepared { requests, form })
    }

    pub fn completion(&self, body: &[u8]) -> Result<Prepared, ApiError> {
        let request = CompletionRequest::read(parse(body)?)?;
        let model = self.model(&request.model)?;
        let prompts = self.prompts(request.prompt, "prompt")?;
        let (sampling, choices) = self.sampling(request.sampling, Some(COMPLETION_TOKENS))?;
        let logprobs = request.logprobs.map(|top| top as usize);
        let mut form = form(model, choices, logprobs, request.stream, request.stream_options);
        form.echo = request.echo;
        if form.echo {
            let text = |prompt: &Prompt| match prompt {
                Prompt::Text(text) => Some(Arc::from(text.as_str())),
                Prompt::Tokens(_) | Prompt::Chat { .. } => None,
            };
            form.texts = prompts.iter().map(text).collect();
        }
        let prompts = prompts.into_iter().enumerate();
        let requests = prompts.map(|(i, prompt)| self.request(&form, i, prompt, sampling.clone())).collect();
        Ok(Prepared { requests, form })
    }

    pub fn embeddings(&self, body: &[u8]) -> Result<(Vec<EmbedRequest>, String, Encoding), ApiError> {
        let request = EmbeddingRequest::read(parse(body)?)?;
        let model = self.model(&request.model)?;
        let prompts = self.prompts(request.input, "input")?.into_iter().enumerate();
        let dimensions = request.dimensions.map(|count| count as usize);
        let pooling = request.pooling.map(|pooling| match pooling {
            EmbeddingPooling::Last => Pooling::Last,
            EmbeddingPooling::Mean => Pooling::Mean,
        });
        let requests = prompts.map(|(i, prompt)| {
            let (id, model) = (format!("{}[{i}]", self.id), Some(model.clone()));
            EmbedRequest { id, model, prompt, pooling, dimensions }
        });
        let requests = requests.collect();
        Ok((requests, model, request.encoding_format))
    }

    pub fn scores(&self, body: &[u8]) -> Result<(Vec<ScoreRequest>, String), ApiError> {
        let request = openai::ScoreRequest::read(parse(body)?)?;
        let model = self.model(&request.model)?;
        let prompts = match request.input {
            ScoreInput::Input(input) => self.prompts(input, "input")?,
            ScoreInput::Messages(conversations) => {
                self.count(conversations.len(), "messages")?;
                let mut pictures = self.pictures();
                let read = |(i, messages)| {
                    let (messages, images) = self.messages(messages, &format!("messages[{i}]"), &mut pictures)?;
                    Ok(Prompt::Chat { conversation: Conversation::new(messages), images })
                };
                conversations.into_iter().enumerate().map(read).collect::<Result<_, ApiError>>()?
            }
        };
        let requests = prompts.into_iter().enumerate().map(|(i, prompt)| {
            let (id, model) = (format!("{}[{i}]", self.id), Some(model.clone()));
            ScoreRequest { id, model, prompt }
        });
        let requests = requests.collect();
        Ok((requests, model))
    }

    fn request(&self, form: &Form, index: usize, prompt: Prompt, sampling: Sampling) -> Request {
        Request {
            id: format!("{}[{index}]", self.id),
            model: Some(form.model.clone()),
            prompt,
            sampling,
            generation: None,
            key: None,
            n: form.choices,
            logprobs: form.logprobs,
            echo: form.echo,
        }
    }

    /// The model that is meant; without a name, the first.
    fn model(&self, name: &str) -> Result<String, ApiError> {
        if let Some(model) = self.models.iter().find(|model| name.is_empty() || model.id == name) {
            return Ok(model.id.clone());
        }
        let known: Vec<&str> = self.models.iter().map(|model| model.id.as_str()).collect();
        let name: String = name.chars().take(80).collect();
        let words = format!("there is no model {name:?}; the models are: {}", known.join(", "));
        let mut error = ApiError::new(StatusCode::NOT_FOUND, words).with_code("model_not_found");
        error.body.param = Some("model".to_owned());
        Err(error)
    }

    fn sampling(&self, fields: SamplingFields, default: Option<u32>) -> Result<(Sampling, usize), ApiError> {
        let Limits { max_tokens, choices: most, .. } = self.limits;
        let choices = fields.n.unwrap_or(1) as usize;
        if choices > most {
            return Err(ApiError::field(
                "n",
                format!("this server gives at most {most} answers at once, not {choices}"),
            ));
        }
        if let Some(asked) = fields.max_tokens.filter(|asked| *asked > max_tokens) {
            return Err(ApiError::field("max_tokens", format!("this server writes at most {max_tokens}, not {asked}")));
        }
        for (field, texts) in [("stop", &fields.stop), ("bad_words", &fields.bad_words)] {
            if texts.len() > MOST_TEXTS {
                return Err(ApiError::field(field, format!("at most {MOST_TEXTS} texts, not {}", texts.len())));
            }
        }
        let sampling = Sampling {
            temperature: fields.temperature,
            // -1 is every candidate for some clients, 0 for others.
            top_k: fields.top_k.map(|k| u32::try_from(k).unwrap_or(0)),
            top_p: fields.top_p,
            min_p: fields.min_p,
            typical_p: fields.typical_p,
            repetition_penalty: fields.repetition_penalty,
            presence_penalty: fields.presence_penalty,
            frequency_penalty: fields.frequency_penalty,
            no_repeat_ngram_size: fields.no_repeat_ngram_size,
            min_new_tokens: fields.min_tokens,
            max_new_tokens: Some(fields.max_tokens.or(default).unwrap_or(max_tokens).min(max_tokens)),
            stop: fields.stop,
            stop_ids: fields.stop_token_ids,
            ignore_eos: fields.ignore_eos.unwrap_or_default(),
            bad_words: fields.bad_words,
            allowed_tokens: fields.allowed_token_ids,
            seed: fields.seed.map(|seed| seed as u64),
        };
        Ok((sampling, choices))
    }

    fn prompts(&self, input: Input, field: &str) -> Result<Vec<Prompt>, ApiError> {
        self.count(input.len(), field)?;
        Ok(match input {
            Input::Text(text) => vec![Prompt::Text(text)],
            Input::Tokens(ids) => vec![Prompt::Tokens(ids)],
            Input::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Input::TokenLists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
        })
    }

    fn count(&self, count: usize, field: &str) -> Result<(), ApiError> {
        let most = self.limits.prompts.min(self.most_prompts);
        match count > most {
            true => Err(ApiError::field(field, format!("this server takes at most {most} at once, not {count}"))),
            false => Ok(()),
        }
    }

    fn pictures(&self) -> Pictures<'_> {
        Pictures::new(self.images_root, self.limits)
    }

    fn messages(
        &self,
        messages: Vec<ChatMessage>,
        field: &str,
        pictures: &mut Pictures<'_>,
    ) -> Result<(Vec<Message>, Vec<ImageSource>), ApiError> {
        let (count, most) = (messages.len(), self.limits.messages);
        if count > most {
            return Err(ApiError::field(field, format!("this server takes at most {most} messages, not {count}")));
        }
        let mut images = Vec::new();
        let messages = messages.into_iter().enumerate();
        let messages =
            messages.map(|(i, message)| self::message(message, &format!("{field}[{i}]"), pictures, &mut images));
        let messages = messages.collect::<Result<_, _>>()?;
        Ok((messages, images))
    }
}

fn form(model: String, choices: usize, logprobs: Option<usize>, stream: bool, options: Option<StreamOptions>) -> Form {
    let include_usage = options.is_some_and(|options| options.include_usage);
    Form { model, choices, echo: false, logprobs, stream, include_usage, tools: Vec::new(), texts: Arc::default() }
}

fn message(
    message: ChatMessage,
    at: &str,
    pictures: &mut Pictures<'_>,
    images: &mut Vec<ImageSource>,
) -> Result<Message, ApiError> {
    let role = match message.role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        other => {
            let roles = "the roles are \"system\" or \"developer\", \"user\", \"assistant\" and \"tool\"";
            let other: String = other.chars().take(30).collect();
            return Err(ApiError::field(format!("{at}.role"), format!("{roles}, not {other:?}")));
        }
    };
    let mut content = Vec::new();
    match message.content {
        None => {}
        Some(Content::Text(text)) => content.push(Part::Text(text)),
        Some(Content::Parts(parts)) => {
            for (i, part) in parts.into_iter().enumerate() {
                content.push(match part {
                    ContentPart::Text { text } => Part::Text(text),
                    ContentPart::ImageUrl { image_url } => {
                        images.push(pictures.read(&image_url.url, &format!("{at}.content[{i}].image_url"))?);
                        Part::Image
                    }
                });
            }
        }
    }
    Ok(Message {
        reasoning: message.reasoning_content,
        tool_calls: message.tool_calls.into_iter().map(tool_call).collect(),
        tool_call_id: message.tool_call_id,
        name: message.name,
        ..Message::new(role, content)
    })
}

fn tool_call(call: WireToolCall) -> ToolCall {
    let arguments = serde_json::from_str(&call.function.arguments).unwrap_or(call.function.arguments.into());
    ToolCall { id: Some(call.id).filter(|id| !id.is_empty()), name: call.function.name, arguments }
}
