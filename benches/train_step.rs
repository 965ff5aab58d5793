//! Full and LoRA training steps of a LLaVA checkpoint, as the training loop takes them, timed one by one.
//!
//! `cargo bench --bench train_step -- --model DIR [--data FILE] [--adapter none|lora] [--steps N]`
//!
//! Prints one JSON object per line: `{"ready": …}`, then `{"step": …, "seconds": …, "loss": …, "grad_norm": …}` per
//! step, and `{"done": …}` with the peak memory. With `--serve` it waits for commands on standard input instead
//! (`step K`, `quit`), so that `compare.py` can take turns with another program.

use anyhow::{Context, bail};
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use clap::{Parser, ValueEnum};
use firebrick::adapters::{Adapter, Lora};
use firebrick::data::{Batch, ImageSlot};
use firebrick::models::Llama;
use firebrick::nn::params::{self, NamedMapper};
use firebrick::objectives::{Inputs, Objective, Sft, State, StepTotals, Wants};
use firebrick::projector::Mlp2xGelu;
use firebrick::recipe::{Loaded, Opened, VlmOf};
use firebrick::trainer::{AdamW, GradientSum, Policy, Train};
use firebrick::vision::{Clip, VisionTower};
use firebrick::vlm::Layout;
use firebrick::vlm::Part;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Model = VlmOf<Llama, Clip, Mlp2xGelu>;

/// What is trained beside the projector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tuning {
    /// The language model itself.
    None,
    /// Low-rank adapters on all of its linear layers but the head.
    Lora,
}

#[derive(Debug, Parser)]
struct Options {
    /// LLaVA folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// input_ids and labels [b, t] i64, pixel_values [n, 3, h, w] f32, in a safetensors file; drawn where it is left out
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Rows of a drawn batch, one image each
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Tokens per row of a drawn batch
    #[arg(long, default_value_t = 256)]
    length: usize,
    /// none: the language model and the projector are trained; lora: adapters and the projector
    #[arg(long, value_enum, default_value = "none")]
    adapter: Tuning,
    /// Rank of the adapters
    #[arg(long, default_value_t = 8)]
    r: usize,
    /// PEFT folder with the adapters' first weights; drawn where it is left out
    #[arg(long, value_name = "DIR")]
    adapter_weights: Option<PathBuf>,
    /// Optimizer steps
    #[arg(long, default_value_t = 20)]
    steps: usize,
    #[arg(long, default_value_t = 1e-4)]
    learning_rate: f64,
    #[arg(long, default_value_t = 1.0)]
    max_grad_norm: f64,
    /// Writes the lines to a file as well
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Obeys `step K` and `quit` on standard input
    #[arg(long)]
    serve: bool,
    /// Handed over by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let idle_bytes = memory("VmRSS:");
    let mut lines = Lines::open(options.out.as_deref())?;
    let mut run = Run::new(&options)?;
    // As the training loop does: parallel work entered from a worker wakes fewer threads.
    rayon::scope(|_| {
        lines.write(&json!({"ready": {
            "threads": rayon::current_num_threads(),
            "tokens": run.batch.num_tokens(),
            "supervised_tokens": run.batch.num_supervised(),
            "trainable_parameters": params::list_trainable(run.model()?).iter().map(|p| p.len()).sum::<usize>(),
            "parameters": params::list(run.model()?).iter().map(|p| p.len()).sum::<usize>(),
            "idle_rss": idle_bytes,
        }}))?;
        if !options.serve {
            run.steps(options.steps, &mut lines)?;
            return lines.write(&done());
        }
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            match line.trim().split_once(' ') {
                Some(("step", count)) => {
                    let count = count.parse().with_context(|| format!("{line:?}: not `step K`"))?;
                    run.steps(count, &mut lines)?;
                    lines.write(&done())?;
                }
                None if line.trim() == "quit" => break,
                _ => bail!("{line:?}: neither `step K` nor `quit`"),
            }
        }
        Ok(())
    })
}

fn done() -> Value {
    json!({"done": {"peak_rss": memory("VmHWM:")}})
}

/// A line of `/proc/self/status` in bytes; 0 where there is no such file.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// JSON lines to standard output and perhaps a file.
struct Lines(Option<std::fs::File>);

