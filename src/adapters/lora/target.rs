//! Which layers carry an adapter.

use super::AdapterError;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// PEFT's `target_modules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Every linear layer of the language model but the head.
    AllLinear,
    /// Layers whose path ends in one of these names.
    Suffixes(Vec<String>),
    /// Layers whose whole path in transformers' class this regular expression matches.
    Regex(String),
}

impl From<&str> for Targets {
    fn from(text: &str) -> Self {
        match text {
            "all-linear" => Self::AllLinear,
            other => Self::Regex(other.to_owned()),
        }
    }
}

impl From<Vec<String>> for Targets {
    fn from(names: Vec<String>) -> Self {
        match names.as_slice() {
            [only] if only == "all-linear" => Self::AllLinear,
            _ => Self::Suffixes(names),
        }
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllLinear => f.write_str("all-linear"),
            Self::Suffixes(names) => write!(f, "{names:?}"),
            Self::Regex(pattern) => write!(f, "{pattern:?}"),
        }
    }
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AllLinear => "all-linear".serialize(serializer),
            Self::Suffixes(names) => names.serialize(serializer),
            Self::Regex(pattern) => pattern.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            List(Vec<String>),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) => Self::from(text.as_str()),
            Form::List(names) => Self::from(names),
        })
    }
}

/// Decides for one layer after another.
pub(super) enum Matcher {
    All,
    Suffixes(Vec<String>),
    Regex { prefix: String, regex: regex::Regex },
}

impl Targets {
    /// `prefix` stands before a layer's path in transformers' class.
    pub(super) fn matcher(&self, prefix: &str) -> Result<Matcher, AdapterError> {
        Ok(match self {
            Self::AllLinear => Matcher::All,
            Self::Suffixes(names) => Matcher::Suffixes(names.clone()),
            Self::Regex(pattern) => Matcher::Regex {
                prefix: prefix.to_owned(),
                // `re.fullmatch`, as PEFT does it.
                regex: regex::Regex::new(&format!("^(?:{pattern})$"))
                    .map_err(|e| AdapterError::Pattern { pattern: pattern.clone(), reason: e.to_string() })?,
            },
        })
    }
}

impl Matcher {
    /// The names that matched none of `paths`.
    pub(super) fn idle(&self, paths: &[String]) -> Vec<String> {
        match self {
            Self::Suffixes(names) => names
                .iter()
                .filter(|name| {
                    let one = Self::Suffixes(vec![(*name).clone()]);
                    !paths.iter().any(|path| one.matches(path))
                })
                .cloned()
                .collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Suffixes(names) => names
                .iter()
                .any(|name| path == name || path.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'))),
            Self::Regex { prefix, regex } => {
                regex.is_match(&format!("{prefix}{path}"))
                    // Adapters written for transformers 4's class name the model one level higher.
                    || regex.is_match(&format!("language_model.model.{path}"))
                    || regex.is_match(path)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(targets: Targets, path: &str, expected: bool) {
        let matcher = targets.matcher("model.language_model.").unwrap();
        assert_eq!(matcher.matches(path), expected, "{targets} on {path}");
    }

    #[test]
    fn suffixes_match_whole_names_only() {
        let targets = Targets::Suffixes(vec!["q_proj".into(), "mlp.up_proj".into()]);
        check(targets.clone(), "layers.0.self_attn.q_proj", true);
        check(targets.clone(), "layers.0.mlp.up_proj", true);
        check(targets.clone(), "layers.0.self_attn.xq_proj", false);
        check(targets, "layers.0.mlp.down_proj", false);
    }

    #[test]
    fn a_regular_expression_matches_the_whole_path() {
        let targets = Targets::from(r"model\.language_model\..*\.(q_proj|v_proj)");
        check(targets.clone(), "layers.1.self_attn.v_proj", true);
        check(targets, "layers.1.self_attn.k_proj", false);
    }
}
