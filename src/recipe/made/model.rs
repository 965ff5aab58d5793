//! A random LLaVA in the hub's layout: `config.json`, `model.safetensors`, tokenizer and processor files.

use std::{collections::HashMap, path::Path};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use super::{
    MadeError, MadeModel,
    settings::{EMBEDDING_STD, MAX_LENGTH},
    tokenizer::{BOS, EOS, IMAGE, PAD, write_tokenizer},
    write_json,
};

/// CLIP's mean and standard deviation of each channel, which the image processor's file must name.
const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];
/// Standard deviation of the tower's class and position embeddings: against patch embeddings of about unit size, places can
/// be told apart and pictures still dominate.
const POSITION_STD: f32 = 0.5;

/// Writes a random LLaVA of `spec`'s geometry into `dir`, with a tokenizer trained on `texts`; where it is not to `see`, the
/// language model alone.
///
/// `texts` should be the data's conversations as the template renders them, so that the template's words become single
/// tokens as well. The folder is what `LlavaForConditionalGeneration.from_pretrained` and `AutoProcessor.from_pretrained`
/// load. The same arguments give the same bytes.
///
/// # Errors
/// [`MadeError::Setting`] for a geometry that cannot be built; [`MadeError::Io`], [`MadeError::Tokenizer`] or
/// [`MadeError::Weights`] when something cannot be written.
pub fn write_model(
    dir: &Path,
    spec: &MadeModel,
    texts: impl Iterator<Item = String>,
    seed: u64,
    sees: bool,
) -> Result<(), MadeError> {
    spec.validate()?;
    std::fs::create_dir_all(dir).map_err(|source| MadeError::Io { path: dir.to_owned(), source })?;
    let vocabulary = write_tokenizer(dir, spec.vocab_size, texts)?;
    let config = config(spec, vocabulary);
    write_json(&dir.join("config.json"), if sees { &config } else { &config["text_config"] })?;
    write_json(
        &dir.join("generation_config.json"),
        &json!({"_from_model_config": true, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}),
    )?;
    let mut weights = weights(spec, vocabulary, seed);
    if sees {
        write_json(&dir.join("preprocessor_config.json"), &image_processor(spec))?;
        write_json(&dir.join("processor_config.json"), &processor(spec))?;
    } else {
        let alone = |name: String| name.strip_prefix("language_model.").map(str::to_owned);
        weights = weights.into_iter().filter_map(|t| Some(Tensor { name: alone(t.name)?, ..t })).collect();
    }
    write_weights(&dir.join("model.safetensors"), &weights)
}

fn config(spec: &MadeModel, vocabulary: usize) -> Value {
    json!({
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_seq_length": spec.image_tokens(),
        "image_token_index": IMAGE,
        "model_type": "llava",
        "pad_token_id": PAD,
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "head_dim": spec.hidden_size / spec.num_attention_heads,
            "hidden_act": "silu",
            "hidden_size": spec.hidden_size,
            "intermediate_size": spec.intermediate_size,
            "max_position_embeddings": MAX_LENGTH,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": spec.num_attention_heads,
            "num_hidden_layers": spec.num_hidden_layers,
            "num_key_value_heads": spec.num_key_value_heads,
            "pad_token_id": PAD,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": false,
            "torch_dtype": "float32",
            "vocab_size": vocabulary,
        },
        "tie_word_embeddings": false,
        "torch_dtype": "float32",
        "vision_config": {
            "hidden_act": "quick_gelu",
            "hidden_size": spec.vision_hidden_size,
            "image_size": spec.image_size,
            "intermediate_size": spec.vision_intermediate_size,
            "layer_norm_eps": 1e-5,
            "model_type": "clip_vision_model",
            "num_attention_heads": spec.vision_num_attention_heads,
            "num_channels": 3,
            "num_hidden_layers": spec.vision_num_hidden_layers,
            "patch_size": spec.patch_size,
            "projection_dim": spec.vision_hidden_size,
        },
        "vision_feature_layer": spec.vision_feature_layer,
        "vision_feature_select_strategy": "default",
    })
}

