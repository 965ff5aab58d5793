//! LLaVA's original configuration: a language model's `config.json` with `mm_*` fields beside the others.

use crate::checkpoint::{CheckpointError, Fields, JsonFile};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The original code's classes, LLaVA-NeXT's included: `model_type`, the language model's own, the class.
const CLASSES: &[(&str, &str, &str)] = &[
    ("llava_llama", "llama", "LlavaLlamaForCausalLM"),
    ("llava", "llama", "LlavaLlamaForCausalLM"),
    ("llava_mistral", "mistral", "LlavaMistralForCausalLM"),
    ("llava_qwen", "qwen2", "LlavaQwenForCausalLM"),
];

/// This library's own field, which says whether the text between two images is tokenized by itself.
pub const APART: &str = "mm_text_apart";

/// Fields of the original code that describe the composition or its training, not the language model.
const BESIDE: &[&str] = &[
    "architectures",
    "freeze_mm_mlp_adapter",
    "freeze_mm_vision_resampler",
    "image_aspect_ratio",
    "image_crop_resolution",
    "image_grid_pinpoints",
    "image_split_resolution",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "tune_mm_mlp_adapter",
    "tune_mm_vision_resampler",
    "unfreeze_mm_vision_tower",
    "use_mm_proj",
];

/// What an original configuration says of the parts around the language model.
#[derive(Clone, Debug, PartialEq)]
pub struct Original {
    /// The tower: a folder, or a name on the hub.
    pub vision_tower: String,
    /// Linear layers of the projector.
    pub projector_depth: usize,
    /// Width of the tower's features, where it is said.
    pub mm_hidden_size: Option<usize>,
    /// Whether each image stands between `<im_start>` and `<im_end>`.
    pub start_end: bool,
    /// Whether the original code gives the tokenizer `<im_patch>`, which it never uses.
    pub patch_token: bool,
    /// Whether images are padded to squares instead of being cropped.
    pub pad: bool,
    /// Whether the text between two images is tokenized by itself, as the original code does.
    pub apart: bool,
}

/// Whether a `config.json` is one of the original code's.
pub fn is_original(config: &Value) -> bool {
    // A plain language model's file has none of these; transformers' LLaVA has its parts in objects of their own.
    config["text_config"].is_null() && (config["mm_vision_tower"].is_string() || !config["mm_projector_type"].is_null())
}

impl Original {
    /// Reads an original configuration: what it says of the parts, and what transformers' `LlavaConfig` would say of the
    /// same model, the tower's own configuration aside.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] for what is missing or not implemented.
    pub fn read(file: &JsonFile) -> Result<(Self, JsonFile), CheckpointError> {
        let fields = file.fields()?;
        let found = fields.string_or("model_type", "llava")?;
        let known = CLASSES.iter().find(|(name, ..)| *name == found).map(|(_, family, _)| *family);
        let Some(family) = known.or_else(|| found.strip_prefix("llava_")) else {
            return Err(fields.error("model_type", "llava, or llava_ before the language model's own"));
        };
        let original = Self {
            vision_tower: match fields.first_of(&["mm_vision_tower", "vision_tower"]) {
                Some(key) => fields.string(key)?,
                None => return Err(fields.error("mm_vision_tower", "the folder or the name of the vision tower")),
            },
            projector_depth: projector_depth(&fields)?,
            mm_hidden_size: fields.opt_usize("mm_hidden_size")?,
            start_end: fields.bool_or("mm_use_im_start_end", false)?,
            patch_token: fields.bool_or("mm_use_im_patch_token", true)?,
            pad: pads(&fields)?,
            apart: fields.bool_or(APART, true)?,
        };
        refuse_unimplemented(&fields)?;
        let mut text = Map::new();
        for (key, value) in fields.iter() {
            if !key.starts_with("mm_") && !BESIDE.contains(&key.as_str()) {
                text.insert(key.clone(), value.clone());
            }
        }
        text.insert("model_type".to_owned(), json!(family));
        let strategy = match fields.string_or("mm_vision_select_feature", "patch")?.as_str() {
            "patch" => "default",
            "cls_patch" => "full",
            _ => return Err(fields.error("mm_vision_select_feature", "patch or cls_patch")),
        };
        let layer = match fields.get("mm_vision_select_layer") {
            None => json!(-2),
            Some(layer) if layer.is_i64() => layer.clone(),
            Some(_) => return Err(fields.error("mm_vision_select_layer", "a whole number")),
        };
        let tied = fields.bool_or("tie_word_embeddings", false)?;
        let root = json!({
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "projector_hidden_act": "gelu",
            "multimodal_projector_bias": true,
            "vision_feature_layer": layer,
            "vision_feature_select_strategy": strategy,
            "tie_word_embeddings": tied,
            "text_config": text,
        });
        Ok((original, JsonFile::from_value(file.path(), root)))
    }
}

