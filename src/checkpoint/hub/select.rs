//! Which files of a repository a model or an adapter needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::names;
use crate::checkpoint::{CheckpointError, read_json};

/// What is to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A model: configuration, tokenizer, processor, weights.
    Model,
    /// A model without its weights, for a look at the rest.
    ModelWithoutWeights,
    /// A PEFT adapter.
    Adapter,
}

impl Wanted {
    /// The file without which the repository is something else.
    pub(super) fn config(self) -> &'static str {
        match self {
            Self::Model | Self::ModelWithoutWeights => "config.json",
            Self::Adapter => "adapter_config.json",
        }
    }
}

/// The tokenizer in one file.
const TOKENIZER: &str = "tokenizer.json";

/// Files beside the configurations that a tokenizer or a processor reads.
const TEXT: [&str; 6] = [
    TOKENIZER,
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
];

/// The tokenizer in its older forms, which are needed where there is no other.
const VOCABULARY: [&str; 5] = ["vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"];

/// The folder of a tokenizer's further templates.
const TEMPLATES: &str = "additional_chat_templates/";

/// Larger indices name no real checkpoint: a thousand shards' worth of names is a tenth of this.
const LARGEST_INDEX: u64 = 64 << 20;

/// The small files: configurations, tokenizer, processor, templates.
pub(super) fn small<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let all: Vec<&str> = names.collect();
    let older = !all.contains(&TOKENIZER);
    let is_small = |name: &str| match name.strip_prefix(TEMPLATES) {
        Some(template) => template.ends_with(".jinja") && !template.contains('/'),
        None if name.contains('/') => false,
        None => {
            let config = name.starts_with("config") || name.ends_with("config.json");
            TEXT.contains(&name) || (older && VOCABULARY.contains(&name)) || (config && name.ends_with(".json"))
        }
    };
    all.into_iter().filter(|name| is_small(name)).collect()
}

/// Where a repository's weights are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Weights<'a> {
    /// In these files.
    Files(Vec<&'a str>),
    /// In the shards that this index names, and in these files.
    Index(&'a str, Vec<&'a str>),
    /// In none that can be read; these were found instead.
    None(Vec<&'a str>),
}

/// The weights that are wanted: of the names that are read from a folder, safetensors before pickles and one file before
/// shards, as transformers takes them. A repository often holds the same weights in several forms, and under names that
/// nothing reads.
pub(super) fn weights<'a>(names: impl Iterator<Item = &'a str>, wanted: Wanted) -> Weights<'a> {
    let all: Vec<&str> = names.collect();
    let named = |name: &str| all.iter().copied().find(|one| *one == name);
    let forms: &[(&str, &str)] = match wanted {
        Wanted::ModelWithoutWeights => return Weights::Files(Vec::new()),
        Wanted::Adapter => &[("adapter_model", "safetensors"), ("adapter_model", "bin")],
        // A repository with a model's configuration may hold an adapter's weights alone, or a projector's.
        Wanted::Model => &[
            ("model", "safetensors"),
            ("adapter_model", "safetensors"),
            ("pytorch_model", "bin"),
            ("adapter_model", "bin"),
            ("mm_projector", "safetensors"),
            ("mm_projector", "bin"),
        ],
    };
    for (stem, form) in forms {
        // What was trained beside an adapter stands in a file of its own, in neither form twice; so does a projector
        // beside its language model.
        let beside = match *stem {
            "adapter_model" => beside_adapter(&named),
            "pytorch_model" => named("mm_projector.bin").into_iter().collect(),
            _ => Vec::new(),
        };
        if let Some(file) = named(&format!("{stem}.{form}")) {
            return Weights::Files([vec![file], beside].concat());
        }
        if let Some(index) = named(&format!("{stem}.{form}.index.json")) {
            return Weights::Index(index, beside);
        }
    }
    Weights::None(all.into_iter().filter(|name| is_foreign(name)).collect())
}

fn beside_adapter<'a>(named: &dyn Fn(&str) -> Option<&'a str>) -> Vec<&'a str> {
    let files = ["non_lora_trainables.safetensors", "non_lora_trainables.bin"];
    files.into_iter().find_map(named).into_iter().collect()
}

