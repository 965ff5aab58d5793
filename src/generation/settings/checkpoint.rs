//! What a checkpoint's `generation_config.json` says of generation.

use super::{BiasedIds, Generation, TokenIds};
use crate::settings::{Component, Given, Kind, Parameter, SettingError, Shape};
use serde_json::{Map, Value};

/// Settings of a `generation_config.json`, under the names of [`Generation`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckpointDefaults {
    values: Map<String, Value>,
}

/// Parameters of transformers that change what is generated and that this library has not, with the value at which they
/// change nothing.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("constraints", &[]),
    ("dola_layers", &[]),
    ("encoder_no_repeat_ngram_size", &["0"]),
    ("encoder_repetition_penalty", &["1", "1.0"]),
    ("exponential_decay_length_penalty", &[]),
    ("force_words_ids", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("guidance_scale", &["1", "1.0"]),
    ("max_time", &[]),
    ("token_healing", &["false"]),
    ("watermarking_config", &[]),
];

impl CheckpointDefaults {
    /// Reads a `generation_config.json`; `file` is what messages call it.
    ///
    /// What concerns caches, speed, and what transformers returns is passed over, and so are names that transformers
    /// itself does not know.
    ///
    /// # Errors
    /// [`SettingError::Rule`]: text that is no JSON object, a value of a wrong type or out of range, and a parameter
    /// that would change what is generated and that this library does not have.
    pub fn parse(text: &str, file: &str) -> Result<Self, SettingError> {
        let config = object(text, file)?;
        let mut values = Map::new();
        // What some servers take for the likeliest token stands in files as well.
        let cold = config.get("temperature").and_then(Value::as_f64) == Some(0.0);
        let is_read = |name: &str| !(OURS.contains(&name) || cold && name == "temperature");
        for parameter in Generation::PARAMETERS.iter().filter(|parameter| is_read(parameter.name)) {
            let Some(value) = config.get(parameter.name).filter(|value| !value.is_null()) else { continue };
            let value = convert(parameter.name, parameter.kind, value);
            let value = value.ok_or_else(|| refused(file, parameter, &config[parameter.name]))?;
            values.insert(parameter.name.to_owned(), value);
        }
        // Seen in the wild where others leave it out; contrastive search is asked for by a penalty.
        if values.get("penalty_alpha").and_then(Value::as_f64) == Some(0.0) {
            values.remove("penalty_alpha");
        }
        if cold {
            values.insert("do_sample".to_owned(), Value::Bool(false));
        }
        Ok(Self { values })
    }

    /// The settings in force: those of `given`, then those of the checkpoint, then the defaults.
    ///
    /// What the checkpoint says and the given settings leave without effect (its temperature, where `do_sample` was set
    /// to false) does not count; transformers passes over it as well.
    ///
    /// # Errors
    /// As [`Given::build`]: given settings that contradict one another, beside the defaults.
    pub fn under(&self, given: &Given<Generation>) -> Result<Generation, SettingError> {
        let mut kept = self.values.clone();
        kept.retain(|name, _| !given.values().contains_key(name));
        loop {
            let mut all = Given::<Generation>::new();
            for (name, value) in kept.iter().chain(given.values()) {
                all = all.set(name, value);
            }
            let Some(whole) = unchecked(&all) else { return all.build() };
            let idle: Vec<&str> = whole
                .contradictions()
                .iter()
                .filter_map(|found| found.names.into_iter().find(|name| kept.contains_key(*name)))
                .collect();
            if idle.is_empty() {
                return all.build();
            }
            kept.retain(|name, _| !idle.contains(&name.as_str()));
        }
    }

    /// The checkpoint's stop tokens.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        let lists = self.values.get("eos_token_id").cloned().unwrap_or_default();
        serde_json::from_value::<Vec<TokenIds>>(lists).map(|lists| TokenIds::all(&lists)).unwrap_or_default()
    }
}

impl Generation {
    /// What somebody's file of settings gives, in the form of a `generation_config.json`; names of this library that
    /// transformers does not have are allowed as well.
    ///
    /// # Errors
    /// As [`CheckpointDefaults::parse`], and a name that says nothing here: whoever writes a file wants it obeyed.
    pub fn given_in(text: &str, file: &str) -> Result<Given<Self>, SettingError> {
        let mut given = Given::new();
        for (name, value) in &object(text, file)? {
            if value.is_null() || SILENT.contains(&name.as_str()) || UNSUPPORTED.iter().any(|(known, _)| known == name)
            {
                continue;
            }
            let Some(parameter) = Self::PARAMETERS.iter().find(|parameter| parameter.name == name) else {
                let hint = crate::settings::hint(name, Self::PARAMETERS.iter().map(|parameter| parameter.name));
                let text = format!("{file}: there is no setting `{name}`{hint}; take it out of the file");
                return Err(SettingError::rule(text));
            };
            let converted = match parameter.kind.shape {
                Shape::List if value.as_array().is_some_and(|list| list.iter().all(Value::is_string)) => {
                    Some(value.clone())
                }
                _ => convert(name, parameter.kind, value),
            };
            given = given.set(name, converted.ok_or_else(|| refused(file, parameter, value))?);
        }
        Ok(given)
    }
}

