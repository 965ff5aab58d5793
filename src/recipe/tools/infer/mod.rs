//! A model's word on every record of some files: `infer_chat`, `infer_multimodal`, `infer_classification`, `infer_reward`.

mod engines;
mod folder;
mod options;
mod preview;
mod work;

use clap::Parser;
use options::{AnswerOptions, DataOptions, EngineOptions};
use work::{Kind, Work};

/// Answers to every record of some data files, one file of predictions for each model and each setting.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct InferChat {
    /// Who answers.
    #[command(flatten)]
    pub engine: EngineOptions,
    /// What is asked.
    #[command(flatten)]
    pub data: DataOptions,
    /// How it is answered.
    #[command(flatten)]
    pub answers: AnswerOptions,
    /// Kind of the records: chat, messages, share_gpt, alpaca, prompts, llava, pairs … (an unknown name lists them all)
    #[arg(long, value_name = "NAME", default_value = "chat")]
    pub format: String,
}

/// Answers to every record of some data files with images, one file of predictions for each model and each setting.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct InferMultimodal {
    /// Who answers.
    #[command(flatten)]
    pub engine: EngineOptions,
    /// What is asked.
    #[command(flatten)]
    pub data: DataOptions,
    /// How it is answered.
    #[command(flatten)]
    pub answers: AnswerOptions,
    /// Kind of the records: llava, messages_images, chat, prompts, pairs … (an unknown name lists them all)
    #[arg(long, value_name = "NAME", default_value = "llava")]
    pub format: String,
}

/// What a reward model gives the answers of every record: those of a file of predictions, both of a pair, or a
/// conversation's last one.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct InferReward {
    /// Who judges.
    #[command(flatten)]
    pub engine: EngineOptions,
    /// What is judged.
    #[command(flatten)]
    pub data: DataOptions,
    /// Kind of the records: chat (also files of predictions), preference, pairs, llava … (an unknown name lists them all)
    #[arg(long, value_name = "NAME", default_value = "chat")]
    pub format: String,
}

/// The class that a classifier takes every record for, with the probability of each class.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct InferClassification {
    /// Who classifies.
    #[command(flatten)]
    pub engine: EngineOptions,
    /// What is classified.
    #[command(flatten)]
    pub data: DataOptions,
    /// Kind of the records: classification, chat, llava, messages … (an unknown name lists them all)
    #[arg(long, value_name = "NAME", default_value = "classification")]
    pub format: String,
}

impl InferChat {
    /// Writes the files of predictions; a run that is killed goes on with `--resume`.
    ///
    /// # Errors
    /// Whatever stops it; what was done is kept.
    pub fn main(self) -> anyhow::Result<()> {
        let Self { engine, data, answers, format } = self;
        Work { name: "infer_chat", kind: Kind::Answers(answers), engine, data, format }.run()
    }
}

impl InferMultimodal {
    /// Writes the files of predictions; a run that is killed goes on with `--resume`.
    ///
    /// # Errors
    /// Whatever stops it; what was done is kept.
    pub fn main(self) -> anyhow::Result<()> {
        let Self { engine, data, answers, format } = self;
        Work { name: "infer_multimodal", kind: Kind::Answers(answers), engine, data, format }.run()
    }
}

impl InferReward {
    /// Writes the files of predictions; a run that is killed goes on with `--resume`.
    ///
    /// # Errors
    /// Whatever stops it; what was done is kept.
    pub fn main(self) -> anyhow::Result<()> {
        let Self { engine, data, format } = self;
        Work { name: "infer_reward", kind: Kind::Rewards, engine, data, format }.run()
    }
}

impl InferClassification {
    /// Writes the files of predictions; a run that is killed goes on with `--resume`.
    ///
    /// # Errors
    /// Whatever stops it; what was done is kept.
    pub fn main(self) -> anyhow::Result<()> {
        let Self { engine, data, format } = self;
        Work { name: "infer_classification", kind: Kind::Classes, engine, data, format }.run()
    }
}
