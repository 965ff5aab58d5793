//! From a rendered text to token ids, a supervision mask and the places of the images.

use super::{ChatTemplate, Conversation, Message, Rendered, Role, TextError, Token, Tokenizer};
use std::ops::Range;

/// A text as a model takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedText {
    /// `[tokens]`: ids, BOS and every image token included.
    pub input_ids: Vec<u32>,
    /// `[tokens]`: whether the token is learned.
    pub supervised: Vec<bool>,
    /// The tokens of each image, in order.
    pub image_positions: Vec<Range<usize>>,
}

impl EncodedText {
    /// How many tokens are learned.
    pub fn num_supervised(&self) -> usize {
        self.supervised.iter().filter(|&&supervised| supervised).count()
    }

    fn push(&mut self, id: u32, supervised: bool) {
        self.input_ids.push(id);
        self.supervised.push(supervised);
    }
}

/// How the images of a text become tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageTokens {
    /// The marker in the text, such as `<image>`.
    pub token: String,
    /// Its id.
    pub id: u32,
    /// How many tokens each image takes.
    pub per_image: Vec<usize>,
    /// Whether the text between two images is tokenized by itself, as LLaVA's original code does: a tokenizer that marks
    /// the beginning of a text then marks it after every image too.
    pub apart: bool,
}

/// Encodes a rendered text once, with as many image tokens for each marker as its image takes.
///
/// BOS stands in front exactly once where the tokenizer adds it (a template may have written it already), and is never
/// learned. A token is learned when it stands for at least one byte and lies wholly inside a span; image tokens never
/// are.
///
/// A special token that a message's words spell is read as that token, as transformers does unless it is told to
/// sanitize. That moves no supervision: the spans are the template's, and no text can forge them.
///
/// The marker is one special token, so that repeating its id is the same as repeating it in the text.
///
/// # Errors
/// [`TextError::ImageToken`], [`TextError::ImageCount`], [`TextError::EmptyImage`] or [`TextError::Tokenize`].
pub fn encode_rendered(
    tokenizer: &Tokenizer,
    rendered: &Rendered,
    image: &ImageTokens,
) -> Result<EncodedText, TextError> {
    let tokens = tokens_of(tokenizer, &rendered.text, image)?;
    let mut spans = rendered.spans.iter().peekable();
    assemble(tokenizer, &rendered.text, &tokens, image, |_, token| lies_inside(token, &mut spans))
}

/// The tokens of a text with one token for each image marker.
pub(super) fn tokens_of(tokenizer: &Tokenizer, text: &str, image: &ImageTokens) -> Result<Vec<Token>, TextError> {
    if !image.per_image.is_empty() {
        check_image_token(tokenizer, image)?;
    }
    match image.apart && !image.token.is_empty() {
        true => encode_apart(tokenizer, text, image),
        false => encode(tokenizer, text),
    }
}

/// The tokens of `text` as a model takes them: BOS in front, image markers expanded. `learn` is asked of each token, by
/// its number, whether it is learned; of BOS and images it is not.
pub(super) fn assemble(
    tokenizer: &Tokenizer,
    text: &str,
    tokens: &[Token],
    image: &ImageTokens,
    mut learn: impl FnMut(usize, &Token) -> bool,
) -> Result<EncodedText, TextError> {
    let is_image = |token: &Token| {
        token.id == image.id && !image.token.is_empty() && text[token.start..token.end].contains(&image.token)
    };
    let markers = tokens.iter().filter(|token| is_image(token)).count();
    if markers != image.per_image.len() {
        let images = image.per_image.len();
        return Err(TextError::ImageCount { token: image.token.clone(), markers, images });
    }

    let mut out = EncodedText::default();
    let starts_with_bos = tokens.first().map(|token| token.id) == tokenizer.bos();
    if let (true, false, Some(bos)) = (tokenizer.adds_bos(), starts_with_bos, tokenizer.bos()) {
        out.push(bos, false);
    }
    let mut sizes = image.per_image.iter();
    for (i, token) in tokens.iter().enumerate() {
        if is_image(token) {
            let start = out.input_ids.len();
            for _ in 0..sizes.next().copied().unwrap_or(0) {
                out.push(token.id, false);
            }
            out.image_positions.push(start..out.input_ids.len());
            continue;
        }
        let is_bos = i == 0 && starts_with_bos && tokenizer.bos().is_some();
        out.push(token.id, !is_bos && learn(i, token));
    }
    Ok(out)
}

