//! Our side of `compare.py`: one job on one fixed batch, timed turn by turn.
//!
//! ```text
//! cargo bench --bench contender -- train --model DIR --data FILE [--adapter lora] [--set train.learning_rate=1e-4]
//! cargo bench --bench contender -- dpo --model DIR --data FILE --reference adapter_off --adapter lora
//! cargo bench --bench contender -- generate --model DIR --data FILE --max-new-tokens 64
//! cargo bench --bench contender -- score --model DIR --data FILE
//! cargo bench --bench contender -- limits
//! ```
//!
//! Prints one JSON object per line: `{"ready": …}`, then `{"turn": …, "seconds": …, …}` per turn (an optimizer step, a
//! generation, a pass), and `{"done": …}` with the peak memory. With `--serve` it waits for commands on standard input
//! instead (`turn K`, `quit`), so that `compare.py` can alternate with another program.

mod batch;
mod infer;
mod limits;
mod lines;
mod model;
mod train;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use firebrick::device::{DeviceRequest, choose};
use firebrick::objectives::{PairObjective, Sft};
use firebrick::projector::{Accepts, Mlp2xGelu, NoProjector};
use firebrick::vision::{Clip, NoVision, VisionEncoder};
use lines::{Lines, memory};
use serde_json::{Map, Value, json};
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Job {
    /// Optimizer steps on the tokens that have labels.
    Train,
    /// Optimizer steps on pairs of answers.
    Dpo,
    /// Greedy answers.
    Generate,
    /// Log-probabilities of the tokens that have labels.
    Score,
    /// How fast this machine multiplies and copies.
    Limits,
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tuning {
    /// The language model itself, and the projector.
    None,
    /// Low-rank adapters, and the projector.
    Lora,
}

/// What pairs are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compared {
    /// Nothing, for losses without a reference.
    None,
    /// The model without its adapter.
    AdapterOff,
    /// A copy of the model as it is before the first step.
    FrozenCopy,
    /// Log-probabilities that the program computes and writes before the first step.
    Stored,
}

/// The command line.
#[derive(Debug, Parser)]
pub struct Options {
    /// What is done
    #[arg(value_enum)]
    pub job: Job,
    /// Folder of a Llama or, where its config.json says so, a LLaVA
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// input_ids and labels [b, t] i64, perhaps starts and ends [b] i64 and pixel_values [n, 3, h, w] f32, in a
    /// safetensors file; drawn where it is left out
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Rows of a drawn batch, one image each where the model sees
    #[arg(long, default_value_t = 4)]
    pub batch: usize,
    /// Tokens per row of a drawn batch
    #[arg(long, default_value_t = 256)]
    pub length: usize,
    /// none: the language model and the projector are trained; lora: adapters and the projector
    #[arg(long, value_enum, default_value = "none")]
    pub adapter: Tuning,
    /// PEFT folder with the adapters' first weights; drawn where it is left out
    #[arg(long, value_name = "DIR")]
    pub adapter_weights: Option<PathBuf>,
    /// What the objective of `dpo` compares with
    #[arg(long, value_enum, default_value = "adapter-off")]
    pub reference: Compared,
    /// Tokens of a generated answer
    #[arg(long, default_value_t = 64)]
    pub max_new_tokens: usize,
    /// auto, cpu, wgpu or cuda
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// A setting of train, adapter, objective or quantize, as recipes take it
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Turns, without --serve
    #[arg(long, default_value_t = 20)]
    pub turns: usize,
    /// Writes the lines to a file as well
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Obeys `turn K` and `quit` on standard input
    #[arg(long)]
    pub serve: bool,
    /// Handed over by `cargo bench`
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    /// The model's folder.
    ///
    /// # Errors
    /// Where none was given.
    pub fn model(&self) -> anyhow::Result<&Path> {
        self.model.as_deref().context("give --model DIR, the folder of a Llama or a LLaVA")
    }
}

/// A job on its model and batch.
pub trait Work: Send {
    /// Whether turns run inside a scope of rayon's, as the training loop's steps do.
    const SCOPED: bool;

    /// What the other contender must agree on.
    fn facts(&self) -> anyhow::Result<Map<String, Value>>;

    /// One turn, and what it found.
    fn turn(&mut self) -> anyhow::Result<Map<String, Value>>;
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let idle = memory("VmRSS:");
    let mut lines = Lines::open(options.out.as_deref())?;
    if options.job == Job::Limits {
        return lines.write(&limits::measure());
    }
    match model::sees(options.model()?)? {
        true => work::<Clip, Mlp2xGelu>(&options, lines, idle),
        false => work::<NoVision, NoProjector>(&options, lines, idle),
    }
}

fn work<V, P>(options: &Options, lines: Lines, idle: u64) -> anyhow::Result<()>
where
    V: VisionEncoder,
    P: Accepts<V::Features>,
{
    let request: DeviceRequest = options.device.parse()?;
    let plain = choose(request)?.device;
    let host = Host { options, lines, idle, done: 0 };
    match options.job {
        Job::Train => host.serve(train::Training::<V, P, Sft>::new(options, &plain)?),
        Job::Dpo => host.serve(train::Training::<V, P, PairObjective>::new(options, &plain)?),
        Job::Generate => host.serve(infer::Generating::<V, P>::new(options, &plain)?),
        Job::Score => host.serve(infer::Scoring::<V, P>::new(options, &plain)?),
        Job::Limits => bail!("limits has no model"),
    }
}

/// What obeys commands, or takes its turns at once.
struct Host<'a> {
    options: &'a Options,
    lines: Lines,
    /// Resident memory before anything was loaded.
    idle: u64,
    /// Turns taken.
    done: usize,
}

impl Host<'_> {
    fn serve<W: Work>(mut self, mut work: W) -> anyhow::Result<()> {
        match W::SCOPED {
            // As the training loop does: parallel work entered from a worker wakes fewer threads.
            true => rayon::scope(|_| self.obey(&mut work)),
            false => self.obey(&mut work),
        }
    }

    fn obey<W: Work>(&mut self, work: &mut W) -> anyhow::Result<()> {
        let mut ready = work.facts()?;
        ready.insert("threads".to_owned(), rayon::current_num_threads().into());
        ready.insert("idle_rss".to_owned(), self.idle.into());
        ready.insert("loaded_peak_rss".to_owned(), memory("VmHWM:").into());
        self.lines.write(&json!({"ready": ready}))?;
        if !self.options.serve {
            return self.turns(work, self.options.turns);
        }
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            match line.trim().split_once(' ') {
                Some(("turn", count)) => {
                    let count = count.parse().with_context(|| format!("{line:?}: not `turn K`"))?;
                    self.turns(work, count)?;
                }
                None if line.trim() == "quit" => break,
                _ => bail!("{line:?}: neither `turn K` nor `quit`"),
            }
        }
        Ok(())
    }

    fn turns<W: Work>(&mut self, work: &mut W, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            let started = Instant::now();
            let mut found = work.turn()?;
            self.done += 1;
            found.insert("seconds".to_owned(), started.elapsed().as_secs_f64().into());
            found.insert("turn".to_owned(), self.done.into());
            self.lines.write(&Value::Object(found))?;
        }
        self.lines.write(&json!({"done": {"peak_rss": memory("VmHWM:")}}))
    }
}
