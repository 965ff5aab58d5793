//! Which tokenizers can be made, and how each is put together.

use super::merges::{MAX_COST, merges};
use super::proto::{Algorithm, Model, Piece, PieceKind};
use super::settings::Settings;
use super::{MergeOrder, charsmap};
use tokenizers::decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip};
use tokenizers::models::{bpe::BPE, unigram::Unigram};
use tokenizers::normalizers::{Lowercase, NFKD, Precompiled, Replace, Sequence as Normalizers, StripAccents};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::{sequence::Sequence as PreTokenizers, split::Split, whitespace::WhitespaceSplit};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, Tokenizer as Backend};

/// What the tokenizer's classes have in common. Each is named as transformers' class, without `Fast`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Gemma,
    T5,
    XlmRoberta,
    Albert,
}

/// Families, their classes, and the model types of `config.json` that stand for them where no class is named.
const FAMILIES: &[(Family, &str, &[&str])] = &[
    (
        Family::Llama,
        "LlamaTokenizer",
        &[
            "llama",
            "llava",
            "llava_llama",
            "llava_mistral",
            "llava_next",
            "mistral",
            "mixtral",
            "vipllava",
            "video_llava",
        ],
    ),
    (Family::Gemma, "GemmaTokenizer", &["gemma", "gemma2", "gemma3", "gemma3_text", "paligemma", "recurrent_gemma"]),
    (Family::T5, "T5Tokenizer", &["t5", "mt5", "switch_transformers", "longt5"]),
    (Family::XlmRoberta, "XLMRobertaTokenizer", &["xlm-roberta"]),
    (Family::Albert, "AlbertTokenizer", &["albert"]),
];

const SPACE: &str = "▁";

/// T5 has 100.
const MAX_EXTRA_IDS: u64 = 100_000;

/// A tokenizer's parts with the errors of the `tokenizers` crate as text.
type Parts<T> = Result<T, String>;

impl Family {
    /// The family that the files name; a BPE vocabulary without any word about it is taken as Llama's.
    ///
    /// # Errors
    /// A class that is not known, or that does not fit the model's algorithm.
    pub(super) fn find(settings: &Settings, algorithm: Algorithm) -> Result<Self, String> {
        let family = match (settings.class(), settings.model_type()) {
            (Some(class), _) => {
                let plain = class.strip_suffix("Fast").unwrap_or(class);
                let found = FAMILIES.iter().find(|(_, known, _)| *known == plain);
                found.map(|(family, ..)| *family).ok_or_else(|| unknown(&format!("the tokenizer class `{class}`")))?
            }
            (None, Some(model)) => {
                let found = FAMILIES.iter().find(|(_, _, models)| models.contains(&model));
                found.map(|(family, ..)| *family).ok_or_else(|| {
                    unknown(&format!("no `tokenizer_class` is set and the tokenizer of `{model}` models"))
                })?
            }
            (None, None) if algorithm == Algorithm::Bpe => Self::Llama,
            (None, None) => {
                return Err(format!(
                    "a Unigram vocabulary without a `tokenizer_class`; set it to one of {} in tokenizer_config.json",
                    classes()
                ));
            }
        };
        if family.algorithm() == algorithm {
            Ok(family)
        } else {
            Err(format!(
                "the tokenizer class `{}` needs a {:?} vocabulary but tokenizer.model holds a {algorithm:?} one; correct \
                 `tokenizer_class`",
                family.class(),
                family.algorithm(),
            ))
        }
    }

