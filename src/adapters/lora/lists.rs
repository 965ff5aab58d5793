//! Settings of LoRA that are lists: values by layer, numbers of layers, ids of tokens.

use super::Targets;
use crate::adapters::AdapterError;
use crate::adapters::target::whole;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// PEFT's `rank_pattern` and `alpha_pattern`: values for layers whose path ends in an expression, written `expression=value`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pattern(pub Vec<(String, f64)>);

impl Pattern {
    /// The value of the first expression that matches the end of the path `path`, from a dot on.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub(super) fn of(&self, path: &str) -> Result<Option<f64>, AdapterError> {
        for (pattern, value) in &self.0 {
            if whole(&format!(r"(?:.*\.)?(?:{pattern})"))?.is_match(path) {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }

    /// Every value times `factor`.
    pub(super) fn times(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|(pattern, value)| (pattern.clone(), value * factor)).collect())
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(pattern, value)| format!("{pattern}={value}")))
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entry = |text: String| {
            let parts = text.rsplit_once('=').and_then(|(pattern, value)| Some((pattern, value.trim().parse().ok()?)));
            let (pattern, value): (_, f64) = parts.ok_or_else(|| text.clone())?;
            if value > 0.0 && value.is_finite() { Ok((pattern.trim().to_owned(), value)) } else { Err(text) }
        };
        let entries: Result<_, String> = Vec::<String>::deserialize(deserializer)?.into_iter().map(entry).collect();
        entries.map(Self).map_err(|text| D::Error::custom(format!("`{text}` is no `layer=value` with a value above 0")))
    }
}

/// PEFT's `layers_to_transform`: numbers of blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers(pub Vec<usize>);

impl Layers {
    /// Whether the first number in `path` is one of them; every layer is, where there are none.
    pub(super) fn hold(&self, path: &str) -> bool {
        let number = || path.split('.').find_map(|part| part.parse().ok());
        self.0.is_empty() || number().is_some_and(|number: usize| self.0.contains(&number))
    }
}

impl Serialize for Layers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(usize::to_string))
    }
}

impl<'de> Deserialize<'de> for Layers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = |text: String| text.trim().parse().map_err(|_| text);
        let numbers: Result<_, String> = Vec::<String>::deserialize(deserializer)?.into_iter().map(number).collect();
        numbers.map(Self).map_err(|text| D::Error::custom(format!("`{text}` is no number of a layer")))
    }
}

/// PEFT's `trainable_token_indices`: rows of the token table and of the head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenIndices {
    /// Rows of the token table; of the head too, where it is the token table.
    pub embed_tokens: Vec<u32>,
    /// Rows of a head of its own, written `lm_head=ID`.
    pub lm_head: Vec<u32>,
}

impl TokenIndices {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.embed_tokens.is_empty() && self.lm_head.is_empty()
    }
}

const HEAD: &str = "lm_head=";

impl Serialize for TokenIndices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let table = self.embed_tokens.iter().map(u32::to_string);
        serializer.collect_seq(table.chain(self.lm_head.iter().map(|id| format!("{HEAD}{id}"))))
    }
}

impl<'de> Deserialize<'de> for TokenIndices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut indices = Self::default();
        for text in Vec::<String>::deserialize(deserializer)? {
            let (list, id) = match text.trim().strip_prefix(HEAD) {
                Some(id) => (&mut indices.lm_head, id),
                None => (&mut indices.embed_tokens, text.trim()),
            };
            let id = id.parse().map_err(|_| D::Error::custom(format!("`{text}` is no token id and no `{HEAD}ID`")))?;
            if list.contains(&id) {
                return Err(D::Error::custom(format!("names token {id} twice")));
            }
            list.push(id);
        }
        Ok(indices)
    }
}

/// PEFT's `exclude_modules`: no layer.
pub(super) fn nothing() -> Targets {
    Targets::Suffixes(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patterns_match_the_end_of_a_path_from_a_dot_on() {
        let pattern: Pattern =
            serde_json::from_value(json!(["layers.1.self_attn.q_proj=2", r"layers\.\d+\.mlp=4"])).unwrap();
        assert_eq!(pattern.of("model.layers.1.self_attn.q_proj").unwrap(), Some(2.0));
        assert_eq!(pattern.of("model.xlayers.1.self_attn.q_proj").unwrap(), None);
        assert_eq!(pattern.of("layers.30.mlp").unwrap(), Some(4.0));
        assert_eq!(serde_json::to_value(&pattern).unwrap()[0], "layers.1.self_attn.q_proj=2");
        for wrong in ["q_proj", "q_proj=0", "q_proj=x"] {
            let error = serde_json::from_value::<Pattern>(json!([wrong])).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn tokens_of_table_and_head() {
        let indices: TokenIndices = serde_json::from_value(json!(["2", "35", "lm_head=2"])).unwrap();
        assert_eq!((indices.embed_tokens.as_slice(), indices.lm_head.as_slice()), (&[2, 35][..], &[2][..]));
        assert_eq!(serde_json::to_value(&indices).unwrap(), json!(["2", "35", "lm_head=2"]));
        assert!(serde_json::from_value::<TokenIndices>(json!(["2", "2"])).unwrap_err().to_string().contains("twice"));
        assert!(serde_json::from_value::<TokenIndices>(json!(["<s>"])).is_err());
    }

    #[test]
    fn layers_by_the_first_number() {
        let layers: Layers = serde_json::from_value(json!(["1"])).unwrap();
        assert!(layers.hold("layers.1.mlp.experts.0.up") && !layers.hold("layers.0.mlp.experts.1.up"));
        assert!(Layers::default().hold("head"));
    }
}
