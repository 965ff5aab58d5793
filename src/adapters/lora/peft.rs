//! `adapter_config.json`, as PEFT writes and reads it.

use super::{Init, Layers, Lora, Pattern, TokenIndices};
use crate::adapters::file::{self, Neutral, unsupported, wrong};
use crate::adapters::target::one_regex;
use crate::adapters::{AdapterError, PeftContext, Targets};
use serde_json::{Map, Value, json};

/// Settings that change what is computed and are not implemented.
const ARITHMETIC: &Neutral = &[
    ("bias", &["\"none\""]),
    ("fan_in_fan_out", &["false"]),
    ("layer_replication", &["[]"]),
    ("lora_bias", &["false"]),
    ("use_qalora", &["false"]),
    ("use_bdlora", &["false", "{}"]),
    ("alora_invocation_tokens", &["[]"]),
    ("arrow_config", &["{}"]),
    ("kasa_config", &["{}"]),
    ("monteclora_config", &["{}"]),
    ("velora_config", &["{}"]),
    ("target_parameters", &["[]"]),
    ("megatron_config", &["{}"]),
    ("ensure_weight_tying", &["false"]),
];

/// The file's contents. What starts from the base's singular values is saved as a plain LoRA that counts from there: its
/// matrices have twice the rank, and the factors on them stay what they were.
pub(super) fn write(lora: &Lora, context: &PeftContext) -> Value {
    let (rank, alpha) = match (lora.init_lora_weights, lora.use_rslora) {
        (Init::Pissa, false) => (2, 2.0),
        (Init::Pissa, true) => (2, 2.0_f64.sqrt()),
        _ => (1, 1.0),
    };
    json!({
        "peft_type": "LORA",
        "task_type": context.task_type(),
        "base_model_name_or_path": context.base_model,
        "inference_mode": true,
        "r": lora.r * rank,
        "lora_alpha": lora.lora_alpha * alpha,
        "lora_dropout": lora.lora_dropout,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "target_modules": one_regex(&context.targets),
        "modules_to_save": context.modules_to_save,
        "rank_pattern": pattern(&lora.rank_pattern.times(rank as f64), true),
        "alpha_pattern": pattern(&lora.alpha_pattern.times(alpha), false),
        "trainable_token_indices": tokens(&lora.trainable_token_indices),
    })
}

fn pattern(pattern: &Pattern, whole: bool) -> Value {
    let value = |value: f64| if whole { json!(value as u64) } else { json!(value) };
    let entries: Map<String, Value> = pattern.0.iter().map(|(layer, v)| (layer.clone(), value(*v))).collect();
    entries.into()
}

fn tokens(indices: &TokenIndices) -> Value {
    match (indices.embed_tokens.is_empty(), indices.lm_head.is_empty()) {
        (true, true) => Value::Null,
        (false, true) => json!(indices.embed_tokens),
        (true, false) => json!({"lm_head": indices.lm_head}),
        (false, false) => json!({"embed_tokens": indices.embed_tokens, "lm_head": indices.lm_head}),
    }
}

/// The settings in the file's contents.
pub(super) fn read(config: &Value) -> Result<Lora, AdapterError> {
    const LAYERS: &str = "a list of names, a regular expression or `all-linear`";
    file::kind(config, "LORA", "Lora")?;
    file::refuse(config, ARITHMETIC)?;
    let number = |key: &str, default: f64| match &config[key] {
        Value::Null => Ok(default),
        value => value.as_f64().ok_or_else(|| wrong(config, key, "a number")),
    };
    let bool = |key: &str| Ok(file::optional::<bool>(config, key, "true or false")?.unwrap_or(false));
    let r = config["r"]
        .as_u64()
        .filter(|r| (1..=65_536).contains(r))
        .ok_or_else(|| wrong(config, "r", "a whole number, at least 1 and at most 65536"))?;
    let target_modules: Option<Targets> = file::optional(config, "target_modules", LAYERS)?;
    let target_modules = target_modules.ok_or_else(|| wrong(config, "target_modules", LAYERS))?;
    refuse_embeddings(config, &target_modules)?;
    let exclude_modules: Option<Targets> = file::optional(config, "exclude_modules", LAYERS)?;
    Ok(Lora {
        r: r as usize,
        lora_alpha: number("lora_alpha", 8.0)?,
        lora_dropout: number("lora_dropout", 0.0)?,
        use_rslora: bool("use_rslora")?,
        use_dora: bool("use_dora")?,
        init_lora_weights: init(config)?,
        target_modules,
        exclude_modules: exclude_modules.unwrap_or_else(super::lists::nothing),
        layers_to_transform: layers(config)?,
        rank_pattern: read_pattern(config, "rank_pattern")?,
        alpha_pattern: read_pattern(config, "alpha_pattern")?,
        trainable_token_indices: read_tokens(config)?,
        modules_to_save: file::modules_to_save(config)?,
    })
}

