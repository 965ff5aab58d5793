//! Log-probabilities of a data set's answers.

use super::super::folder::ModelFolder;
use super::super::{RecipeError, zoo};
use super::{Common, Ready, Tool, Weights, pad_id, ready};
use crate::data::{BadRecord, Batch, DataKind, Dataset, LlavaData, Loader, LoaderSettings, PadSide, Padding};
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::trainer::{Policy, progress::Progress};
use crate::vision::VisionEncoder;
use clap::Parser;
use serde_json::{Map, Value, json};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// Log-probabilities of the answers in a data set, as a JSONL file.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct Score {
    /// What every tool takes.
    #[command(flatten)]
    pub common: Common,
    /// Records, .json, .jsonl (both also with .gz) or .parquet, or a .json list of sources
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,
    /// Folders in which relative image paths are sought
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub images: Vec<PathBuf>,
    /// The file that is written
    #[arg(long, value_name = "OUT.jsonl")]
    pub output: PathBuf,
    /// Also ids, labels and the log-probability of each supervised token
    #[arg(long)]
    pub per_token: bool,
    /// Records per batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = super::at_least_one)]
    pub batch_size: usize,
}

impl Score {
    /// Runs the tool on the types that the checkpoint names.
    ///
    /// # Errors
    /// Whatever stops it; nothing half-written is left.
    pub fn main(mut self) -> anyhow::Result<()> {
        self.common = self.common.here()?;
        let Common { model, adapter, .. } = self.common.clone();
        zoo::with_types(&model, adapter.as_deref(), self)
    }
}

impl Tool for Score {
    type Output = ();

    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        folder: ModelFolder,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<()> {
        if self.output.exists() {
            return Err(RecipeError::OutputTaken(self.output.clone()).into());
        }
        let ready = ready(&self.common, folder.with_head(None)?, &model, &vision, &projector, Weights::AsStored)?;
        let dataset = Arc::new(Dataset::open(LlavaData::default(), &self.data, &self.images)?);
        let temporary = self.output.with_extension("jsonl.partial");
        let mut file = BufWriter::new(std::fs::File::create(&temporary).map_err(RecipeError::io(&self.output))?);
        let written = self.write(&ready, dataset, &mut file);
        let closed = written.and_then(|()| file.flush().map_err(|e| RecipeError::io(&temporary)(e).into()));
        if let Err(error) = closed {
            // Nothing half-written stays behind an error; a second error here would hide the first.
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
        std::fs::rename(&temporary, &self.output).map_err(RecipeError::io(&self.output))?;
        say!("{}", self.output.display());
        Ok(())
    }
}

impl Score {
    fn write<M: LanguageModel, V: VisionEncoder, P: Projector, K: DataKind>(
        &self,
        ready: &Ready<M, V, P>,
        dataset: Arc<Dataset<K>>,
        file: &mut impl Write,
    ) -> anyhow::Result<()> {
        let order: Vec<usize> = (0..dataset.len()).collect();
        let batches = order.chunks(self.batch_size.max(1)).map(<[usize]>::to_vec).collect();
        let settings = LoaderSettings {
            workers: 2,
            prefetch: 4,
            bad_record: BadRecord::Error,
            padding: Padding { token: pad_id(&ready.encoder.tokenizer), side: PadSide::Right, multiple_of: 1 },
            mismatched: false,
        };
        let progress = Progress::work(dataset.len() as u64, "scoring");
        let loader = Loader::new(dataset, Arc::new(ready.encoder.clone()), batches, 0, settings)?;
        for loaded in loader {
            let Some(batch) = loaded?.batch else { continue };
            let scored = ready.loaded.model.score(&batch, &ready.device);
            for (row, log_probs) in scored.log_probs.iter().enumerate() {
                writeln!(file, "{}", Value::Object(self.line(&batch, row, log_probs)))?;
            }
            progress.inc(batch.rows as u64);
        }
        progress.finish();
        Ok(())
    }

    fn line(&self, batch: &Batch, row: usize, log_probs: &[f32]) -> Map<String, Value> {
        let (start, end) = (batch.starts[row], batch.ends[row]);
        let range = row * batch.length + start..row * batch.length + end;
        let sum: f64 = log_probs.iter().map(|&v| f64::from(v)).sum();
        let mut line = Map::new();
        line.insert("index".into(), batch.indices[row].into());
        line.insert("id".into(), batch.ids[row].clone().into());
        line.insert("num_tokens".into(), (end - start).into());
        line.insert("num_supervised_tokens".into(), log_probs.len().into());
        line.insert("sum_logprob".into(), json!(sum));
        if self.per_token {
            line.insert("input_ids".into(), json!(&batch.input_ids[range.clone()]));
            line.insert("labels".into(), json!(&batch.labels()[range]));
            line.insert("token_logprobs".into(), json!(log_probs));
        }
        line
    }
}