impl Lines {
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let create = |p: &Path| std::fs::File::create(p).with_context(|| p.display().to_string());
        Ok(Self(path.map(create).transpose()?))
    }

    fn write(&mut self, value: &Value) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{value}")?;
        out.flush()?;
        if let Some(file) = &mut self.0 {
            writeln!(file, "{value}")?;
        }
        Ok(())
    }
}

/// A model, its optimizer and the one batch it is trained on.
struct Run {
    /// Taken while the optimizer has it, as in the training loop.
    model: Option<Model>,
    optimizer: AdamW,
    settings: Train,
    batch: Batch,
    device: Device,
    /// Steps taken.
    done: usize,
}

impl Run {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let device = Device::flex().autodiff();
        let settings = Train {
            learning_rate: options.learning_rate,
            max_grad_norm: options.max_grad_norm,
            weight_decay: 0.0,
            language_model: Some(options.adapter == Tuning::None),
            ..Train::default()
        };
        let projector = Mlp2xGelu::default();
        let opened = Opened::new(&options.model, &Llama::default(), &Clip::default(), &projector, &device)?;
        let loaded = opened.load(&projector, &|_| false, &device)?;
        let Some((_, image_token)) = loaded.image_token else { bail!("{}: no image token", options.model.display()) };
        let batch = match &options.data {
            Some(file) => read_batch(file, image_token)?,
            None => draw_batch(options, &loaded, image_token),
        };
        let mut model = loaded.model;
        if options.adapter == Tuning::Lora {
            model = attach(model, options, &device)?;
        }
        let trained = |name: &str| match (name.contains(".adapter."), Part::of(name)) {
            (true, _) => true,
            (false, Part::VisionTower) => settings.vision_tower,
            (false, Part::Projector) => settings.projector,
            (false, Part::LanguageModel) => options.adapter == Tuning::None,
        };
        let model = params::set_trainable(model, trained);
        Ok(Self { model: Some(model), optimizer: AdamW::default(), settings, batch, device, done: 0 })
    }

    fn model(&self) -> anyhow::Result<&Model> {
        self.model.as_ref().context("the model is lost after an error")
    }

    fn steps(&mut self, count: usize, lines: &mut Lines) -> anyhow::Result<()> {
        for _ in 0..count {
            let started = Instant::now();
            let (loss, norm) = self.step()?;
            let seconds = started.elapsed().as_secs_f64();
            self.done += 1;
            lines.write(&json!({"step": self.done, "seconds": seconds, "loss": loss, "grad_norm": norm}))?;
        }
        Ok(())
    }

    /// One optimizer step, the operations of the training loop's in its order: loss and gradient norm.
    fn step(&mut self) -> anyhow::Result<(f64, f64)> {
        let model = self.model.take().context("the model is lost after an error")?;
        let totals = StepTotals { examples: self.batch.rows, tokens: self.batch.supervised_by_place(), training: true };
        let mut gradients = GradientSum::default();
        let policy = Policy::log_probs(&model, &self.batch, &self.device, &Wants::default());
        let inputs = Inputs { policy, reference: None, mismatched: None, facts: &self.batch.facts };
        let value = Sft::default().loss(inputs, &totals, &mut State::default()).value;
        let loss = value.clone().inner();
        gradients.add(&model, &mut value.backward());
        let loss: f64 = loss.into_scalar::<f32>().into();
        let norm = gradients.global_norm();
        let clip = match self.settings.max_grad_norm {
            0.0 => 1.0,
            max => (max / (norm + 1e-6)).min(1.0),
        };
        self.model = Some(self.optimizer.step(model, gradients, &self.settings, 1.0, clip));
        Ok((loss, norm))
    }
}

/// Puts adapters on the language model, with the weights of a PEFT folder where one is given.
fn attach(mut model: Model, options: &Options, device: &Device) -> anyhow::Result<Model> {
    let adapter = Lora { r: options.r, lora_alpha: 2.0 * options.r as f64, ..Lora::default() };
    let prefix = Model::module_prefix(Layout::Composed);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    model.language_model = adapter.attach(model.language_model, prefix, &mut rng, device)?;
    let Some(dir) = &options.adapter_weights else { return Ok(model) };
    let path = dir.join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let mut fill = Fill { file: &SafeTensors::deserialize(&bytes)?, device, missing: None };
    let model = params::map(model, &mut fill);
    match fill.missing {
        Some(name) => bail!("{}: no tensor {name}", path.display()),
        None => Ok(model),
    }
}