/// A low-rank update of a token table is another arithmetic, which is not implemented.
fn refuse_embeddings(config: &Value, targets: &Targets) -> Result<(), AdapterError> {
    const TABLES: [&str; 2] = ["embed_tokens", "lm_head"];
    let last = |name: &String| name.rsplit('.').next().is_some_and(|last| TABLES.contains(&last));
    match targets {
        Targets::Suffixes(names) if names.iter().any(last) => {
            let advice = "low-rank updates of the token table and of the head are not implemented: merge the adapter with \
                          PEFT and load the merged model";
            Err(unsupported(config, "target_modules", advice))
        }
        _ => Ok(()),
    }
}

/// The kinds that change the base on loading are PiSSA's, which is done again here, and others, which cannot be.
fn init(config: &Value) -> Result<Init, AdapterError> {
    let advice = "changes the base in a way that its file does not hold; save the adapter with PEFT's \
                  path_initial_model_for_weight_conversion, or merge it and load the merged model";
    match &config["init_lora_weights"] {
        Value::Null | Value::Bool(_) => Ok(Init::Default),
        Value::String(kind) => match kind.as_str() {
            // These say how A and B were drawn, which a file's own replace.
            "gaussian" | "orthogonal" | "eva" => Ok(Init::Default),
            "pissa" => Ok(Init::Pissa),
            kind if kind.starts_with("pissa_niter_") => {
                let random = "takes singular values by a random method, with numbers that its file does not hold; save the \
                              adapter with PEFT's path_initial_model_for_weight_conversion, or merge it and load the merged \
                              model";
                Err(unsupported(config, "init_lora_weights", random))
            }
            _ => Err(unsupported(config, "init_lora_weights", advice)),
        },
        _ => Err(wrong(config, "init_lora_weights", "true, false or a kind of initialisation")),
    }
}

fn layers(config: &Value) -> Result<Layers, AdapterError> {
    const EXPECTED: &str = "a whole number or a list of them";
    let numbers = match &config["layers_to_transform"] {
        Value::Number(one) => {
            vec![one.as_u64().ok_or_else(|| wrong(config, "layers_to_transform", EXPECTED))? as usize]
        }
        _ => file::optional(config, "layers_to_transform", EXPECTED)?.unwrap_or_default(),
    };
    let known = match &config["layers_pattern"] {
        Value::Null => true,
        Value::String(name) => name.is_empty() || name == "layers",
        Value::Array(names) => names.is_empty() || names.iter().any(|name| name == "layers"),
        _ => false,
    };
    match known || numbers.is_empty() {
        true => Ok(Layers(numbers)),
        false => Err(unsupported(config, "layers_pattern", "the blocks of these models are called `layers`")),
    }
}

fn read_pattern(config: &Value, key: &'static str) -> Result<Pattern, AdapterError> {
    const EXPECTED: &str = "numbers above 0 by the names of layers";
    let entries: Option<Map<String, Value>> = file::optional(config, key, EXPECTED)?;
    let entry = |(layer, value): (String, Value)| {
        let value =
            value.as_f64().filter(|v| *v > 0.0 && (key == "alpha_pattern" || (v.fract() == 0.0 && *v <= 65_536.0)));
        Ok((layer, value.ok_or_else(|| wrong(config, key, EXPECTED))?))
    };
    entries.unwrap_or_default().into_iter().map(entry).collect::<Result<_, _>>().map(Pattern)
}

