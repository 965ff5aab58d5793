//! The shape of a decoder, read from `config.json` with the reference classes' defaults.

use crate::checkpoint::bnb::QuantizedFolder;
use crate::checkpoint::{CheckpointError, Fields};
use crate::nn::{Activation, RopeConfig, RopeScaling};

/// The most that a configuration may ask for; far beyond any published model, so that a damaged or hostile file is
/// refused before memory is taken for it and no product of sizes overflows.
mod most {
    pub const LAYERS: usize = 10_000;
    pub const WIDTH: usize = 1 << 18;
    pub const INNER_WIDTH: usize = 1 << 20;
    pub const HEADS: usize = 1 << 12;
    pub const HEAD_DIM: usize = 1 << 12;
    pub const VOCABULARY: usize = 1 << 24;
}

/// The configuration of [`LlamaForCausalLm`](super::LlamaForCausalLm), under Hugging Face's names.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// `llama`, `mistral` or `qwen2`.
    pub model_type: &'static str,
    /// Rows of the token table, padding rows included.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Activation of the MLP's gate.
    pub hidden_act: Activation,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// Base of the rotation's wavelengths.
    pub rope_theta: f64,
    /// Scaling of the rotation's frequencies.
    pub rope_scaling: RopeScaling,
    /// Whether the head is the token table.
    pub tie_word_embeddings: bool,
    /// Whether query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub o_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Of each block: keys this far back and further are not seen.
    pub sliding_windows: Vec<Option<usize>>,
}

/// What differs between the families where a configuration is silent.
struct Family {
    model_type: &'static str,
    vocab_size: usize,
    intermediate_size: usize,
    /// `None`: as many as query heads.
    num_key_value_heads: Option<usize>,
    max_position_embeddings: usize,
    windows: Windows,
}

/// Which blocks have a sliding window.
#[derive(Clone, Copy, PartialEq)]
enum Windows {
    /// None, whatever the file says.
    None,
    /// All of them, of `sliding_window` tokens where that is not null.
    All,
    /// Those that `layer_types` names; else those from `max_window_layers` on, where `use_sliding_window` is true.
    ByLayer,
}

impl Family {
    fn of(fields: &Fields<'_>) -> Result<(Self, bool), CheckpointError> {
        let model_type = fields.string_or("model_type", "llama")?;
        let llama = Self {
            model_type: "llama",
            vocab_size: 32_000,
            intermediate_size: 11_008,
            num_key_value_heads: None,
            max_position_embeddings: 2048,
            windows: Windows::None,
        };
        Ok(match model_type.as_str() {
            "llama" => (llama, false),
            "mistral" => {
                let mistral = Self {
                    model_type: "mistral",
                    intermediate_size: 14_336,
                    num_key_value_heads: Some(8),
                    max_position_embeddings: 4096 * 32,
                    windows: Windows::All,
                    ..llama
                };
                (mistral, false)
            }
            "qwen2" => {
                let qwen2 = Self {
                    model_type: "qwen2",
                    vocab_size: 151_936,
                    intermediate_size: 22_016,
                    num_key_value_heads: Some(32),
                    max_position_embeddings: 32_768,
                    windows: Windows::ByLayer,
                };
                (qwen2, true)
            }
            _ => return Err(fields.error("model_type", "llama, mistral or qwen2")),
        })
    }
}

