//! Patch embedding, pre-norm transformer blocks, and the choice of layer and tokens.

// n images, t tokens, d width, p patch side in pixels
use super::config::{ClipConfig, FeatureSelect};
use crate::nn::recompute::Chain;
use crate::nn::{Activation, AttentionSpec, Embedding, LayerNorm, Linear, attention, cast_to, linear, params};
use crate::vision::VisionTower;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

/// The image tower of CLIP.
#[derive(Module, Debug)]
pub struct ClipVision {
    /// Patches, class token and positions.
    pub embeddings: Embeddings,
    /// Norm before the blocks; the spelling is the reference's.
    pub pre_layrnorm: LayerNorm,
    /// Transformer blocks.
    pub encoder: Encoder,
    /// Norm of the pooled output: part of every checkpoint, not of the features.
    pub post_layernorm: LayerNorm,
    #[module(skip)]
    config: ClipConfig,
}

/// Patches to tokens.
#[derive(Module, Debug)]
pub struct Embeddings {
    /// Token in front of the patches, `[d]`.
    pub class_embedding: Param<Tensor<1>>,
    /// Convolution whose stride is its size.
    pub patch_embedding: PatchEmbedding,
    /// One row per token.
    pub position_embedding: Embedding,
}

/// A convolution whose stride is its size, hence a matrix product.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// `[d, 3, p, p]`.
    pub weight: Param<Tensor<4>>,
}

/// The stack of blocks.
#[derive(Module, Debug)]
pub struct Encoder {
    /// Blocks, first to last.
    pub layers: Vec<EncoderLayer>,
}

/// One pre-norm block.
#[derive(Module, Debug)]
pub struct EncoderLayer {
    /// Norm before attention.
    pub layer_norm1: LayerNorm,
    /// Attention.
    pub self_attn: SelfAttention,
    /// Norm before the MLP.
    pub layer_norm2: LayerNorm,
    /// MLP.
    pub mlp: Mlp,
}

/// Full (not causal) self-attention with biases.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Queries.
    pub q_proj: Linear,
    /// Keys.
    pub k_proj: Linear,
    /// Values.
    pub v_proj: Linear,
    /// Output.
    pub out_proj: Linear,
}

/// `fc2(act(fc1(x)))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Up.
    pub fc1: Linear,
    /// Down.
    pub fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl ClipVision {
    /// A tower of the given shape; its parameters are drawn when they are first needed, or loaded before.
    pub fn new(config: &ClipConfig, device: &Device) -> Self {
        let d = config.hidden_size;
        let norm = || LayerNorm::new(d, config.layer_norm_eps, device);
        Self {
            embeddings: Embeddings {
                class_embedding: params::normal([d], 0.02, device),
                patch_embedding: PatchEmbedding {
                    weight: params::normal([d, 3, config.patch_size, config.patch_size], 0.02, device),
                },
                position_embedding: Embedding::new(config.num_patches() + 1, d, device),
            },
            pre_layrnorm: norm(),
            encoder: Encoder {
                layers: (0..config.num_hidden_layers).map(|_| EncoderLayer::new(config, device)).collect(),
            },
            post_layernorm: norm(),
            config: config.clone(),
        }
    }

    /// The tower's shape.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The hidden states before the first block and after each of the first `layers` blocks.
    ///
    /// # Shapes
    /// `[n, 3, h, w]` to `layers + 1` times `[n, 1 + patches, d]`.
    pub fn hidden_states(&self, pixels_nchw: Tensor<4>, layers: usize) -> Vec<Tensor<3>> {
        let x = self.embed(pixels_nchw);
        let mut states = vec![self.pre_layrnorm.forward(x)];
        for layer in &self.encoder.layers[..layers] {
            let next = layer.forward(states[states.len() - 1].clone(), &self.config);
            states.push(next);
        }
        states
    }

    fn embed(&self, pixels_nchw: Tensor<4>) -> Tensor<3> {
        let [n, c, h, w] = pixels_nchw.dims();
        let (p, d) = (self.config.patch_size, self.config.hidden_size);
        let (rows, columns) = (h / p, w / p);
        let patches = rows * columns;
        // A height that is no multiple of the patch loses its remainder, as the reference's convolution drops it.
        let x = pixels_nchw.narrow(2, 0, rows * p).narrow(3, 0, columns * p);
        let x = x.reshape([n, c, rows, p, columns, p]).permute([0, 2, 4, 1, 3, 5]);
        let x: Tensor<2> = x.reshape([n * patches, c * p * p]);
        let weight = self.embeddings.patch_embedding.weight.val().reshape([d, c * p * p]);
        let x = linear(cast_to(x, weight.dtype()), weight, None).reshape([n, patches, d]);
        let class = self.embeddings.class_embedding.val().reshape([1, 1, d]).expand([n, 1, d]);
        let positions = self.embeddings.position_embedding.weight.val();
        Tensor::cat(vec![class, x], 1) + positions.unsqueeze()
    }
}