fn read_tokens(config: &Value) -> Result<TokenIndices, AdapterError> {
    const KEY: &str = "trainable_token_indices";
    const EXPECTED: &str = "a list of token ids, or such lists for embed_tokens and lm_head";
    let mut indices = TokenIndices::default();
    match &config[KEY] {
        Value::Object(by_module) => {
            for (module, ids) in by_module {
                let list = match module.rsplit('.').next() {
                    Some("embed_tokens") => &mut indices.embed_tokens,
                    Some("lm_head") => &mut indices.lm_head,
                    _ => return Err(wrong(config, KEY, EXPECTED)),
                };
                *list = serde_json::from_value(ids.clone()).map_err(|_| wrong(config, KEY, EXPECTED))?;
            }
        }
        _ => indices.embed_tokens = file::optional(config, KEY, EXPECTED)?.unwrap_or_default(),
    }
    for list in [&indices.embed_tokens, &indices.lm_head] {
        if (1..list.len()).any(|at| list[..at].contains(&list[at])) {
            return Err(wrong(config, KEY, "every token once"));
        }
    }
    Ok(indices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> PeftContext {
        PeftContext {
            base_model: "base".into(),
            targets: vec!["model.layers.0.q_proj".into(), "model.layers.1.q_proj".into()],
            ..PeftContext::default()
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let lora = Lora {
            r: 4,
            lora_alpha: 8.0,
            use_rslora: true,
            use_dora: true,
            rank_pattern: Pattern(vec![("layers.1.q_proj".into(), 2.0)]),
            alpha_pattern: Pattern(vec![("layers.0.q_proj".into(), 0.5)]),
            trainable_token_indices: TokenIndices { embed_tokens: vec![2, 35], lm_head: vec![2] },
            target_modules: Targets::Regex(r"model\.layers\.(?:0|1)\.q_proj".into()),
            modules_to_save: Vec::new(),
            ..Lora::default()
        };
        let file = write(&lora, &context());
        assert_eq!(file["target_modules"], r"model\.layers\.(?:0|1)\.q_proj");
        assert_eq!(file["rank_pattern"], json!({"layers.1.q_proj": 2}));
        assert_eq!(read(&file).unwrap(), lora);
    }

    #[test]
    fn pissa_is_written_as_a_plain_lora_of_twice_the_rank_with_the_same_factor() {
        for use_rslora in [false, true] {
            let rank_pattern = Pattern(vec![("layers.1.q_proj".into(), 2.0)]);
            let lora = Lora { r: 4, init_lora_weights: Init::Pissa, use_rslora, rank_pattern, ..Lora::default() };
            let back = read(&write(&lora, &context())).unwrap();
            assert_eq!((back.r, back.init_lora_weights), (8, Init::Default));
            for layer in ["model.layers.0.q_proj", "model.layers.1.q_proj"] {
                let ((r, s), (twice, same)) =
                    (lora.rank_and_scale(layer).unwrap(), back.rank_and_scale(layer).unwrap());
                assert_eq!(twice, 2 * r);
                assert!((s - same).abs() < 1e-6 * s);
            }
        }
    }

    #[test]
    fn arithmetic_that_is_not_implemented_is_refused_by_name() {
        for (key, value) in [
            ("bias", json!("lora_only")),
            ("lora_bias", json!(true)),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("init_lora_weights", json!("olora")),
            ("layer_replication", json!([[0, 2]])),
            ("target_modules", json!(["q_proj", "embed_tokens"])),
            ("rank_pattern", json!({"q_proj": 1.5})),
            ("trainable_token_indices", json!({"score": [1]})),
            ("trainable_token_indices", json!([1, 1])),
            ("use_dora", json!("yes")),
        ] {
            let mut file = json!({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]});
            assert!(read(&file).is_ok());
            file[key] = value;
            let error = read(&file).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn layers_by_number() {
        let file = json!({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "layers_to_transform": 1});
        assert_eq!(read(&file).unwrap().layers_to_transform, Layers(vec![1]));
        let file = json!({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "layers_to_transform": [0, 2]});
        assert_eq!(read(&file).unwrap().layers_to_transform, Layers(vec![0, 2]));
    }
}
