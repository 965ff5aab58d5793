//! A Hugging Face tokenizer folder: token ids with byte offsets, special tokens, saving.

use super::pieces::{self, Pieces};
use super::sentencepiece::{self, MergeOrder};
use super::tokenizer_bytes;
use super::tokenizer_files::{TokenizerFiles, token_text};
use super::{SpecialRole, TextError, TextStream};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PaddingParams, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer as Backend, TruncationParams,
};

/// One token of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// First byte of the text that it stands for. Tokens that share one character (byte fallback) share its range.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

/// A tokenizer as transformers 5 would load it from the same folder. Cheap to clone.
///
/// transformers 5 rebuilds the tokenizers of class `LlamaTokenizer` from their vocabulary: what `tokenizer.json` says about
/// the space before the first word is replaced by what `legacy` and `add_prefix_space` in `tokenizer_config.json` say
/// (with `legacy: false`, its default, `</s>USER` has no space before `USER`). The same is done here, and
/// [`Self::save`] writes the result, so that transformers 4 reads it alike.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    backend: Arc<Backend>,
    /// Tokens of frequent words, where the tokenizer allows it.
    pieces: Option<Pieces>,
    files: Arc<TokenizerFiles>,
    outer: Outer,
    roles: Roles,
    adds_bos: bool,
    vocab_size: usize,
}

/// What wraps a text for a model. It is set aside, because a post-processor may trim the offsets (ByteLevel's does by
/// default) and truncation would silently lose the answer; [`Tokenizer::save`] puts it back.
#[derive(Debug, Clone)]
struct Outer {
    post_processor: Option<PostProcessorWrapper>,
    truncation: Option<TruncationParams>,
    padding: Option<PaddingParams>,
}

/// Ids of the named special tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Roles {
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    sep: Option<u32>,
}

