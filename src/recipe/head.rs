//! Heads that yield scores: what a folder's `config.json` says of them, in transformers' words.

use super::RecipeError;
use crate::checkpoint::{CheckpointError, Shards, read_json};
use crate::nn::{Linear, Weight, params};
use crate::objectives::{Head, Level};
use crate::text::Tokenizer;
use burn::tensor::Device;
use serde_json::{Map, Value, json};
use std::path::Path;

const SEQUENCE: &str = "ForSequenceClassification";
const TOKEN: &str = "ForTokenClassification";

/// The head that a folder's `config.json` says it has.
pub(super) fn of_config(config: &Value) -> Option<Head> {
    let architecture = config["architectures"][0].as_str()?;
    let level = match () {
        () if architecture.ends_with(SEQUENCE) => Level::Sequence,
        () if architecture.ends_with(TOKEN) => Level::Token,
        () => return None,
    };
    // transformers never writes `num_labels`: it is the number of names, and 2 where there are none.
    let outputs = config["id2label"].as_object().map_or(2, Map::len);
    let problem_type = match config["problem_type"].as_str() {
        Some("regression") => Some("regression"),
        Some("single_label_classification") => Some("single_label_classification"),
        Some("multi_label_classification") => Some("multi_label_classification"),
        _ => None,
    };
    Some(Head { outputs, bias: level == Level::Token, level, problem_type })
}

/// The head that an adapter's folder holds, as PEFT saves it beside the adapter of a classifier.
///
/// # Errors
/// [`CheckpointError`] where the adapter's files are damaged.
pub(super) fn of_adapter(dir: &Path) -> Result<Option<Head>, CheckpointError> {
    let file = dir.join("adapter_config.json");
    if !file.is_file() || read_json(&file)?["task_type"] != "SEQ_CLS" {
        return Ok(None);
    }
    let shards = Shards::open_stem(dir, "adapter_model")?;
    let score = shards.iter().find(|view| view.name.ends_with("score.weight"));
    Ok(score.and_then(|view| view.shape.first().copied()).map(|outputs| Head {
        outputs,
        bias: false,
        level: Level::Sequence,
        problem_type: None,
    }))
}

/// Checks that a folder's head is the one that the recipe trains.
///
/// # Errors
/// [`RecipeError::Structure`] with both.
pub(super) fn agree(dir: &Path, own: Option<Head>, asked: Option<Head>) -> Result<(), RecipeError> {
    let (problem, advice) = match (own, asked) {
        (Some(own), None) => (
            format!("has a head of {} that yields scores, and none that yields words", outputs(own.outputs)),
            "take the causal language model that it was trained from, or a recipe whose objective reads scores",
        ),
        (Some(own), Some(asked)) if (own.outputs, own.level) != (asked.outputs, asked.level) => (
            format!(
                "has a head of {} for {}, but the recipe asks for {} for {}",
                outputs(own.outputs),
                level(own.level),
                outputs(asked.outputs),
                level(asked.level)
            ),
            "set the objective as the folder was trained, or start from the language model",
        ),
        _ => return Ok(()),
    };
    Err(RecipeError::Structure { dir: dir.to_owned(), problem, advice: advice.to_owned() })
}

fn outputs(n: usize) -> String {
    if n == 1 { "1 output".to_owned() } else { format!("{n} outputs") }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Sequence => "whole texts",
        Level::Token => "single tokens",
    }
}

/// A fresh head, drawn as transformers draws it: normally distributed, `initializer_range` wide, biases 0.
pub(super) fn fresh(head: Head, width: usize, config: &Value, device: &Device) -> Linear {
    let std = config["initializer_range"].as_f64().unwrap_or(0.02);
    let mut score = Linear::new(width, head.outputs, head.bias, device);
    score.weight = Weight::Dense(params::normal([head.outputs, width], std, device));
    score
}

/// Tokens that are there for padding, in vocabularies that do not say so.
const PADDING: [&str; 4] = ["<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>"];

