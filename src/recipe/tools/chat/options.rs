//! How answers are made, on the command line.

use super::settings::read;
use crate::recipe::RecipeError;
use crate::settings::SettingError;
use serde_json::Value;

/// Options of generation; what is not given is what the checkpoint's `generation_config.json` says.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GenerationOptions {
    /// Tokens after which an answer ends anyway [default: the checkpoint's, or 512]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<String>,
    /// Draws tokens, the likely ones more often the lower it is; 0 takes the likeliest
    #[arg(long, value_name = "T")]
    pub temperature: Option<String>,
    /// Draws from the fewest likeliest tokens whose probabilities sum to this
    #[arg(long, value_name = "P")]
    pub top_p: Option<String>,
    /// Draws from so many of the likeliest tokens; 0 from all
    #[arg(long, value_name = "K")]
    pub top_k: Option<String>,
    /// Seeds the draws, which differ from run to run otherwise
    #[arg(long, value_name = "N")]
    pub seed: Option<String>,
    /// Any other setting of generation, under transformers' name: repetition_penalty=1.1
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl GenerationOptions {
    /// What was given; a later one of a name wins.
    ///
    /// # Errors
    /// An unknown setting, or a value that it does not take.
    pub(super) fn assignments(&self) -> Result<Vec<(String, Value)>, RecipeError> {
        let options = [
            ("max-new-tokens", &self.max_new_tokens),
            ("temperature", &self.temperature),
            ("top-p", &self.top_p),
            ("top-k", &self.top_k),
            ("seed", &self.seed),
        ];
        let mut given = Vec::new();
        for (option, value) in options {
            let Some(value) = value else { continue };
            let read = read(&format!("{}={value}", option.replace('-', "_")));
            // What was typed is not `--set`.
            let named = |error: SettingError| {
                let text = error.to_string();
                let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
                SettingError::rule(format!("--{option} {value}: {reason}"))
            };
            given.push(read.map_err(named)?);
        }
        for text in &self.set {
            given.push(read(text)?);
        }
        Ok(given)
    }
}
