//! Tools that take any checkpoint: `score`, `chat`, `convert`, `merge` and `infer_…`; `combine`, which takes adapters alone; and
//! those that take prediction files: `evaluate`, which also asks a checkpoint, and `sample_…`.

mod answering;
mod chat;
mod combine;
mod convert;
mod evaluate;
mod infer;
mod merge;
mod rewarding;
mod sample;
mod score;
#[cfg(feature = "serve")]
mod serve;

#[cfg(feature = "serve")]
pub use answering::LocalBackend;
pub use answering::{LocalEngine, LocalSettings};
pub use chat::Chat;
pub use combine::Combine;
pub use convert::{Convert, Target};
pub use evaluate::{DataFormat, Evaluate};
pub use infer::{InferChat, InferClassification, InferMultimodal, InferReward};
pub use merge::Merge;
pub use sample::{FewName, PairingName, RewardChoice, SampleArguments, SampleByReward, SampleRandom, SampleRso};
pub use score::Score;
#[cfg(feature = "serve")]
pub use serve::Serve;

pub(super) use rewarding::{check_reward_model, open_reward_model};

use super::folder::ModelFolder;
use super::opened::{Loaded, Opened};
use super::parts::{Origin, PROJECTOR_FILES};
use super::{RecipeError, fetch, zoo};
use crate::checkpoint::bridge::Hold;
use crate::checkpoint::hub::Wanted;
use crate::data::{Encoder, ImageEncoding};
use crate::device::{DeviceRequest, choose};
use crate::image::ImageProcessor;
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::text::{ChatTemplate, PlainTextTemplate, PrefixSuffixTemplate, TextError, Tokenizer};
use crate::vision::VisionEncoder;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A program over the types that a checkpoint's configuration names.
pub trait Tool {
    /// What it yields.
    type Output;

    /// Runs with these types.
    ///
    /// # Errors
    /// Whatever stops it.
    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        folder: ModelFolder,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<Self::Output>;
}

/// Options that the tools share.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Checkpoint: a folder, or a Hugging Face id with an optional revision
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]")]
    pub model: PathBuf,
    /// PEFT adapter on top of it, or a LoRA folder of LLaVA's original code
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]")]
    pub adapter: Option<PathBuf>,
    /// Folder of the vision tower, where an original checkpoint names one that is not here
    #[arg(long, value_name = "DIR")]
    pub vision_from: Option<PathBuf>,
    /// auto, cpu, wgpu, wgpu:1, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = super::cli::parse_device)]
    pub device: DeviceRequest,
    /// v1, plain, another of LLaVA's conversations, plain_text for no markup, a file FILE.json of a prefix/suffix template, or
    /// checkpoint for the checkpoint's own Jinja template
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
}

impl Common {
    /// With model and adapter on this machine.
    fn here(&self) -> Result<Self, RecipeError> {
        let mut here = self.clone();
        here.model = fetch::folder(&self.model, Wanted::Model)?;
        here.adapter = self.adapter.as_deref().map(|dir| fetch::folder(dir, Wanted::Adapter)).transpose()?;
        Ok(here)
    }
}

/// A model ready to answer.
#[derive(Clone)]
struct Ready<M: LanguageModel, V: VisionEncoder, P: Projector> {
    loaded: Loaded<M, V, P>,
    encoder: Encoder,
    device: burn::tensor::Device,
}

/// How a quantized checkpoint is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weights {
    /// In the bits that it has.
    AsStored,
    /// As whole numbers, to be written.
    Whole,
}

fn ready<M: LanguageModel, V: VisionEncoder, P: Projector>(
    common: &Common,
    folder: ModelFolder,
    model: &M,
    vision: &V,
    projector: &P,
    weights: Weights,
) -> anyhow::Result<Ready<M, V, P>> {
    let chosen = choose(common.device)?;
    eprintln!("device: {} ({})", chosen.name, chosen.reason);
    let device = chosen.device;
    let folder = match &common.vision_from {
        Some(tower) => folder.with_tower(tower)?,
        None => folder,
    };
    let mut opened = Opened::of(folder, model, vision, projector, &device)?;
    if let (Some(dir), Some(processor)) = (&common.adapter, &mut opened.processor) {
        // The adapter was trained on images as its own settings make them.
        if dir.join("preprocessor_config.json").is_file() {
            *processor = ImageProcessor::from_dir(dir)?;
        }
    }
    if weights == Weights::Whole {
        opened.dequantize();
    }
    let encoder = encoder(&opened, common.template.as_deref())?;
    let mut loaded = opened.load(projector, &|_| Hold::Frozen, &device)?;
    // A folder of LLaVA's first stage has a projector and no adapter.
    if let Some(dir) = common.adapter.as_ref().filter(|dir| is_adapter(dir)) {
        loaded = zoo::with_adapter(loaded, dir, &device)?;
    }
    Ok(Ready { loaded, encoder, device })
}

/// A count on the command line.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a whole number of at least 1".to_owned()),
        Ok(n) => Ok(n),
    }
}

