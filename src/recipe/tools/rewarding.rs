//! A reward model of any family, which scores answers for another one's evaluations.

use super::{Common, Ready, Tool, Weights, pad_id, ready};
use crate::checkpoint::read_json;
use crate::data::{DataError, Outcome, PadSide, Padding, Sample, collate_examples};
use crate::device::DeviceRequest;
use crate::example::{Label, Labelled};
use crate::models::LanguageModel;
use crate::objectives::{Head, Level};
use crate::projector::Projector;
use crate::recipe::folder::ModelFolder;
use crate::recipe::{RecipeError, zoo};
use crate::trainer::{Policy, RewardScorer, Rewarded};
use crate::vision::VisionEncoder;
use std::path::{Path, PathBuf};

/// Refuses a folder whose model does not score whole answers with one number.
///
/// # Errors
/// [`RecipeError::Structure`] says what it is instead.
pub(in crate::recipe) fn check_reward_model(dir: &Path) -> Result<(), RecipeError> {
    let (base, adapter) = parts(dir)?;
    let mut folder = ModelFolder::open(&base)?;
    if let Some(adapter) = &adapter {
        folder = folder.beside(adapter)?;
    }
    check(&folder)
}

fn check(folder: &ModelFolder) -> Result<(), RecipeError> {
    match folder.head() {
        Some(Head { outputs: 1, level: Level::Sequence, .. }) => Ok(()),
        found => Err(RecipeError::Structure {
            dir: folder.dir.clone(),
            problem: match found {
                None => "is a model that yields words, and no scores".to_owned(),
                Some(head) => format!("is a model that yields {} scores, and not one for a whole answer", head.outputs),
            },
            advice: "train.reward_model takes what the recipe reward_model leaves".to_owned(),
        }),
    }
}

/// The folder of the model and that of its adapter, where `dir` is one.
fn parts(dir: &Path) -> Result<(PathBuf, Option<PathBuf>), RecipeError> {
    let file = dir.join("adapter_config.json");
    if !file.is_file() || dir.join("config.json").is_file() {
        return Ok((dir.to_owned(), None));
    }
    let base = read_json(&file)?["base_model_name_or_path"].as_str().map(PathBuf::from);
    match base.filter(|base| base.is_dir()) {
        Some(base) => Ok((base, Some(dir.to_owned()))),
        None => Err(RecipeError::Structure {
            dir: dir.to_owned(),
            problem: "is an adapter whose base model is not here".to_owned(),
            advice: "merge it with the recipe merge and name the whole model".to_owned(),
        }),
    }
}

/// Loads a reward model on the types that its folder names; it scores `batch` answers at once.
///
/// # Errors
/// Whatever is wrong with it.
pub(in crate::recipe) fn open_reward_model(
    dir: &Path,
    device: DeviceRequest,
    batch: usize,
) -> anyhow::Result<Box<dyn RewardScorer>> {
    let (model, adapter) = parts(dir)?;
    let common = Common { model, adapter, vision_from: None, device, template: None };
    let (model, adapter) = (common.model.clone(), common.adapter.clone());
    zoo::with_types(&model, adapter.as_deref(), Opening { common, batch })
}

struct Opening {
    common: Common,
    batch: usize,
}

impl Tool for Opening {
    type Output = Box<dyn RewardScorer>;

    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        folder: ModelFolder,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<Self::Output> {
        check(&folder)?;
        let ready = ready(&self.common, folder, &model, &vision, &projector, Weights::AsStored)?;
        Ok(Box::new(Scorer { ready, batch: self.batch.max(1) }))
    }
}

struct Scorer<M: LanguageModel, V: VisionEncoder, P: Projector> {
    ready: Ready<M, V, P>,
    batch: usize,
}

impl<M: LanguageModel, V: VisionEncoder, P: Projector> RewardScorer for Scorer<M, V, P> {
    fn score(&self, rows: &[Rewarded]) -> Result<Vec<f64>, DataError> {
        let Ready { loaded, encoder, device } = &self.ready;
        let padding = Padding { token: pad_id(&encoder.tokenizer), side: PadSide::Right, multiple_of: 1 };
        let mut scores = Vec::with_capacity(rows.len());
        for chunk in rows.chunks(self.batch) {
            let mut examples = Vec::with_capacity(chunk.len());
            for (index, row) in chunk.iter().enumerate() {
                let sample = Sample::<Labelled> {
                    id: String::new(),
                    conversation: row.conversation.clone(),
                    // Read at its last token, whether or not its answer has words.
                    target: Label::Class(0),
                    images: row.images.clone(),
                    dropped_leading: 0,
                    place: row.place.clone(),
                };
                match encoder.encode(&sample, index)? {
                    Outcome::Whole(example) | Outcome::Truncated { kept: example, .. } => examples.push(example),
                    Outcome::Skipped { tokens, .. } => {
                        let (place, max_length) = (row.place.clone(), encoder.max_length);
                        return Err(DataError::Overlong { place, tokens, max_length });
                    }
                }
            }
            let batch = collate_examples(&examples, &padding);
            let values = loaded.model.sequence_scores(&batch, device).values.into_data();
            scores.extend(values.iter::<f32>().map(f64::from));
        }
        Ok(scores)
    }
}
