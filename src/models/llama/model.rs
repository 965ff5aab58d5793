//! The decoder: embeddings, blocks of attention and gated MLP, final norm, head.

// b batch, t tokens, d hidden width, v vocabulary
use super::config::LlamaConfig;
use crate::models::CausalLm;
use crate::nn::recompute::Chain;
use crate::nn::{
    Activation, AttentionSpec, Embedding, KvCache, LayerCache, Linear, RmsNorm, Rope, RopeScaling, SequenceLayout,
    attention, gated_mlp,
};
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};

/// A Llama decoder with its language-model head.
///
/// # Source
/// `LlamaForCausalLM`, `MistralForCausalLM` and `Qwen2ForCausalLM` of transformers, which differ by configuration only.
#[derive(Module, Debug)]
pub struct LlamaForCausalLm {
    /// Token table, `[v, d]`.
    pub embed_tokens: Embedding,
    /// Decoder blocks, first to last.
    pub layers: Vec<DecoderLayer>,
    /// Norm before the head.
    pub norm: RmsNorm,
    /// Output projection `[v, d]`; absent where it is tied to the token table.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    config: LlamaConfig,
}

/// One decoder block.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Norm before attention.
    pub input_layernorm: RmsNorm,
    /// Attention.
    pub self_attn: SelfAttention,
    /// Norm before the MLP.
    pub post_attention_layernorm: RmsNorm,
    /// Gated MLP.
    pub mlp: Mlp,
}

/// Grouped-query self-attention with rotary positions.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Queries, `[heads·k, d]`.
    pub q_proj: Linear,
    /// Keys, `[kv_heads·k, d]`.
    pub k_proj: Linear,
    /// Values, `[kv_heads·k, d]`.
    pub v_proj: Linear,
    /// Output, `[d, heads·k]`.
    pub o_proj: Linear,
}

/// `down(act(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Gate, `[intermediate, d]`.
    pub gate_proj: Linear,
    /// Up, `[intermediate, d]`.
    pub up_proj: Linear,
    /// Down, `[d, intermediate]`.
    pub down_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl LlamaForCausalLm {
    /// A model of the given shape; its parameters are drawn when they are first needed, or loaded before.
    pub fn new(config: &LlamaConfig, device: &Device) -> Self {
        let d = config.hidden_size;
        let head = || Linear::new(d, config.vocab_size, false, device);
        Self {
            embed_tokens: Embedding::new(config.vocab_size, d, device),
            layers: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            norm: RmsNorm::new(d, config.rms_norm_eps, device),
            lm_head: (!config.tie_word_embeddings).then(head),
            config: config.clone(),
        }
    }

    /// The model's shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }
}

impl CausalLm for LlamaForCausalLm {
    fn embed(&self, ids_bt: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(ids_bt)
    }

    fn hidden(&self, x_btd: Tensor<3>, layout: &SequenceLayout, mut cache: Option<&mut KvCache>) -> Tensor<3> {
        let t = x_btd.dims()[1];
        let mut chain = Chain::new(x_btd);
        let rope = self.config.rope().table(layout.positions_of(t), &chain.constants());
        for (index, layer) in self.layers.iter().enumerate() {
            let (rope, spec) = (rope.clone(), self.config.attention(index, layout));
            chain = match cache.as_deref_mut().map(|c| &mut c.layers[index]) {
                None => chain.block(layer, Vec::new(), move |layer, x, _| layer.forward(x, &rope, &spec, None)),
                Some(held) if chain.records() && held.is_fresh() => {
                    // A pass that is recorded fills no cache: only its virtual keys come in.
                    let (front, starts) = held.take_front();
                    chain.block(layer, front, move |layer, x, front| {
                        layer.forward(x, &rope, &spec, Some(&mut LayerCache::beginning_with(front, &starts)))
                    })
                }
                Some(held) => chain.call(|x| layer.forward(x, &rope, &spec, Some(held))),
            };
        }
        if let Some(cache) = cache {
            cache.length += t;
        }
        self.norm.forward(chain.finish())
    }