    /// transformers' name of the class.
    pub(super) fn class(self) -> &'static str {
        FAMILIES.iter().find(|(family, ..)| *family == self).map_or("", |(_, class, _)| *class)
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::Llama | Self::Gemma => Algorithm::Bpe,
            Self::T5 | Self::XlmRoberta | Self::Albert => Algorithm::Unigram,
        }
    }

    /// The named token of a folder that says nothing about it.
    pub(super) fn default_token(self, role: &str) -> Option<&'static str> {
        let tokens: &[(&str, &str)] = match self {
            Self::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>")],
            Self::Gemma => {
                &[("bos_token", "<bos>"), ("eos_token", "<eos>"), ("pad_token", "<pad>"), ("mask_token", "<mask>")]
            }
            Self::T5 => &[("eos_token", "</s>"), ("pad_token", "<pad>")],
            Self::XlmRoberta => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("sep_token", "</s>"),
                ("cls_token", "<s>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::Albert => &[
                ("bos_token", "[CLS]"),
                ("eos_token", "[SEP]"),
                ("sep_token", "[SEP]"),
                ("cls_token", "[CLS]"),
                ("pad_token", "<pad>"),
                ("mask_token", "[MASK]"),
            ],
        };
        let unknown = (role == "unk_token").then_some("<unk>");
        tokens.iter().find(|(known, _)| *known == role).map(|(_, text)| *text).or(unknown)
    }

    /// The tokenizer, added tokens included.
    ///
    /// # Errors
    /// What does not fit together.
    pub(super) fn build(
        self,
        model: Model,
        settings: &Settings,
        named: &[(String, AddedToken)],
        order: MergeOrder,
    ) -> Parts<Backend> {
        let own = self.own_tokens(&model.pieces, settings)?;
        let charsmap = model.charsmap.clone();
        let mut backend = match self {
            Self::Llama => llama(model.pieces, settings, order)?,
            Self::Gemma => gemma(model.pieces, &required(named, "unk_token")?, order)?,
            Self::T5 => {
                let last = (0..extra_ids(settings)?).rev().map(|id| (format!("<extra_id_{id}>"), 0.0));
                unigram(scored(model.pieces).chain(last).collect(), 2, normalizers(&charsmap, Vec::new())?, true)?
            }
            Self::XlmRoberta => {
                let mut vocab = Vec::with_capacity(model.pieces.len() + 2);
                for role in ["bos_token", "pad_token", "eos_token", "unk_token"] {
                    vocab.push((required(named, role)?, 0.0));
                }
                // fairseq's order: its own four tokens stand in for the file's first three.
                vocab.extend(scored(model.pieces).skip(3));
                vocab.push((required(named, "mask_token")?, 0.0));
                unigram(vocab, 3, normalizers(&charsmap, Vec::new())?, prefix_space(settings))?
            }
            Self::Albert => {
                let steps = albert_steps(settings)?;
                unigram(scored(model.pieces).collect(), 1, normalizers(&charsmap, steps)?, prefix_space(settings))?
            }
        };
        backend.add_tokens(settings.tokens(named, own)).map_err(text)?;
        for (id, token) in settings.promised() {
            let found = backend.token_to_id(token);
            if found != Some(id) {
                let found = found.map_or("none".to_owned(), |found| found.to_string());
                return Err(format!(
                    "the added token {token:?} should have id {id} but gets {found}: ids are given in order after the \
                     vocabulary's last; list a token for every id in between, or correct the id"
                ));
            }
        }
        self.surround(&mut backend, settings, named)?;
        Ok(backend)
    }

    /// The tokens that the class adds where the files have no list: control and user-defined pieces, T5's sentinels.
    fn own_tokens(self, pieces: &[Piece], settings: &Settings) -> Parts<Vec<AddedToken>> {
        let added = |piece: &Piece| {
            let special = piece.kind == PieceKind::Control;
            (piece.kind != PieceKind::Plain).then(|| AddedToken::from(&piece.text, special).normalized(false))
        };
        let mut own: Vec<AddedToken> = pieces.iter().filter_map(added).collect();
        if self == Self::T5 {
            let (count, known) =
                (extra_ids(settings)?, own.iter().filter(|t| t.content.contains("<extra_id_")).count());
            if known == 0 {
                own.extend((0..count).map(|id| AddedToken::from(format!("<extra_id_{id}>"), true)));
            } else if count > 0 && count != known as u64 {
                return Err(format!(
                    "the vocabulary has {known} tokens <extra_id_…>; set `extra_ids` to 0, not {count}"
                ));
            }
        }
        Ok(own)
    }

    /// What is put around a text: only on request for BPE vocabularies, always for the others.
    fn surround(self, backend: &mut Backend, settings: &Settings, named: &[(String, AddedToken)]) -> Parts<()> {
        let asked = |key: &str, role: &str| {
            let token = named.iter().find(|(known, _)| known == role).map(|(_, token)| token.content.clone());
            token.filter(|_| settings.flag(key) == Some(true))
        };
        let (before, after, between) = match self {
            Self::Albert if ["add_bos_token", "add_eos_token"].iter().all(|key| settings.flag(key).is_none()) => {
                (Some(required(named, "cls_token")?), Some(required(named, "sep_token")?), None)
            }
            Self::Llama | Self::Gemma | Self::Albert => {
                let before = asked("add_bos_token", "bos_token");
                (before.clone(), asked("add_eos_token", "eos_token"), before)
            }
            Self::T5 => (None, Some(required(named, "eos_token")?), None),
            Self::XlmRoberta => {
                let eos = required(named, "eos_token")?;
                (Some(required(named, "bos_token")?), Some(eos.clone()), Some(eos))
            }
        };
        let types = matches!(self, Self::Llama | Self::Gemma | Self::Albert);
        let piece = |text: &str, sequence: u8| if types { format!("{text}:{sequence}") } else { text.to_owned() };
        let token = |token: &Option<String>, sequence| token.iter().map(|t| piece(t, sequence)).collect::<Vec<_>>();
        let single = [token(&before, 0), vec![piece("$A", 0)], token(&after, 0)].concat();
        let pair = [single.clone(), token(&between, 1), vec![piece("$B", 1)], token(&after, 1)].concat();
        let mut special = Vec::new();
        for token in [before, after, between].into_iter().flatten() {
            let id =
                backend.token_to_id(&token).ok_or_else(|| format!("the token {token:?} is not in the vocabulary"))?;
            special.push((token, id));
        }
        let mut builder = TemplateProcessing::builder();
        builder.try_single(single)?.try_pair(pair)?.special_tokens(special);
        backend.with_post_processor(Some(builder.build().map_err(|e| e.to_string())?));
        Ok(())
    }
}

