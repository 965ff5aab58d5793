//! What can be wrong with a setting.

use std::path::PathBuf;

/// A setting that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// The part before the dot names nothing in this recipe.
    #[error("{origin}: `{key}` is not a setting of this recipe{hint}; its parts are: {known}")]
    UnknownSection {
        /// The key as it was written.
        key: String,
        /// Where it was written.
        origin: String,
        /// ` (did you mean …?)`, or nothing.
        hint: String,
        /// The parts that this recipe has.
        known: String,
    },
    /// The part after the dot is not a parameter of the component in that slot.
    #[error("{origin}: `{key}` is unknown, `{component}` has no such parameter{hint}")]
    UnknownParameter {
        /// The key as it was written.
        key: String,
        /// The component in the slot.
        component: String,
        /// Where it was written.
        origin: String,
        /// ` (did you mean …?)`, or nothing, and the parameters that the component has.
        hint: String,
    },
    /// The value has another type, or lies outside the range.
    #[error("{origin}: `{key}` takes {allowed}, not {value}")]
    Refused {
        /// The whole key.
        key: String,
        /// The value, as JSON or as it was typed.
        value: String,
        /// What is allowed, in words.
        allowed: String,
        /// Where it was written.
        origin: String,
    },
    /// `--set` without `key=value`.
    #[error("--set {text}: write it as `--set key=value`, for example `--set {example}`")]
    NotAnAssignment {
        /// What was typed.
        text: String,
        /// A setting of this recipe.
        example: String,
    },
    /// A settings file that cannot be read.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// Settings that are fine one by one and not together; made by [`SettingError::rule`].
    #[error("{0}")]
    Rule(String),
    /// A rule of one section was broken.
    #[error("{section}: {source}")]
    Section {
        /// The section (slot) of the component.
        section: String,
        /// What its rules say.
        #[source]
        source: Box<SettingError>,
    },
}

impl SettingError {
    /// A broken rule between settings. The message names the settings, their values and what to
    /// change.
    pub fn rule(message: impl Into<String>) -> Self {
        Self::Rule(message.into())
    }

    /// The same error, saying which section it belongs to.
    pub fn in_section(self, section: &str) -> Self {
        Self::Section { section: section.to_owned(), source: Box::new(self) }
    }
}

/// ` (did you mean …?)` where one of `known` is close enough to `name` to be a slip of the fingers.
pub(crate) fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// Below this similarity a suggestion is more often wrong than right.
    const CLOSE: f64 = 0.7;
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= CLOSE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| format!(" (did you mean `{candidate}`?)"))
        .unwrap_or_default()
}