/// Whether a folder holds an adapter, and not a projector alone.
fn is_adapter(dir: &Path) -> bool {
    let mut alone = PROJECTOR_FILES.iter().filter(|(_, origin)| *origin == Origin::Alone);
    let projector = alone.any(|(file, _)| dir.join(file).is_file());
    dir.join("adapter_config.json").is_file() || !projector
}

/// Refuses to write over something.
fn refuse_occupied(dir: &Path) -> Result<(), RecipeError> {
    let occupied = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || dir.is_file() {
        return Err(RecipeError::OutputTaken(dir.to_owned()));
    }
    Ok(())
}

/// The name of the checkpoint's own template.
pub(super) const CHECKPOINTS_OWN: &str = "checkpoint";

/// A template by its name or file. Without a tokenizer, its end of sequence is taken to be `</s>`, as made ones have it.
pub(super) fn named_template(name: &str, tokenizer: Option<&Tokenizer>) -> Result<ChatTemplate, RecipeError> {
    let is_file = Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let template = match (name, tokenizer) {
        (PlainTextTemplate::NAME, Some(tokenizer)) => Ok(ChatTemplate::plain_text(tokenizer)),
        (PlainTextTemplate::NAME, None) => Ok(ChatTemplate::PlainText(PlainTextTemplate::new("</s>"))),
        (PrefixSuffixTemplate::CHATML, _) => Ok(ChatTemplate::PrefixSuffix(PrefixSuffixTemplate::chatml())),
        _ if is_file => ChatTemplate::prefix_suffix(Path::new(name)),
        _ => ChatTemplate::llava(name),
    };
    let advice = "; a prefix/suffix template is named by its file, FILE.json";
    template.map_err(|error| match &error {
        TextError::UnknownTemplate { .. } => {
            RecipeError::Usage(format!("{error}, chatml, plain_text, checkpoint{advice}"))
        }
        _ => RecipeError::Usage(error.to_string()),
    })
}

/// The template by name, or the model's default: `v1` for LLaVA, the checkpoint's own for a language model.
pub(super) fn template(
    folder: &ModelFolder,
    name: Option<&str>,
    tokenizer: &Tokenizer,
    image_token: Option<&str>,
) -> Result<ChatTemplate, RecipeError> {
    let own = || ChatTemplate::from_dir(&folder.dir, tokenizer);
    let template = match (name, image_token) {
        (Some(CHECKPOINTS_OWN), _) => own()?.ok_or_else(|| {
            RecipeError::Usage(
                "the checkpoint has no chat template of its own; name one of LLaVA's, for example v1".to_owned(),
            )
        })?,
        (Some(name), _) => named_template(name, Some(tokenizer))?,
        (None, Some(_)) => ChatTemplate::llava("v1")?,
        (None, None) => match own()? {
            Some(template) => template,
            None => ChatTemplate::llava("v1")?,
        },
    };
    let template = match image_token {
        Some(token) => template.with_image_token(token),
        None => template,
    };
    Ok(if folder.start_end() { template.with_im_start_end()? } else { template })
}

fn encoder<M: LanguageModel, V: VisionEncoder, P: Projector>(
    opened: &Opened<M, V, P>,
    template_name: Option<&str>,
) -> Result<Encoder, RecipeError> {
    let image_token = opened.image_token.as_ref().map(|(text, _)| text.as_str());
    Ok(Encoder {
        tokenizer: opened.tokenizer.clone(),
        template: template(&opened.folder, template_name, &opened.tokenizer, image_token)?,
        image: image_encoding(opened),
        max_length: usize::MAX,
        overlong: Default::default(),
        options: Default::default(),
    })
}

/// How images become tokens and pixels for this model; `None` without vision.
pub(super) fn image_encoding<M: LanguageModel, V: VisionEncoder, P: Projector>(
    opened: &Opened<M, V, P>,
) -> Option<ImageEncoding> {
    let (processor, (token, token_id)) = (opened.processor.clone()?, opened.image_token.clone()?);
    let (tokens_per_image, apart) = (opened.model.tokens_per_image(), opened.folder.encodes_apart());
    Some(ImageEncoding { processor, tokens_per_image, token, token_id, apart })
}

/// The id that fills short rows: known by position, never by value.
pub(super) fn pad_id(tokenizer: &Tokenizer) -> u32 {
    tokenizer.pad().or(tokenizer.eos()).unwrap_or(0)
}

/// `eos_token_id` of `generation_config.json` (one or several) and of the tokenizer, and the template's own end of a turn.
pub(super) fn end_tokens(dir: &Path, encoder: &Encoder) -> Vec<u32> {
    let tokenizer = &encoder.tokenizer;
    let mut ids: Vec<u32> = tokenizer.eos().into_iter().collect();
    ids.extend(encoder.template.stop().and_then(|stop| tokenizer.token_id(stop.trim())));
    let config = std::fs::read_to_string(dir.join("generation_config.json")).ok();
    let config: Option<Value> = config.and_then(|text| serde_json::from_str(&text).ok());
    let named = config.map(|c| c["eos_token_id"].clone()).unwrap_or_default();
    let listed = match named {
        Value::Array(all) => all,
        one => vec![one],
    };
    ids.extend(listed.iter().filter_map(Value::as_u64).map(|id| id as u32));
    ids.sort_unstable();
    ids.dedup();
    ids
}
