//! Sizes of a made model and the settings it learns well with.

use super::{MadeError, pictures::SIDE};

/// Standard deviation of token embeddings and head: near-uniform first predictions.
pub(super) const EMBEDDING_STD: f32 = 0.02;

/// Longest text of a made model, in tokens.
pub(super) const MAX_LENGTH: usize = 2048;

/// Geometry of a made LLaVA; names as in transformers' configs, `vision_` in front of the tower's.
#[derive(Clone, Debug, PartialEq)]
pub struct MadeModel {
    /// Width and height of the square the image processor yields, in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Width and height of a patch, in pixels.
    pub patch_size: usize,
    /// Width of the tower.
    pub vision_hidden_size: usize,
    /// Width of the tower's feed-forward layers.
    pub vision_intermediate_size: usize,
    /// Layers of the tower.
    pub vision_num_hidden_layers: usize,
    /// Attention heads of the tower; they divide its width.
    pub vision_num_attention_heads: usize,
    /// Which hidden state the projector reads; −1 is the last layer's, −2 the one before, as in the hub's LLaVA.
    pub vision_feature_layer: i64,
    /// The most tokens the tokenizer may have; it has fewer where the texts have no more to merge.
    pub vocab_size: usize,
    /// Width of the language model.
    pub hidden_size: usize,
    /// Width of its feed-forward layers.
    pub intermediate_size: usize,
    /// Its layers.
    pub num_hidden_layers: usize,
    /// Its query heads; they divide its width into even head widths.
    pub num_attention_heads: usize,
    /// Its key and value heads; they divide the query heads.
    pub num_key_value_heads: usize,
    /// Standard deviation of its head: small for near-uniform first predictions.
    pub head_std: f32,
}

impl MadeModel {
    /// The model for the pictures of [`write_data`](super::write_data).
    pub fn for_pictures() -> Self {
        Self::for_images(SIDE, SIDE)
    }

    /// A model for images of about `width` × `height` pixels. Measured by the smaller side, the processor's square has 32
    /// pixels below 64, 48 below 96 and 96 from there on, cut into 16 patches (36 for the largest).
    ///
    /// Patches stay at 8 or 12 pixels for small pictures, because a wide patch hides what is drawn in it: with the same
    /// pictures at 64 pixels and patches of 16, shapes were not learned in the time that sufficed at 32 and 48.
    /// The projector reads the tower's first layer (`vision_feature_layer` −2 of two): one layer of random attention mixes
    /// patches without losing them, and answers over a frozen tower were better for it than over bare embeddings.
    pub fn for_images(width: usize, height: usize) -> Self {
        let (image_size, patch_size) = match width.min(height) {
            0..64 => (32, 8),
            64..96 => (48, 12),
            96.. => (96, 16),
        };
        Self {
            image_size,
            patch_size,
            vision_hidden_size: 128,
            vision_intermediate_size: 256,
            vision_num_hidden_layers: 2,
            vision_num_attention_heads: 4,
            vision_feature_layer: -2,
            vocab_size: 768,
            hidden_size: 128,
            intermediate_size: 256,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_std: EMBEDDING_STD,
        }
    }

    /// How many image tokens one image takes: its patches, without the class token.
    pub const fn image_tokens(&self) -> usize {
        let patches = self.image_size / self.patch_size;
        patches * patches
    }

    pub(super) fn validate(&self) -> Result<(), MadeError> {
        let positive = [
            ("patch_size", self.patch_size),
            ("vision_hidden_size", self.vision_hidden_size),
            ("vision_intermediate_size", self.vision_intermediate_size),
            ("vision_num_hidden_layers", self.vision_num_hidden_layers),
            ("vision_num_attention_heads", self.vision_num_attention_heads),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
        ];
        if let Some(&(field, value)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(MadeError::Setting { field, value, expected: "at least 1" });
        }
        let rules = [
            (
                "image_size",
                self.image_size,
                self.image_size > 0 && self.image_size.is_multiple_of(self.patch_size),
                "a positive multiple of `patch_size`",
            ),
            (
                "vision_hidden_size",
                self.vision_hidden_size,
                self.vision_hidden_size.is_multiple_of(self.vision_num_attention_heads),
                "a multiple of `vision_num_attention_heads`",
            ),
            (
                "hidden_size",
                self.hidden_size,
                self.hidden_size.is_multiple_of(2 * self.num_attention_heads),
                "a multiple of twice `num_attention_heads`, since rotary embedding turns pairs",
            ),
            (
                "num_attention_heads",
                self.num_attention_heads,
                self.num_attention_heads.is_multiple_of(self.num_key_value_heads),
                "a multiple of `num_key_value_heads`",
            ),
            ("vocab_size", self.vocab_size, self.vocab_size >= 261, "at least 261: 256 bytes and 5 special tokens"),
        ];
        match rules.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((field, value, _, expected)) => Err(MadeError::Setting { field, value, expected }),
            None => Ok(()),
        }
    }
}