fn classes() -> String {
    FAMILIES.iter().map(|(_, class, _)| *class).collect::<Vec<_>>().join(", ")
}

fn unknown(what: &str) -> String {
    format!(
        "{what} cannot be made from a SentencePiece model; the classes that can are {}. Load the folder with transformers' \
         AutoTokenizer and save it to get a tokenizer.json",
        classes()
    )
}

fn text(error: tokenizers::Error) -> String {
    error.to_string()
}

fn required(named: &[(String, AddedToken)], role: &str) -> Parts<String> {
    let token = named.iter().find(|(known, _)| known == role).map(|(_, token)| token.content.clone());
    token.ok_or_else(|| format!("`{role}` is null, but this tokenizer class needs one"))
}

fn extra_ids(settings: &Settings) -> Parts<u64> {
    let count = settings.number("extra_ids").unwrap_or(100);
    let error = || format!("`extra_ids` is {count}; at most {MAX_EXTRA_IDS} are allowed");
    (count <= MAX_EXTRA_IDS).then_some(count).ok_or_else(error)
}

fn prefix_space(settings: &Settings) -> bool {
    settings.flag("add_prefix_space").unwrap_or(true)
}

fn scored(pieces: Vec<Piece>) -> impl Iterator<Item = (String, f64)> {
    pieces.into_iter().map(|piece| (piece.text, f64::from(piece.score)))
}

