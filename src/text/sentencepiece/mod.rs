//! Tokenizers from SentencePiece models: folders of the original LLaVA, Vicuna, Llama, Mistral and Gemma checkpoints
//! carry `tokenizer.model` instead of `tokenizer.json`.
//!
//! The result gives the ids of the tokenizer class that the folder names, as transformers 5.23 makes it from the same
//! files. Versions 4.57 and 5.23 differ, and 5 is followed:
//! - `legacy` absent: 5 takes `false` (no space after a special token), 4 takes `true`.
//! - `legacy: true`: 4 puts a `▁` before every text, 5 only where there is none (so `" a"` is one token in 5).
//! - `add_bos_token` absent: 5 adds none, 4 adds BOS for Llama and Gemma.
//! - A model's own tokens (`image_token` in the configuration) are added in 5 only.
//! - Control and user-defined pieces are added tokens; in 5 only where the folder lists no additional special tokens.
//! - Unigram texts of spaces alone have no tokens in 5 (ALBERT); ALBERT's `add_prefix_space` counts in 5 only.
//!
//! The order of the merges is another difference, and the caller's choice: see [`MergeOrder`]. What a file of a BPE
//! model says about its normalizer counts in neither version.

mod charsmap;
mod family;
mod merges;
mod proto;
mod settings;

#[cfg(test)]
mod tests;

use super::TextError;
use family::Family;
use proto::{MAX_FILE, Model};
use settings::{CONFIG, Settings};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The names under which checkpoints keep their SentencePiece model, most usual first.
pub const MODEL_FILES: [&str; 3] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"];

/// In which order pieces are merged, where a file's ids and scores disagree.
///
/// They agree in a vocabulary as SentencePiece trains it. In those of Llama and Mistral the runs of spaces have low ids
/// but the score -1e9, that is, they must be merged last: text with two spaces in a row gets other ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeOrder {
    /// transformers 5.23, making a tokenizer from `tokenizer.model`.
    ById,
    /// SentencePiece itself, transformers 4.57, and the `tokenizer.json` files that it made, which version 5 reads as they
    /// are.
    ByScore,
}

/// A tokenizer made from a SentencePiece model.
#[derive(Debug)]
pub struct Converted {
    /// With added and special tokens, and what is put around a text.
    pub tokenizer: tokenizers::Tokenizer,
    /// The SentencePiece model.
    pub path: PathBuf,
    /// transformers' name of its class (`LlamaTokenizer`), also where the folder names none.
    pub class: &'static str,
    /// The named special tokens (`bos_token`, …) with their texts, the class's defaults included.
    pub named_tokens: Vec<(String, String)>,
}

/// The SentencePiece model of a folder, if there is one.
pub fn find(dir: &Path) -> Option<PathBuf> {
    MODEL_FILES.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

/// Makes the tokenizer of a folder from its SentencePiece model, with `tokenizer_config.json`,
/// `special_tokens_map.json`, `added_tokens.json` and `config.json` where they are there.
///
/// # Errors
/// [`TextError::MissingTokenizer`] without a model; [`TextError::Io`] or [`TextError::Malformed`] with the file that is
/// damaged, names a class that cannot be made, or contradicts the model.
pub fn from_dir(dir: &Path, order: MergeOrder) -> Result<Converted, TextError> {
    let path = find(dir).ok_or_else(|| TextError::MissingTokenizer {
        dir: dir.to_owned(),
        hint: " and no tokenizer.model either; give a checkpoint folder in Hugging Face's layout",
    })?;
    let bytes = read(&path).map_err(|source| TextError::Io { path: path.clone(), source })?;
    let malformed = |path: &Path, reason| TextError::Malformed { path: path.to_owned(), reason };
    let settings = Settings::read(dir)?;
    let model = Model::parse(&bytes).map_err(|e| malformed(&path, e))?;
    let family = Family::find(&settings, model.algorithm).map_err(|e| malformed(&dir.join(CONFIG), e))?;
    let named = settings.named(family);
    let tokenizer = family.build(model, &settings, &named, order).map_err(|e| malformed(&path, e))?;
    let named_tokens = named.into_iter().map(|(role, token)| (role, token.content)).collect();
    Ok(Converted { tokenizer, path, class: family.class(), named_tokens })
}

/// A file's bytes, one more than allowed where there are more.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