impl LlamaConfig {
    /// Reads a `config.json` of `llama`, `mistral` or `qwen2`, of transformers 4 or 5.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] for a value that is wrong, or that asks for what is not implemented.
    pub fn read(fields: &Fields<'_>) -> Result<Self, CheckpointError> {
        let (family, qwen2) = Family::of(fields)?;
        refuse_unimplemented(fields)?;
        let hidden_size = fields.size_or("hidden_size", 4096, most::WIDTH)?;
        let num_attention_heads = fields.size_or("num_attention_heads", 32, most::HEADS)?;
        let default_kv = family.num_key_value_heads.unwrap_or(num_attention_heads);
        let num_key_value_heads = fields.size_or("num_key_value_heads", default_kv, most::HEADS)?;
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            let expected = format!("a divisor of num_attention_heads, which is {num_attention_heads}");
            return Err(fields.error("num_key_value_heads", &expected));
        }
        let head_dim = match fields.opt_usize("head_dim")? {
            Some(width) => width,
            None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                let expected = format!("a multiple of num_attention_heads, which is {num_attention_heads}");
                return Err(fields.error("hidden_size", &expected));
            }
        };
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(fields.error("head_dim", "an even number: rotary positions turn pairs"));
        }
        if head_dim > most::HEAD_DIM {
            return Err(fields.error("head_dim", &format!("at most {}", most::HEAD_DIM)));
        }
        let act = fields.string_or("hidden_act", "silu")?;
        let hidden_act = Activation::parse(&act).map_err(|error| fields.error("hidden_act", &error.to_string()))?;
        let attention_bias = fields.bool_or("attention_bias", false)?;
        let context = fields.size_or("max_position_embeddings", family.max_position_embeddings, 1 << 40)?;
        let (rope_theta, rope_scaling) = rope(fields, context)?;
        if matches!(rope_scaling, RopeScaling::Dynamic { .. }) && head_dim == 2 {
            return Err(fields.error("head_dim", "more than 2 with `dynamic` rotary positions"));
        }
        let num_hidden_layers = match fields.usize_or("num_hidden_layers", 32usize)? {
            layers if layers <= most::LAYERS => layers,
            _ => return Err(fields.error("num_hidden_layers", &format!("at most {}", most::LAYERS))),
        };
        Ok(Self {
            model_type: family.model_type,
            vocab_size: fields.size_or("vocab_size", family.vocab_size, most::VOCABULARY)?,
            hidden_size,
            intermediate_size: fields.size_or("intermediate_size", family.intermediate_size, most::INNER_WIDTH)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            hidden_act,
            rms_norm_eps: fields.f64_or("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: fields.bool_or("tie_word_embeddings", false)?,
            qkv_bias: qwen2 || attention_bias,
            o_bias: !qwen2 && attention_bias,
            mlp_bias: fields.bool_or("mlp_bias", false)?,
            sliding_windows: sliding_windows(fields, family.windows, num_hidden_layers)?,
        })
    }
}

/// Values that would change the arithmetic in a way that is not implemented.
fn refuse_unimplemented(fields: &Fields<'_>) -> Result<(), CheckpointError> {
    if fields.f64_or("attention_dropout", 0.0)? != 0.0 {
        return Err(fields.error("attention_dropout", "0: dropout of attention weights is not implemented"));
    }
    if fields.f64_or("partial_rotary_factor", 1.0)? != 1.0 {
        return Err(fields.error("partial_rotary_factor", "1: partial rotation is not implemented"));
    }
    // What it says is taken by who loads the weights; here it must be of a kind that can be loaded at all.
    QuantizedFolder::read(fields)?;
    Ok(())
}

