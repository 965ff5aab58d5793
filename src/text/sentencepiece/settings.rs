//! What the JSON files of a folder say: the tokenizer's class, and which tokens are added to its vocabulary.

use super::family::Family;
use crate::text::TextError;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use tokenizers::AddedToken;

pub(super) const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
const MODEL_CONFIG: &str = "config.json";

/// The named tokens of every class, in the order in which transformers adds them.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The settings of one folder, merged as transformers 5 merges them.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// `tokenizer_config.json`; where that has no `added_tokens_decoder`, `special_tokens_map.json` over it.
    values: Map<String, Value>,
    /// `added_tokens_decoder`, else `added_tokens.json`, by id.
    added: BTreeMap<u32, AddedToken>,
    /// `extra_special_tokens`, else `additional_special_tokens`.
    extra: Option<Value>,
    /// Of `config.json`.
    model_type: Option<String>,
    model_class: Option<String>,
}

impl Settings {
    /// # Errors
    /// [`TextError::Io`] or [`TextError::Malformed`] with the file.
    pub(super) fn read(dir: &Path) -> Result<Self, TextError> {
        let values = object(dir, CONFIG)?;
        let model = object(dir, MODEL_CONFIG)?;
        let text = |key: &str| model.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut settings = Self {
            extra: extra(&values),
            model_type: text("model_type"),
            model_class: text("tokenizer_class"),
            values,
            ..Self::default()
        };
        let malformed = |file: &str, reason| TextError::Malformed { path: dir.join(file), reason };
        match settings.values.get("added_tokens_decoder") {
            Some(decoder) => settings.added = by_id(decoder).map_err(|e| malformed(CONFIG, e))?,
            None => {
                settings.add_special(object(dir, SPECIAL)?);
                let added = object(dir, ADDED)?;
                settings.added = settings.by_text(&added).map_err(|e| malformed(ADDED, e))?;
            }
        }
        Ok(settings)
    }

    /// The class that a folder names: in `tokenizer_config.json`, else in `config.json`.
    pub(super) fn class(&self) -> Option<&str> {
        self.values.get("tokenizer_class").and_then(Value::as_str).or(self.model_class.as_deref())
    }

    pub(super) fn model_type(&self) -> Option<&str> {
        self.model_type.as_deref()
    }

