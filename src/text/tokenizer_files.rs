//! The files beside `tokenizer.json`: what they say, and writing them back as they were.

use super::TextError;
use serde_json::{Map, Value, json};
use std::path::Path;

const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const TEMPLATE_JINJA: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";

/// The named special tokens that transformers knows.
const ROLES: &[&str] = &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Above this a `model_max_length` is transformers' way to say that nobody knows.
const NO_LENGTH: f64 = 1e12;

/// The settings of a tokenizer folder, with the files' own bytes.
#[derive(Debug, Clone)]
pub(super) struct TokenizerFiles {
    config: Map<String, Value>,
    special: Map<String, Value>,
    /// Files that are written back to the letter.
    verbatim: Vec<(String, Vec<u8>)>,
    /// Whether `config` or `special` differs from the bytes that were read.
    changed: bool,
    pub(super) chat_template: Option<String>,
}

impl TokenizerFiles {
    pub(super) fn read(dir: &Path) -> Result<Self, TextError> {
        let mut verbatim = Vec::new();
        let mut read = |name: &'static str| -> Result<Option<String>, TextError> {
            let path = dir.join(name);
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(TextError::Io { path, source }),
            };
            let text = String::from_utf8(bytes.clone())
                .map_err(|e| TextError::Malformed { path, reason: format!("not UTF-8: {e}") })?;
            verbatim.push((name.to_owned(), bytes));
            Ok(Some(text))
        };
        let object = |name: &str, text: Option<String>| -> Result<Map<String, Value>, TextError> {
            text.map_or(Ok(Map::new()), |text| {
                serde_json::from_str(&text)
                    .map_err(|e| TextError::Malformed { path: dir.join(name), reason: e.to_string() })
            })
        };
        let mut config = object(CONFIG, read(CONFIG)?)?;
        let mut special = object(SPECIAL, read(SPECIAL)?)?;
        let changed = portable(&mut config) | portable(&mut special);
        let jinja = read(TEMPLATE_JINJA)?;
        let json = object(TEMPLATE_JSON, read(TEMPLATE_JSON)?)?;
        let chat_template = jinja
            .or_else(|| json.get("chat_template").and_then(pick_template))
            .or_else(|| config.get("chat_template").and_then(pick_template));
        verbatim.extend(super::template::named::additional(dir)?);
        Ok(Self { config, special, verbatim, changed, chat_template })
    }

    pub(super) fn write(&self, dir: &Path, tokenizer_json: &str) -> Result<(), TextError> {
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            let folder = path.parent().unwrap_or(dir);
            let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, bytes));
            written.map_err(|source| TextError::Io { path, source })
        };
        write("tokenizer.json", tokenizer_json.as_bytes())?;
        for (name, bytes) in &self.verbatim {
            if !self.changed || ![CONFIG, SPECIAL].contains(&name.as_str()) {
                write(name, bytes)?;
            }
        }
        if self.changed {
            if !self.special.is_empty() {
                write(SPECIAL, pretty(&self.special)?.as_bytes())?;
            }
            let mut config = self.config.clone();
            // A number beyond u64 would come back as a float; transformers' default is the same number.
            if config.get("model_max_length").and_then(Value::as_f64).is_some_and(|n| n > NO_LENGTH) {
                config.shift_remove("model_max_length");
            }
            write(CONFIG, pretty(&config)?.as_bytes())?;
        }
        Ok(())
    }

    /// The text of a named special token: the configuration's, else the map's, else the class's default.
    pub(super) fn special(&self, role: &str) -> Option<String> {
        self.role(role).and_then(token_text).or_else(|| {
            let default = match role {
                "bos_token" => "<s>",
                "eos_token" => "</s>",
                "unk_token" => "<unk>",
                _ => return None,
            };
            // A token that is explicitly null stays absent.
            let given = self.config.contains_key(role) || !self.is_llama_class();
            (!given).then(|| default.to_owned())
        })
    }

    /// Writes down what a class's defaults say, for readers that take others (transformers 4 adds BOS by default).
    pub(super) fn fill(&mut self, class: &str, named: &[(String, String)]) {
        let named = named.iter().map(|(role, text)| (role.as_str(), json!(text)));
        for (key, value) in named.chain([("tokenizer_class", json!(class)), ("add_bos_token", json!(false))]) {
            if !self.config.contains_key(key) && !self.special.contains_key(key) {
                self.set(key, value);
            }
        }
    }

    fn role(&self, role: &str) -> Option<&Value> {
        let given = |map: &'_ Map<String, Value>| map.get(role).is_some_and(|value| !value.is_null());
        [&self.config, &self.special].into_iter().find(|map| given(map)).and_then(|map| map.get(role))
    }

    pub(super) fn is_llama_class(&self) -> bool {
        let class = self.config.get("tokenizer_class").and_then(Value::as_str);
        matches!(class, Some("LlamaTokenizer" | "LlamaTokenizerFast"))
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key).and_then(Value::as_bool)
    }

    pub(super) fn model_max_length(&self) -> Option<usize> {
        let length = self.config.get("model_max_length")?;
        length.as_u64().filter(|&n| n > 0 && (n as f64) < NO_LENGTH).map(|n| n as usize)
    }

    /// Tokens that must be added tokens: `added_tokens_decoder` by id, then the named ones and the extra ones.
    pub(super) fn named_tokens(&self) -> Vec<Value> {
        let mut tokens: Vec<Value> = Vec::new();
        if let Some(Value::Object(added)) = self.config.get("added_tokens_decoder") {
            let mut by_id: Vec<(u64, &Value)> =
                added.iter().filter_map(|(id, token)| Some((id.parse().ok()?, token))).collect();
            by_id.sort_by_key(|(id, _)| *id);
            // Unlike a named token, one of these is special only where it says so.
            tokens.extend(by_id.into_iter().map(|(_, token)| match token {
                Value::Object(token) if !token.contains_key("special") => {
                    let mut token = token.clone();
                    token.insert("special".into(), json!(false));
                    Value::Object(token)
                }
                token => token.clone(),
            }));
        }
        let named = ROLES.iter().filter_map(|role| match self.role(role) {
            Some(Value::Object(token)) => {
                let mut token = token.clone();
                token.insert("special".into(), json!(true));
                Some(Value::Object(token))
            }
            _ => self.special(role).map(Value::String),
        });
        tokens.extend(named);
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            for map in [&self.config, &self.special] {
                match map.get(key) {
                    Some(Value::Array(list)) => tokens.extend(list.iter().cloned()),
                    Some(Value::Object(named)) => tokens.extend(named.values().cloned()),
                    _ => {}
                }
            }
        }
        tokens
    }

    pub(super) fn template_variables(&self) -> Map<String, Value> {
        let mut variables = Map::new();
        for role in ROLES {
            if let Some(token) = self.special(role) {
                variables.insert((*role).to_owned(), Value::String(token));
            }
        }
        if let Some(Value::Object(extra)) = self.config.get("extra_special_tokens") {
            for (name, token) in extra {
                variables.extend(token_text(token).map(|text| (name.clone(), Value::String(text))));
            }
        }
        variables
    }

    /// Keeps an `added_tokens_decoder` in step; where there is none, tokenizer.json alone says it.
    pub(super) fn note_added(&mut self, id: u32, token: &str) {
        let Some(Value::Object(added)) = self.config.get_mut("added_tokens_decoder") else {
            return;
        };
        let key = id.to_string();
        if !added.contains_key(&key) {
            let entry = json!({
                "content": token, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
                "special": true,
            });
            added.insert(key, entry);
            self.changed = true;
        }
    }

    /// Lists special tokens without a role, where both versions of transformers look for them.
    pub(super) fn list_additional(&mut self, tokens: &[&str]) {
        const LIST: &str = "additional_special_tokens";
        let mut list: Vec<Value> = Vec::new();
        for known in [&self.config, &self.special].into_iter().filter_map(|map| map.get(LIST)?.as_array()).flatten() {
            list.extend(Some(known).filter(|known| !list.contains(known)).cloned());
        }
        for token in tokens {
            if !list.iter().any(|known| token_text(known).as_deref() == Some(token)) {
                list.push(json!(token));
            }
        }
        if !tokens.is_empty() {
            self.set(LIST, Value::Array(list));
        }
    }

    /// Changes a setting, also in the special tokens' own file, which transformers 4 reads last.
    pub(super) fn set(&mut self, key: &str, value: Value) {
        if self.special.contains_key(key) {
            self.special.insert(key.to_owned(), value.clone());
        }
        self.config.insert(key.to_owned(), value);
        self.changed = true;
    }
}

/// Puts what only transformers 5 reads into words that version 4 reads as well; says whether there was any.
fn portable(settings: &mut Map<String, Value>) -> bool {
    let mut changed = false;
    if settings.get("tokenizer_class").is_some_and(|class| class == "TokenizersBackend") {
        settings.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        changed = true;
    }
    if settings.get("extra_special_tokens").is_some_and(Value::is_array)
        && !settings.contains_key("additional_special_tokens")
        && let Some(tokens) = settings.shift_remove("extra_special_tokens")
    {
        settings.insert("additional_special_tokens".into(), tokens);
        changed = true;
    }
    changed
}

fn pretty(settings: &Map<String, Value>) -> Result<String, TextError> {
    let text = serde_json::to_string_pretty(settings).map_err(|e| TextError::Tokenize(e.to_string()))?;
    Ok(text + "\n")
}

/// A token as a string or as `{"content": …}`.
pub(super) fn token_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => token.get("content").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}

/// A template as a string or as a list of named ones, of which `default` is taken.
fn pick_template(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => list
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")?.as_str().map(str::to_owned)),
        Value::Object(named) => named.get("default").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}