fn image_processor(spec: &MadeModel) -> Value {
    let size = spec.image_size;
    json!({
        "crop_size": {"height": size, "width": size},
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": CLIP_MEAN,
        "image_processor_type": "CLIPImageProcessor",
        "image_std": CLIP_STD,
        "processor_class": "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "size": {"shortest_edge": size},
    })
}

fn processor(spec: &MadeModel) -> Value {
    json!({
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": spec.patch_size,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
    })
}

/// One named parameter, row-major.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Draws parameters one after the other, so that a name's place in the list decides its values.
struct Init {
    rng: ChaCha8Rng,
    tensors: Vec<Tensor>,
}

impl Init {
    /// Normal values; Box and Muller's transform, because it is the same on every machine and release.
    fn normal(&mut self, name: impl Into<String>, shape: &[usize], std: f32) {
        let count: usize = shape.iter().product();
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            // `1 - u` lies in (0, 1]: the logarithm is finite.
            let radius = (-2.0 * (1.0 - self.rng.random::<f64>()).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * self.rng.random::<f64>()).sin_cos();
            values.extend([(radius * cos) as f32 * std, (radius * sin) as f32 * std]);
        }
        values.truncate(count);
        self.tensors.push(Tensor { name: name.into(), shape: shape.to_vec(), values });
    }

    fn constant(&mut self, name: impl Into<String>, size: usize, value: f32) {
        self.tensors.push(Tensor { name: name.into(), shape: vec![size], values: vec![value; size] });
    }

    /// A weight `[to, from]` that keeps the size of its input: standard deviation `1/√from`.
    fn linear(&mut self, name: &str, from: usize, to: usize) {
        self.normal(format!("{name}.weight"), &[to, from], (from as f32).sqrt().recip());
    }

    fn biased(&mut self, name: &str, from: usize, to: usize) {
        self.linear(name, from, to);
        self.constant(format!("{name}.bias"), to, 0.0);
    }

    fn layer_norm(&mut self, name: &str, size: usize) {
        self.constant(format!("{name}.weight"), size, 1.0);
        self.constant(format!("{name}.bias"), size, 0.0);
    }
}

fn weights(spec: &MadeModel, vocabulary: usize, seed: u64) -> Vec<Tensor> {
    let mut init = Init { rng: ChaCha8Rng::seed_from_u64(seed), tensors: Vec::new() };
    tower(&mut init, spec);
    init.biased("multi_modal_projector.linear_1", spec.vision_hidden_size, spec.hidden_size);
    init.biased("multi_modal_projector.linear_2", spec.hidden_size, spec.hidden_size);
    language_model(&mut init, spec, vocabulary);
    init.tensors
}

fn tower(init: &mut Init, spec: &MadeModel) {
    let width = spec.vision_hidden_size;
    let root = "vision_tower.vision_model";
    let patch = 3 * spec.patch_size * spec.patch_size;
    init.normal(format!("{root}.embeddings.class_embedding"), &[width], POSITION_STD);
    init.normal(
        format!("{root}.embeddings.patch_embedding.weight"),
        &[width, 3, spec.patch_size, spec.patch_size],
        (patch as f32).sqrt().recip(),
    );
    let positions = spec.image_tokens() + 1;
    init.normal(format!("{root}.embeddings.position_embedding.weight"), &[positions, width], POSITION_STD);
    init.layer_norm(&format!("{root}.pre_layrnorm"), width);
    for layer in 0..spec.vision_num_hidden_layers {
        let layer = format!("{root}.encoder.layers.{layer}");
        for part in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            init.biased(&format!("{layer}.self_attn.{part}"), width, width);
        }
        init.layer_norm(&format!("{layer}.layer_norm1"), width);
        init.biased(&format!("{layer}.mlp.fc1"), width, spec.vision_intermediate_size);
        init.biased(&format!("{layer}.mlp.fc2"), spec.vision_intermediate_size, width);
        init.layer_norm(&format!("{layer}.layer_norm2"), width);
    }
    init.layer_norm(&format!("{root}.post_layernorm"), width);
}

