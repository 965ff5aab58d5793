//! Reading `adapter_config.json`.

use super::AdapterError;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Fields that change what is computed: each must be absent, null, or one of the texts.
pub(super) type Neutral = [(&'static str, &'static [&'static str])];

/// Refuses what is not neutral.
pub(super) fn refuse(config: &Value, fields: &Neutral) -> Result<(), AdapterError> {
    for (key, neutral) in fields {
        let value = &config[*key];
        if !value.is_null() && !neutral.contains(&value.to_string().as_str()) {
            return Err(unsupported(config, key, "merge the adapter with PEFT and load the merged model"));
        }
    }
    Ok(())
}

pub(super) fn unsupported(config: &Value, key: &str, advice: &str) -> AdapterError {
    AdapterError::Unsupported { key: key.to_owned(), value: config[key].to_string(), advice: advice.to_owned() }
}

pub(super) fn wrong(config: &Value, key: &str, expected: &'static str) -> AdapterError {
    AdapterError::Value { key: key.to_owned(), value: config[key].to_string(), expected }
}

/// A field, `None` where it is absent or null.
pub(super) fn optional<T: DeserializeOwned>(
    config: &Value,
    key: &str,
    expected: &'static str,
) -> Result<Option<T>, AdapterError> {
    serde_json::from_value(config[key].clone()).map_err(|_| wrong(config, key, expected))
}

/// Refuses a file of another tuner.
pub(super) fn kind(config: &Value, peft_type: &str, expected: &'static str) -> Result<(), AdapterError> {
    match config["peft_type"] == peft_type {
        true => Ok(()),
        false => Err(AdapterError::Kind { found: config["peft_type"].to_string(), expected }),
    }
}

/// `modules_to_save`; PEFT itself adds `classifier`, which no model here has, to `score`.
pub(super) fn modules_to_save(config: &Value) -> Result<Vec<String>, AdapterError> {
    let modules: Option<Vec<String>> = optional(config, "modules_to_save", "a list of names")?;
    let mut modules = modules.unwrap_or_default();
    if modules.iter().any(|module| module == "score") {
        modules.retain(|module| module != "classifier");
    }
    Ok(modules)
}