    fn head(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => match head.plain() {
                Some(plain) => plain.weight_oi,
                None => unreachable!("what stands on a head has a plain map"),
            },
            None => self.embed_tokens.table(),
        }
    }

    fn new_cache(&self) -> KvCache {
        KvCache::new(self.layers.len())
    }

    fn keys_stay(&self) -> bool {
        !matches!(self.config.rope().scaling, RopeScaling::Dynamic { .. })
    }

    fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    fn num_layers(&self) -> usize {
        self.layers.len()
    }

    fn num_attention_heads(&self) -> usize {
        self.config.num_attention_heads
    }

    fn num_key_value_heads(&self) -> usize {
        self.config.num_key_value_heads
    }

    fn head_dim(&self) -> usize {
        self.config.head_dim
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let (attention, mlp) = (&mut layer.self_attn, &mut layer.mlp);
            for (name, linear) in [
                ("self_attn.q_proj", &mut attention.q_proj),
                ("self_attn.k_proj", &mut attention.k_proj),
                ("self_attn.v_proj", &mut attention.v_proj),
                ("self_attn.o_proj", &mut attention.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ] {
                visit(&format!("layers.{index}.{name}"), linear);
            }
        }
    }

    fn head_mut(&mut self) -> Option<&mut Linear> {
        self.lm_head.as_mut()
    }

    fn model_type(&self) -> &str {
        self.config.model_type
    }

    fn token_table_mut(&mut self) -> &mut Embedding {
        &mut self.embed_tokens
    }

    fn without_head(mut self) -> Self {
        self.lm_head = None;
        self
    }

    fn grow_vocabulary(mut self, rows: usize) -> Self {
        self.embed_tokens.weight = grown(self.embed_tokens.weight, rows);
        self.lm_head = self.lm_head.map(|mut head| {
            head.weight = head.weight.map_param(|weight| grown(weight, rows));
            head
        });
        self.config.vocab_size = rows;
        self
    }

    fn file_key(&self, parameter: &str) -> String {
        if parameter.starts_with("lm_head.") { parameter.to_owned() } else { format!("model.{parameter}") }
    }
}

/// New rows are the mean of the old ones, as LLaVA initialises added tokens.
fn grown(table: Param<Tensor<2>>, rows: usize) -> Param<Tensor<2>> {
    let trainable = table.is_require_grad();
    let table = table.map(|old_vd| {
        let [v, d] = old_vd.dims();
        if rows <= v {
            return old_vd;
        }
        let old_vd = old_vd.detach();
        let mean = old_vd.clone().mean_dim(0).expand([rows - v, d]);
        Tensor::cat(vec![old_vd, mean], 0).detach()
    });
    table.set_require_grad(trainable)
}

impl DecoderLayer {
    fn new(config: &LlamaConfig, device: &Device) -> Self {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let qkv_bias = config.qkv_bias;
        let norm = || RmsNorm::new(d, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: SelfAttention {
                q_proj: Linear::new(d, q, qkv_bias, device),
                k_proj: Linear::new(d, kv, qkv_bias, device),
                v_proj: Linear::new(d, kv, qkv_bias, device),
                o_proj: Linear::new(q, d, config.o_bias, device),
            },
            post_attention_layernorm: norm(),
            mlp: Mlp {
                gate_proj: Linear::new(d, f, config.mlp_bias, device),
                up_proj: Linear::new(d, f, config.mlp_bias, device),
                down_proj: Linear::new(f, d, config.mlp_bias, device),
                activation: config.hidden_act,
            },
        }
    }

    fn forward(
        &self,
        x_btd: Tensor<3>,
        rope: &Rope,
        spec: &AttentionSpec,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let y = self.input_layernorm.forward(x_btd.clone());
        let x_btd = x_btd + self.self_attn.forward(y, rope, spec, cache);
        let y = self.post_attention_layernorm.forward(x_btd.clone());
        x_btd + self.mlp.forward(y)
    }
}

impl SelfAttention {
    fn forward(
        &self,
        x_btd: Tensor<3>,
        rope: &Rope,
        spec: &AttentionSpec,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let q = self.q_proj.forward(x_btd.clone());
        let k = self.k_proj.forward(x_btd.clone());
        let v = self.v_proj.forward(x_btd);
        let y = match cache {
            None => attention(q, k, v, Some(rope), spec),
            Some(cache) => {
                let layout = SequenceLayout { starts: spec.starts.clone(), past: spec.past };
                let q = rope.rotate(q, spec.heads, &layout, spec.past);
                let k = rope.rotate(k, spec.kv_heads, &layout, spec.past);
                let (k, v) = cache.append(k, v);
                attention(q, k, v, None, spec)
            }
        };
        self.o_proj.forward(y)
    }
}

impl Mlp {
    fn forward(&self, x_btd: Tensor<3>) -> Tensor<3> {
        gated_mlp(x_btd, &self.gate_proj, &self.up_proj, &self.down_proj, self.activation)
    }
}

impl LlamaConfig {
    fn attention(&self, layer: usize, layout: &SequenceLayout) -> AttentionSpec {
        AttentionSpec {
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            causal: true,
            starts: layout.starts.clone(),
            past: layout.past,
            window: self.sliding_windows[layer],
            scale: (self.head_dim as f32).powf(-0.5),
        }
    }
}