/// A BPE model with byte fallback.
fn bpe(pieces: Vec<Piece>, unknown: Option<&str>, order: MergeOrder) -> Parts<BPE> {
    let merges = merges(&pieces, order, MAX_COST)?;
    let vocab: tokenizers::models::bpe::Vocab = pieces.into_iter().map(|piece| piece.text).zip(0..).collect();
    let mut builder = BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(true);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown.to_owned());
    }
    builder.build().map_err(text)
}

fn llama(pieces: Vec<Piece>, settings: &Settings, order: MergeOrder) -> Parts<Backend> {
    // Version 5 names no unknown token: what even bytes cannot spell is dropped.
    let mut backend = Backend::new(bpe(pieces, None, order)?);
    let prefix = prefix_space(settings);
    let scheme = match (prefix, settings.flag("legacy").unwrap_or(false)) {
        (false, _) => PrependScheme::Never,
        (true, true) => PrependScheme::Always,
        (true, false) => PrependScheme::First,
    };
    backend.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
    backend.with_decoder(Some(bytes_decoder(prefix)?));
    Ok(backend)
}

fn gemma(pieces: Vec<Piece>, unknown: &str, order: MergeOrder) -> Parts<Backend> {
    let mut backend = Backend::new(bpe(pieces, Some(unknown), order)?);
    backend.with_normalizer(Some(Replace::new(" ", SPACE).map_err(text)?)).map_err(text)?;
    let split = Split::new(" ", SplitDelimiterBehavior::MergedWithPrevious, false).map_err(text)?;
    backend.with_pre_tokenizer(Some(split));
    backend.with_decoder(Some(bytes_decoder(false)?));
    Ok(backend)
}

/// Spaces, then bytes, then one text; without its first space where one was put in front.
fn bytes_decoder(prefix: bool) -> Parts<Decoders> {
    let spaces = Replace::new(SPACE, " ").map_err(text)?;
    let mut decoders = vec![spaces.into(), ByteFallback::default().into(), Fuse::default().into()];
    if prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    Ok(Decoders::new(decoders))
}

fn unigram(
    vocab: Vec<(String, f64)>,
    unknown: usize,
    normalizer: Option<NormalizerWrapper>,
    prefix: bool,
) -> Parts<Backend> {
    let mut backend = Backend::new(Unigram::from(vocab, Some(unknown), false).map_err(text)?);
    backend.with_normalizer(normalizer).map_err(text)?;
    let scheme = if prefix { PrependScheme::Always } else { PrependScheme::Never };
    let metaspace = Metaspace::new('▁', scheme, true);
    let steps: Vec<PreTokenizerWrapper> = vec![WhitespaceSplit.into(), metaspace.clone().into()];
    backend.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    backend.with_decoder(Some(metaspace));
    Ok(backend)
}

/// The class's own steps, then the file's table.
fn normalizers(charsmap: &[u8], mut steps: Vec<NormalizerWrapper>) -> Parts<Option<NormalizerWrapper>> {
    let alone = steps.is_empty();
    if !charsmap.is_empty() {
        charsmap::check(charsmap)?;
        steps.push(Precompiled::from(charsmap).map_err(|e| e.to_string())?.into());
    }
    Ok(if alone { steps.pop() } else { Some(Normalizers::new(steps).into()) })
}

fn albert_steps(settings: &Settings) -> Parts<Vec<NormalizerWrapper>> {
    let quote = |pattern: &str| Replace::new(pattern, "\"").map_err(text);
    let mut steps: Vec<NormalizerWrapper> = vec![quote("``")?.into(), quote("''")?.into()];
    if !settings.flag("keep_accents").unwrap_or(false) {
        steps.extend([NFKD.into(), StripAccents.into()]);
    }
    if settings.flag("do_lower_case").unwrap_or(true) {
        steps.push(Lowercase.into());
    }
    Ok(steps)
}
