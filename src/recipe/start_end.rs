//! `<im_start>` and `<im_end>` around each image: LLaVA's `mm_use_im_start_end`.

use super::RecipeError;
use super::parts::{is_table, open_projector};
use crate::checkpoint::CheckpointError;
use crate::nn::Embedding;
use crate::text::Tokenizer;
use crate::vlm::{Layout, Original};
use burn::tensor::{Device, Tensor, TensorData};
use std::path::Path;

/// Before and after an image.
const TOKENS: [&str; 2] = ["<im_start>", "<im_end>"];

/// Adds the tokens. Returns the ids of those that the tokenizer lacked and that have no row in an original checkpoint's
/// table of `rows` rows.
///
/// # Errors
/// [`RecipeError::Text`] where the tokenizer refuses them.
pub(super) fn add(tokenizer: &mut Tokenizer, layout: Layout, rows: usize) -> Result<Vec<u32>, RecipeError> {
    let lacking: Vec<&str> = TOKENS.into_iter().filter(|token| tokenizer.token_id(token).is_none()).collect();
    tokenizer.try_add_special_tokens(&lacking)?;
    let ids = lacking.into_iter().filter_map(|token| tokenizer.token_id(token));
    Ok(ids.filter(|id| layout != Layout::Original || *id as usize >= rows).collect())
}

/// Adds the tokens that the original code adds when it loads a checkpoint, where the checkpoint's table has rows for them:
/// some were saved without them in the tokenizer.
///
/// # Errors
/// [`RecipeError::Text`] where the tokenizer refuses them.
pub(super) fn complete(tokenizer: &mut Tokenizer, original: &Original, rows: usize) -> Result<(), RecipeError> {
    let mut tokens = Vec::new();
    if original.patch_token {
        tokens.push("<im_patch>");
    }
    if original.start_end {
        tokens.extend(TOKENS);
    }
    tokens.retain(|token| tokenizer.token_id(token).is_none());
    if tokenizer.vocab_size() + tokens.len() <= rows {
        tokenizer.try_add_special_tokens(&tokens)?;
    }
    Ok(())
}

/// Gives the tokens their rows: those that the first stage saved beside its projector, or else, where they are new, the mean
/// of the rows before them. Returns whether rows of the folder's own were replaced.
///
/// # Errors
/// [`CheckpointError::Tensor`] where the saved rows do not fit.
pub(super) fn fill(
    table: &mut Embedding,
    tokenizer: &Tokenizer,
    new: &[u32],
    projector: Option<&Path>,
    device: &Device,
) -> Result<bool, CheckpointError> {
    let ids: Vec<u32> = TOKENS.iter().filter_map(|token| tokenizer.token_id(token)).collect();
    let first = new.iter().min().map_or(0, |id| *id as usize);
    let [_, d] = table.weight.lazy_shape().dims();
    let saved = match projector {
        Some(path) => saved_rows(path, ids.len(), d)?,
        None => None,
    };
    match saved {
        Some(rows) => table.set_rows(&ids, Tensor::from_data(TensorData::new(rows, [ids.len(), d]), device)),
        None if !new.is_empty() => table.set_rows(new, table.mean(first).expand([new.len(), d])),
        None => return Ok(false),
    }
    Ok(new.is_empty())
}

/// A projector that was trained with these tokens would see other features without them.
///
/// # Errors
/// [`RecipeError::Structure`] where rows for the tokens lie beside the projector and the tokens are not used.
pub(super) fn refuse_rows_without_tokens(projector: &Path, used: bool) -> Result<(), RecipeError> {
    let (shards, origin) = open_projector(projector)?;
    match shards.names().find(|name| !used && origin.has_rows_of_new_tokens() && is_table(name)) {
        None => Ok(()),
        Some(name) => Err(RecipeError::Structure {
            dir: projector.to_owned(),
            problem: format!("holds rows of the tokens <im_start> and <im_end> ({name}), which the model does not use"),
            advice: "add --set image.start_end=true".to_owned(),
        }),
    }
}

/// The last `k` rows of the table that lies beside a projector. The original code saves the whole table or these alone.
fn saved_rows(projector: &Path, k: usize, d: usize) -> Result<Option<Vec<f32>>, CheckpointError> {
    let (shards, origin) = open_projector(projector)?;
    let Some(view) = shards.iter().find(|view| origin.has_rows_of_new_tokens() && is_table(view.name)) else {
        return Ok(None);
    };
    let &[rows, width] = view.shape else {
        return Err(CheckpointError::tensor(view.file, view.name, "is no table of rows".to_owned()));
    };
    if width != d || rows < k {
        let reason = format!("has shape [{rows}, {width}], expected at least {k} rows of width {d}");
        return Err(CheckpointError::tensor(view.file, view.name, reason));
    }
    let values = view.to_finite_f32()?;
    Ok(Some(values[(rows - k) * d..].to_vec()))
}
