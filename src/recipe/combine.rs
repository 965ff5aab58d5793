//! Several LoRA adapter folders become one, by a weighted sum.

use super::adapter_file::read_settings;
use super::{RecipeError, SENTENCEPIECE};
use crate::adapters::lora::{Combine, Factors, Init, Mask, Matrix, Pattern, TokenIndices};
use crate::adapters::{Adapter, Lora, PeftContext};
use crate::checkpoint::{
    CheckpointError, DirWriter, HostTensor, Manifest, Pending, Shards, TensorView, read_json, write_model,
};
use std::collections::BTreeMap;
use std::path::Path;

/// What stands before a layer's path in a PEFT file.
const BASE: &str = "base_model.model.";
/// Where transformers 4's LLaVA class has the language model, and where the current one has it.
const OLD_PATH: (&str, &str) = ("language_model.model.", "model.language_model.");
/// Files of an adapter folder that belong to the tokenizer and the images, which a combination takes from the first one.
const BESIDE: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    SENTENCEPIECE,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
];

/// An adapter's folder in memory.
struct Source {
    lora: Lora,
    base_model: String,
    layers: BTreeMap<String, Factors>,
    /// Trained rows of tokens and modules that were trained whole.
    others: BTreeMap<String, HostTensor>,
}

/// Writes to `output` the adapter that `how` makes of those in `dirs`, each with its weight: PEFT's `add_weighted_adapter`.
///
/// What an adapter holds besides A and B is kept where one of them alone has it.
///
/// # Errors
/// [`RecipeError::Usage`] where there is not one weight for each adapter, [`RecipeError::Combine`] for layers that cannot be
/// combined, [`RecipeError::Structure`] for an adapter of a kind that has no weighted sum.
pub fn combine(dirs: &[&Path], weights: &[f64], how: &Combine, output: &Path) -> Result<(), RecipeError> {
    combine_with(dirs, weights, how, output, &mut how.masks())
}

/// As [`combine`], with `mask` in place of the generator; see [`Combine::layer`].
///
/// # Errors
/// As [`combine`].
pub fn combine_with(
    dirs: &[&Path],
    weights: &[f64],
    how: &Combine,
    output: &Path,
    mask: &mut Mask<'_>,
) -> Result<(), RecipeError> {
    if dirs.len() != weights.len() {
        return Err(RecipeError::Usage(format!(
            "{} adapters and {} weights are given; give every adapter its weight",
            dirs.len(),
            weights.len()
        )));
    }
    if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
        return Err(RecipeError::Usage(format!("the weight {weight} is not a finite number")));
    }
    let whole = |source| RecipeError::Combine { layer: "the adapters".to_owned(), source };
    how.check().map_err(whole)?;
    let sources = dirs.iter().map(|dir| Source::open(dir)).collect::<Result<Vec<_>, _>>()?;
    let mut layers: Vec<&String> = sources.iter().flat_map(|source| source.layers.keys()).collect();
    layers.sort_unstable();
    layers.dedup();
    let (mut tensors, mut ranks) = (Vec::new(), BTreeMap::new());
    for layer in layers {
        let parts = sources.iter().zip(weights);
        let parts: Vec<_> = parts.filter_map(|(source, weight)| Some((*weight, source.layers.get(layer)?))).collect();
        let made = how.layer(&parts, mask).map_err(|source| RecipeError::Combine { layer: layer.clone(), source })?;
        ranks.insert(layer.clone(), made.a.rows);
        tensors.push(pending(format!("{BASE}{layer}.lora_A.weight"), made.a));
        tensors.push(pending(format!("{BASE}{layer}.lora_B.weight"), made.b));
    }
    let settings = settings(dirs, &sources, &ranks)?;
    for source in &sources {
        tensors.extend(source.others.iter().map(|(key, tensor)| Pending::host(key.clone(), tensor.clone())));
    }
    let context = PeftContext {
        base_model: sources[0].base_model.clone(),
        modules_to_save: settings.modules_to_save.clone(),
        targets: ranks.into_keys().collect(),
        ..PeftContext::default()
    };
    let mut folder = DirWriter::create(output)?;
    write_model(&mut folder, "adapter_model", tensors, None)?;
    if let Some(config) = settings.peft_config(&context) {
        folder.write_json("adapter_config.json", &config)?;
    }
    for file in BESIDE {
        if let Ok(bytes) = std::fs::read(dirs[0].join(file)) {
            folder.write(file, &bytes)?;
        }
    }
    folder.commit(Manifest::Omitted)?;
    Ok(())
}

