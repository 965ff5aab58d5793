//! How answers are decoded, as requests say it.

use serde::Serialize;

use super::error::RequestError;
use super::fields::Fields;

/// The fields of chat and completion requests that choose tokens. What is `None` or empty is the server's own default.
///
/// Those from `top_k` on are not OpenAI's; vLLM and SGLang have them under the same names.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(default)]
pub struct SamplingFields {
    /// Answers per prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// 0 is greedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus, in (0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// New tokens at most; chat's newer `max_completion_tokens` is read into it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Texts that end an answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Same seed, same answer. Signed, because some servers take no more than 63 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Taken off a token's logit once it has been written, in [-2, 2].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// Taken off a token's logit each time it has been written, in [-2, 2].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Candidates kept; -1 or 0 keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i64>,
    /// Least probability kept, relative to the likeliest token's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Typical decoding's mass, in (0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typical_p: Option<f64>,
    /// Divides the logits of tokens that have occurred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Length of runs of tokens that may not occur twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_repeat_ngram_size: Option<u32>,
    /// New tokens before an answer may end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<u32>,
    /// Tokens that end an answer, beside the model's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop_token_ids: Vec<u32>,
    /// Texts that are not written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bad_words: Vec<String>,
    /// The only tokens that are written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_token_ids: Vec<u32>,
    /// Whether the model's own end token is written like any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_eos: Option<bool>,
}

impl SamplingFields {
    /// Reads them out of a request.
    pub(super) fn take(fields: &mut Fields) -> Result<Self, RequestError> {
        let newer = fields.count("max_completion_tokens", 0)?;
        let older = fields.count("max_tokens", 0)?;
        if let (Some(newer), Some(older)) = (newer, older)
            && newer != older
        {
            let expected = format!("the same as `max_completion_tokens`, {newer}, or nothing");
            return Err(RequestError::Field { field: "max_tokens".into(), expected, found: older.to_string() });
        }
        let read = Self {
            n: fields.count("n", 1)?,
            temperature: fields.number("temperature", 0.0, 100.0)?,
            top_p: fields.number("top_p", 0.0, 1.0)?,
            max_tokens: newer.or(older),
            stop: fields.texts("stop")?,
            seed: fields.integer("seed", i64::MIN, i64::MAX)?,
            presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?,
            frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?,
            top_k: fields.integer("top_k", -1, u32::MAX.into())?,
            min_p: fields.number("min_p", 0.0, 1.0)?,
            typical_p: fields.number("typical_p", 0.0, 1.0)?,
            repetition_penalty: fields.number("repetition_penalty", 0.01, 100.0)?,
            no_repeat_ngram_size: fields.count("no_repeat_ngram_size", 0)?,
            min_tokens: fields.count("min_tokens", 0)?,
            stop_token_ids: fields.token_ids("stop_token_ids")?,
            bad_words: fields.texts("bad_words")?,
            allowed_token_ids: fields.token_ids("allowed_token_ids")?,
            ignore_eos: fields.flag("ignore_eos")?,
        };
        for (field, value) in [("top_p", read.top_p), ("typical_p", read.typical_p)] {
            if value == Some(0.0) {
                let expected = "a number above 0, up to 1".to_owned();
                return Err(RequestError::Field { field: field.into(), expected, found: "0".into() });
            }
        }
        for (field, texts) in [("stop", &read.stop), ("bad_words", &read.bad_words)] {
            if let Some(i) = texts.iter().position(String::is_empty) {
                let (field, expected) = (format!("{field}[{i}]"), "a text of at least one character".to_owned());
                return Err(RequestError::Field { field, expected, found: "\"\"".into() });
            }
        }
        Ok(read)
    }
}
