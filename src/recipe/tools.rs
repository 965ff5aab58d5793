//! Tools that take any checkpoint: `score` and `chat`.

use super::folder::{Loaded, Opened};
use super::{RecipeError, adapter_file, zoo};
use crate::adapters::Lora;
use crate::data::turns::split_images;
use crate::data::{
    BadRecord, Batch, DataKind, Dataset, Encoder, ImageEncoding, LlavaData, Loader, LoaderSettings, PadSide, Padding,
    collate,
};
use crate::device::{DeviceRequest, choose};
use crate::generation::Stop;
use crate::image::ImageProcessor;
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::text::{ChatTemplate, Conversation, Message, Part, Role, TextStream, Tokenizer};
use crate::trainer::{Policy, progress::Progress};
use crate::vision::VisionEncoder;
use clap::Parser;
use serde_json::{Map, Value, json};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A program over the types that a checkpoint's configuration names.
pub trait Tool {
    /// What it yields.
    type Output;

    /// Runs with these types.
    ///
    /// # Errors
    /// Whatever stops it.
    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        dir: &Path,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<Self::Output>;
}

/// Options that the tools share.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Folder of a Hugging Face checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// PEFT adapter on top of it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// auto, cpu, wgpu, wgpu:1, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// v1, plain, another of LLaVA's conversations, or checkpoint for the checkpoint's own Jinja template
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
}

/// Log-probabilities of the answers in a data set, as a JSONL file.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct Score {
    /// What every tool takes.
    #[command(flatten)]
    pub common: Common,
    /// Records, .json or .jsonl
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
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub batch_size: usize,
}

/// One question about images, answered as the model writes it.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct Chat {
    /// What every tool takes.
    #[command(flatten)]
    pub common: Common,
    /// Images, in the order in which they come before the question
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub image: Vec<PathBuf>,
    /// The question
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Tokens after which the answer ends anyway
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_new_tokens: usize,
}

impl Score {
    /// Runs the tool on the types that the checkpoint names.
    ///
    /// # Errors
    /// Whatever stops it; nothing half-written is left.
    pub fn main(self) -> anyhow::Result<()> {
        let dir = self.common.model.clone();
        zoo::with_types(&dir, self)
    }
}

impl Chat {
    /// Runs the tool on the types that the checkpoint names.
    ///
    /// # Errors
    /// Whatever stops it.
    pub fn main(self) -> anyhow::Result<()> {
        let dir = self.common.model.clone();
        zoo::with_types(&dir, self)
    }
}

/// A model ready to answer.
struct Ready<M: LanguageModel, V: VisionEncoder, P: Projector> {
    loaded: Loaded<M, V, P>,
    encoder: Encoder,
    device: burn::tensor::Device,
}

fn ready<M: LanguageModel, V: VisionEncoder, P: Projector>(
    common: &Common,
    model: &M,
    vision: &V,
    projector: &P,
) -> anyhow::Result<Ready<M, V, P>> {
    let request: DeviceRequest = common.device.parse()?;
    let chosen = choose(request)?;
    eprintln!("device: {} ({})", chosen.name, chosen.reason);
    let device = chosen.device;
    let mut opened = Opened::new(&common.model, model, vision, projector, &device)?;
    if let (Some(dir), Some(processor)) = (&common.adapter, &mut opened.processor) {
        // The adapter was trained on images as its own settings make them.
        if dir.join("preprocessor_config.json").is_file() {
            *processor = ImageProcessor::from_dir(dir)?;
        }
    }
    let encoder = encoder(&opened, common.template.as_deref())?;
    let mut loaded = opened.load(projector, &|_| false, &device)?;
    if let Some(dir) = &common.adapter {
        let lora: Lora = adapter_file::read_settings(dir)?;
        loaded = adapter_file::load(loaded, &lora, dir, &device)?;
    }
    Ok(Ready { loaded, encoder, device })
}

/// The name of the checkpoint's own template.
pub(super) const CHECKPOINTS_OWN: &str = "checkpoint";

/// The template by name, or the model's default: `v1` for LLaVA, the checkpoint's own for a language model.
pub(super) fn template(
    name: Option<&str>,
    tokenizer: &Tokenizer,
    image_token: Option<&str>,
) -> Result<ChatTemplate, RecipeError> {
    let own = || ChatTemplate::from_tokenizer(tokenizer).transpose();
    let template = match (name, image_token) {
        (Some(CHECKPOINTS_OWN), _) => own()?.ok_or_else(|| {
            RecipeError::Usage(
                "the checkpoint has no chat template of its own; name one of LLaVA's, for example v1".to_owned(),
            )
        })?,
        (Some(name), _) => ChatTemplate::llava(name)?,
        (None, Some(_)) => ChatTemplate::llava("v1")?,
        (None, None) => match own()? {
            Some(template) => template,
            None => ChatTemplate::llava("v1")?,
        },
    };
    Ok(match image_token {
        Some(token) => template.with_image_token(token),
        None => template,
    })
}

