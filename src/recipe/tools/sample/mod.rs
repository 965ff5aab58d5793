//! Choosing among the answers of prediction files: `sample_random`, `sample_by_reward` and `sample_rso`.

mod write;

pub(super) use write::NewFile;

use super::at_least_one;
use crate::data::Place;
use crate::pipelines::Predictions;
use crate::pipelines::sampling::{Choice, Drawn, Few, LeftOut, Pairing, Sampling, SamplingError};
use crate::recipe::RecipeError;
use crate::trainer::progress::Progress;
use clap::{Parser, ValueEnum};
use rayon::prelude::*;
use std::collections::HashMap;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Options that the three recipes share.
#[derive(Clone, Debug, clap::Args)]
pub struct SampleArguments {
    /// Files of predictions, .jsonl or .json (both also with .gz), or .parquet
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub predictions: Vec<PathBuf>,
    /// The file that is written: the records with the answers that were chosen
    #[arg(long, value_name = "OUT.jsonl")]
    pub output: PathBuf,
    /// Also pairs of the chosen answers, for preference training: {"id", "context", "answer_w", "answer_l"}
    #[arg(long, value_name = "OUT.jsonl")]
    pub pairs: Option<PathBuf>,
    /// How the chosen answers are paired; left out, opposite for sample_by_reward and first-round for the others
    #[arg(long, value_name = "HOW", requires = "pairs")]
    pub pairing: Option<PairingName>,
    /// Pairs whose rewards are closer than this are left out
    #[arg(long, value_name = "R", requires = "pairs", default_value_t = 0.0, allow_negative_numbers = true, value_parser = margin)]
    pub min_margin: f64,
    /// Of answers with the same words, white space around them aside, consider the first alone
    #[arg(long)]
    pub unique: bool,
    /// What is done with a record that has fewer answers than are wanted
    #[arg(long, value_name = "WHAT", default_value = "error")]
    pub few: FewName,
    /// Same seed, same choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// [`Pairing`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PairingName {
    /// The best against the worst, the second best against the second worst, …
    Opposite,
    /// Any two, each answer once
    FirstRound,
    /// The same, and the better ones meet again until one is left
    Tournament,
    /// Each against each
    All,
}

impl From<PairingName> for Pairing {
    fn from(name: PairingName) -> Self {
        match name {
            PairingName::Opposite => Self::Opposite,
            PairingName::FirstRound => Self::FirstRound,
            PairingName::Tournament => Self::Tournament,
            PairingName::All => Self::All,
        }
    }
}

/// [`Few`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FewName {
    /// Stop
    Error,
    /// Leave the record out
    Skip,
    /// Choose as many as there are; a record without any is left out
    Keep,
}

/// Chooses answers by chance.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct SampleRandom {
    /// Files and pairs.
    #[command(flatten)]
    pub common: SampleArguments,
    /// Answers per record
    #[arg(long, short, value_name = "N", value_parser = at_least_one)]
    pub num_samples: usize,
}

/// Chooses the answers with the highest or lowest rewards.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct SampleByReward {
    /// Files and pairs.
    #[command(flatten)]
    pub common: SampleArguments,
    /// Which answers
    #[arg(long, value_name = "WHICH", default_value = "best-worst")]
    pub choose: RewardChoice,
    /// Answers per record, or with best-nth the rank of the worse of the two
    #[arg(long, short, value_name = "N", default_value_t = 2, value_parser = at_least_one)]
    pub num_samples: usize,
}

/// Which answers rewards choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RewardChoice {
    /// The N best
    Best,
    /// The N worst
    Worst,
    /// N from both ends, as many of each
    BestWorst,
    /// The best and the N-th best
    BestNth,
}

/// Chooses answers by statistical rejection sampling (RSO).
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct SampleRso {
    /// Files and pairs.
    #[command(flatten)]
    pub common: SampleArguments,
    /// Answers per record
    #[arg(long, short, value_name = "N", value_parser = at_least_one)]
    pub num_samples: usize,
    /// An answer is accepted with probability exp((reward - best reward) / beta)
    #[arg(long, value_name = "B", default_value_t = 0.5, allow_negative_numbers = true, value_parser = above_zero)]
    pub beta: f64,
}

fn count(n: usize) -> NonZeroUsize {
    // The parser of these options refuses 0.
    NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN)
}

impl SampleRandom {
    /// Runs the recipe.
    ///
    /// # Errors
    /// Whatever stops it; nothing half-written is left.
    pub fn main(self) -> anyhow::Result<()> {
        self.common.run(Choice::Random(count(self.num_samples)), Pairing::FirstRound)
    }
}

impl SampleByReward {
    /// Runs the recipe.
    ///
    /// # Errors
    /// Whatever stops it; nothing half-written is left.
    pub fn main(self) -> anyhow::Result<()> {
        let n = count(self.num_samples);
        let choice = match self.choose {
            RewardChoice::Best => Choice::Best(n),
            RewardChoice::Worst => Choice::Worst(n),
            RewardChoice::BestWorst => Choice::BestAndWorst(n),
            RewardChoice::BestNth => Choice::BestAndNth(n),
        };
        if matches!(self.choose, RewardChoice::BestWorst | RewardChoice::BestNth) && self.num_samples < 2 {
            let text = "--choose best-worst and best-nth take two answers at least; give --num-samples 2 or more";
            return Err(RecipeError::Usage(text.to_owned()).into());
        }
        self.common.run(choice, Pairing::Opposite)
    }
}

