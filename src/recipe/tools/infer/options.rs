//! The command line of the recipes that infer.

use super::super::at_least_one;
use crate::device::DeviceRequest;
use crate::pipelines::infer::{BadRecord, Shard};
use std::path::PathBuf;

/// Who answers.
#[derive(Clone, Debug, clap::Args)]
pub struct EngineOptions {
    /// Checkpoint: a folder, or a Hugging Face id with an optional revision
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]", required_unless_present = "url")]
    pub model: Option<PathBuf>,
    /// PEFT adapter on top of it, or a LoRA folder of LLaVA's original code
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]", conflicts_with = "url")]
    pub adapter: Option<PathBuf>,
    /// Further adapters on the same base, each a model of its own with a file of its own
    #[arg(long, value_name = "NAME=DIR", num_args = 1.., value_parser = named, conflicts_with = "url")]
    pub adapters: Vec<(String, PathBuf)>,
    /// Folder of the vision tower, where an original checkpoint names one that is not here
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub vision_from: Option<PathBuf>,
    /// auto, cpu, wgpu, wgpu:1, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = crate::recipe::cli::parse_device, conflicts_with = "url")]
    pub device: DeviceRequest,
    /// v1, plain, another of LLaVA's conversations, plain_text for no markup, a file FILE.json of a prefix/suffix template, or
    /// checkpoint for the checkpoint's own Jinja template
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    pub template: Option<String>,
    /// Answers that are computed at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one, conflicts_with = "url")]
    pub batch_size: usize,
    /// A server with OpenAI's interface in place of a checkpoint: http://127.0.0.1:8000/v1
    #[arg(long, value_name = "ADDRESS", conflicts_with = "model")]
    pub url: Option<String>,
    /// Models or adapters by the server's names for them; left out, the first that it lists
    #[arg(long, value_name = "NAME", num_args = 1.., requires = "url")]
    pub served_model: Vec<String>,
    /// Environment variable with the server's API key
    #[arg(long, value_name = "VARIABLE", requires = "url")]
    pub token_from: Option<String>,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one, requires = "url")]
    pub concurrency: usize,
    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..), requires = "url")]
    pub timeout: u64,
}

/// What is asked, and where what is said goes.
#[derive(Clone, Debug, clap::Args)]
pub struct DataOptions {
    /// Records, .json, .jsonl (both also with .gz) or .parquet, or a .json list of sources
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,
    /// Folders in which relative image paths are sought
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub images: Vec<PathBuf>,
    /// Folder of the files that are written
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Goes on with a run that was stopped
    #[arg(long)]
    pub resume: bool,
    /// One of several parts of the records, for one of several machines: 1/4 is the first of four. The parts' files, one behind
    /// the other, are the file of the whole
    #[arg(long, value_name = "PART/PARTS", default_value_t = Shard::WHOLE)]
    pub shard: Shard,
    /// What is done with a record that cannot be read or answered: error, or skip to write it with an `error`
    #[arg(long, value_name = "error|skip", default_value = "error", value_parser = bad_record)]
    pub bad_record: BadRecord,
    /// Records that are worked on together and then saved; eight batches, where it is left out
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub save_every: Option<usize>,
    /// Records of the first file that are shown at the end
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub preview: usize,
}

/// How answers are made.
#[derive(Clone, Debug, clap::Args)]
pub struct AnswerOptions {
    /// Settings in the form of a generation_config.json; each file is a setting of its own, with a file of its own
    #[arg(long, value_name = "FILE.json", num_args = 1..)]
    pub generation: Vec<PathBuf>,
    /// A setting under transformers' name, over those of all files: temperature=0.7 (an unknown name lists them all)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Writes the log-probability of every token
    #[arg(long)]
    pub logprobs: bool,
    /// Writes the log-probability of every answer; with beams it is written anyway
    #[arg(long)]
    pub sequence_scores: bool,
    /// Draws N answers to each record, of which the reward model's favourites are kept (`num_return_sequences`, or one)
    #[arg(long, value_name = "N", value_parser = at_least_one, requires = "reward_model")]
    pub best_of: Option<usize>,
    /// The reward model that chooses
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]")]
    pub reward_model: Option<PathBuf>,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => Ok((name.to_owned(), dir.into())),
        _ => Err("write NAME=DIR".to_owned()),
    }
}

fn bad_record(text: &str) -> Result<BadRecord, String> {
    match text {
        "error" => Ok(BadRecord::Error),
        "skip" => Ok(BadRecord::Skip),
        _ => Err("write error or skip".to_owned()),
    }
}