fn encoder<M: LanguageModel, V: VisionEncoder, P: Projector>(
    opened: &Opened<M, V, P>,
    template_name: Option<&str>,
) -> Result<Encoder, RecipeError> {
    let image_token = opened.image_token.as_ref().map(|(text, _)| text.as_str());
    Ok(Encoder {
        tokenizer: opened.tokenizer.clone(),
        template: template(template_name, &opened.tokenizer, image_token)?,
        image: image_encoding(opened),
        max_length: usize::MAX,
        overlong: Default::default(),
    })
}

/// How images become tokens and pixels for this model; `None` without vision.
pub(super) fn image_encoding<M: LanguageModel, V: VisionEncoder, P: Projector>(
    opened: &Opened<M, V, P>,
) -> Option<ImageEncoding> {
    let (processor, (token, token_id)) = (opened.processor.clone()?, opened.image_token.clone()?);
    Some(ImageEncoding { processor, tokens_per_image: opened.model.tokens_per_image(), token, token_id })
}

/// The id that fills short rows: known by position, never by value.
pub(super) fn pad_id(tokenizer: &Tokenizer) -> u32 {
    tokenizer.pad().or(tokenizer.eos()).unwrap_or(0)
}

impl Tool for Score {
    type Output = ();

    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        _dir: &Path,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<()> {
        let ready = ready(&self.common, &model, &vision, &projector)?;
        let dataset = Arc::new(Dataset::open(LlavaData::default(), &self.data, &self.images)?);
        let temporary = self.output.with_extension("jsonl.partial");
        let mut file = BufWriter::new(std::fs::File::create(&temporary).map_err(RecipeError::io(&temporary))?);
        let written = self.write(&ready, dataset, &mut file);
        let closed = written.and_then(|()| file.flush().map_err(|e| RecipeError::io(&temporary)(e).into()));
        if let Err(error) = closed {
            // Nothing half-written stays behind an error; a second error here would hide the first.
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
        std::fs::rename(&temporary, &self.output).map_err(RecipeError::io(&self.output))?;
        println!("{}", self.output.display());
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

impl Tool for Chat {
    type Output = ();

    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        _dir: &Path,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<()> {
        let ready = ready(&self.common, &model, &vision, &projector)?;
        // Markers in the prompt say where the images go; without any they come first.
        let mut content = split_images(&self.prompt);
        if !content.contains(&Part::Image) {
            content.splice(0..0, self.image.iter().map(|_| Part::Image));
        }
        let conversation = Conversation::new(vec![Message::new(Role::User, content)]);
        let encoded = ready.encoder.encode_question(&conversation, &self.image)?;
        let padding = Padding { token: pad_id(&ready.encoder.tokenizer), side: PadSide::Left, multiple_of: 1 };
        let batch = collate(&[encoded], &padding);
        let stop = Stop {
            end_tokens: end_tokens(&ready.loaded.folder.dir, &ready.encoder.tokenizer),
            max_new_tokens: self.max_new_tokens,
        };
        let mut stream: TextStream = ready.encoder.tokenizer.stream();
        let mut out = std::io::stdout().lock();
        let mut failed = None;
        ready.loaded.model.generate(&batch, &stop, &ready.device, &mut |_, id| {
            let written = match stream.push(id) {
                Some(text) => write!(out, "{text}").and_then(|()| out.flush()),
                None => Ok(()),
            };
            failed = written.err();
            failed.is_none()
        });
        // A reader that closed the pipe has what it wanted.
        match failed {
            Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            Some(_) => Ok(()),
            None => Ok(writeln!(out, "{}", stream.finish().unwrap_or_default())?),
        }
    }
}

/// `eos_token_id` of `generation_config.json` (one or several) and of the tokenizer.
pub(super) fn end_tokens(dir: &Path, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut ids: Vec<u32> = tokenizer.eos().into_iter().collect();
    let config = std::fs::read_to_string(dir.join("generation_config.json")).ok();
    let config: Option<Value> = config.and_then(|text| serde_json::from_str(&text).ok());
    let named = config.map(|c| c["eos_token_id"].clone()).unwrap_or_default();
    let listed = match named {
        Value::Array(all) => all,
        one => vec![one],
    };
    ids.extend(listed.iter().filter_map(Value::as_u64).map(|id| id as u32));
    ids.sort_unstable();
    ids.dedup();
    ids
}
