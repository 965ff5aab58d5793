//! The shape of a decoder, read from `config.json` with the reference classes' defaults.

use crate::checkpoint::{CheckpointError, Fields};
use crate::nn::{Activation, RopeConfig, RopeScaling};

/// The configuration of [`LlamaForCausalLm`](super::LlamaForCausalLm), under Hugging Face's names.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
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
    /// Keys further back than this are not seen.
    pub sliding_window: Option<usize>,
}

/// What differs between the families where a configuration is silent.
struct Family {
    vocab_size: usize,
    intermediate_size: usize,
    /// `None`: as many as query heads.
    num_key_value_heads: Option<usize>,
    sliding_window: Option<usize>,
}

impl Family {
    fn of(fields: &Fields<'_>) -> Result<(Self, bool), CheckpointError> {
        let model_type = fields.string_or("model_type", "llama")?;
        let llama =
            Self { vocab_size: 32_000, intermediate_size: 11_008, num_key_value_heads: None, sliding_window: None };
        Ok(match model_type.as_str() {
            "llama" => (llama, false),
            "mistral" => {
                let mistral = Self {
                    intermediate_size: 14_336,
                    num_key_value_heads: Some(8),
                    sliding_window: Some(4096),
                    ..llama
                };
                (mistral, false)
            }
            "qwen2" => {
                (Self { vocab_size: 151_936, intermediate_size: 22_016, num_key_value_heads: Some(32), ..llama }, true)
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
        let hidden_size = positive(fields, "hidden_size", 4096)?;
        let num_attention_heads = positive(fields, "num_attention_heads", 32)?;
        let default_kv = family.num_key_value_heads.unwrap_or(num_attention_heads);
        let num_key_value_heads = positive(fields, "num_key_value_heads", default_kv)?;
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
        let act = fields.string_or("hidden_act", "silu")?;
        let hidden_act = Activation::parse(&act).map_err(|error| fields.error("hidden_act", &error.to_string()))?;
        let attention_bias = fields.bool_or("attention_bias", false)?;
        let (rope_theta, rope_scaling) = rope(fields)?;
        let sliding_window = match fields.iter().find(|(key, _)| *key == "sliding_window") {
            // Qwen2 writes a window that `use_sliding_window` switches, and it is off here.
            _ if qwen2 => None,
            Some(_) => fields.opt_usize("sliding_window")?,
            None => family.sliding_window,
        };
        Ok(Self {
            vocab_size: positive(fields, "vocab_size", family.vocab_size)?,
            hidden_size,
            intermediate_size: positive(fields, "intermediate_size", family.intermediate_size)?,
            num_hidden_layers: fields.usize_or("num_hidden_layers", 32usize)?,
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
            sliding_window,
        })
    }
}

fn positive(fields: &Fields<'_>, key: &str, default: usize) -> Result<usize, CheckpointError> {
    match fields.usize_or(key, default)? {
        0 => Err(fields.error(key, "at least 1")),
        n => Ok(n),
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
    if fields.bool_or("use_sliding_window", false)? {
        let expected = "false: windows on some of the layers are not implemented";
        return Err(fields.error("use_sliding_window", expected));
    }
    let layer_types = fields.strings_or("layer_types", Vec::<String>::new())?;
    if layer_types.iter().any(|kind| kind != "full_attention") {
        return Err(fields.error("layer_types", "full_attention throughout"));
    }
    if fields.has("quantization_config") {
        return Err(fields.error("quantization_config", "absent: load the unquantized checkpoint"));
    }
    Ok(())
}

/// Base and scaling: `rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of 4.
fn rope(fields: &Fields<'_>) -> Result<(f64, RopeScaling), CheckpointError> {
    let (theta, scaling) = match fields.opt_object("rope_parameters")? {
        Some(parameters) => {
            let fallback = fields.f64_or("rope_theta", 10_000.0)?;
            (parameters.f64_or("rope_theta", fallback)?, Some(parameters))
        }
        None => (fields.f64_or("rope_theta", 10_000.0)?, fields.opt_object("rope_scaling")?),
    };
    let Some(scaling) = scaling else { return Ok((theta, RopeScaling::Default)) };
    let key = scaling.first_of(&["rope_type", "type"]);
    let kind = match key {
        Some(key) => scaling.string(key)?,
        None => "default".to_owned(),
    };
    Ok((
        theta,
        match kind.as_str() {
            "default" => RopeScaling::Default,
            "llama3" => RopeScaling::Llama3 {
                factor: scaling.f64("factor")?,
                low_freq_factor: scaling.f64("low_freq_factor")?,
                high_freq_factor: scaling.f64("high_freq_factor")?,
                original_max_position_embeddings: scaling.f64("original_max_position_embeddings")?,
            },
            _ => return Err(scaling.error(key.unwrap_or("rope_type"), "default or llama3, which are implemented")),
        },
    ))
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
        assert_eq!((mistral.num_key_value_heads, mistral.sliding_window), (8, Some(4096)));
        let open = read(json!({"model_type": "mistral", "sliding_window": null})).unwrap();
        assert_eq!(open.sliding_window, None);
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
    fn what_is_not_implemented_is_refused_by_name() {
        for (value, name) in [
            (json!({"model_type": "gemma"}), "model_type"),
            (json!({"rope_scaling": {"type": "yarn", "factor": 2.0}}), "rope_scaling.type"),
            (json!({"attention_dropout": 0.1}), "attention_dropout"),
            (json!({"model_type": "qwen2", "use_sliding_window": true}), "use_sliding_window"),
            (json!({"num_attention_heads": 6, "num_key_value_heads": 4, "hidden_size": 48}), "num_key_value_heads"),
            (json!({"hidden_act": "mish"}), "hidden_act"),
        ] {
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
