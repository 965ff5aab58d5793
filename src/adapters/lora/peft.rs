//! `adapter_config.json`, as PEFT writes and reads it.

use super::{Lora, Targets};
use crate::adapters::{AdapterError, PeftContext};
use serde_json::{Value, json};

/// Settings that change what is computed; each must be absent, null or this value.
const ARITHMETIC: &[(&str, &[&str])] = &[
    ("use_dora", &["false"]),
    ("bias", &["\"none\""]),
    ("rank_pattern", &["{}"]),
    ("alpha_pattern", &["{}"]),
    ("fan_in_fan_out", &["false"]),
    ("layers_to_transform", &["[]"]),
    ("layer_replication", &["[]"]),
    ("lora_bias", &["false"]),
    ("use_qalora", &["false"]),
    ("alora_invocation_tokens", &["[]"]),
    ("trainable_token_indices", &["[]", "{}"]),
    ("target_parameters", &["[]"]),
    ("exclude_modules", &["[]"]),
    ("megatron_config", &["{}"]),
];

/// The file's contents.
pub(super) fn write(lora: &Lora, context: &PeftContext) -> Value {
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": context.base_model,
        "inference_mode": true,
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "use_rslora": lora.use_rslora,
        "use_dora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "target_modules": one_regex(&context.targets),
        "modules_to_save": context.modules_to_save,
        "rank_pattern": {},
        "alpha_pattern": {},
    })
}

/// One expression that matches exactly `targets`: a list of suffixes would also hit the vision tower's `q_proj`.
fn one_regex(targets: &[String]) -> String {
    // Layers of one name differ in their number: `model\.layers\.(?:0|1)\.self_attn\.q_proj`.
    let mut shapes: Vec<(String, String, Vec<String>)> = Vec::new();
    for path in targets {
        let parts: Vec<&str> = path.split('.').collect();
        let number = parts.iter().position(|part| part.parse::<usize>().is_ok());
        let (before, number, after) = match number {
            Some(at) => (&parts[..at], parts[at], &parts[at + 1..]),
            None => (&parts[..], "", &parts[..0]),
        };
        let (before, after) = (regex::escape(&before.join(".")), regex::escape(&after.join(".")));
        match shapes.iter_mut().find(|shape| shape.0 == before && shape.1 == after) {
            Some(shape) => shape.2.push(number.to_owned()),
            None => shapes.push((before, after, vec![number.to_owned()])),
        }
    }
    let written: Vec<String> = shapes
        .into_iter()
        .map(|(before, after, numbers)| match numbers.concat().is_empty() {
            true => before,
            false => format!(r"{before}\.(?:{})\.{after}", numbers.join("|")),
        })
        .collect();
    if let [only] = written.as_slice() { only.clone() } else { format!("(?:{})", written.join("|")) }
}

/// The settings in the file's contents.
pub(super) fn read(config: &Value) -> Result<Lora, AdapterError> {
    if config["peft_type"] != "LORA" {
        return Err(AdapterError::Kind { found: config["peft_type"].to_string(), expected: "Lora" });
    }
    for (key, neutral) in ARITHMETIC {
        let value = &config[*key];
        let neutral = value.is_null() || neutral.contains(&value.to_string().as_str());
        if !neutral {
            return Err(AdapterError::Unsupported {
                key: (*key).to_owned(),
                value: value.to_string(),
                advice: "merge the adapter with PEFT and load the merged model".to_owned(),
            });
        }
    }
    let wrong =
        |key: &str, expected| AdapterError::Value { key: key.to_owned(), value: config[key].to_string(), expected };
    let number = |key: &str, default: f64| match &config[key] {
        Value::Null => Ok(default),
        value => value.as_f64().ok_or_else(|| wrong(key, "a number")),
    };
    let r = config["r"]
        .as_u64()
        .filter(|r| (1..=65_536).contains(r))
        .ok_or_else(|| wrong("r", "a whole number, at least 1 and at most 65536"))?;
    let targets: Targets = serde_json::from_value(config["target_modules"].clone())
        .map_err(|_| wrong("target_modules", "a list of names, a regular expression or `all-linear`"))?;
    let modules_to_save: Option<Vec<String>> = serde_json::from_value(config["modules_to_save"].clone())
        .map_err(|_| wrong("modules_to_save", "a list of names"))?;
    Ok(Lora {
        r: r as usize,
        lora_alpha: number("lora_alpha", 8.0)?,
        lora_dropout: number("lora_dropout", 0.0)?,
        use_rslora: config["use_rslora"].as_bool().unwrap_or(false),
        target_modules: targets,
        modules_to_save: modules_to_save.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let lora = Lora { r: 4, lora_alpha: 8.0, use_rslora: true, ..Lora::default() };
        let context = PeftContext {
            base_model: "base".into(),
            modules_to_save: lora.modules_to_save.clone(),
            targets: vec!["model.layers.0.q_proj".into(), "model.layers.1.q_proj".into()],
            ..PeftContext::default()
        };
        let file = write(&lora, &context);
        assert_eq!(file["target_modules"], r"model\.layers\.(?:0|1)\.q_proj");
        let back = read(&file).unwrap();
        assert_eq!((back.r, back.lora_alpha, back.use_rslora), (4, 8.0, true));
    }

    #[test]
    fn arithmetic_that_is_not_implemented_is_refused_by_name() {
        let file = json!({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "use_dora": true});
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("use_dora"), "{error}");
    }
}