fn language_model(init: &mut Init, spec: &MadeModel, vocabulary: usize) {
    let width = spec.hidden_size;
    let head = width / spec.num_attention_heads;
    let root = "language_model.model";
    init.normal(format!("{root}.embed_tokens.weight"), &[vocabulary, width], EMBEDDING_STD);
    for layer in 0..spec.num_hidden_layers {
        let layer = format!("{root}.layers.{layer}");
        init.linear(&format!("{layer}.self_attn.q_proj"), width, spec.num_attention_heads * head);
        init.linear(&format!("{layer}.self_attn.k_proj"), width, spec.num_key_value_heads * head);
        init.linear(&format!("{layer}.self_attn.v_proj"), width, spec.num_key_value_heads * head);
        init.linear(&format!("{layer}.self_attn.o_proj"), spec.num_attention_heads * head, width);
        init.linear(&format!("{layer}.mlp.gate_proj"), width, spec.intermediate_size);
        init.linear(&format!("{layer}.mlp.up_proj"), width, spec.intermediate_size);
        init.linear(&format!("{layer}.mlp.down_proj"), spec.intermediate_size, width);
        init.constant(format!("{layer}.input_layernorm.weight"), width, 1.0);
        init.constant(format!("{layer}.post_attention_layernorm.weight"), width, 1.0);
    }
    init.constant(format!("{root}.norm.weight"), width, 1.0);
    init.normal("language_model.lm_head.weight", &[vocabulary, width], spec.head_std);
}

fn write_weights(path: &Path, tensors: &[Tensor]) -> Result<(), MadeError> {
    let failed = |source| MadeError::Weights { path: path.to_owned(), source };
    let views = tensors
        .iter()
        .map(|tensor| {
            let bytes = bytemuck::cast_slice(&tensor.values);
            Ok((tensor.name.as_str(), TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    // transformers refuses a file whose metadata does not name the framework.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    fn made(seed: u64) -> (tempfile::TempDir, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let texts = ["USER: <image>\nWhich colour is it? ASSISTANT: red</s>".to_owned()];
        write_model(dir.path(), &MadeModel::for_pictures(), texts.into_iter(), seed, true).unwrap();
        let weights = std::fs::read(dir.path().join("model.safetensors")).unwrap();
        (dir, weights)
    }

    #[test]
    fn the_folder_holds_every_file_and_consistent_sizes() {
        let (dir, bytes) = made(1);
        for file in [
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "processor_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            let text = std::fs::read(dir.path().join(file)).unwrap();
            serde_json::from_slice::<Value>(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        let config: Value = serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let shape = |name: &str| tensors.tensor(name).unwrap().shape().to_vec();
        let vocabulary = config["text_config"]["vocab_size"].as_u64().unwrap() as usize;
        assert_eq!(shape("language_model.lm_head.weight")[0], vocabulary);
        let spec = MadeModel::for_pictures();
        assert_eq!(
            shape("vision_tower.vision_model.embeddings.position_embedding.weight"),
            [spec.image_tokens() + 1, spec.vision_hidden_size]
        );
    }

    #[test]
    fn weights_have_the_spread_they_are_given_and_follow_the_seed() {
        let (_dir, bytes) = made(1);
        assert_eq!(bytes, made(1).1);
        assert_ne!(bytes, made(2).1);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let view = tensors.tensor("multi_modal_projector.linear_2.weight").unwrap();
        let values: Vec<f32> =
            view.data().chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
        let width = MadeModel::for_pictures().hidden_size as f32;
        let std = (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt();
        assert!((std * width.sqrt() - 1.0).abs() < 0.03, "{std}");
    }
}
