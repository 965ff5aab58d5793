//! The one batch that all turns are about.

use crate::Options;
use anyhow::{Context, bail};
use firebrick::data::{Batch, ImageSlot, Place};
use firebrick::example::Facts;
use firebrick::models::LanguageModel;
use firebrick::projector::Projector;
use firebrick::recipe::Loaded;
use firebrick::vision::{VisionEncoder, VisionTower};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use std::path::Path;

/// Tokens before this position of a drawn row are the question.
const ANSWER_START: usize = 40;

/// The batch that the options ask for; `rows_per_example` rows belong together.
pub fn of<M: LanguageModel, V: VisionEncoder, P: Projector>(
    options: &Options,
    loaded: &Loaded<M, V, P>,
    rows_per_example: usize,
) -> anyhow::Result<Batch> {
    let image_token = loaded.image_token.as_ref().map(|(_, id)| *id);
    let mut batch = match &options.data {
        Some(file) => read(file, image_token)?,
        None => draw(options, loaded, image_token),
    };
    if !batch.rows.is_multiple_of(rows_per_example) {
        bail!("{} rows cannot be examples of {rows_per_example} rows", batch.rows);
    }
    batch.rows_per_example = rows_per_example;
    batch.indices = (0..batch.rows).map(|row| row / rows_per_example).collect();
    batch.places = (0..batch.rows).map(|row| Place::new(Path::new("batch"), row + 1)).collect();
    batch.facts = vec![Facts::default(); batch.examples()];
    Ok(batch)
}

fn floats(file: &SafeTensors<'_>, name: &str) -> anyhow::Result<Vec<f32>> {
    let view = file.tensor(name).with_context(|| name.to_owned())?;
    if view.dtype() != safetensors::Dtype::F32 {
        bail!("{name} is {:?}, expected F32", view.dtype());
    }
    Ok(bytemuck::pod_collect_to_vec(view.data()))
}

fn integers(file: &SafeTensors<'_>, name: &str, rank: usize) -> anyhow::Result<(Vec<i64>, Vec<usize>)> {
    let view = file.tensor(name).with_context(|| name.to_owned())?;
    if view.dtype() != safetensors::Dtype::I64 || view.shape().len() != rank {
        bail!("{name} is {:?} {:?}, expected I64 of rank {rank}", view.dtype(), view.shape());
    }
    Ok((bytemuck::pod_collect_to_vec(view.data()), view.shape().to_vec()))
}

/// A batch from a file; image positions are the runs of the image token.
fn read(path: &Path, image_token: Option<u32>) -> anyhow::Result<Batch> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (ids, shape) = integers(&file, "input_ids", 2)?;
    let (labels, _) = integers(&file, "labels", 2)?;
    let (rows, length) = (shape[0], shape[1]);
    let bound = |name: &str, default: usize| -> anyhow::Result<Vec<usize>> {
        match file.names().contains(&name) {
            true => Ok(integers(&file, name, 1)?.0.iter().map(|&at| at as usize).collect()),
            false => Ok(vec![default; rows]),
        }
    };
    let mut batch = Batch {
        rows,
        length,
        starts: bound("starts", 0)?,
        ends: bound("ends", length)?,
        input_ids: ids.iter().map(|&id| id as i32).collect(),
        supervised: labels.iter().map(|&label| label >= 0).collect(),
        ..Batch::default()
    };
    if let Some(image_token) = image_token {
        batch.image_size = match file.tensor("pixel_values")?.shape() {
            &[_, 3, h, w] => (h, w),
            shape => bail!("pixel_values is {shape:?}, expected [n, 3, h, w]"),
        };
        batch.pixel_values = floats(&file, "pixel_values")?;
        batch.images = image_slots(&batch, image_token);
    }
    Ok(batch)
}

fn draw<M: LanguageModel, V: VisionEncoder, P: Projector>(
    options: &Options,
    loaded: &Loaded<M, V, P>,
    image_token: Option<u32>,
) -> Batch {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let (rows, length) = (options.batch, options.length);
    let vocabulary = loaded.tokenizer.vocab_size() as i32;
    let patches = image_token.map_or(0, |_| loaded.model.tokens_per_image());
    let mut batch = Batch { rows, length, starts: vec![0; rows], ends: vec![length; rows], ..Batch::default() };
    for row in 0..rows {
        for position in 0..length {
            let id = match image_token {
                Some(id) if (1..=patches).contains(&position) => id as i32,
                _ => rng.random_range(5..vocabulary),
            };
            batch.input_ids.push(id);
            batch.supervised.push(position >= ANSWER_START.max(patches + 1));
        }
        if image_token.is_some() {
            batch.images.push(ImageSlot { row, start: 1, length: patches, image: row });
        }
    }
    if image_token.is_some() {
        let (h, w) = loaded.model.vision_tower.image_size();
        batch.image_size = (h, w);
        batch.pixel_values = (0..rows * 3 * h * w).map(|_| rng.random_range(-1.0..1.0)).collect();
    }
    batch
}

fn image_slots(batch: &Batch, image_token: u32) -> Vec<ImageSlot> {
    let mut slots: Vec<ImageSlot> = Vec::new();
    for (flat, &id) in batch.input_ids.iter().enumerate() {
        let (row, position) = (flat / batch.length, flat % batch.length);
        if id != image_token as i32 {
            continue;
        }
        match slots.last_mut() {
            Some(slot) if slot.row == row && slot.start + slot.length == position => slot.length += 1,
            _ => slots.push(ImageSlot { row, start: position, length: 1, image: slots.len() }),
        }
    }
    slots
}
