//! What a recipe makes for itself when it is given no model or no data, tied to its settings.

use super::RecipeError;
use super::made::{MadeData, MadeModel, MadeTraining, write_data, write_model};
use super::tools::{CHECKPOINTS_OWN, named_template};
use crate::data::{DataKind, Dataset};
use crate::example::Shape;
use crate::image::probe;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A folder for a dry run's made inputs, removed when dropped.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new empty folder.
    ///
    /// # Errors
    /// [`RecipeError::Io`].
    pub fn new() -> Result<Self, RecipeError> {
        tempfile::tempdir().map(Self).map_err(RecipeError::io(&std::env::temp_dir()))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Settings that a made model learns well with: key and value.
pub fn training(own_data: bool, sees: bool) -> Vec<(&'static str, Value)> {
    let made = if own_data { MadeTraining::for_own_data() } else { MadeTraining::for_pictures() };
    let mut settings = vec![
        ("train.num_train_epochs", json!(made.num_train_epochs)),
        ("train.per_device_train_batch_size", json!(made.per_device_train_batch_size)),
        ("train.learning_rate", json!(made.adapter_learning_rate)),
        ("train.weight_decay", json!(made.weight_decay)),
        ("train.warmup_ratio", json!(made.warmup_ratio)),
        ("train.max_grad_norm", json!(made.max_grad_norm)),
        ("train.eval_on_start", json!(true)),
        ("train.max_new_tokens", json!(24)),
        ("train.per_device_eval_batch_size", json!(60)),
    ];
    if sees {
        settings.push(("train.eval_shuffled_images", json!(true)));
    }
    let parts =
        [("vision_tower", made.vision_tower), ("projector", made.projector), ("language_model", made.language_model)];
    // A model that does not see has neither tower nor projector.
    for (part, training) in parts.into_iter().filter(|(part, _)| sees || *part == "language_model") {
        let (key, rate) = match part {
            "vision_tower" => ("train.vision_tower", "train.vision_tower_learning_rate"),
            "projector" => ("train.projector", "train.projector_learning_rate"),
            _ => ("train.language_model", "train.language_model_learning_rate"),
        };
        settings.push((key, json!(training.trained)));
        if training.learning_rate != made.adapter_learning_rate {
            settings.push((rate, json!(training.learning_rate)));
        }
    }
    settings
}

/// Makes the pictures with questions and answers, or finds those of a run that is resumed.
///
/// # Errors
/// [`RecipeError::Made`].
pub fn data<K: DataKind>(dir: &Path, kind: &K, seed: u64, sees: bool) -> Result<MadeData, RecipeError> {
    std::fs::create_dir_all(dir).map_err(RecipeError::io(dir))?;
    Ok(write_data(dir, kind, seed, train_records::<K>(), MadeTraining::EVAL_RECORDS, sees)?)
}

/// Training records that are made: a record of several rows counts as many.
pub fn train_records<K: DataKind>() -> usize {
    MadeTraining::TRAIN_RECORDS / K::Shape::ROWS
}

/// The data that a made model must fit.
pub struct Texts<'a> {
    /// Files of records.
    pub data: &'a [PathBuf],
    /// Folders of images.
    pub images: &'a [PathBuf],
}

/// Images whose size decides the made model's; enough to see past an odd one.
const PROBED: usize = 64;

/// Makes a small random model whose tokenizer and image size fit the data.
///
/// # Errors
/// [`RecipeError::Data`] of a record that cannot be read, [`RecipeError::Made`].
pub fn model<K: DataKind>(
    dir: &Path,
    kind: &K,
    texts: &Texts<'_>,
    seed: u64,
    sees: bool,
) -> Result<PathBuf, RecipeError> {
    made(dir, kind, texts, seed, sees, |spec| spec)
}

fn made<K: DataKind>(
    dir: &Path,
    kind: &K,
    texts: &Texts<'_>,
    seed: u64,
    sees: bool,
    change: impl Fn(MadeModel) -> MadeModel,
) -> Result<PathBuf, RecipeError> {
    let dataset = Dataset::open(kind.clone(), texts.data, texts.images)?;
    // A made model has no template of its own.
    let name = kind.reading().template.filter(|name| name != CHECKPOINTS_OWN);
    let template = named_template(name.as_deref().unwrap_or("v1"), None)?;
    let mut sizes = Vec::new();
    let mut lines = Vec::with_capacity(dataset.len());
    for index in 0..dataset.len() {
        // A record that cannot be read is the preflight's to report, with all the others.
        let Ok(sample) = dataset.sample(index) else { continue };
        lines.extend(sample.rows().iter().filter_map(|row| Some(template.render(row).ok()?.text)));
        if sizes.len() < PROBED {
            sizes.extend(sample.images.iter().filter_map(|path| probe(path).ok()));
        }
    }
    let spec = match median(&mut sizes) {
        Some((width, height)) => MadeModel::for_images(width as usize, height as usize),
        None => MadeModel::for_pictures(),
    };
    write_model(dir, &change(spec), lines.into_iter(), seed, sees)?;
    Ok(dir.to_owned())
}

/// Makes a random teacher for [`model`]'s: with its tokenizer, twice its width, and surer of what it expects.
///
/// # Errors
/// As [`model`].
pub fn teacher<K: DataKind>(
    dir: &Path,
    kind: &K,
    texts: &Texts<'_>,
    seed: u64,
    sees: bool,
) -> Result<PathBuf, RecipeError> {
    let spec = |spec: MadeModel| MadeModel { hidden_size: 2 * spec.hidden_size, head_std: TEACHER_HEAD, ..spec };
    made(dir, kind, texts, seed.wrapping_add(1), sees, spec)
}

/// Standard deviation of a teacher's head: its logits are about this times the square root of its width.
const TEACHER_HEAD: f32 = 0.15;

fn median(sizes: &mut [(u32, u32)]) -> Option<(u32, u32)> {
    sizes.sort_unstable();
    sizes.get(sizes.len() / 2).copied()
}
