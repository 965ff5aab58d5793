//! Metrics over prediction files, or over what a model says of a data set; and systems compared.

mod formats;
mod json;
mod model;
mod scoring;
mod table;
#[cfg(test)]
mod tests;

pub use formats::DataFormat;

use super::answering::LocalSettings;
use super::sample::{NewFile, above_zero};
use super::{Common, at_least_one};
use crate::device::DeviceRequest;
use crate::generation::Reuse;
use crate::metrics::{AnyMetric, Bootstrap, Facts, MetricError, Registry};
use crate::pipelines::evaluation::{
    EvaluationError, Figure, MetricComparison, Record, System, figure, measure, pair, registry,
};
use crate::pipelines::judging::References;
use crate::recipe::RecipeError;
use crate::trainer::progress::Progress;
use clap::Parser;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Options that say nothing of prediction files. (Of an option that `requires` one of these, the parser asks nothing where
/// --predictions excludes that one.)
const OF_A_MODEL: [&str; 12] = [
    "model",
    "data",
    "adapter",
    "reference_model",
    "vision_from",
    "template",
    "format",
    "images",
    "max_new_tokens",
    "temperature",
    "num_answers",
    "batch_size",
];

/// Metrics over prediction files, or over what a model says of a data set; and systems compared record by record.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct Evaluate {
    /// The metrics by name; left out, those that suit classes or rewards in the file. --list names them all
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub metrics: Vec<String>,
    /// Prediction files of one system, .jsonl or .json (both also with .gz), or .parquet
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = OF_A_MODEL)]
    pub predictions: Vec<PathBuf>,
    /// Data whose rows say what is right for the records of the same ids
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub references: Vec<PathBuf>,
    /// Prediction files of other systems, one each, to compare with on the same records
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub against: Vec<PathBuf>,
    /// Checkpoint that answers the questions of --data: a folder, or a Hugging Face id with an optional revision
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]", requires = "data")]
    pub model: Option<PathBuf>,
    /// PEFT adapter on top of --model
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]", requires = "model")]
    pub adapter: Option<PathBuf>,
    /// Checkpoint that kl and kl_answer compare --model with
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]", requires = "model")]
    pub reference_model: Option<PathBuf>,
    /// Folder of the vision tower, where an original checkpoint names one that is not here
    #[arg(long, value_name = "DIR", requires = "model")]
    pub vision_from: Option<PathBuf>,
    /// auto, cpu, wgpu, wgpu:1, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = crate::recipe::cli::parse_device)]
    pub device: DeviceRequest,
    /// v1, plain, another of LLaVA's conversations, plain_text for no markup, a file FILE.json of a prefix/suffix template, or
    /// checkpoint for the checkpoint's own Jinja template
    #[arg(long, value_name = "NAME", requires = "model")]
    pub template: Option<String>,
    /// Questions for --model; the last answer of each record is what is right, where the record names nothing else
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "model")]
    pub data: Vec<PathBuf>,
    /// What the records of --data look like
    #[arg(long, value_name = "KIND", default_value = "llava", requires = "model")]
    pub format: DataFormat,
    /// Folders in which relative image paths are sought
    #[arg(long, value_name = "DIR", num_args = 1.., requires = "model")]
    pub images: Vec<PathBuf>,
    /// Tokens after which an answer ends anyway
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one, requires = "model")]
    pub max_new_tokens: usize,
    /// Draws the answers at this temperature; left out, the likeliest token is taken
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = above_zero, requires = "model")]
    pub temperature: Option<f64>,
    /// Answers per question; several need --temperature
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one, requires = "model")]
    pub num_answers: usize,
    /// Questions that are answered at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one, requires = "model")]
    pub batch_size: usize,
    /// Tokens in the model's vocabulary, which ead_* compares with
    #[arg(long, value_name = "N")]
    pub vocabulary: Option<NonZeroUsize>,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least_one)]
    pub samples: usize,
    /// Level of the intervals, above 0 and below 1
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true, value_parser = level)]
    pub level: f64,
    /// Seeds the bootstrap, and answers that are drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// A file for everything, every record's values included
    #[arg(long, value_name = "OUT.json")]
    pub output: Option<PathBuf>,
    /// Name all metrics, and stop
    #[arg(long)]
    pub list: bool,
}

/// Whose records are measured.
struct Subject {
    system: System,
    /// The same records with the right answers in place of the model's own, which its perplexity is over.
    given: Vec<Record>,
}

