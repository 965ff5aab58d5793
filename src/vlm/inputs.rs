//! From a batch in host memory to tensors on a device.

use crate::data::Batch;
use crate::nn::SequenceLayout;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// One batch on a device.
#[derive(Clone, Debug)]
pub struct VlmInputs {
    /// Token ids, `[b, t]`; image positions hold an arbitrary valid id.
    pub ids_bt: Tensor<2, Int>,
    /// Where rows begin.
    pub layout: SequenceLayout,
    /// Pixels `[n, 3, h, w]`, and for each of the `b·t` positions its row in the table of token embeddings (`b·t` rows)
    /// followed by image features.
    pub images: Option<(Tensor<4>, Tensor<1, Int>)>,
}

/// Where the supervised tokens are, and what they should be.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Flat positions whose hidden state predicts a supervised token, `[s]`.
    pub predictors_s: Tensor<1, Int>,
    /// The supervised tokens, `[s]`.
    pub ids_s: Tensor<1, Int>,
    /// Number of supervised tokens.
    pub count: usize,
    /// Supervised tokens of each row.
    pub per_row: Vec<usize>,
}

impl VlmInputs {
    /// Uploads a batch.
    pub fn upload(batch: &Batch, device: &Device) -> Self {
        let (b, t) = (batch.rows, batch.length);
        let mut ids = batch.input_ids.clone();
        for slot in &batch.images {
            // An image token's id may lie outside the table of a model that never embeds it.
            ids[slot.row * t + slot.start..][..slot.length].fill(0);
        }
        Self {
            ids_bt: ints(ids, device).reshape([b, t]),
            layout: SequenceLayout::with_starts(batch.starts.clone()),
            images: (!batch.images.is_empty()).then(|| {
                let (h, w) = batch.image_size;
                let pixels = TensorData::new(batch.pixel_values.clone(), [batch.num_images(), 3, h, w]);
                (Tensor::from_data(pixels, device), ints(splice_index(batch), device))
            }),
        }
    }
}

/// Position -> row of the table `[token embeddings; image features]`.
fn splice_index(batch: &Batch) -> Vec<i32> {
    let positions = batch.rows * batch.length;
    let mut index: Vec<i32> = (0..positions as i32).collect();
    for slot in &batch.images {
        // All images have as many features: one encoder made them.
        let first = positions + slot.image * slot.length;
        let places = &mut index[slot.row * batch.length + slot.start..][..slot.length];
        places.iter_mut().zip(first..).for_each(|(place, feature)| *place = feature as i32);
    }
    index
}

impl Targets {
    /// The supervised tokens of a batch. The first token of a row has nothing before it and is never a target.
    pub fn upload(batch: &Batch, device: &Device) -> Self {
        let t = batch.length;
        let (mut predictors, mut ids, mut per_row) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..batch.rows {
            let before = ids.len();
            for position in batch.starts[row] + 1..batch.ends[row] {
                let flat = row * t + position;
                if batch.supervised[flat] {
                    predictors.push(flat as i32 - 1);
                    ids.push(batch.input_ids[flat]);
                }
            }
            per_row.push(ids.len() - before);
        }
        let count = ids.len();
        Self { predictors_s: ints(predictors, device), ids_s: ints(ids, device), count, per_row }
    }
}

fn ints(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), device)
}