/// The window of each block.
fn sliding_windows(
    fields: &Fields<'_>,
    windows: Windows,
    layers: usize,
) -> Result<Vec<Option<usize>>, CheckpointError> {
    // Null is no window; silence is the classes' default.
    let window = match fields.iter().any(|(key, _)| key == "sliding_window") {
        true => fields.opt_usize("sliding_window")?,
        false => Some(4096),
    };
    if windows != Windows::None && window == Some(0) {
        return Err(fields.error("sliding_window", "at least 1, or null for none"));
    }
    let kinds = fields.strings_or("layer_types", Vec::<String>::new())?;
    if !kinds.is_empty() && kinds.len() != layers {
        return Err(fields.error("layer_types", &format!("{layers} entries, one for each hidden layer")));
    }
    let unknown = kinds.iter().any(|kind| kind != "full_attention" && kind != "sliding_attention");
    if unknown {
        return Err(fields.error("layer_types", "full_attention or sliding_attention throughout"));
    }
    match windows {
        Windows::None | Windows::All => {
            let window = window.filter(|_| windows == Windows::All);
            let expected = if window.is_some() { "sliding_attention" } else { "full_attention" };
            // These classes do not read the list; one that says otherwise is of another class.
            if kinds.iter().any(|kind| kind != expected) {
                return Err(fields.error("layer_types", &format!("{expected} throughout for this model_type")));
            }
            Ok(vec![window; layers])
        }
        Windows::ByLayer => {
            let used = fields.bool_or("use_sliding_window", false)?;
            let window = window.filter(|_| used);
            let first = fields.usize_or("max_window_layers", 28usize)?;
            let slides = |layer: usize| match kinds.get(layer) {
                Some(kind) => kind == "sliding_attention",
                None => layer >= first,
            };
            Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect())
        }
    }
}

/// Base and scaling: `rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of 4. `context` is
/// `max_position_embeddings`.
fn rope(fields: &Fields<'_>, context: usize) -> Result<(f64, RopeScaling), CheckpointError> {
    let (theta, scaling) = match fields.opt_object("rope_parameters")? {
        Some(parameters) => {
            let fallback = fields.f64_or("rope_theta", 10_000.0)?;
            (parameters.f64_or("rope_theta", fallback)?, Some(parameters))
        }
        None => (fields.f64_or("rope_theta", 10_000.0)?, fields.opt_object("rope_scaling")?),
    };
    if theta <= 0.0 {
        let place = scaling.as_ref().filter(|parameters| parameters.has("rope_theta")).unwrap_or(fields);
        return Err(place.error("rope_theta", "a number above 0"));
    }
    let Some(scaling) = scaling else { return Ok((theta, RopeScaling::Default)) };
    let key = scaling.first_of(&["rope_type", "type"]);
    let kind = match key {
        Some(key) => scaling.string(key)?,
        None => "default".to_owned(),
    };
    let factor = |scaling: &Fields<'_>| match scaling.f64("factor")? {
        factor if factor > 0.0 => Ok(factor),
        _ => Err(scaling.error("factor", "a number above 0")),
    };
    let original = fields.f64_or("original_max_position_embeddings", context as f64)?;
    let original = scaling.f64_or("original_max_position_embeddings", original)?;
    Ok((
        theta,
        match kind.as_str() {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: factor(&scaling)? },
            "dynamic" => RopeScaling::Dynamic { factor: factor(&scaling)?, max_position_embeddings: context },
            "yarn" => yarn(&scaling, context as f64, original)?,
            "llama3" => RopeScaling::Llama3 {
                factor: factor(&scaling)?,
                low_freq_factor: scaling.f64("low_freq_factor")?,
                high_freq_factor: scaling.f64("high_freq_factor")?,
                original_max_position_embeddings: original,
            },
            _ => {
                let known = "default, linear, dynamic, yarn or llama3, which are implemented";
                return Err(scaling.error(key.unwrap_or("rope_type"), known));
            }
        },
    ))
}

fn yarn(scaling: &Fields<'_>, context: f64, original: f64) -> Result<RopeScaling, CheckpointError> {
    let factor = scaling.f64_or("factor", context / original)?;
    if factor <= 0.0 || original <= 0.0 {
        return Err(scaling.error("factor", "a number above 0"));
    }
    let sharpening = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let not_zero = |value: Option<f64>| value.filter(|v| *v != 0.0);
    let (mscale, all_dim) = (not_zero(scaling.opt_f64("mscale")?), not_zero(scaling.opt_f64("mscale_all_dim")?));
    let attention_factor = match (scaling.opt_f64("attention_factor")?, mscale, all_dim) {
        (Some(factor), ..) => factor,
        (None, Some(mscale), Some(all_dim)) => sharpening(mscale) / sharpening(all_dim),
        _ => sharpening(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        attention_factor,
        beta_fast: not_zero(scaling.opt_f64("beta_fast")?).unwrap_or(32.0),
        beta_slow: not_zero(scaling.opt_f64("beta_slow")?).unwrap_or(1.0),
        original_max_position_embeddings: original,
        truncate: scaling.bool_or("truncate", true)?,
    })
}