impl Subject {
    fn records(&self, metric: &str) -> &[Record] {
        if metric == "perplexity" && !self.given.is_empty() { &self.given } else { &self.system.records }
    }
}

/// A system over the same records, and what it is compared with.
struct Other {
    name: String,
    pairs: usize,
    compared: Vec<MetricComparison>,
}

impl Evaluate {
    /// Runs the recipe.
    ///
    /// # Errors
    /// Whatever stops it; nothing half-written is left.
    pub fn main(self) -> anyhow::Result<()> {
        let registry = registry();
        if self.list {
            table::list(&registry);
            return Ok(());
        }
        let mut metrics = self.named(&registry)?;
        self.check()?;
        let mut output = self.output.as_deref().map(NewFile::create).transpose()?;
        let references = match self.references.is_empty() {
            true => None,
            false => Some(References::open(&self.references)?),
        };
        let subject = self.subject(references.as_ref())?;
        if metrics.is_empty() {
            metrics = self.suited(&registry, &subject.system)?;
        }
        let bootstrap = self.bootstrap();
        let others = self.others(references.as_ref())?;
        let progress = Progress::work((metrics.len() * (1 + others.len())) as u64, "measuring");
        let mut figures = Vec::new();
        for metric in &metrics {
            figures.push(figure(&**metric, subject.records(metric.name()), &bootstrap)?);
            progress.inc(1);
        }
        let mut compared = Vec::new();
        for other in &others {
            compared.push(compare(&metrics, &figures, &subject.system, other, &bootstrap, &progress)?);
        }
        progress.finish();
        drop(progress);
        table::figures(&subject.system, &figures, self.level);
        table::classes(&subject.system);
        compared.iter().for_each(|other| table::compared(&subject.system.name, other, &figures, self.level));
        if let (Some(file), Some(path)) = (&mut output, &self.output) {
            let whole = json::whole(&self, &subject, &figures, &compared);
            writeln!(file, "{}", serde_json::to_string_pretty(&whole)?).map_err(RecipeError::io(path))?;
        }
        if let (Some(file), Some(path)) = (output, &self.output) {
            file.finish()?;
            say!("{}", path.display());
        }
        Ok(())
    }

    fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.samples, level: self.level, seed: self.seed, ..Bootstrap::default() }
    }

    /// The metrics that are named.
    fn named(&self, registry: &Registry) -> Result<Vec<AnyMetric>, RecipeError> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.metrics.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.into_iter().map(|name| self.metric(registry, name)).collect()
    }

    fn metric(&self, registry: &Registry, name: &str) -> Result<AnyMetric, RecipeError> {
        registry.by_name(name, &Facts { vocabulary: self.vocabulary }).map_err(|error| {
            RecipeError::Usage(match error {
                MetricError::Unknown { name, hint } => {
                    format!("there is no metric `{name}`{hint}; `evaluate --list` names them all")
                }
                MetricError::Setting { metric, what, instead } => {
                    format!("`{metric}` needs {what}; give it with --vocabulary, or take `{instead}`, which does not")
                }
                other => other.to_string(),
            })
        })
    }

    /// What suits the records, where no metric is named.
    fn suited(&self, registry: &Registry, system: &System) -> Result<Vec<AnyMetric>, RecipeError> {
        let names = system.suited();
        if names.is_empty() {
            let text = "name metrics with --metrics (`evaluate --list` names them all); the records have neither \
                        `predicted_label` and `label` nor `rewards`, of which it would be clear what to compute";
            return Err(RecipeError::Usage(text.to_owned()));
        }
        names.into_iter().map(|name| self.metric(registry, name)).collect()
    }

    /// Options that do not go together.
    fn check(&self) -> Result<(), RecipeError> {
        let usage = |text: &str| Err(RecipeError::Usage(text.to_owned()));
        if self.predictions.is_empty() && self.model.is_none() {
            return usage("name what is evaluated: --predictions FILE…, or --model DIR and --data FILE…");
        }
        if self.model.is_some() && self.metrics.is_empty() {
            return usage("name what is computed with --metrics; `evaluate --list` names all metrics");
        }
        let is_named = |name: &str| self.metrics.iter().any(|one| one.trim() == name);
        let diverges = is_named("kl") || is_named("kl_answer");
        if self.model.is_some() && diverges && self.reference_model.is_none() {
            return usage("`kl` compares the model with another: name it with --reference-model");
        }
        if self.reference_model.is_some() && !diverges {
            return usage(
                "--reference-model is what `kl` and `kl_answer` compare with; name one of them, or leave it out",
            );
        }
        if self.num_answers > 1 && self.temperature.is_none() {
            return usage("several answers to a question would all be the same: draw them with --temperature");
        }
        if self.model.is_some() && !self.against.is_empty() && is_named("perplexity") {
            return usage(
                "with --model `perplexity` is over the right answers, and in a prediction file over the model's own; leave \
                 it out, or --against",
            );
        }
        Ok(())
    }

    fn subject(&self, references: Option<&References>) -> anyhow::Result<Subject> {
        let Some(model) = &self.model else {
            let name = self.names().into_iter().next().unwrap_or_default();
            let system = System::open(name, &self.predictions, references)?;
            return Ok(Subject { system, given: Vec::new() });
        };
        let common = Common {
            model: model.clone(),
            adapter: self.adapter.clone(),
            vision_from: self.vision_from.clone(),
            device: self.device,
            template: self.template.clone(),
        };
        let reference = self.reference_model.as_ref().map(|model| Common {
            model: model.clone(),
            adapter: None,
            vision_from: self.vision_from.clone(),
            ..common.clone()
        });
        let mut questions = self.format.questions(&self.data, &self.images)?;
        if let Some(references) = references {
            questions.iter_mut().try_for_each(|one| references.fill(&mut one.record, &one.place))?;
        }
        let name = model.display().to_string();
        let local = LocalSettings { common, adapters: Vec::new(), lanes: self.batch_size, reuse: Reuse::OFF };
        let given = model::answer(&self.metrics, local, reference, self.generation(), &mut questions)?;
        let records = questions.into_iter().map(|one| Record::of(one.record, one.place));
        Ok(Subject { system: System { name, records: records.collect::<Result<_, _>>()? }, given })
    }

    fn generation(&self) -> model::Asking {
        let sampling = crate::engine::Sampling {
            temperature: Some(self.temperature.unwrap_or(0.0)),
            max_new_tokens: Some(u32::try_from(self.max_new_tokens).unwrap_or(u32::MAX)),
            seed: Some(self.seed),
            ..Default::default()
        };
        model::Asking { sampling, answers: self.num_answers, batch: self.batch_size }
    }

    fn others(&self, references: Option<&References>) -> Result<Vec<System>, EvaluationError> {
        let own = usize::from(!self.predictions.is_empty());
        let names = self.names().into_iter().skip(own);
        let open = |(file, name): (&PathBuf, String)| System::open(name, std::slice::from_ref(file), references);
        self.against.iter().zip(names).map(open).collect()
    }

    /// What the prediction files' systems are called, the own one first: the file's name without its ending, or its path where two
    /// would be called the same.
    fn names(&self) -> Vec<String> {
        let files: Vec<&Path> = self.predictions.iter().take(1).chain(&self.against).map(PathBuf::as_path).collect();
        let short = |path: &&Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.split_once('.').map_or(name.to_string(), |(stem, _)| stem.to_owned())
        };
        let stems: Vec<String> = files.iter().map(short).collect();
        let is_own = |stem: &String| !stem.is_empty() && stems.iter().filter(|other| *other == stem).count() == 1;
        let name =
            |(stem, path): (&String, &&Path)| if is_own(stem) { stem.clone() } else { path.display().to_string() };
        stems.iter().zip(&files).map(name).collect()
    }
}

fn compare(
    metrics: &[AnyMetric],
    ours: &[Figure],
    subject: &System,
    other: &System,
    bootstrap: &Bootstrap,
    progress: &Progress,
) -> Result<Other, EvaluationError> {
    let pairs = pair(subject, other)?;
    let mut compared = Vec::new();
    for (metric, ours) in metrics.iter().zip(ours) {
        let theirs = measure(&**metric, &other.records)?;
        compared.push(pairs.compare(&**metric, &ours.measured, &theirs.measured, bootstrap)?);
        progress.inc(1);
    }
    Ok(Other { name: other.name.clone(), pairs: pairs.len(), compared })
}

fn level(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|level: &f64| *level > 0.0 && *level < 1.0);
    number.ok_or_else(|| "write a number above 0 and below 1".to_owned())
}
