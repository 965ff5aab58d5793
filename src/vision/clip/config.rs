//! The shape of a tower, read from a `vision_config` with the reference class's defaults.

use super::Clip;
use crate::checkpoint::{CheckpointError, Fields};
use crate::nn::Activation;

/// Which tokens of the chosen hidden state become features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureSelect {
    /// The patches; LLaVA's `patch`, transformers' `default`.
    Patch,
    /// The class token and the patches; LLaVA's `cls_patch`, transformers' `full`.
    ClsPatch,
}

impl FeatureSelect {
    /// The name in a transformers configuration.
    pub fn strategy(self) -> &'static str {
        match self {
            Self::Patch => "default",
            Self::ClsPatch => "full",
        }
    }
}

/// The most that a configuration may ask for, as for language models: beyond any published tower.
mod most {
    pub const LAYERS: usize = 10_000;
    pub const WIDTH: usize = 1 << 18;
    pub const INNER_WIDTH: usize = 1 << 20;
    pub const HEADS: usize = 1 << 12;
    pub const IMAGE: usize = 1 << 16;
    /// Each image takes this many tokens.
    pub const PATCHES: usize = 1 << 16;
}

/// The configuration of [`ClipVision`](super::ClipVision), under Hugging Face's names.
///
/// `attention_dropout` and `dropout`, which some checkpoints carry from their own training, are not applied: an image has
/// the same features at every step.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Side of the square image in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Activation of the MLP.
    pub hidden_act: Activation,
    /// Added to the variance in norms.
    pub layer_norm_eps: f64,
    /// Hidden state that is read; negative counts from the end.
    pub select_layer: i64,
    /// Tokens that are kept.
    pub select_feature: FeatureSelect,
}

impl ClipConfig {
    /// Reads a `vision_config`; `root` holds LLaVA's choice of layer and tokens, which `recipe` may override.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] for a value that is wrong, or that asks for what is not implemented.
    pub fn read(fields: &Fields<'_>, root: &Fields<'_>, recipe: &Clip) -> Result<Self, CheckpointError> {
        let act = fields.string_or("hidden_act", "quick_gelu")?;
        let config = Self {
            hidden_size: fields.size_or("hidden_size", 768, most::WIDTH)?,
            intermediate_size: fields.size_or("intermediate_size", 3072, most::INNER_WIDTH)?,
            num_hidden_layers: fields.size_or("num_hidden_layers", 12, most::LAYERS)?,
            num_attention_heads: fields.size_or("num_attention_heads", 12, most::HEADS)?,
            image_size: fields.size_or("image_size", 224, most::IMAGE)?,
            patch_size: fields.usize_or("patch_size", 32usize)?,
            hidden_act: Activation::parse(&act).map_err(|e| fields.error("hidden_act", &e.to_string()))?,
            layer_norm_eps: fields.f64_or("layer_norm_eps", 1e-5)?,
            select_layer: select_layer(root, recipe)?,
            select_feature: select_feature(root, recipe)?,
        };
        config.check(fields, root, recipe)?;
        Ok(config)
    }

    fn check(&self, fields: &Fields<'_>, root: &Fields<'_>, recipe: &Clip) -> Result<(), CheckpointError> {
        if fields.usize_or("num_channels", 3usize)? != 3 {
            return Err(fields.error("num_channels", "3: other channels are not implemented"));
        }
        if self.num_attention_heads == 0 || !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let expected = format!("a divisor of hidden_size, which is {}", self.hidden_size);
            return Err(fields.error("num_attention_heads", &expected));
        }
        if self.patch_size == 0 || self.patch_size > self.image_size {
            let expected = format!("at least 1 and at most image_size, which is {}", self.image_size);
            return Err(fields.error("patch_size", &expected));
        }
        if self.num_patches() > most::PATCHES {
            let expected = format!(
                "larger: an image_size of {} would make {} patches of it, at most {} are read",
                self.image_size,
                self.num_patches(),
                most::PATCHES
            );
            return Err(fields.error("patch_size", &expected));
        }
        let states = self.num_hidden_layers as i64 + 1;
        if self.select_layer < -states || self.select_layer >= states {
            let expected = format!("between {} and {}: the tower has {} layers", -states, states - 1, states - 1);
            return Err(match recipe.select_layer {
                None => root.error("vision_feature_layer", &expected),
                Some(asked) => CheckpointError::Field {
                    path: root.file().to_owned(),
                    field: "vision.select_layer".to_owned(),
                    found: asked.to_string(),
                    expected,
                },
            });
        }
        Ok(())
    }

    /// Number of patches of an image.
    pub fn num_patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// How many blocks run before the chosen hidden state.
    pub fn selected_state(&self) -> usize {
        let states = self.num_hidden_layers as i64 + 1;
        self.select_layer.rem_euclid(states) as usize
    }
}

fn select_layer(root: &Fields<'_>, recipe: &Clip) -> Result<i64, CheckpointError> {
    if let Some(layer) = recipe.select_layer {
        return Ok(layer);
    }
    // Original LLaVA writes `mm_vision_select_layer`; -2 is the default of transformers' LlavaConfig.
    let Some(key) = root.first_of(&["vision_feature_layer", "mm_vision_select_layer"]) else {
        return Ok(-2);
    };
    let value = root.get(key);
    let single = value.and_then(|v| match v.as_array() {
        Some(list) if list.len() == 1 => list[0].as_i64(),
        Some(_) => None,
        None => v.as_i64(),
    });
    single.ok_or_else(|| root.error(key, "one whole number: features of several layers are not implemented"))
}

fn select_feature(root: &Fields<'_>, recipe: &Clip) -> Result<FeatureSelect, CheckpointError> {
    let choices = [
        ("default", FeatureSelect::Patch),
        ("patch", FeatureSelect::Patch),
        ("full", FeatureSelect::ClsPatch),
        ("cls_patch", FeatureSelect::ClsPatch),
    ];
    match recipe.select_feature.as_deref() {
        Some("cls_patch") => return Ok(FeatureSelect::ClsPatch),
        Some(_) => return Ok(FeatureSelect::Patch),
        None => {}
    }
    let key = root.first_of(&["vision_feature_select_strategy", "mm_vision_select_feature"]);
    match key {
        Some(key) => root.choice(key, &choices),
        None => Ok(FeatureSelect::Patch),
    }
}