/// Replaces adapters' matrices by those of a PEFT file.
struct Fill<'a> {
    file: &'a SafeTensors<'a>,
    device: &'a Device,
    missing: Option<String>,
}

impl NamedMapper for Fill<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((layer, number)) = name.split_once(".adapter.params.") else { return param };
        let layer = layer.strip_prefix("language_model.").unwrap_or(layer);
        let matrix = if number == "0" { "lora_A.weight" } else { "lora_B.weight" };
        let key = Model::peft_adapter_key(layer, matrix, Layout::Composed);
        let Ok(values) = floats(self.file, &key) else {
            self.missing = Some(key);
            return param;
        };
        let shape = param.dims();
        let data = TensorData::new(values, shape);
        param.map(|_| Tensor::from_data(data, self.device).require_grad())
    }
}

fn floats(file: &SafeTensors<'_>, name: &str) -> anyhow::Result<Vec<f32>> {
    let view = file.tensor(name).with_context(|| name.to_owned())?;
    if view.dtype() != safetensors::Dtype::F32 {
        bail!("{name} is {:?}, expected F32", view.dtype());
    }
    Ok(bytemuck::pod_collect_to_vec(view.data()))
}

fn integers(file: &SafeTensors<'_>, name: &str) -> anyhow::Result<(Vec<i64>, [usize; 2])> {
    let view = file.tensor(name).with_context(|| name.to_owned())?;
    match (view.dtype(), view.shape()) {
        (safetensors::Dtype::I64, &[b, t]) => Ok((bytemuck::pod_collect_to_vec(view.data()), [b, t])),
        (dtype, shape) => bail!("{name} is {dtype:?} {shape:?}, expected I64 [b, t]"),
    }
}

/// A batch without padding; image positions are the runs of the image token.
fn read_batch(path: &Path, image_token: u32) -> anyhow::Result<Batch> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (ids, [rows, length]) = integers(&file, "input_ids")?;
    let (labels, _) = integers(&file, "labels")?;
    let size = match file.tensor("pixel_values")?.shape() {
        &[_, 3, h, w] => (h, w),
        shape => bail!("pixel_values is {shape:?}, expected [n, 3, h, w]"),
    };
    let mut batch = rectangle(rows, length, size);
    batch.input_ids = ids.iter().map(|&id| id as i32).collect();
    batch.supervised = labels.iter().map(|&label| label >= 0).collect();
    batch.pixel_values = floats(&file, "pixel_values")?;
    batch.images = image_slots(&batch, image_token);
    Ok(batch)
}

fn draw_batch(options: &Options, loaded: &Loaded<Llama, Clip, Mlp2xGelu>, image_token: u32) -> Batch {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let (h, w) = loaded.model.vision_tower.image_size();
    let patches = loaded.model.tokens_per_image();
    let mut batch = rectangle(options.batch, options.length, (h, w));
    let vocabulary = loaded.tokenizer.vocab_size() as i32;
    for row in 0..options.batch {
        for position in 0..options.length {
            let image = (1..=patches).contains(&position);
            let id = if image { image_token as i32 } else { rng.random_range(5..vocabulary) };
            batch.input_ids.push(id);
            batch.supervised.push(position >= 40.max(patches + 1));
        }
        batch.images.push(ImageSlot { row, start: 1, length: patches, image: row });
    }
    batch.pixel_values = (0..options.batch * 3 * h * w).map(|_| rng.random_range(-1.0..1.0)).collect();
    batch
}

fn rectangle(rows: usize, length: usize, image_size: (usize, usize)) -> Batch {
    Batch {
        rows,
        rows_per_example: 1,
        length,
        starts: vec![0; rows],
        ends: vec![length; rows],
        image_size,
        ..Batch::default()
    }
}

fn image_slots(batch: &Batch, image_token: u32) -> Vec<ImageSlot> {
    let mut slots: Vec<ImageSlot> = Vec::new();
    for (flat, &id) in batch.input_ids.iter().enumerate() {
        let (row, position) = (flat / batch.length, flat % batch.length);
        if id != image_token as i32 {
            continue;
        }
        match slots.last_mut() {
            Some(slot) if slot.row == row && slot.start + slot.length == position => slot.length += 1,
            _ => slots.push(ImageSlot { row, start: position, length: 1, image: slots.len() }),
        }
    }
    slots
}