fn projector_depth(fields: &Fields<'_>) -> Result<usize, CheckpointError> {
    let kind = fields.string_or("mm_projector_type", "linear")?;
    let mlp = kind.strip_prefix("mlp").and_then(|rest| rest.strip_suffix("x_gelu"));
    match (kind.as_str(), mlp.map(str::parse::<usize>)) {
        ("identity", _) => Ok(0),
        ("linear", _) => Ok(1),
        (_, Some(Ok(depth))) if depth > 0 => Ok(depth),
        _ => Err(fields.error("mm_projector_type", "identity, linear or mlp<n>x_gelu, which are implemented")),
    }
}

fn pads(fields: &Fields<'_>) -> Result<bool, CheckpointError> {
    match fields.string_or("image_aspect_ratio", "square")?.as_str() {
        "pad" => Ok(true),
        "square" => Ok(false),
        _ => Err(fields.error("image_aspect_ratio", "square or pad: tiled images (anyres) are not implemented")),
    }
}

fn refuse_unimplemented(fields: &Fields<'_>) -> Result<(), CheckpointError> {
    let resampler = fields.get("mm_resampler_type").is_some_and(|v| !v.is_null());
    if resampler {
        return Err(fields.error("mm_resampler_type", "null: resamplers are not implemented"));
    }
    Ok(())
}

/// The original form of a transformers `LlavaConfig`, its tower in the folder or under the name `tower`.
///
/// # Errors
/// [`CheckpointError::Field`] for a value that the original code has no field for.
pub fn to_original(root: &Fields<'_>, parts: &Original) -> Result<Value, CheckpointError> {
    let text = root.object("text_config")?;
    let family = text.string_or("model_type", "llama")?;
    let known = CLASSES.iter().find(|(_, known, _)| *known == family);
    let model_type = known.map_or_else(|| format!("llava_{family}"), |(name, ..)| (*name).to_owned());
    let class = known.map(|(.., class)| *class);
    let mut flat: Map<String, Value> = text.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let feature = match root.string_or("vision_feature_select_strategy", "default")?.as_str() {
        "full" => "cls_patch",
        _ => "patch",
    };
    let kind = match parts.projector_depth {
        0 => "identity".to_owned(),
        1 => "linear".to_owned(),
        n => format!("mlp{n}x_gelu"),
    };
    let layer = root.get("vision_feature_layer").cloned().unwrap_or(json!(-2));
    for (key, value) in [
        ("model_type", json!(model_type)),
        ("architectures", json!(class.into_iter().collect::<Vec<_>>())),
        ("mm_vision_tower", json!(parts.vision_tower)),
        ("mm_projector_type", json!(kind)),
        ("mm_hidden_size", json!(parts.mm_hidden_size)),
        ("mm_vision_select_layer", layer),
        ("mm_vision_select_feature", json!(feature)),
        ("mm_use_im_start_end", json!(parts.start_end)),
        (APART, json!(parts.apart)),
        ("mm_use_im_patch_token", json!(parts.patch_token)),
        ("image_aspect_ratio", json!(if parts.pad { "pad" } else { "square" })),
        ("use_mm_proj", json!(true)),
        ("tie_word_embeddings", root.get("tie_word_embeddings").cloned().unwrap_or(json!(false))),
    ] {
        flat.insert(key.to_owned(), value);
    }
    Ok(flat.into())
}