impl VisionTower for ClipVision {
    const BESIDE: &'static [&'static str] =
        &["text_model.*", "text_projection.*", "visual_projection.*", "logit_scale"];

    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        for (index, layer) in self.encoder.layers.iter_mut().enumerate() {
            let (attention, mlp) = (&mut layer.self_attn, &mut layer.mlp);
            for (name, linear) in [
                ("self_attn.q_proj", &mut attention.q_proj),
                ("self_attn.k_proj", &mut attention.k_proj),
                ("self_attn.v_proj", &mut attention.v_proj),
                ("self_attn.out_proj", &mut attention.out_proj),
                ("mlp.fc1", &mut mlp.fc1),
                ("mlp.fc2", &mut mlp.fc2),
            ] {
                visit(&format!("encoder.layers.{index}.{name}"), linear);
            }
        }
    }

    fn encode(&self, pixels_nchw: Tensor<4>) -> Tensor<3> {
        let layers = self.config.selected_state();
        let x = self.embed(pixels_nchw);
        let mut chain = Chain::new(self.pre_layrnorm.forward(x));
        for layer in &self.encoder.layers[..layers] {
            let config = self.config.clone();
            chain = chain.block(layer, Vec::new(), move |layer, x, _| layer.forward(x, &config));
        }
        let x = chain.finish();
        match self.config.select_feature {
            FeatureSelect::ClsPatch => x,
            FeatureSelect::Patch => {
                let patches = x.dims()[1] - 1;
                x.narrow(1, 1, patches)
            }
        }
    }

    fn tokens_per_image(&self) -> usize {
        self.config.num_patches() + usize::from(self.config.select_feature == FeatureSelect::ClsPatch)
    }

    fn width(&self) -> usize {
        self.config.hidden_size
    }

    fn image_size(&self) -> (usize, usize) {
        (self.config.image_size, self.config.image_size)
    }

    fn file_key(&self, parameter: &str) -> String {
        format!("vision_model.{parameter}")
    }

    fn root_config(&self) -> Vec<(&'static str, serde_json::Value)> {
        vec![
            ("vision_feature_layer", self.config.select_layer.into()),
            ("vision_feature_select_strategy", self.config.select_feature.strategy().into()),
        ]
    }
}

impl EncoderLayer {
    fn new(config: &ClipConfig, device: &Device) -> Self {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let norm = || LayerNorm::new(d, config.layer_norm_eps, device);
        let square = || Linear::new(d, d, true, device);
        Self {
            layer_norm1: norm(),
            self_attn: SelfAttention { q_proj: square(), k_proj: square(), v_proj: square(), out_proj: square() },
            layer_norm2: norm(),
            mlp: Mlp {
                fc1: Linear::new(d, f, true, device),
                fc2: Linear::new(f, d, true, device),
                activation: config.hidden_act,
            },
        }
    }

    fn forward(&self, x_ntd: Tensor<3>, config: &ClipConfig) -> Tensor<3> {
        let y = self.layer_norm1.forward(x_ntd.clone());
        let x_ntd = x_ntd + self.self_attn.forward(y, config);
        let y = self.layer_norm2.forward(x_ntd.clone());
        x_ntd + self.mlp.forward(y)
    }
}

impl SelfAttention {
    fn forward(&self, x_ntd: Tensor<3>, config: &ClipConfig) -> Tensor<3> {
        let heads = config.num_attention_heads;
        let head_dim = config.hidden_size / heads;
        let spec = AttentionSpec {
            heads,
            kv_heads: heads,
            head_dim,
            causal: false,
            starts: vec![0; x_ntd.dims()[0]].into(),
            past: 0,
            window: None,
            scale: (head_dim as f32).powf(-0.5),
        };
        let q = self.q_proj.forward(x_ntd.clone());
        let k = self.k_proj.forward(x_ntd.clone());
        let v = self.v_proj.forward(x_ntd);
        self.out_proj.forward(attention(q, k, v, None, &spec))
    }
}

impl Mlp {
    fn forward(&self, x_ntd: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(self.activation.forward(self.fc1.forward(x_ntd)))
    }
}
