//! A small byte-level BPE tokenizer, trained on the texts the model will see.

use std::path::Path;

use serde_json::{Map, json};
use tokenizers::{
    AddedToken, TokenizerBuilder, TokenizerImpl,
    decoders::byte_level::ByteLevel as ByteLevelDecoder,
    models::bpe::{BPE, BpeTrainer},
    normalizers::NormalizerWrapper,
    pre_tokenizers::byte_level::ByteLevel,
    processors::template::TemplateProcessing,
};

use super::{MadeError, write_json};

/// The special tokens, in the order of their ids.
pub(super) const SPECIAL: [&str; 5] = ["<pad>", "<s>", "</s>", "<unk>", "<image>"];
/// Id of `<pad>`.
pub(super) const PAD: u32 = 0;
/// Id of `<s>`, which opens every text.
pub(super) const BOS: u32 = 1;
/// Id of `</s>`, which closes every answer.
pub(super) const EOS: u32 = 2;
/// Id of `<image>`, one copy per image feature.
pub(super) const IMAGE: u32 = 4;

type ByteBpe = TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, TemplateProcessing, ByteLevelDecoder>;

/// Trains a tokenizer of at most `vocabulary` tokens on `texts`, writes `tokenizer.json`, `tokenizer_config.json` and
/// `special_tokens_map.json` into `dir`, and returns how many tokens it has.
///
/// Every byte has a token, so any text encodes and `<unk>` never occurs. Words (with the space before them) that occur at
/// least twice become single tokens, the most frequent first, as far as the vocabulary reaches.
pub(super) fn write_tokenizer(
    dir: &Path,
    vocabulary: usize,
    texts: impl Iterator<Item = String>,
) -> Result<usize, MadeError> {
    let mut tokenizer = train(vocabulary, texts).map_err(MadeError::Tokenizer)?;
    tokenizer.with_post_processor(Some(bos_first()));
    tokenizer.save(dir.join("tokenizer.json"), true).map_err(MadeError::Tokenizer)?;
    write_json(&dir.join("tokenizer_config.json"), &config())?;
    let named = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"});
    write_json(&dir.join("special_tokens_map.json"), &named)?;
    Ok(tokenizer.get_vocab_size(true))
}

fn train(vocabulary: usize, texts: impl Iterator<Item = String>) -> tokenizers::Result<ByteBpe> {
    let special: Vec<AddedToken> = SPECIAL.iter().map(|token| AddedToken::from(*token, true)).collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer: ByteBpe = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(None)
        .with_decoder(Some(ByteLevelDecoder::default()))
        .build()?;
    let pieces: Vec<String> = texts.flat_map(|text| ordinary_text(&text)).collect();
    tokenizer.train(&mut trainer, pieces.into_iter())?;
    Ok(tokenizer)
}

/// The text between special tokens: their letters must not become tokens of their own.
fn ordinary_text(text: &str) -> Vec<String> {
    SPECIAL.iter().fold(vec![text.to_owned()], |pieces, token| {
        pieces
            .iter()
            .flat_map(|piece| piece.split(token))
            .filter(|piece| !piece.is_empty())
            .map(str::to_owned)
            .collect()
    })
}

fn bos_first() -> TemplateProcessing {
    TemplateProcessing::builder()
        .try_single("<s> $A")
        .and_then(|builder| builder.try_pair("<s> $A <s>:1 $B:1"))
        .map(|builder| builder.special_tokens(vec![("<s>", BOS)]).build())
        .expect("the template is a constant")
        .expect("the template is a constant")
}

fn config() -> serde_json::Value {
    let tokens: Map<_, _> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, token)| {
            let flags = json!({
                "content": token, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
                "special": true,
            });
            (id.to_string(), flags)
        })
        .collect();
    json!({
        "added_tokens_decoder": tokens,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": false,
        "eos_token": "</s>",
        "model_max_length": super::settings::MAX_LENGTH,
        "pad_token": "<pad>",
        "processor_class": "LlavaProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::Tokenizer;

    const TEXT: &str =
        "A chat. USER: <image>\nWhat is in the picture? ASSISTANT: three red circles at the top left</s>";

    fn made(texts: &[&str]) -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        write_tokenizer(dir.path(), 600, texts.iter().map(|text| (*text).to_owned())).unwrap();
        Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap()
    }

    #[test]
    fn words_of_the_data_are_single_tokens_and_special_tokens_are_whole() {
        let tokenizer = made(&[TEXT; 3]);
        let encoding = tokenizer.encode(TEXT, true).unwrap();
        let tokens: Vec<&str> = encoding.get_tokens().iter().map(String::as_str).collect();
        assert_eq!(tokens[0], "<s>");
        assert_eq!(
            tokens[tokens.len() - 9..],
            [":", "Ġthree", "Ġred", "Ġcircles", "Ġat", "Ġthe", "Ġtop", "Ġleft", "</s>"]
        );
        let image = encoding.get_ids().iter().position(|&id| id == IMAGE).unwrap();
        assert_eq!(tokens[image + 1], "Ċ");
        assert_eq!(encoding.get_offsets()[tokens.len() - 1].1, TEXT.len());
    }

    #[test]
    fn any_text_survives_encoding_and_decoding() {
        let tokenizer = made(&[TEXT; 2]);
        for text in ["naïve — 図 🦊", "tabs\tand\n\nlines", "<not a token>", " x"] {
            let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
            assert!(!ids.contains(&3), "{text}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        }
    }

    #[test]
    fn the_same_texts_give_the_same_tokenizer() {
        let json = |_| made(&[TEXT, TEXT, "one blue cross in the middle"]).to_string(false).unwrap();
        assert_eq!(json(0), json(1));
    }

    #[test]
    fn the_special_tokens_have_their_ids() {
        let tokenizer = made(&["a b"]);
        for (id, token) in [(PAD, "<pad>"), (BOS, "<s>"), (EOS, "</s>"), (IMAGE, "<image>")] {
            assert_eq!(tokenizer.token_to_id(token), Some(id));
        }
    }
}