impl LlamaConfig {
    /// The rotation's geometry.
    pub fn rope(&self) -> RopeConfig {
        RopeConfig { head_dim: self.head_dim, theta: self.rope_theta, scaling: self.rope_scaling }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::JsonFile;
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<LlamaConfig, CheckpointError> {
        let file = JsonFile::from_value("config.json", value);
        LlamaConfig::read(&file.fields().unwrap())
    }

    #[test]
    fn missing_keys_take_the_classes_defaults() {
        let llama = read(json!({"model_type": "llama"})).unwrap();
        assert_eq!((llama.vocab_size, llama.head_dim, llama.num_key_value_heads), (32_000, 128, 32));
        let mistral = read(json!({"model_type": "mistral"})).unwrap();
        assert_eq!((mistral.num_key_value_heads, mistral.sliding_windows), (8, vec![Some(4096); 32]));
        let open = read(json!({"model_type": "mistral", "sliding_window": null})).unwrap();
        assert_eq!(open.sliding_windows, vec![None; 32]);
        let qwen2 = read(json!({"model_type": "qwen2"})).unwrap();
        assert!(qwen2.qkv_bias && !qwen2.o_bias);
    }

    #[test]
    fn both_versions_of_the_rope_settings_are_read() {
        let v4 = read(json!({"rope_theta": 5e5, "rope_scaling": null})).unwrap();
        let v5 = read(json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})).unwrap();
        assert_eq!(v4, v5);
    }

    #[test]
    fn windows_are_on_the_layers_that_have_them() {
        let windows = |value: Value| read(value).unwrap().sliding_windows;
        let off = json!({"model_type": "qwen2", "num_hidden_layers": 2, "sliding_window": 8});
        assert_eq!(windows(off), [None, None]);
        let late = json!({"model_type": "qwen2", "num_hidden_layers": 3, "sliding_window": 8, "use_sliding_window": true,
            "max_window_layers": 1});
        assert_eq!(windows(late), [None, Some(8), Some(8)]);
        let listed = json!({"model_type": "qwen2", "num_hidden_layers": 2, "sliding_window": 8,
            "use_sliding_window": true, "layer_types": ["sliding_attention", "full_attention"]});
        assert_eq!(windows(listed), [Some(8), None]);
        // LlamaForCausalLM reads no window.
        assert_eq!(windows(json!({"num_hidden_layers": 1, "sliding_window": 8})), [None]);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (value, name) in [
            (json!({"model_type": "gemma"}), "model_type"),
            (json!({"rope_scaling": {"type": "longrope", "factor": 2.0}}), "rope_scaling.type"),
            (json!({"rope_scaling": {"type": "linear", "factor": 0.0}}), "rope_scaling.factor"),
            (json!({"rope_scaling": {"type": "dynamic"}}), "rope_scaling.factor"),
            (json!({"attention_dropout": 0.1}), "attention_dropout"),
            (json!({"model_type": "qwen2", "num_hidden_layers": 2, "layer_types": ["full_attention"]}), "layer_types"),
            (json!({"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}), "layer_types"),
            (json!({"model_type": "mistral", "sliding_window": 0}), "sliding_window"),
            (json!({"num_attention_heads": 6, "num_key_value_heads": 4, "hidden_size": 48}), "num_key_value_heads"),
            (json!({"hidden_act": "mish"}), "hidden_act"),
        ] {
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