/// What a `generation_config.json` says besides, and what changes nothing of an answer.
const SILENT: &[&str] = &[
    "_from_model_config",
    "transformers_version",
    "bos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "return_dict_in_generate",
];

/// The file's object, once it is known to ask for nothing that cannot be done.
fn object(text: &str, file: &str) -> Result<Map<String, Value>, SettingError> {
    let json: Value = serde_json::from_str(text)
        .map_err(|error| SettingError::rule(format!("{file} is no JSON ({error}); repair it or take it away")))?;
    let Value::Object(config) = json else {
        return Err(SettingError::rule(format!("{file} holds no object; repair it or take it away")));
    };
    for (name, neutral) in UNSUPPORTED {
        let value = config.get(*name).unwrap_or(&Value::Null);
        if !value.is_null() && !neutral.contains(&value.to_string().as_str()) {
            return Err(SettingError::rule(format!(
                "{file}: `{name}` is {value}, which changes what is generated and is not supported; take it out \
                 of the file"
            )));
        }
    }
    Ok(config)
}

fn refused(file: &str, parameter: &Parameter, value: &Value) -> SettingError {
    let (name, kind) = (parameter.name, parameter.kind);
    SettingError::rule(format!("{file}: `{name}` is {value}, but takes {kind}; repair the file"))
}

/// Parameters of [`Generation`] that transformers has under no name, or with another meaning.
const OURS: &[&str] = &[
    "frequency_penalty",
    "presence_penalty",
    "bad_words",
    "allowed_token_ids",
    "best_of",
    "seed",
    "logprobs",
    "top_logprobs",
];

/// The settings with their defaults, whatever rules they break; `None` where a type is wrong.
fn unchecked(given: &Given<Generation>) -> Option<Generation> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(Generation::default()) else { return None };
    fields.extend(given.values().clone());
    serde_json::from_value(Value::Object(fields)).ok()
}

/// A value of the file in the form of [`Generation`]; `None` where it is of another type or out of range.
fn convert(name: &str, kind: Kind, value: &Value) -> Option<Value> {
    match name {
        "eos_token_id" | "suppress_tokens" | "begin_suppress_tokens" => {
            let ids: Vec<&Value> = value.as_array().map_or_else(|| vec![value], |ids| ids.iter().collect());
            ids.into_iter().map(|id| Some(Value::from(id_text(id)?))).collect()
        }
        "bad_words_ids" => value.as_array()?.iter().map(|word| Some(Value::from(ids_text(word)?))).collect(),
        "sequence_bias" => {
            let pairs = value.as_array()?.iter().map(|pair| {
                let [ids, bias] = pair.as_array()?.as_slice() else { return None };
                let text = format!("{}={}", ids_text(ids)?, bias.as_f64()?);
                BiasedIds::try_from(text.clone()).ok().map(|_| Value::from(text))
            });
            pairs.collect()
        }
        "early_stopping" => match value {
            Value::Bool(stop) => Some(Value::from(stop.to_string())),
            Value::String(never) if never == "never" => Some(value.clone()),
            _ => None,
        },
        "stop_strings" => match value {
            Value::String(_) => Some(Value::Array(vec![value.clone()])),
            _ => value.as_array()?.iter().all(Value::is_string).then(|| value.clone()),
        },
        // Its 0 asks for nothing; ours asks for nothing by being left out.
        "penalty_alpha" if value.as_f64() == Some(0.0) => Some(value.clone()),
        _ => plain(kind, value),
    }
}

fn plain(kind: Kind, value: &Value) -> Option<Value> {
    // The table's own judgement, by way of a component's value: whole numbers may be written as 1.0 where floats are.
    use crate::settings::Literal;
    let literal = match value {
        Value::Bool(value) => Literal::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(n) => Literal::Integer(n.into()),
            None => Literal::Number(number.as_f64()?),
        },
        _ => return None,
    };
    if !kind.accepts(&literal) {
        return None;
    }
    match kind.shape {
        Shape::Number { .. } => value.as_f64().map(Value::from),
        _ => Some(value.clone()),
    }
}

fn ids_text(ids: &Value) -> Option<String> {
    let texts: Option<Vec<String>> = ids.as_array()?.iter().map(id_text).collect();
    texts.filter(|texts| !texts.is_empty()).map(|texts| texts.join(" "))
}

fn id_text(id: &Value) -> Option<String> {
    id.as_u64().and_then(|id| u32::try_from(id).ok()).map(|id| id.to_string())
}