    /// A boolean; absent, `null` and anything else is `None`.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.values.get(key).and_then(Value::as_bool)
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.values.get(key).and_then(Value::as_u64)
    }

    /// The named tokens: what the files say (`null` takes one away), else the class's default.
    pub(super) fn named(&self, family: Family) -> Vec<(String, AddedToken)> {
        let mut named = Vec::new();
        for role in ROLES {
            let token = match self.values.get(role) {
                Some(value) => token(value),
                None => family.default_token(role).map(|text| AddedToken::from(text, true)),
            };
            named.extend(token.map(|token| (role.to_owned(), token)));
        }
        // A model's own (`image_token`), those written as objects first, as transformers does.
        let own = |value: &&Value| value.is_object();
        let own_roles = self.values.iter().filter(|(key, _)| key.ends_with("_token") && !ROLES.contains(&key.as_str()));
        let (objects, texts): (Vec<_>, Vec<_>) = own_roles.partition(|(_, value)| own(value));
        let extra = self.extra.as_ref().and_then(Value::as_object).into_iter().flatten();
        for (role, value) in objects.into_iter().chain(texts).chain(extra) {
            named.extend(token(value).map(|token| (role.clone(), token)));
        }
        named
    }

    /// The tokens to add, in order. `own` are the class's, which a list in the files replaces.
    pub(super) fn tokens(&self, named: &[(String, AddedToken)], own: Vec<AddedToken>) -> Vec<AddedToken> {
        let first: HashSet<&str> = self.added.values().map(|token| token.content.as_str()).collect();
        let named_texts: HashSet<&str> = named.iter().map(|(_, token)| token.content.as_str()).collect();
        let extra = match &self.extra {
            Some(Value::Array(list)) => list.iter().filter_map(token).collect(),
            Some(Value::Null) => Vec::new(),
            _ => own,
        };
        let rest = named.iter().map(|(_, token)| token.clone()).chain(extra);
        let rest = rest.filter(|token| !first.contains(token.content.as_str()));
        let mut tokens: Vec<AddedToken> = self.added.values().cloned().chain(rest).collect();
        for token in &mut tokens {
            token.special |= named_texts.contains(token.content.as_str());
        }
        tokens
    }

    /// The ids that the files promise to added tokens.
    pub(super) fn promised(&self) -> impl Iterator<Item = (u32, &str)> {
        self.added.iter().map(|(&id, token)| (id, token.content.as_str()))
    }

    fn add_special(&mut self, special: Map<String, Value>) {
        for (key, mut value) in special {
            match key.as_str() {
                // transformers 5 puts the vocabulary's own list in its place.
                "additional_special_tokens" => {}
                "extra_special_tokens" => match (&mut self.extra, value) {
                    (Some(Value::Array(known)), Value::Array(more)) => {
                        for token in more {
                            if !known.contains(&token) {
                                known.push(token);
                            }
                        }
                    }
                    (extra, value) => *extra = Some(value),
                },
                _ => {
                    if let Some(token) = value.as_object_mut().filter(|token| token.contains_key("content")) {
                        token.insert("special".into(), true.into());
                    }
                    self.values.insert(key, value);
                }
            }
        }
    }

    /// `added_tokens.json`: special are those that another setting names.
    fn by_text(&self, added: &Map<String, Value>) -> Result<BTreeMap<u32, AddedToken>, String> {
        let named = ROLES.iter().filter_map(|role| token(self.values.get(*role)?));
        let extra = self.extra.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(token);
        let special: HashSet<String> = named.chain(extra).map(|token| token.content).collect();
        let entries = added.iter().map(|(text, id)| {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = number.ok_or_else(|| format!("the id of {text:?} is {id}, where a whole number is needed"))?;
            Ok((id, AddedToken::from(text.as_str(), special.contains(text))))
        });
        entries.collect()
    }
}

fn object(dir: &Path, name: &str) -> Result<Map<String, Value>, TextError> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| TextError::Malformed { path, reason: e.to_string() }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(source) => Err(TextError::Io { path, source }),
    }
}

/// The list (or names) of more special tokens; the older key counts where the newer one is empty or absent.
fn extra(values: &Map<String, Value>) -> Option<Value> {
    let filled = |value: &&Value| match value {
        Value::Array(list) => !list.is_empty(),
        Value::Object(named) => !named.is_empty(),
        _ => false,
    };
    let newer = values.get("extra_special_tokens");
    newer.filter(filled).or(values.get("additional_special_tokens")).or(newer).cloned()
}

fn by_id(decoder: &Value) -> Result<BTreeMap<u32, AddedToken>, String> {
    let entries = decoder.as_object().ok_or("`added_tokens_decoder` is not an object")?;
    let entries = entries.iter().map(|(id, value)| {
        let wrong = || format!("`added_tokens_decoder` has {id:?}: {value}, where an id and a token are needed");
        let number: u32 = id.parse().map_err(|_| wrong())?;
        Ok((number, token(value).filter(|_| value.is_object()).ok_or_else(wrong)?))
    });
    entries.collect()
}

/// A token as text, which is special, or as `{"content": …}`, which is special where it says so.
fn token(value: &Value) -> Option<AddedToken> {
    let Value::Object(fields) = value else {
        return value.as_str().map(|text| AddedToken::from(text, true));
    };
    let flag = |name: &str| fields.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    let token = AddedToken::from(fields.get("content")?.as_str()?, special)
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .single_word(flag("single_word").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special));
    Some(token)
}
