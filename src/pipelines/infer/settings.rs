//! How answers are made, as a user says it.

use std::path::Path;

use serde_json::Value;

use super::{InferError, plain};
use crate::generation::settings::{CheckpointDefaults, Generation};
use crate::settings::{Given, SettingError};

/// A way to make answers, with the name that files and messages have for it.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationSetting {
    /// Its name: that of its file.
    pub name: String,
    /// What is given, and no more.
    pub given: Given<Generation>,
}

impl GenerationSetting {
    /// The settings of the files, or one without a name where there are none; what was typed (`temperature=0.5`) goes over
    /// all of them.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown setting, or a value that it does not take.
    pub fn all<T: AsRef<str>>(files: &[impl AsRef<Path>], typed: &[T]) -> Result<Vec<Self>, InferError> {
        let mut all = Vec::new();
        for file in files {
            let file = file.as_ref();
            let text = std::fs::read_to_string(file).map_err(InferError::io(file))?;
            let given = Generation::given_in(&text, &file.display().to_string())?;
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            all.push(Self { name: plain(&name), given });
        }
        if all.is_empty() {
            all.push(Self { name: String::new(), given: Given::new() });
        }
        for setting in &mut all {
            for text in typed {
                let text = text.as_ref();
                let Some((name, value)) = text.split_once('=') else {
                    let text = format!("--set {text}: write a setting and its value, as in --set temperature=0.7");
                    return Err(SettingError::rule(text).into());
                };
                let given = std::mem::take(&mut setting.given);
                setting.given = given.set_text(name.trim(), value.trim())?;
            }
            if setting.number("top_logprobs").is_some_and(|top| top > 0) {
                let text = "`top_logprobs` has no place in a file of predictions; leave it out";
                return Err(SettingError::rule(text).into());
            }
        }
        Ok(all)
    }

    /// All settings in force beside what the checkpoint says of generation.
    ///
    /// # Errors
    /// Settings that contradict one another.
    pub fn under(&self, checkpoint: &CheckpointDefaults) -> Result<Generation, SettingError> {
        checkpoint.under(&self.given).map_err(|error| match self.name.as_str() {
            "" => error,
            name => error.in_section(name),
        })
    }

    /// The answers that are returned.
    pub fn returned(&self) -> usize {
        self.number("num_return_sequences").unwrap_or(1).max(1)
    }

    /// The answers of which a reward model chooses.
    pub fn best_of(&self) -> Option<usize> {
        self.number("best_of")
    }

    /// Whether log-probabilities are asked for.
    pub fn logprobs(&self) -> bool {
        self.given.values().get("logprobs").and_then(Value::as_bool) == Some(true)
    }

    /// Whether this is beam search.
    pub fn has_beams(&self) -> bool {
        self.number("num_beams").is_some_and(|beams| beams > 1)
    }

    /// What an engine is told beside the number of answers and what is returned of them.
    pub fn for_engine(&self) -> Given<Generation> {
        const FIELDS: &[&str] = &["num_return_sequences", "best_of", "logprobs", "top_logprobs"];
        let values = self.given.values().iter().filter(|(name, _)| !FIELDS.contains(&name.as_str()));
        values.fold(Given::new(), |given, (name, value)| given.set(name, value))
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.given.values().get(name).and_then(Value::as_u64).map(|number| number as usize)
    }
}
