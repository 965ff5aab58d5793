//! The ONE place where a checkpoint's own words choose types: for the tools that must take any checkpoint.

use super::folder::ModelFolder;
use super::opened::{Loaded, is_single_layer};
use super::tools::Tool;
use super::{RecipeError, adapter_file};
use crate::adapters::{Adapter, Ia3, Lora, PTuning, PrefixTuning, PromptTuning};
use crate::checkpoint::read_json;
use crate::data::{
    AlignPreferenceData, AlignPromptsData, AlignSupervisedData, AlpacaData, ChatData, ClassificationData, Dataset,
    HelpfulnessData, LlavaData, MessagesData, MessagesImagesData, PairsData, PairsMarginData, PlainDpoData,
    PreferenceData, PreferenceMarginData, PreferenceScoresData, PromptsData, RlhfvData, SafetyData, ShareGptData,
    StepsData, UnpairedData, UnpairedPreferenceData, VlFeedbackData,
};
use crate::models::{LanguageModel, Llama};
use crate::pipelines::infer::Records;
use crate::projector::{Mlp, NoProjector, Projector};
use crate::vision::{Clip, NoVision, VisionEncoder};
use crate::vlm::Layout;
use burn::tensor::Device;
use std::path::{Path, PathBuf};

/// Runs `tool` on the types that the folder's `config.json` names.
///
/// # Errors
/// What the folder holds and which types there are, or what the tool says.
pub fn with_types<T: Tool>(dir: &Path, adapter: Option<&Path>, tool: T) -> anyhow::Result<T::Output> {
    let mut folder = ModelFolder::open(dir)?;
    if let Some(adapter) = adapter {
        folder = folder.beside(adapter)?;
    }
    match folder.layout {
        Layout::Plain => tool.run(folder, Llama::default(), NoVision::default(), NoProjector::default()),
        Layout::Original => {
            let depth = folder.original_projector_depth().unwrap_or_default();
            tool.run(folder, Llama::default(), Clip::default(), Mlp { depth, ..Mlp::default() })
        }
        Layout::Composed => {
            let keys = crate::checkpoint::Shards::open(dir)?;
            let held = keys.names().filter(|n| n.contains("multi_modal_projector.") && n.ends_with(".weight")).count();
            let depth = if is_single_layer(folder.config.value()) { 1 } else { held };
            // `Linear` and `Identity` are the depths 1 and 0 of the same stack, with the same keys: one type for all three
            // keeps the tools small.
            tool.run(folder, Llama::default(), Clip::default(), Mlp { depth, ..Mlp::default() })
        }
    }
}

/// Puts on a model the adapter that the folder's `adapter_config.json` names.
///
/// # Errors
/// [`RecipeError`] of the folder, and of a model that its adapter does not suit.
pub fn with_adapter<M: LanguageModel, V: VisionEncoder, P: Projector>(
    loaded: Loaded<M, V, P>,
    dir: &Path,
    device: &Device,
) -> Result<Loaded<M, V, P>, RecipeError> {
    fn put<M: LanguageModel, A: Adapter, V: VisionEncoder, P: Projector>(
        loaded: Loaded<M, V, P>,
        dir: &Path,
        device: &Device,
    ) -> Result<Loaded<M, V, P>, RecipeError> {
        let adapter: A = adapter_file::read_settings(dir)?;
        adapter_file::load(loaded, &adapter, dir, device)
    }
    match read_json(&dir.join("adapter_config.json"))?["peft_type"].as_str() {
        Some("IA3") => put::<M, Ia3, V, P>(loaded, dir, device),
        Some("PREFIX_TUNING") => put::<M, PrefixTuning, V, P>(loaded, dir, device),
        Some("PROMPT_TUNING") => put::<M, PromptTuning, V, P>(loaded, dir, device),
        Some("P_TUNING") => put::<M, PTuning, V, P>(loaded, dir, device),
        _ => put::<M, Lora, V, P>(loaded, dir, device),
    }
}

/// Opens data files of the kind that `format` names.
///
/// # Errors
/// [`RecipeError::Usage`] for an unknown name, else [`RecipeError::Data`].
pub(super) fn records(format: &str, files: &[PathBuf], images: &[PathBuf]) -> Result<Box<dyn Records>, RecipeError> {
    macro_rules! kinds {
        ($($name:literal: $kind:ty,)*) => {
            match format {
                $($name => Ok(Box::new(Dataset::open(<$kind>::default(), files, images)?)),)*
                other => {
                    let names = [$($name),*];
                    let hint = crate::settings::hint(other, names.iter().copied());
                    let text = format!("--format {other}: there is no such format{hint}; there are {}", names.join(", "));
                    Err(RecipeError::Usage(text))
                }
            }
        };
    }
    kinds! {
        "chat": ChatData,
        "llava": LlavaData,
        "messages": MessagesData,
        "messages_images": MessagesImagesData,
        "share_gpt": ShareGptData,
        "alpaca": AlpacaData,
        "prompts": PromptsData,
        "pairs": PairsData,
        "pairs_margin": PairsMarginData,
        "preference": PreferenceData,
        "preference_margin": PreferenceMarginData,
        "preference_scores": PreferenceScoresData,
        "unpaired": UnpairedData,
        "unpaired_preference": UnpairedPreferenceData,
        "classification": ClassificationData,
        "steps": StepsData,
        "helpfulness": HelpfulnessData,
        "safety": SafetyData,
        "plain_dpo": PlainDpoData,
        "rlhf_v": RlhfvData,
        "vl_feedback": VlFeedbackData,
        "align_supervised": AlignSupervisedData,
        "align_preference": AlignPreferenceData,
        "align_prompts": AlignPromptsData,
    }
}

/// What to write in the `model` slot for a `model_type`.
pub(super) fn model_advice(found: &str) -> String {
    advice(found, "model", &[("Llama", Llama::MODEL_TYPES)])
}

/// What to write in the `vision` slot for a `model_type`.
pub(super) fn vision_advice(found: &str) -> String {
    advice(found, "vision", &[("Clip", Clip::MODEL_TYPES)])
}

fn advice(found: &str, slot: &str, known: &[(&str, &[&str])]) -> String {
    match known.iter().find(|(_, types)| types.contains(&found)) {
        Some((name, _)) => format!("write `{slot}: {name}`"),
        None => format!("there is no component for {found} yet; implement one, or take another checkpoint"),
    }
}