/// The tokens of a text, the white space left out that an added token takes in beside itself (`lstrip`, `rstrip`): it
/// would reach out of a span that ends with the token.
fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<Token>, TextError> {
    let mut tokens = tokenizer.encode(text)?;
    for token in tokens.iter_mut().filter(|token| tokenizer.is_added(token.id)) {
        let words = &text[token.start..token.end];
        if !words.trim().is_empty() {
            token.end = token.start + words.trim_end().len();
            token.start += words.len() - words.trim_start().len();
        }
    }
    Ok(tokens)
}

/// As [`encode`], piece by piece between the image markers.
fn encode_apart(tokenizer: &Tokenizer, text: &str, image: &ImageTokens) -> Result<Vec<Token>, TextError> {
    let mut tokens = Vec::new();
    let piece = |range: Range<usize>| -> Result<Vec<Token>, TextError> {
        let moved = |token: Token| Token { start: token.start + range.start, end: token.end + range.start, ..token };
        Ok(encode(tokenizer, &text[range.clone()])?.into_iter().map(moved).collect())
    };
    let mut from = 0;
    for (start, marker) in text.match_indices(&image.token) {
        let end = start + marker.len();
        tokens.extend(piece(from..start)?);
        tokens.push(Token { id: image.id, start, end });
        from = end;
    }
    tokens.extend(piece(from..text.len())?);
    Ok(tokens)
}

/// Refuses a template that would train a model never to stop.
///
/// A short conversation is rendered and encoded; its last learned token that is not white space must be the tokenizer's
/// end-of-sequence token or another added token. Two kinds of LLaVA's conversations end otherwise and are accepted:
/// `plain` ends a caption with a line break (it trains a projector, not a conversation), and the `v0` ones end an answer
/// with the string `###`, at which generation must stop (see [`LlavaTemplate::stop`](super::LlavaTemplate::stop)). So may
/// a prefix/suffix template, whose suffix need not be a token.
///
/// # Errors
/// [`TextError::NoEndOfTurn`], or what rendering and encoding say.
pub fn check_end_of_turn(template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<(), TextError> {
    let sample =
        Conversation::new(vec![Message::text(Role::User, "Is it red?"), Message::text(Role::Assistant, "Yes, it is.")]);
    let rendered = template.render(&sample)?;
    let mut spans = rendered.spans.iter().peekable();
    let tokens = encode(tokenizer, &rendered.text)?;
    let learned: Vec<&Token> = tokens.iter().filter(|token| lies_inside(token, &mut spans)).collect();
    let words = |token: &Token| rendered.text.get(token.start..token.end).unwrap_or_default();

    let ends_in_stop = |text: &str| match template {
        ChatTemplate::Llava(llava) => ["\n", "###"].contains(&llava.stop()) && text.ends_with(llava.stop()),
        ChatTemplate::PrefixSuffix(template) => template.stop().is_some_and(|stop| text.trim_end().ends_with(stop)),
        _ => false,
    };
    if learned.last().is_some_and(|token| ends_in_stop(&rendered.text[..token.end])) {
        return Ok(());
    }
    let last = learned.iter().rev().find(|token| !words(token).trim().is_empty());
    if last.is_some_and(|token| Some(token.id) == tokenizer.eos() || tokenizer.is_added(token.id)) {
        return Ok(());
    }
    Err(TextError::NoEndOfTurn {
        template: template.name().to_owned(),
        last: last.map_or(String::new(), |token| words(token).to_owned()),
        eos: tokenizer.eos().and_then(|id| tokenizer.token(id)),
    })
}

/// Whether a token lies wholly inside one of the spans. Tokens come in order, so that the iterator only moves forward.
fn lies_inside<'a>(token: &Token, spans: &mut std::iter::Peekable<impl Iterator<Item = &'a Range<usize>>>) -> bool {
    while spans.next_if(|span| span.end <= token.start).is_some() {}
    token.start < token.end && spans.peek().is_some_and(|span| span.start <= token.start && token.end <= span.end)
}

fn check_image_token(tokenizer: &Tokenizer, image: &ImageTokens) -> Result<(), TextError> {
    let found = tokenizer.token_id(&image.token);
    if found != Some(image.id) || !tokenizer.is_added(image.id) {
        return Err(TextError::ImageToken { token: image.token.clone(), expected: image.id, found });
    }
    match image.per_image.iter().position(|&tokens| tokens == 0) {
        Some(k) => Err(TextError::EmptyImage { image: k + 1 }),
        None => Ok(()),
    }
}