/// The token that rows are padded with for transformers. A head there reads the last token that is not this one, whatever
/// the attention mask says: it must be none that a row ends with, and so never the end of a sequence, however often it is
/// used for padding elsewhere. `None` where the vocabulary has no such token; transformers then refuses batches instead of
/// reading another token than was trained.
pub(super) fn padding(config: &Value, tokenizer: &Tokenizer) -> Option<(u32, String)> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ends = match &config["eos_token_id"] {
        Value::Array(ids) => ids.iter().filter_map(id).chain(tokenizer.eos()).collect::<Vec<u32>>(),
        one => id(one).into_iter().chain(tokenizer.eos()).collect(),
    };
    let named = PADDING.iter().filter_map(|token| tokenizer.token_id(token));
    let known = id(&config["pad_token_id"]).into_iter().chain(tokenizer.pad()).chain(named).chain(tokenizer.unk());
    known.filter(|id| !ends.contains(id)).find_map(|id| Some((id, tokenizer.token(id)?)))
}

/// Writes a head into the `config.json` of the model that carries it, `pad` being what [`padding`] found.
pub(super) fn write(config: &mut Value, head: Head, pad: Option<u32>) {
    let suffix = match head.level {
        Level::Sequence => SEQUENCE,
        Level::Token => TOKEN,
    };
    let base = config["architectures"][0].as_str().unwrap_or_default();
    let stem = ["ForCausalLM", "ForConditionalGeneration", SEQUENCE, TOKEN].iter().find_map(|s| base.strip_suffix(s));
    let stem = stem.unwrap_or_else(|| match config["model_type"].as_str() {
        Some("mistral") => "Mistral",
        Some("qwen2") => "Qwen2",
        Some("llava") => "Llava",
        _ => "Llama",
    });
    config["architectures"] = json!([format!("{stem}{suffix}")]);
    let names: Map<String, Value> = (0..head.outputs).map(|i| (i.to_string(), json!(format!("LABEL_{i}")))).collect();
    let ids: Map<String, Value> = (0..head.outputs).map(|i| (format!("LABEL_{i}"), json!(i))).collect();
    // Names that the folder gave already are kept.
    if config["id2label"].as_object().is_none_or(|held| held.len() != head.outputs) {
        config["id2label"] = names.into();
        config["label2id"] = ids.into();
    }
    if let Some(problem) = head.problem_type {
        config["problem_type"] = problem.into();
    }
    config["pad_token_id"] = pad.into();
}

/// What stands beside a vision-language model with a head, for which transformers has no class.
pub(super) const ABOUT: &str = "\
This folder holds a vision-language model with a head that yields scores. transformers has no class for it.

- The weights are those of `LlavaForConditionalGeneration` without `lm_head`, and `score.weight` (and `score.bias` where the
  head is for single tokens): a linear layer over the language model's last hidden state.
- A score for a text is read at its last token that is no padding, on whichever side the padding is.
- `id2label` in `config.json` has one name for each output.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (base, level, written) in [
            ("LlamaForCausalLM", Level::Sequence, "LlamaForSequenceClassification"),
            ("Qwen2ForCausalLM", Level::Token, "Qwen2ForTokenClassification"),
            ("LlavaForConditionalGeneration", Level::Sequence, "LlavaForSequenceClassification"),
        ] {
            let head = Head { outputs: 3, bias: level == Level::Token, level, problem_type: Some("regression") };
            let mut config = json!({"architectures": [base]});
            write(&mut config, head, Some(7));
            assert_eq!(config["architectures"][0], written);
            assert_eq!(config["pad_token_id"], 7);
            assert_eq!(of_config(&config), Some(head));
        }
        // Absent names mean two labels.
        let bare = json!({"architectures": ["LlamaForSequenceClassification"]});
        assert_eq!(of_config(&bare).map(|head| head.outputs), Some(2));
        assert_eq!(of_config(&json!({"architectures": ["LlamaForCausalLM"]})), None);
    }

    #[test]
    fn another_head_than_the_folders_is_refused() {
        let head = |outputs| Some(Head { outputs, bias: false, level: Level::Sequence, problem_type: None });
        assert!(agree(Path::new("m"), head(2), head(2)).is_ok());
        assert!(agree(Path::new("m"), None, head(2)).is_ok());
        let error = agree(Path::new("m"), head(2), head(1)).unwrap_err().to_string();
        assert!(error.contains("2 outputs") && error.contains("1 output "), "{error}");
        assert!(agree(Path::new("m"), head(1), None).is_err());
    }
}