impl Roles {
    fn of(&mut self, role: SpecialRole) -> &mut Option<u32> {
        match role {
            SpecialRole::Bos => &mut self.bos,
            SpecialRole::Eos => &mut self.eos,
            SpecialRole::Pad => &mut self.pad,
            SpecialRole::Unk => &mut self.unk,
            SpecialRole::Sep => &mut self.sep,
        }
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` with `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja` and
    /// `chat_template.json` where they are there.
    ///
    /// Special tokens that the configuration names and the vocabulary lacks are added, as transformers does.
    ///
    /// # Errors
    /// [`TextError::MissingTokenizer`], or [`TextError::Io`] / [`TextError::Malformed`] with the file.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        let mut files = TokenizerFiles::read(dir)?;
        let json = dir.join("tokenizer.json");
        let (mut backend, path) = if json.is_file() {
            (read_json(&json, &files)?, json)
        } else {
            let made = sentencepiece::from_dir(dir, MergeOrder::ByScore)?;
            files.fill(made.class, &made.named_tokens);
            (made.tokenizer, made.path)
        };
        let malformed = |reason: String| TextError::Malformed { path: path.clone(), reason };

        let outer = Outer {
            post_processor: backend.get_post_processor().cloned(),
            truncation: backend.get_truncation().cloned(),
            padding: backend.get_padding().cloned(),
        };
        let token_id = |role| files.special(role).and_then(|token| backend.token_to_id(&token));
        let roles = Roles {
            bos: token_id("bos_token"),
            eos: token_id("eos_token"),
            pad: token_id("pad_token"),
            unk: token_id("unk_token"),
            sep: token_id("sep_token"),
        };
        backend.with_padding(None);
        backend.with_truncation(None).map_err(|e| malformed(e.to_string()))?;
        let first = backend.encode("a", true).map_err(|e| malformed(e.to_string()))?.get_ids().first().copied();
        // The post-processor decides; transformers' Llama classes alone rewrite it where the setting asks for BOS.
        let asked = files.is_llama_class() && files.flag("add_bos_token") == Some(true);
        let adds_bos = roles.bos.is_some() && (first == roles.bos || asked);
        backend.with_post_processor(None::<PostProcessorWrapper>);
        let vocab_size = vocab_size(&backend);
        let pieces = Pieces::of(&backend);
        Ok(Self { backend: Arc::new(backend), pieces, files: Arc::new(files), outer, roles, adds_bos, vocab_size })
    }

    /// Writes the files that were read, with the tokens added since, so that `AutoTokenizer.from_pretrained` of
    /// transformers 4 and 5 loads them. Settings that mean nothing here are written back as they were.
    ///
    /// # Errors
    /// [`TextError::Io`] with the file.
    pub fn save(&self, dir: &Path) -> Result<(), TextError> {
        let mut backend = (*self.backend).clone();
        backend.with_post_processor(self.outer.post_processor.clone());
        backend.with_padding(self.outer.padding.clone());
        backend.with_truncation(self.outer.truncation.clone()).map_err(tokenize_error)?;
        let json = backend.to_string(true).map_err(tokenize_error)?;
        self.files.write(dir, &json)
    }

    /// How many rows an embedding table needs: the highest id plus one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token's exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.backend.token_to_id(token)
    }

    /// The token's own text (`▁cat`, `Ġcat`, `</s>`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.backend.id_to_token(id)
    }

    /// Begin of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// End of sequence.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// Padding.
    pub fn pad(&self) -> Option<u32> {
        self.roles.pad
    }

    /// Unknown token.
    pub fn unk(&self) -> Option<u32> {
        self.roles.unk
    }

    /// Whether a text is a token that [`decode`](Self::decode) leaves out.
    pub fn hides(&self, text: &str) -> bool {
        self.token_id(text).is_some_and(|id| self.decode(&[id]).is_empty())
    }

    /// Whether the id is an added token (special or not): text never tokenizes into it by merging.
    pub fn is_added(&self, id: u32) -> bool {
        self.backend.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id)
    }

    /// The checkpoint's Jinja chat template: `chat_template.jinja`, else `chat_template.json`, else the configuration's
    /// (of several named ones, `default`).
    pub fn chat_template(&self) -> Option<&str> {
        self.files.chat_template.as_deref()
    }

    /// The longest input the checkpoint was made for, where its configuration says.
    pub fn model_max_length(&self) -> Option<usize> {
        self.files.model_max_length()
    }

    /// Whether transformers begins a text with BOS by default.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// The special tokens as the variables of a chat template: `bos_token`, `eos_token`, …
    pub fn template_variables(&self) -> Map<String, Value> {
        self.files.template_variables()
    }

    /// Adds special tokens; those that are there already are made special and keep their ids.
    ///
    /// Returns how many are new: the embedding tables must grow to [`Self::vocab_size`].
    ///
    /// # Errors
    /// [`TextError::Tokenize`] where the tokenizer refuses one.
    pub fn try_add_special_tokens(&mut self, tokens: &[&str]) -> Result<usize, TextError> {
        let mut new: Vec<&str> = Vec::new();
        for token in tokens {
            if self.token_id(token).is_none() && !new.contains(token) {
                new.push(token);
            }
        }
        let backend = Arc::make_mut(&mut self.backend);
        let added: Vec<AddedToken> = tokens.iter().map(|token| AddedToken::from(*token, true)).collect();
        backend.add_special_tokens(added).map_err(tokenize_error)?;
        let files = Arc::make_mut(&mut self.files);
        for token in tokens {
            if let Some(id) = backend.token_to_id(token) {
                files.note_added(id, token);
            }
        }
        self.vocab_size = vocab_size(backend);
        self.pieces = Pieces::of(backend);
        Ok(new.len())
    }

    /// [`Self::try_add_special_tokens`] for tokens that cannot be refused: plain, non-empty text. Returns how many are
    /// new; one that is refused is not counted.
    pub fn add_special_tokens(&mut self, tokens: &[&str]) -> usize {
        self.try_add_special_tokens(tokens).unwrap_or(0)
    }

    /// Makes a token the padding, adding it where it is new. Returns its id.
    ///
    /// # Errors
    /// As [`Self::set_role`].
    pub fn set_pad(&mut self, token: &str) -> Result<u32, TextError> {
        self.set_role(SpecialRole::Pad, token)
    }

    /// Gives a token a role, adding it where it is new. Returns its id. Whether a text begins with BOS does not change.
    ///
    /// # Errors
    /// [`TextError::Tokenize`] where the tokenizer refuses the token.
    pub fn set_role(&mut self, role: SpecialRole, token: &str) -> Result<u32, TextError> {
        self.try_add_special_tokens(&[token])?;
        let id = self.token_id(token).ok_or_else(|| TextError::Tokenize(format!("cannot add the token {token:?}")))?;
        *self.roles.of(role) = Some(id);
        Arc::make_mut(&mut self.files).set(role.key(), json!(token));
        Ok(id)
    }

    /// The token in a role.
    pub fn role(&self, role: SpecialRole) -> Option<u32> {
        let mut roles = self.roles;
        *roles.of(role)
    }

    /// [`Self::try_add_special_tokens`], and the configuration lists them as special tokens without a role.
    pub(super) fn add_additional(&mut self, tokens: &[String]) -> Result<(), TextError> {
        let texts: Vec<&str> = tokens.iter().map(String::as_str).collect();
        self.try_add_special_tokens(&texts)?;
        Arc::make_mut(&mut self.files).list_additional(&texts);
        Ok(())
    }

    /// The tokens of a text, with byte offsets; nothing is added around it.
    ///
    /// # Errors
    /// [`TextError::Tokenize`], for example a character outside a vocabulary that has no unknown token.
    pub fn encode(&self, text: &str) -> Result<Vec<Token>, TextError> {
        match &self.pieces {
            Some(pieces) => pieces.encode(&self.backend, text),
            None => pieces::whole(&self.backend, text),
        }
    }

    /// The text of these ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(ids, true)
    }

    /// The text of these ids, special tokens written out.
    pub fn decode_all(&self, ids: &[u32]) -> String {
        self.decode_with(ids, false)
    }

    /// The text of one token as it stands inside a text. Alone, some decoders strip the space in front of its word.
    pub fn text_within(&self, id: u32) -> String {
        let ordinary = |c: char| self.token_id(c.encode_utf8(&mut [0; 4])).filter(|&id| !self.is_added(id));
        let context = ('a'..='z').chain('A'..='Z').chain('0'..='9').find_map(ordinary);
        let within = context.and_then(|context| {
            let both = self.decode_all(&[context, id]);
            both.strip_prefix(&self.decode_all(&[context])).map(str::to_owned)
        });
        within.unwrap_or_else(|| self.decode_all(&[id]))
    }

    /// The bytes of one token inside a text, which may be a part of a character's; `None` where the vocabulary does not tell.
    pub fn bytes_within(&self, id: u32) -> Option<Vec<u8>> {
        let piece = self.token(id)?;
        if self.is_added(id) {
            return Some(piece.into_bytes());
        }
        let known = match self.backend.get_decoder() {
            Some(decoder) if tokenizer_bytes::is_byte_level(decoder) => tokenizer_bytes::of_byte_level(&piece),
            Some(_) => tokenizer_bytes::of_fallback(&piece),
            None => None,
        };
        known.or_else(|| {
            let text = self.text_within(id);
            (!text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.into_bytes())
        })
    }

    /// A decoder for ids that arrive one by one.
    pub fn stream(&self) -> TextStream {
        TextStream::new(self.clone())
    }

    fn decode_with(&self, ids: &[u32], skip_special: bool) -> String {
        // A decoder fails only on a malformed configuration; the tokens' own texts are then the best there is.
        self.backend.decode(ids, skip_special).unwrap_or_else(|_| ids.iter().filter_map(|&id| self.token(id)).collect())
    }
}

fn tokenize_error(error: tokenizers::Error) -> TextError {
    TextError::Tokenize(error.to_string())
}

fn read_json(path: &Path, files: &TokenizerFiles) -> Result<Backend, TextError> {
    let bytes = std::fs::read(path).map_err(|source| TextError::Io { path: path.to_owned(), source })?;
    let malformed = |reason: String| TextError::Malformed { path: path.to_owned(), reason };
    let mut backend = Backend::from_bytes(bytes).map_err(|e| malformed(e.to_string()))?;
    if files.is_llama_class() {
        rebuild_like_llama(&mut backend, files).map_err(malformed)?;
    }
    add_named_tokens(&mut backend, files).map_err(malformed)?;
    Ok(backend)
}

fn vocab_size(backend: &Backend) -> usize {
    backend.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
}

/// What transformers 5 does to tokenizers of class `LlamaTokenizer` with a SentencePiece vocabulary. Byte-level ones
/// that carry the class's name by mistake are left alone.
fn rebuild_like_llama(backend: &mut Backend, files: &TokenizerFiles) -> Result<(), String> {
    let text = |e: serde_json::Error| e.to_string();
    let normalizer = serde_json::to_string(&backend.get_normalizer()).map_err(text)?;
    let pre_tokenizer = serde_json::to_string(&backend.get_pre_tokenizer()).map_err(text)?;
    let from_sentencepiece = normalizer.contains('▁') && pre_tokenizer == "null";
    if !from_sentencepiece && !pre_tokenizer.contains(r#""type":"Metaspace""#) {
        return Ok(());
    }
    let prefix_space = files.flag("add_prefix_space").unwrap_or(true);
    let scheme = match (prefix_space, files.flag("legacy").unwrap_or(false)) {
        (false, _) => "never",
        (true, true) => "always",
        (true, false) => "first",
    };
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let decoder = json!({"type": "Sequence", "decoders": decoders});
    backend.with_normalizer(None::<NormalizerWrapper>).map_err(|e| e.to_string())?;
    backend.with_pre_tokenizer(Some(serde_json::from_value::<PreTokenizerWrapper>(metaspace).map_err(text)?));
    backend.with_decoder(Some(serde_json::from_value::<DecoderWrapper>(decoder).map_err(text)?));
    Ok(())
}

/// Tokens of the configuration's `added_tokens_decoder` and named special tokens that `tokenizer.json` does not have
/// as added tokens.
fn add_named_tokens(backend: &mut Backend, files: &TokenizerFiles) -> Result<(), String> {
    for token in files.named_tokens() {
        let known = |backend: &Backend, text: &str| {
            let id = backend.token_to_id(text);
            id.is_some_and(|id| backend.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id))
        };
        let Some(text) = token_text(&token) else {
            continue;
        };
        if text.is_empty() || known(backend, &text) {
            continue;
        }
        let flag = |name: &str, default: bool| token.get(name).and_then(Value::as_bool).unwrap_or(default);
        let special = flag("special", true);
        let added = AddedToken::from(text, special)
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .single_word(flag("single_word", false))
            .normalized(flag("normalized", !special));
        let result = if special { backend.add_special_tokens([added]) } else { backend.add_tokens([added]) };
        result.map_err(|e| e.to_string())?;
    }
    Ok(())
}