/// Whether a file holds weights in a form that is not read here; for messages.
fn is_foreign(name: &str) -> bool {
    [".gguf", ".onnx", ".h5", ".msgpack", ".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".npz"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The shards that an index names.
///
/// # Errors
/// [`CheckpointError::Field`] where it names none, [`CheckpointError::UnsafeShard`] for a shard
/// outside the folder.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, CheckpointError> {
    let field = |field: String, found: &Value, expected: &str| CheckpointError::Field {
        path: index.to_path_buf(),
        field,
        found: if found.is_null() { "missing".to_owned() } else { names::printable(&found.to_string()) },
        expected: expected.to_owned(),
    };
    let bytes = fs::metadata(index).map_err(CheckpointError::io(index, "reading"))?.len();
    if bytes > LARGEST_INDEX {
        let size = Value::from(bytes);
        return Err(field("the file's size".to_owned(), &size, "at most 64 MiB for an index"));
    }
    let json = read_json(index)?;
    let Some(map) = json["weight_map"].as_object().filter(|map| !map.is_empty()) else {
        return Err(field("weight_map".to_owned(), &json["weight_map"], "an object that places tensors in shards"));
    };
    let mut shards = BTreeSet::new();
    for (tensor, shard) in map {
        let Some(name) = shard.as_str() else {
            return Err(field(format!("weight_map.{tensor}"), shard, "the name of a shard"));
        };
        if name.contains('/') || names::unportable(name).is_some() {
            return Err(CheckpointError::UnsafeShard {
                index: index.to_path_buf(),
                tensor: tensor.clone(),
                shard: name.to_owned(),
            });
        }
        shards.insert(name.to_owned());
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::Weights::{Files, Index, None};
    use super::*;

    #[test]
    fn small_files_are_those_of_a_model_folder() {
        let wanted = [
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "processor_config.json",
            "tokenizer_config.json",
            "tokenizer.json",
            "tokenizer.model",
            "chat_template.jinja",
            "additional_chat_templates/tools.jinja",
            "adapter_config.json",
        ];
        let others = [
            "README.md",
            ".gitattributes",
            "original/params.json",
            "original/tokenizer.model",
            "trainer_state.json",
            "training_args.bin",
            "model.safetensors.index.json",
            "config.yaml",
            "onnx/config.json",
            "additional_chat_templates/x/y.jinja",
            "tokenizer.model.v3",
            "vocab.json",
            "merges.txt",
        ];
        assert_eq!(small(wanted.iter().chain(&others).copied()), wanted);
        let older = ["config.json", "vocab.json", "merges.txt"];
        assert_eq!(small(older.iter().copied()), older);
    }

    #[test]
    fn weights_are_taken_once_and_in_the_best_form() {
        let check = |names: &[&str], wanted, expected: Weights<'_>| {
            assert_eq!(weights(names.iter().copied(), wanted), expected, "{names:?}");
        };
        let every = ["model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "original/c.pth"];
        check(&every, Wanted::Model, Files(vec!["model.safetensors"]));
        check(&every, Wanted::ModelWithoutWeights, Files(vec![]));
        let index = "model.safetensors.index.json";
        let doubled = ["consolidated.safetensors", "model-00001-of-00002.safetensors", index, "mm_projector.bin"];
        check(&doubled, Wanted::Model, Index(index, vec![]));
        // A name that no reader knows is no reason to fetch it.
        check(&["model.fp16.safetensors", "pytorch_model.bin"], Wanted::Model, Files(vec!["pytorch_model.bin"]));
        check(&["a.safetensors"], Wanted::Model, None(vec!["a.safetensors"]));
        let pickles = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin", "mm_projector.bin"];
        check(&pickles, Wanted::Model, Index(pickles[0], vec!["mm_projector.bin"]));
        check(&["mm_projector.bin", "training_args.bin"], Wanted::Model, Files(vec!["mm_projector.bin"]));
        let adapter = ["adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin", "optimizer.pt"];
        let taken = vec![adapter[0], adapter[2]];
        check(&adapter, Wanted::Adapter, Files(taken.clone()));
        check(&adapter, Wanted::Model, Files(taken));
        check(&adapter[1..], Wanted::Adapter, Files(adapter[1..3].to_vec()));
        check(&["model.safetensors"], Wanted::Adapter, None(vec!["model.safetensors"]));
        check(&["x.gguf", "README.md", "onnx/model.onnx"], Wanted::Model, None(vec!["x.gguf", "onnx/model.onnx"]));
        check(&["original/model.safetensors"], Wanted::Model, None(vec!["original/model.safetensors"]));
    }

    #[test]
    fn an_index_names_plain_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.json");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            shards(&path).map_err(|error| error.to_string())
        };
        let two = read(r#"{"weight_map": {"a": "x-2", "b": "x-1", "c": "x-2"}}"#).unwrap();
        assert_eq!(two.into_iter().collect::<Vec<_>>(), ["x-1", "x-2"]);
        for evil in ["../x", "/etc/passwd", "sub/x", "..", "c:x", "nul", ""] {
            let error = read(&format!(r#"{{"weight_map": {{"a": "{evil}"}}}}"#)).unwrap_err();
            assert!(error.contains("tensor `a` is placed in"), "{error}");
        }
        assert!(read("{}").unwrap_err().contains("weight_map is missing"));
        assert!(read(r#"{"weight_map": {}}"#).unwrap_err().contains("weight_map is {}"));
        assert!(read(r#"{"weight_map": {"a": 1}}"#).unwrap_err().contains("weight_map.a is 1"));
        assert!(read("{\n x").unwrap_err().contains("index.json:2:2"));
    }
}
