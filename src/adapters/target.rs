//! Which layers carry an adapter, by PEFT's rules.

use super::AdapterError;
use crate::models::CausalLm;
use crate::nn::Linear;
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
#[derive(Debug)]
pub(super) struct Matcher {
    /// Stands before a layer's path in transformers' class.
    prefix: String,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    All,
    Suffixes(Vec<String>),
    Regex(regex::Regex),
}

impl Targets {
    /// `prefix` stands before a layer's path in transformers' class.
    pub(super) fn matcher(&self, prefix: &str) -> Result<Matcher, AdapterError> {
        let rule = match self {
            Self::AllLinear => Rule::All,
            Self::Suffixes(names) => Rule::Suffixes(names.clone()),
            // `re.fullmatch`, as PEFT does it.
            Self::Regex(pattern) => Rule::Regex(whole(pattern)?),
        };
        Ok(Matcher { prefix: prefix.to_owned(), rule })
    }
}

/// A regular expression that matches whole texts.
pub(super) fn whole(pattern: &str) -> Result<regex::Regex, AdapterError> {
    regex::Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|e| AdapterError::Pattern { pattern: pattern.to_owned(), reason: e.to_string() })
}

fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Matcher {
    /// The names that matched none of `paths`.
    fn idle(&self, paths: &[String]) -> Vec<String> {
        let Rule::Suffixes(names) = &self.rule else { return Vec::new() };
        let idle = |name: &&String| !paths.iter().any(|path| ends_with(&format!("{}{path}", self.prefix), name));
        names.iter().filter(idle).cloned().collect()
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        let full = format!("{}{path}", self.prefix);
        match &self.rule {
            Rule::All => true,
            Rule::Suffixes(names) => names.iter().any(|name| ends_with(&full, name)),
            Rule::Regex(regex) => {
                regex.is_match(&full)
                    // Adapters written for transformers 4's class name the model one level higher.
                    || regex.is_match(&format!("language_model.model.{path}"))
                    || regex.is_match(path)
            }
        }
    }
}

/// Calls `attach` for every layer of `model` that `targets` and `wanted` both pick.
///
/// # Errors
/// [`AdapterError::NoTarget`] where there is none, or where a name of the list matches nothing; what `attach` says.
pub(super) fn attach_to<M: CausalLm>(
    model: &mut M,
    targets: &Targets,
    prefix: &str,
    wanted: &dyn Fn(&str) -> bool,
    attach: &mut dyn FnMut(&str, &mut Linear) -> Result<(), AdapterError>,
) -> Result<(), AdapterError> {
    let matcher = targets.matcher(prefix)?;
    let (mut attached, mut paths, mut done) = (0, Vec::new(), Ok(()));
    model.visit_linears(&mut |path, linear| {
        if done.is_ok() && matcher.matches(path) && wanted(path) {
            done = attach(path, linear);
            attached += 1;
        }
        paths.push(path.to_owned());
    });
    done?;
    let idle = matcher.idle(&paths);
    if attached == 0 || !idle.is_empty() {
        paths.truncate(7);
        let pattern = if idle.is_empty() { targets.to_string() } else { idle.join(", ") };
        return Err(AdapterError::NoTarget { pattern, examples: paths.join(", ") });
    }
    Ok(())
}

/// One expression that matches exactly `paths`: a list of suffixes would also hit the vision tower's `q_proj`.
pub(super) fn one_regex(paths: &[String]) -> String {
    // Layers of one name differ in their number: `model\.layers\.(?:0|1)\.self_attn\.q_proj`.
    let mut shapes: Vec<(String, String, Vec<String>)> = Vec::new();
    for path in paths {
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
        check(
            Targets::Suffixes(vec!["model.language_model.layers.0.mlp.up_proj".into()]),
            "layers.0.mlp.up_proj",
            true,
        );
    }

    #[test]
    fn a_regular_expression_matches_the_whole_path() {
        let targets = Targets::from(r"model\.language_model\..*\.(q_proj|v_proj)");
        check(targets.clone(), "layers.1.self_attn.v_proj", true);
        check(targets, "layers.1.self_attn.k_proj", false);
    }
}
