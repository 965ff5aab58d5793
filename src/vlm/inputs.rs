//! From a batch in host memory to tensors on a device.

use crate::data::Batch;
use crate::nn::{SequenceLayout, Starts};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};

/// One batch on a device.
#[derive(Clone, Debug)]
pub struct VlmInputs {
    /// Token ids, `[b, t]`; image positions hold an arbitrary valid id.
    pub ids_bt: Tensor<2, Int>,
    /// Where the rows, and the padding behind them, begin.
    pub layout: SequenceLayout,
    /// Pixels `[n, 3, h, w]`, and for each of the `b·t` positions its row in the table of token embeddings (`b·t` rows)
    /// followed by image features.
    pub images: Option<(Tensor<4>, Tensor<1, Int>)>,
    /// NEFTune's α: noise that is added to the token embeddings; 0 for none.
    pub embedding_noise: f64,
}

/// Where the supervised tokens are, and what they should be.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Flat positions whose hidden state predicts a supervised token, `[s]`.
    pub predictors_s: Tensor<1, Int>,
    /// The supervised tokens, `[s]`.
    pub ids_s: Tensor<1, Int>,
    /// The same in host memory.
    pub host_ids: Vec<u32>,
    /// Number of supervised tokens.
    pub count: usize,
    /// Supervised tokens of each row.
    pub per_row: Vec<usize>,
}

impl VlmInputs {
    /// Uploads a batch.
    pub fn upload(batch: &Batch, device: &Device) -> Self {
        let (b, t) = (batch.lines(), batch.length);
        let mut ids = batch.input_ids.clone();
        for slot in &batch.images {
            // An image token's id may lie outside the table of a model that never embeds it.
            ids[batch.line(slot.row) * t + slot.start..][..slot.length].fill(0);
        }
        Self {
            ids_bt: ints(ids, device).reshape([b, t]),
            layout: SequenceLayout::with_starts(Starts::of_rows(batch.segments())),
            images: (!batch.images.is_empty()).then(|| {
                let (h, w) = batch.image_size;
                let pixels = TensorData::new(batch.pixel_values.clone(), [batch.num_images(), 3, h, w]);
                (Tensor::from_data(pixels, device), ints(splice_index(batch), device))
            }),
            embedding_noise: 0.0,
        }
    }

    /// The embeddings with uniform noise in `±α/√(t·d)` on every position, padding too.
    ///
    /// # Source
    /// Jain et al. 2023 (NEFTune); transformers' `neftune_noise_alpha`, where `t` is the padded length, packed or not.
    pub(super) fn with_noise(&self, x_btd: Tensor<3>) -> Tensor<3> {
        if self.embedding_noise == 0.0 {
            return x_btd;
        }
        let [_, t, d] = x_btd.dims();
        let bound = self.embedding_noise / ((t * d) as f64).sqrt();
        let noise = x_btd.clone().inner().random_like(Distribution::Uniform(-bound, bound));
        if x_btd.device().is_autodiff() { x_btd + noise.autodiff() } else { x_btd + noise }
    }
}

/// Position -> row of the table `[token embeddings; image features]`.
fn splice_index(batch: &Batch) -> Vec<i32> {
    let positions = batch.lines() * batch.length;
    let mut index: Vec<i32> = (0..positions as i32).collect();
    for slot in &batch.images {
        // All images have as many features: one encoder made them.
        let first = positions + slot.image * slot.length;
        let places = &mut index[batch.line(slot.row) * batch.length + slot.start..][..slot.length];
        places.iter_mut().zip(first..).for_each(|(place, feature)| *place = feature as i32);
    }
    index
}

impl Targets {
    /// The supervised tokens of a batch. The first token of a row has nothing before it and is never a target.
    pub fn upload(batch: &Batch, device: &Device) -> Self {
        Self::of(batch, device, |flat| batch.supervised[flat])
    }

    /// The tokens that are not supervised, images aside.
    pub fn prompt(batch: &Batch, device: &Device) -> Self {
        let mut image = vec![false; batch.supervised.len()];
        for slot in &batch.images {
            image[batch.line(slot.row) * batch.length + slot.start..][..slot.length].fill(true);
        }
        Self::of(batch, device, |flat| !batch.supervised[flat] && !image[flat])
    }

    fn of(batch: &Batch, device: &Device, wanted: impl Fn(usize) -> bool) -> Self {
        let (mut predictors, mut ids, mut per_row) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..batch.rows {
            let before = ids.len();
            for flat in batch.range(row).skip(1) {
                if wanted(flat) {
                    predictors.push(flat as i32 - 1);
                    ids.push(batch.input_ids[flat]);
                }
            }
            per_row.push(ids.len() - before);
        }
        let count = ids.len();
        let host_ids = ids.iter().map(|&id| id as u32).collect();
        Self { predictors_s: ints(predictors, device), ids_s: ints(ids, device), host_ids, count, per_row }
    }
}

/// The flat position of the last token of each row.
pub fn last_tokens(batch: &Batch, device: &Device) -> Tensor<1, Int> {
    ints((0..batch.rows).map(|row| batch.range(row).end as i32 - 1).collect(), device)
}

/// The flat positions of the supervised tokens themselves, and how many each row has.
pub fn marked_tokens(batch: &Batch, device: &Device) -> (Tensor<1, Int>, Vec<usize>) {
    let marked = |row: usize| batch.range(row).filter(|&flat| batch.supervised[flat]);
    let per_row = (0..batch.rows).map(|row| marked(row).count()).collect();
    (ints((0..batch.rows).flat_map(marked).map(|flat| flat as i32).collect(), device), per_row)
}

fn ints(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), device)
}