/// How one part of a made model is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartTraining {
    /// Whether its weights are trained where the user does not say.
    pub trained: bool,
    /// Peak learning rate where it is trained and the user gives none.
    pub learning_rate: f64,
}

/// The settings a made model is trained with where the user gives none. Everything else keeps the recipe's defaults.
///
/// The base is random, so a small adapter alone would have nothing to adapt: the whole language model and the projector
/// are trained beside it. The rates were chosen by the held-out answers of a reference in PyTorch, over several seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct MadeTraining {
    /// How many times every record is seen.
    pub num_train_epochs: f64,
    /// Records per step; small, because many steps teach a random model more than large ones.
    pub per_device_train_batch_size: usize,
    /// The tower's training; frozen where the pictures are the user's. Its rate is a fifth of the others': at
    /// theirs the features change under the language model, and on handwritten digits a trained tower then answered 90% of
    /// the held-out questions where a frozen one answered 96%.
    pub vision_tower: PartTraining,
    /// The projector's training.
    pub projector: PartTraining,
    /// The language model's training.
    pub language_model: PartTraining,
    /// The adapter's learning rate.
    pub adapter_learning_rate: f64,
    /// AdamW's weight decay, for matrices.
    pub weight_decay: f64,
    /// Share of the steps over which the learning rates rise; afterwards they follow a cosine to 0.
    pub warmup_ratio: f64,
    /// Largest global norm of the gradient.
    pub max_grad_norm: f64,
}

impl MadeTraining {
    /// Training records the recipe makes, two to a picture.
    pub const TRAIN_RECORDS: usize = 4000;
    /// Held-out records the recipe makes.
    pub const EVAL_RECORDS: usize = 240;

    /// For the pictures of [`write_data`](super::write_data), with which a trained tower learns shapes sooner than a frozen one.
    pub const fn for_pictures() -> Self {
        Self {
            num_train_epochs: 6.0,
            per_device_train_batch_size: 16,
            vision_tower: PartTraining { trained: true, learning_rate: 2e-4 },
            projector: PartTraining { trained: true, learning_rate: 1e-3 },
            language_model: PartTraining { trained: true, learning_rate: 1e-3 },
            adapter_learning_rate: 1e-3,
            weight_decay: 0.0,
            warmup_ratio: 0.05,
            max_grad_norm: 1.0,
        }
    }

    /// For the user's own data with a model made to fit it; the tower stays frozen unless the user says otherwise.
    ///
    /// Weight decay is strong, because people's first data sets are small: on 1,437 handwritten digits it lifted held-out
    /// answers with a trained tower from 95% to 98%.
    pub const fn for_own_data() -> Self {
        Self {
            num_train_epochs: 12.0,
            vision_tower: PartTraining { trained: false, learning_rate: 2e-4 },
            weight_decay: 0.5,
            ..Self::for_pictures()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_size_has_a_geometry_that_can_be_built() {
        for side in [1, 28, 32, 47, 48, 64, 95, 96, 640] {
            let spec = MadeModel::for_images(side, 2 * side);
            spec.validate().unwrap();
            assert!(matches!(spec.image_tokens(), 16 | 36), "{side}: {} tokens", spec.image_tokens());
        }
    }

    #[test]
    fn a_geometry_that_cannot_be_built_is_refused_by_name() {
        let good = MadeModel::for_pictures();
        for (bad, field) in [
            (MadeModel { patch_size: 0, ..good.clone() }, "patch_size"),
            (MadeModel { image_size: 30, patch_size: 8, ..good.clone() }, "image_size"),
            (MadeModel { num_attention_heads: 3, ..good.clone() }, "hidden_size"),
            (MadeModel { num_key_value_heads: 3, ..good.clone() }, "num_attention_heads"),
            (MadeModel { vocab_size: 100, ..good.clone() }, "vocab_size"),
        ] {
            let message = bad.validate().unwrap_err().to_string();
            assert!(message.contains(&format!("`{field}`")), "{message}");
        }
    }
}