impl SampleRso {
    /// Runs the recipe.
    ///
    /// # Errors
    /// Whatever stops it; nothing half-written is left.
    pub fn main(self) -> anyhow::Result<()> {
        self.common.run(Choice::Rejection { count: count(self.num_samples), beta: self.beta }, Pairing::FirstRound)
    }
}

/// What came of all records.
#[derive(Default)]
struct Tally {
    records: usize,
    answers: usize,
    pairs: usize,
    left_out: LeftOut,
}

/// Records that are read, chosen from and written at a time.
const CHUNK: usize = 4096;

impl SampleArguments {
    fn run(&self, choice: Choice, usual: Pairing) -> anyhow::Result<()> {
        if self.pairs.as_ref() == Some(&self.output) {
            let text = format!("--output and --pairs are both {}; name two files", self.output.display());
            return Err(RecipeError::Usage(text).into());
        }
        let sampling = Sampling {
            choice,
            pairing: self.pairs.is_some().then(|| self.pairing.map_or(usual, Pairing::from)),
            unique: self.unique,
            few: match self.few {
                FewName::Error => Few::Error,
                FewName::Skip => Few::Skip,
                FewName::Keep => Few::Keep,
            },
            min_margin: self.min_margin,
            seed: self.seed,
        };
        let mut output = NewFile::create(&self.output)?;
        let mut pairs = self.pairs.as_deref().map(NewFile::create).transpose()?;
        let predictions = Predictions::open(&self.predictions)?;
        let tally = draw(&sampling, &predictions, &mut output, pairs.as_mut())?;
        if tally.records == 0 {
            let text =
                "every record has fewer answers than are wanted, so that nothing is left to write; ask for fewer";
            return Err(anyhow::anyhow!(text));
        }
        output.finish()?;
        say!(
            "{}: {} answers to {} of {} records",
            self.output.display(),
            tally.answers,
            tally.records,
            predictions.len()
        );
        if let (Some(file), Some(path)) = (pairs, &self.pairs) {
            file.finish()?;
            say!("{}: {} pairs{}", path.display(), tally.pairs, reasons(tally.left_out));
        }
        Ok(())
    }
}

fn draw(
    sampling: &Sampling,
    predictions: &Predictions,
    output: &mut NewFile,
    mut pairs: Option<&mut NewFile>,
) -> anyhow::Result<Tally> {
    let progress = Progress::work(predictions.len() as u64, "sampling");
    let (mut tally, mut seen) = (Tally::default(), HashMap::new());
    for first in (0..predictions.len()).step_by(CHUNK) {
        let chunk: Vec<_> = (first..(first + CHUNK).min(predictions.len())).collect();
        // Each record's draws are its own: threads change nothing.
        let drawn: Vec<Result<_, SamplingError>> =
            chunk.par_iter().map(|&index| one(sampling, predictions, index)).collect();
        for (index, drawn) in chunk.iter().zip(drawn) {
            let (key, drawn) = drawn?;
            let place = predictions.place(*index);
            if let Some(first) = seen.insert(key.clone(), place.clone()) {
                return Err(SamplingError::SameRecord { place, id: key.1, first }.into());
            }
            let Some(Drawn { record, pairs: made, left_out }) = drawn else { continue };
            tally.records += 1;
            tally.answers += record.answers.len();
            tally.pairs += made.len();
            tally.left_out += left_out;
            writeln!(output, "{}", serde_json::to_string(&record)?)?;
            if let Some(file) = pairs.as_mut() {
                made.iter().try_for_each(|pair| writeln!(file, "{pair}"))?;
            }
        }
        progress.inc(chunk.len() as u64);
    }
    progress.finish();
    Ok(tally)
}

type Key = (String, String);

fn one(sampling: &Sampling, predictions: &Predictions, index: usize) -> Result<(Key, Option<Drawn>), SamplingError> {
    let place: Place = predictions.place(index);
    let record = predictions.read(index)?;
    let key = (record.dataset_name.clone(), record.id.clone());
    Ok((key, sampling.draw(record, &place)?))
}

/// Why pairs were left out.
fn reasons(left_out: LeftOut) -> String {
    let LeftOut { same_words, empty, close } = left_out;
    let reasons = [(same_words, "say the same"), (empty, "with an empty answer"), (close, "with rewards too close")];
    let told: Vec<String> = reasons.iter().filter(|(n, _)| *n > 0).map(|(n, reason)| format!("{n} {reason}")).collect();
    match left_out.total() {
        0 => String::new(),
        total => format!(", {total} left out ({})", told.join(", ")),
    }
}

fn margin(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "write a number of at least 0".to_owned())
}

pub(super) fn above_zero(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "write a number above 0".to_owned())
}