/// What [`to_original`] wrote, for the original code itself and not for this library alone.
///
/// transformers 4.37, which that code is written for, takes `{type, factor}` of a rotary scaling and nothing else.
///
/// # Errors
/// [`CheckpointError::Field`] for a family that it has no class for and a scaling that it does not know.
pub fn for_original_code(mut flat: Value, path: &Path) -> Result<Value, CheckpointError> {
    let file = JsonFile::from_value(path, flat.clone());
    let fields = file.fields()?;
    if flat["architectures"].as_array().is_none_or(Vec::is_empty) {
        return Err(fields.error("model_type", "llama, mistral or qwen2: the original code has no class for others"));
    }
    let Some(map) = flat.as_object_mut() else { return Ok(flat) };
    map.shift_remove("rope_parameters");
    let Some(key) = fields.first_of(&["rope_parameters", "rope_scaling"]) else { return Ok(flat) };
    let Some(scaling) = fields.opt_object(key)? else { return Ok(flat) };
    if let Some(theta) = scaling.get("rope_theta") {
        map.insert("rope_theta".to_owned(), theta.clone());
    }
    let kind = match scaling.first_of(&["rope_type", "type"]) {
        Some(kind) => scaling.string(kind)?,
        None => "default".to_owned(),
    };
    match kind.as_str() {
        "default" => map.shift_remove("rope_scaling"),
        "linear" | "dynamic" => {
            let factor = scaling.get("factor").cloned().unwrap_or(json!(1.0));
            map.insert("rope_scaling".to_owned(), json!({"type": kind, "factor": factor}))
        }
        _ => return Err(fields.error(key, "linear or dynamic: the original code knows no other scaling")),
    };
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(value: Value) -> JsonFile {
        JsonFile::from_value("config.json", value)
    }

    fn llava_15() -> Value {
        json!({
            "model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"], "hidden_size": 4096, "vocab_size": 32000,
            "tie_word_embeddings": false,
            "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu",
            "mm_hidden_size": 1024, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
            "mm_use_im_start_end": false, "image_aspect_ratio": "pad", "tune_mm_mlp_adapter": false
        })
    }

    #[test]
    fn the_published_configuration_becomes_transformers() {
        assert!(is_original(&llava_15()));
        let (original, root) = Original::read(&file(llava_15())).unwrap();
        assert_eq!((original.projector_depth, original.pad, original.start_end), (2, true, false));
        let root = root.value();
        assert_eq!((&root["model_type"], &root["text_config"]["model_type"]), (&json!("llava"), &json!("llama")));
        assert_eq!(root["vision_feature_layer"], -2);
        assert_eq!(root["text_config"]["hidden_size"], 4096);
        let beside = |key: &str| key.starts_with("mm_") || BESIDE.contains(&key);
        assert!(!root["text_config"].as_object().unwrap().keys().any(|key| beside(key)), "{root}");
        assert!(!is_original(root) && !is_original(&json!({"model_type": "llama"})));
    }

    #[test]
    fn there_and_back_keeps_the_parts() {
        let (original, root) = Original::read(&file(llava_15())).unwrap();
        let back = file(to_original(&root.fields().unwrap(), &original).unwrap());
        let (again, same) = Original::read(&back).unwrap();
        assert_eq!(again, original);
        assert_eq!(same.value(), root.value());
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (key, value) in [
            ("model_type", json!("bunny")),
            ("mm_projector_type", json!("ldpv2")),
            ("image_aspect_ratio", json!("anyres")),
            ("mm_resampler_type", json!("perceiver")),
            ("mm_vision_select_feature", json!("mean")),
            ("mm_vision_select_layer", json!("last")),
            ("mm_vision_tower", json!(null)),
        ] {
            let mut config = llava_15();
            config[key] = value;
            let error = Original::read(&file(config)).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