/// The settings of the combination, whose factor is 1 on every layer.
fn settings(dirs: &[&Path], sources: &[Source], ranks: &BTreeMap<String, usize>) -> Result<Lora, RecipeError> {
    let (mut tokens, mut modules) = (TokenIndices::default(), Vec::new());
    let mut holder: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, source) in sources.iter().enumerate() {
        for key in source.others.keys() {
            if let Some(first) = holder.insert(key, number) {
                return Err(RecipeError::Structure {
                    dir: dirs[number].to_owned(),
                    problem: format!("holds {key}, as {} does", dirs[first].display()),
                    advice: "there is no weighted sum of what was trained whole; take one adapter that has it"
                        .to_owned(),
                });
            }
        }
        if !source.lora.trainable_token_indices.is_empty() {
            tokens = source.lora.trainable_token_indices.clone();
        }
        modules.extend(source.lora.modules_to_save.iter().filter(|_| !source.others.is_empty()).cloned());
    }
    let r = ranks.values().copied().max().unwrap_or(1);
    let own = ranks.iter().filter(|(_, rank)| **rank != r);
    let pattern = Pattern(own.map(|(layer, rank)| (regex::escape(layer), *rank as f64)).collect());
    Ok(Lora {
        r,
        lora_alpha: r as f64,
        rank_pattern: pattern.clone(),
        alpha_pattern: pattern,
        trainable_token_indices: tokens,
        modules_to_save: modules,
        ..Lora::default()
    })
}

fn pending<'a>(key: String, matrix: Matrix) -> Pending<'a> {
    match HostTensor::from_f32(vec![matrix.rows, matrix.columns], matrix.values) {
        Some(tensor) => Pending::host(key, tensor),
        None => unreachable!("a matrix has as many elements as its shape"),
    }
}

impl Source {
    fn open(dir: &Path) -> Result<Self, RecipeError> {
        let lora: Lora = read_settings(dir)?;
        let refused = |problem: &str, advice: &str| RecipeError::Structure {
            dir: dir.to_owned(),
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        };
        if lora.use_dora {
            return Err(refused(
                "holds a DoRA adapter, whose magnitudes have no weighted sum",
                "merge it into its base instead",
            ));
        }
        if lora.init_lora_weights == Init::Pissa {
            return Err(refused(
                "holds a PiSSA adapter, which counts from a changed base",
                "save it as a plain LoRA first: load and save it here, or with PEFT's path_initial_model_for_weight_conversion",
            ));
        }
        let config = read_json(&dir.join("adapter_config.json"))?;
        let shards = Shards::open_stem(dir, "adapter_model")?;
        let (mut layers, mut others) = (BTreeMap::new(), BTreeMap::new());
        for view in shards.iter() {
            let path = current(view.name);
            if let Some(layer) = path.strip_suffix(".lora_A.weight") {
                let b =
                    shards.get(&format!("{}.lora_B.weight", &view.name[..view.name.len() - ".lora_A.weight".len()]));
                let b = b.ok_or_else(|| CheckpointError::tensor(view.file, view.name, "has no lora_B beside it"))?;
                let (a, b) = (matrix(&view)?, matrix(&b)?);
                let (rank, scale) = lora
                    .rank_and_scale(layer)
                    .map_err(|source| RecipeError::AdapterFolder { dir: dir.to_owned(), source })?;
                if (a.rows, b.columns) != (rank, rank) {
                    let reason =
                        format!("is of rank {}, lora_B of {}; adapter_config.json says {rank}", a.rows, b.columns);
                    return Err(CheckpointError::tensor(view.file, view.name, reason).into());
                }
                layers.insert(layer.to_owned(), Factors { a, b, scale: f64::from(scale) });
            } else if !path.ends_with(".lora_B.weight") {
                others.insert(format!("{BASE}{path}"), view.to_host());
            }
        }
        let base_model = config["base_model_name_or_path"].as_str().unwrap_or_default().to_owned();
        Ok(Self { lora, base_model, layers, others })
    }
}

/// A key as the current classes have it, without what stands before every key.
fn current(key: &str) -> String {
    let path = key.strip_prefix(BASE).unwrap_or(key);
    match path.strip_prefix(OLD_PATH.0) {
        Some(rest) => format!("{}{rest}", OLD_PATH.1),
        None => path.to_owned(),
    }
}

fn matrix(view: &TensorView<'_>) -> Result<Matrix, CheckpointError> {
    match *view.shape {
        [rows, columns] => Ok(Matrix { rows, columns, values: view.to_finite_f32()? }),
        _ => Err(CheckpointError::tensor(
            view.file,
            view.name,
            format!("has the shape {:?}, expected a matrix", view.shape),
        )),
    }
}
