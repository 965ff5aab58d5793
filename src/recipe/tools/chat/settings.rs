//! The settings of a conversation's answers.

use crate::generation::decoding::Decoding;
use crate::generation::settings::{CheckpointDefaults, Generation, TokenIds};
use crate::settings::{Given, Resolver, Section, SettingError};
use crate::text::Tokenizer;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Tokens of an answer where neither the user nor the checkpoint says.
const MAX_NEW_TOKENS: usize = 512;

/// Settings that say how tokens are drawn, so that giving one asks for draws.
const DRAWING: &[&str] =
    &["temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"];

/// Settings of what a conversation does not show.
const UNSHOWN: &[&str] = &["num_return_sequences", "best_of", "logprobs", "top_logprobs"];

const SECTION: &str = "generation";

/// `key=value` as the table of settings takes it.
///
/// # Errors
/// An unknown setting, a value that it does not take, and what has no meaning in a conversation.
pub(super) fn read(text: &str) -> Result<(String, Value), SettingError> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(SettingError::rule(format!("--set {text}: write it as key=value, for example temperature=0.7")));
    };
    let (key, value) = (key.trim(), value.trim());
    let key = key.strip_prefix("generation.").unwrap_or(key);
    if UNSHOWN.contains(&key) {
        let text = format!("--set {key}={value}: a conversation shows one answer and its words; leave `{key}` out");
        return Err(SettingError::rule(text));
    }
    if key == "temperature" && value.parse() == Ok(0.0) {
        // No temperature of transformers', but everybody's word for the likeliest token.
        return Ok((key.to_owned(), Value::from(0.0)));
    }
    let whole = format!("{SECTION}.{key}");
    let resolver = Resolver::new(vec![Section::of::<Generation>(SECTION)]);
    // There is one section, which nobody need name.
    let short = |error: SettingError| SettingError::rule(error.to_string().replace(&format!("{SECTION}."), ""));
    let resolved = resolver.command_line(&[format!("{whole}={value}")]).map_err(short)?.finish();
    let value = resolved.setting(&whole).map(|setting| setting.value.clone()).unwrap_or_default();
    Ok((key.to_owned(), value))
}

/// What the user has set, over what the checkpoint says.
#[derive(Debug)]
pub(super) struct Settings {
    given: BTreeMap<String, Value>,
    checkpoint: CheckpointDefaults,
    /// The draws' seed, where none is given.
    seed: u64,
}

impl Settings {
    /// Settings over those of a checkpoint's folder.
    ///
    /// # Errors
    /// A `generation_config.json` that cannot be used, and settings that contradict one another.
    pub(super) fn new(dir: &Path, given: &[(String, Value)]) -> Result<Self, SettingError> {
        let path = dir.join("generation_config.json");
        let checkpoint = match std::fs::read_to_string(&path) {
            Ok(text) => CheckpointDefaults::parse(&text, &path.display().to_string())?,
            Err(_) => CheckpointDefaults::default(),
        };
        let settings = Self { given: given.iter().cloned().collect(), checkpoint, seed: rand::random::<u64>() >> 1 };
        settings.in_force()?;
        Ok(settings)
    }

    /// Sets `key=value`; `key=default` takes back what was set.
    ///
    /// # Errors
    /// As [`read`], and settings that contradict one another. Nothing has changed then.
    pub(super) fn set(&mut self, text: &str) -> Result<(), SettingError> {
        let before = self.given.clone();
        match text.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
            Some((key, "default")) if self.given.remove(key).is_some() => {}
            _ => {
                let (key, value) = read(text)?;
                self.given.insert(key, value);
            }
        }
        let checked = self.in_force();
        if checked.is_err() {
            self.given = before;
        }
        checked.map(|_| ())
    }

    /// The settings in force.
    ///
    /// # Errors
    /// Settings that contradict one another.
    pub(super) fn in_force(&self) -> Result<Generation, SettingError> {
        let likeliest = self.given.get("temperature").and_then(Value::as_f64) == Some(0.0);
        let mut given = Given::<Generation>::new();
        // At temperature 0 all that says how to draw says nothing: the likeliest token passes every filter.
        for (key, value) in self.given.iter().filter(|(key, _)| !(likeliest && DRAWING.contains(&key.as_str()))) {
            given = given.set(key, value);
        }
        let says = |key: &str| self.given.contains_key(key);
        if !says("do_sample") && !says("penalty_alpha") && DRAWING.iter().any(|key| says(key)) {
            given = given.set("do_sample", !likeliest);
        }
        if !says("seed") {
            given = given.set("seed", self.seed);
        }
        let mut settings = self.checkpoint.under(&given)?;
        if settings.max_new_tokens.is_none() && settings.max_length.is_none() {
            settings.max_new_tokens = Some(MAX_NEW_TOKENS);
        }
        // Of several answers one is shown.
        settings.num_return_sequences = 1;
        Ok(settings)
    }

    /// What a search works with, where answers end at the tokens `ends` and the text `stop`.
    ///
    /// # Errors
    /// As [`in_force`](Self::in_force), and a bad word without tokens.
    pub(super) fn decoding(
        &self,
        tokenizer: &Tokenizer,
        ends: &[u32],
        stop: Option<&str>,
    ) -> Result<Decoding, SettingError> {
        let mut settings = self.in_force()?;
        if !self.given.contains_key("eos_token_id") {
            settings.eos_token_id = if ends.is_empty() { Vec::new() } else { vec![TokenIds(ends.to_vec())] };
            settings.stop_strings.extend(stop.map(str::to_owned));
        }
        settings.resolve(tokenizer)
    }

    /// The settings in force that are not what they are without being set, a line each; those that the user has set are
    /// marked.
    pub(super) fn lines(&self) -> Result<Vec<String>, SettingError> {
        let settings = Given::<Generation>::from_fields(&self.in_force()?);
        let defaults = Given::<Generation>::from_fields(&Generation::default());
        let shown = settings.values().iter().filter(|(key, value)| {
            let basic = ["do_sample", "max_new_tokens"].contains(&key.as_str());
            basic || self.given.contains_key(*key) || defaults.values().get(*key) != Some(value)
        });
        let line = |(key, value): (&String, &Value)| {
            let own = if self.given.contains_key(key) { " (set)" } else { "" };
            format!("{key}={}{own}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        Ok(shown.map(line).collect())
    }
}
