//! Requests as they are sent.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::{EngineError, ImageSource, Prompt, Request, ScoreRequest};
use crate::openai::{
    ChatMessage, ChatRequest, CompletionRequest, Content, ContentPart, FunctionCall, ImageUrl, Input, ScoreInput,
    StreamOptions, WireToolCall,
};
use crate::text::{Message, Part, ToolCall};

/// Where conversations go.
pub(super) const CHAT: &str = "/chat/completions";
const COMPLETIONS: &str = "/completions";
const SCORE: &str = "/score";
/// Where conversations and texts are classified: beside the versioned interface, not in it.
pub(super) const CLASSIFY: &str = "/classify";

/// Path and body of a request.
pub(super) fn generation(request: &Request, stream: bool) -> Result<(&'static str, Vec<u8>), EngineError> {
    let model = request.model.clone().unwrap_or_default();
    let sampling = super::settings_sent::sampling(request)?;
    let stream_options = stream.then_some(StreamOptions { include_usage: true });
    let prompt = match &request.prompt {
        Prompt::Chat { conversation, images } => {
            if request.echo {
                return Err(unsupported(&request.id, "a conversation's prompt has no echo over HTTP; send it as text"));
            }
            let body = ChatRequest {
                model,
                messages: messages(&request.id, &conversation.messages, images)?,
                tools: conversation.tools.clone(),
                sampling,
                logprobs: request.logprobs.map(|_| true),
                top_logprobs: request.logprobs.filter(|top| *top > 0).map(|top| top as u32),
                stream,
                stream_options,
            };
            if !conversation.documents.is_empty() {
                return Err(unsupported(&request.id, "documents cannot be sent over HTTP; write them into a message"));
            }
            return Ok((CHAT, json(&request.id, &body)?));
        }
        Prompt::Text(text) => Input::Text(text.clone()),
        Prompt::Tokens(ids) => Input::Tokens(ids.clone()),
    };
    // The prompt's tokens come only beside log-probabilities, and some servers take 0 for none.
    let logprobs = if request.echo { Some(request.logprobs.unwrap_or(1).max(1)) } else { request.logprobs };
    let body = CompletionRequest {
        model,
        prompt,
        echo: request.echo,
        logprobs: logprobs.map(|top| top as u32),
        sampling,
        stream,
        stream_options,
    };
    Ok((COMPLETIONS, json(&request.id, &body)?))
}

/// Path and body of a request for a score.
pub(super) fn score(request: &ScoreRequest) -> Result<(&'static str, Vec<u8>), EngineError> {
    let model = request.model.clone().unwrap_or_default();
    let input = match &request.prompt {
        Prompt::Chat { conversation, images } => {
            ScoreInput::Messages(vec![messages(&request.id, &conversation.messages, images)?])
        }
        Prompt::Text(text) => ScoreInput::Input(Input::Text(text.clone())),
        Prompt::Tokens(ids) => ScoreInput::Input(Input::Tokens(ids.clone())),
    };
    Ok((SCORE, json(&request.id, &crate::openai::ScoreRequest { model, input })?))
}

/// Path and body of a request for the probabilities of classes.
pub(super) fn classify(request: &ScoreRequest) -> Result<(&'static str, Vec<u8>), EngineError> {
    let model = request.model.clone().unwrap_or_default();
    let body = match &request.prompt {
        Prompt::Chat { conversation, images } => {
            serde_json::json!({"model": model, "messages": messages(&request.id, &conversation.messages, images)?})
        }
        Prompt::Text(text) => serde_json::json!({"model": model, "input": text}),
        Prompt::Tokens(ids) => serde_json::json!({"model": model, "input": ids}),
    };
    Ok((CLASSIFY, json(&request.id, &body)?))
}

fn json(request: &str, body: &impl serde::Serialize) -> Result<Vec<u8>, EngineError> {
    serde_json::to_vec(body).map_err(|error| unsupported(request, &error.to_string()))
}

fn messages(request: &str, messages: &[Message], images: &[ImageSource]) -> Result<Vec<ChatMessage>, EngineError> {
    let places: usize = messages.iter().map(Message::image_count).sum();
    if places != images.len() {
        let reason = format!("the messages have {places} places for images, but {} are given", images.len());
        return Err(unsupported(request, &reason));
    }
    let mut images = images.iter();
    messages.iter().map(|message| self::message(request, message, &mut images)).collect()
}

fn message<'i>(
    request: &str,
    message: &Message,
    images: &mut impl Iterator<Item = &'i ImageSource>,
) -> Result<ChatMessage, EngineError> {
    let content = match message.image_count() {
        0 if message.content.is_empty() => None,
        0 => Some(Content::Text(message.words())),
        _ => {
            let mut parts = Vec::new();
            for part in &message.content {
                parts.push(match part {
                    Part::Text(text) => ContentPart::Text { text: text.clone() },
                    Part::Image => {
                        let Some(image) = images.next() else {
                            return Err(unsupported(request, "an image is missing"));
                        };
                        ContentPart::ImageUrl { image_url: ImageUrl { url: data_url(request, image)? } }
                    }
                });
            }
            Some(Content::Parts(parts))
        }
    };
    Ok(ChatMessage {
        role: message.role.as_str().to_owned(),
        content,
        name: message.name.clone(),
        tool_calls: message.tool_calls.iter().map(tool_call).collect(),
        tool_call_id: message.tool_call_id.clone(),
        reasoning_content: message.reasoning.clone(),
    })
}

fn tool_call(call: &ToolCall) -> WireToolCall {
    // A string holds JSON already.
    let arguments = call.arguments.as_str().map_or_else(|| call.arguments.to_string(), str::to_owned);
    let function = FunctionCall { name: call.name.clone(), arguments };
    WireToolCall { index: None, id: call.id.clone().unwrap_or_default(), kind: "function".to_owned(), function }
}

fn data_url(request: &str, image: &ImageSource) -> Result<String, EngineError> {
    let name = match image {
        ImageSource::Bytes(_) => Path::new("the image"),
        ImageSource::File(path) => path,
    };
    let unreadable = |source| EngineError::Image { request: request.to_owned(), path: name.to_owned(), source };
    let bytes = image.bytes().map_err(unreadable)?;
    let name = name.display();
    let Some(kind) = media_type(&bytes) else {
        let reason = format!("{name} is not a PNG, JPEG, WebP, BMP or GIF file by its first bytes");
        return Err(unsupported(request, &reason));
    };
    Ok(format!("data:{kind};base64,{}", STANDARD.encode(bytes)))
}

/// What a picture's first bytes say that it is.
fn media_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        [b'B', b'M', ..] => Some("image/bmp"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        _ => None,
    }
}

pub(super) fn unsupported(request: &str, reason: &str) -> EngineError {
    EngineError::Unsupported { request: request.to_owned(), reason: reason.to_owned() }
}
