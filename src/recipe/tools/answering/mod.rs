//! A checkpoint that answers: the trait [`Engine`] over this library's own models.
//!
//! The model is on a thread of its own, which decodes all requests together: they join and leave between two tokens.

mod collect;
mod prompts;
mod reading;
#[cfg(feature = "serve")]
mod served;
mod worker;

#[cfg(feature = "serve")]
pub use served::LocalBackend;

use super::{Common, Ready, Tool, Weights, is_adapter, ready};
use crate::checkpoint::{CheckpointError, read_json};
use crate::engine::{Answer, Engine, EngineError, Finish, Finished, ModelInfo, Request, ScoreRequest, Token, Usage};
use crate::generation::Reuse;
use crate::generation::sequence::Sequence;
use crate::image::ImageProcessor;
use crate::models::{CausalLm, LanguageModel};
use crate::projector::Projector;
use crate::recipe::folder::ModelFolder;
use crate::recipe::parts::PROJECTOR_FILES;
use crate::recipe::{RecipeError, head, zoo};
use crate::text::Tokenizer;
use crate::vision::VisionEncoder;
use crate::vlm::is_original;
use reading::{Reading, Wanted};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use worker::{Served, work};

/// Which models answer, and how many answers at once.
///
/// An adapter lies on the base's own weights, however many there are. The base answers under its own name as well; where no model is
/// named, the one adapter of [`Common`] answers, or the base where there is none.
#[derive(Clone, Debug)]
pub struct LocalSettings {
    /// The checkpoint and its adapter, device and template.
    pub common: Common,
    /// Further adapters on the same base, by the names that requests have for them.
    pub adapters: Vec<(String, PathBuf)>,
    /// Answers that are decoded at once.
    pub lanes: usize,
    /// What is kept of answers that have ended, for prompts that begin alike: rows of each model, tokens of all together.
    pub reuse: Reuse,
}

/// An engine over a checkpoint on this machine. Dropped, it ends what it has begun.
#[derive(Debug)]
pub struct LocalEngine {
    name: String,
    models: Vec<ModelInfo>,
    jobs: Option<Sender<Vec<Work>>>,
    thread: Option<JoinHandle<()>>,
}

/// Hears how one request goes. Called on the thread that computes: whatever it does must be quick.
pub(super) trait Listener: Send {
    /// The prompt's tokens, where they were asked for.
    fn prompt(&mut self, tokens: Vec<Token>);

    /// An answer goes on; `false` gives the request up.
    fn text(&mut self, choice: usize, text: String, token: Option<Token>) -> bool;

    /// An answer has ended.
    fn finished(&mut self, choice: usize, finish: Finish);

    /// An answer as the search leaves it, when all have ended.
    fn whole(&mut self, _choice: usize, _sequence: &Sequence, _tokenizer: &Tokenizer) {}

    /// All answers have ended.
    fn done(self: Box<Self>, usage: Usage);

    /// There will be no answer.
    fn failed(self: Box<Self>, failure: Failure);

    /// Whether nobody listens any more.
    fn is_cancelled(&self) -> bool;
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request cannot be obeyed.
    Invalid(String),
    /// Something broke.
    Broken(String),
}

/// A request on its way to the model.
pub(super) struct Job {
    request: Request,
    /// Tells its draws from those of other requests with the same seed.
    key: u64,
    listener: Box<dyn Listener>,
}

/// What the model is asked.
enum Work {
    /// To answer.
    Write(Box<Job>),
    /// To read only.
    Read(Reading),
}

impl Work {
    fn model(&self) -> Option<&String> {
        match self {
            Self::Write(job) => job.request.model.as_ref(),
            Self::Read(reading) => reading.model.as_ref(),
        }
    }

    fn is_cancelled(&self) -> bool {
        match self {
            Self::Write(job) => job.listener.is_cancelled(),
            Self::Read(reading) => reading.reader.is_cancelled(),
        }
    }

    fn failed(self, failure: Failure) {
        match self {
            Self::Write(job) => job.listener.failed(failure),
            Self::Read(reading) => reading.reader.done(Err(failure)),
        }
    }
}

impl LocalEngine {
    /// Loads the checkpoint, on the types that it names.
    ///
    /// # Errors
    /// Whatever is wrong with the checkpoint, an adapter, or the device.
    pub fn open(mut settings: LocalSettings) -> anyhow::Result<Self> {
        let name = settings.common.model.display().to_string();
        let adapter = settings.common.adapter.as_ref().map(|dir| dir.display().to_string());
        settings.common = settings.common.here()?;
        for (_, dir) in &mut settings.adapters {
            *dir = crate::recipe::fetch::folder(dir, crate::checkpoint::hub::Wanted::Adapter)?;
        }
        let Common { model, adapter: dir, .. } = settings.common.clone();
        match dir.zip(adapter) {
            // The base is one of the models, and its adapter another.
            Some((dir, adapter)) if lies_on_top(&dir)? => {
                settings.common.adapter = None;
                settings.adapters.insert(0, (adapter, dir));
                zoo::with_types(&model, None, Opening { settings, name, first: First::Adapter })
            }
            // It says what stands around the language model: without it the base is another model, in other types.
            Some((dir, _)) => zoo::with_types(&model, Some(&dir), Opening { settings, name, first: First::Base }),
            None => zoo::with_types(&model, None, Opening { settings, name, first: First::Base }),
        }
    }

    /// Whether the thread that has the model still takes work.
    #[cfg(feature = "serve")]
    fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn send(&self, work: Vec<Work>) {
        // Where the thread is gone, the listeners are dropped with the work, and whoever waits is told.
        let _ = self.jobs.as_ref().map(|sender| sender.send(work));
    }
}

/// Whether an adapter changes nothing but layers of the model that it lies on: no file of its own holds a projector, and it brings no
/// configuration of LLaVA's original code.
fn lies_on_top(dir: &Path) -> Result<bool, CheckpointError> {
    let config = dir.join("config.json");
    let around = config.is_file() && is_original(&read_json(&config)?);
    let projector = PROJECTOR_FILES.iter().any(|(file, _)| dir.join(file).is_file());
    Ok(is_adapter(dir) && !around && !projector)
}

impl Drop for LocalEngine {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic over there has been told already.
            let _ = thread.join();
        }
    }
}

impl Engine for LocalEngine {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn models(&self) -> Result<Vec<ModelInfo>, EngineError> {
        Ok(self.models.clone())
    }

    fn generate(&self, requests: &[Request], finished: &mut Finished<'_, Answer>) {
        collect::generate(self, requests, finished);
    }

    fn score(&self, requests: &[ScoreRequest], finished: &mut Finished<'_, f64>) {
        // A head of one output was looked for.
        let only = |read: reading::Read| read.values.first().copied().unwrap_or(f64::NAN);
        collect::read(self, requests, Wanted::Score, only, finished);
    }

    fn classify(&self, requests: &[ScoreRequest], finished: &mut Finished<'_, Vec<f64>>) {
        collect::read(self, requests, Wanted::Classes, |read| read.values, finished);
    }
}

/// Which model answers where none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Base,
    Adapter,
}

struct Opening {
    settings: LocalSettings,
    /// What requests call the base.
    name: String,
    first: First,
}

impl Tool for Opening {
    type Output = LocalEngine;

    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        folder: ModelFolder,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<LocalEngine> {
        let Self { settings: LocalSettings { common, adapters, lanes, reuse }, name, first } = self;
        let own_head = folder.head();
        let base = ready(&common, folder, &model, &vision, &projector, Weights::AsStored)?;
        let mut served = vec![Served::new(ModelInfo { id: name.clone(), parent: None }, base.clone(), own_head)?];
        for (id, dir) in adapters {
            if served.iter().any(|one| one.info.id == id) {
                let text = format!("two models are called {id:?}; give each adapter a name of its own");
                return Err(RecipeError::Usage(text).into());
            }
            served.push(adapted(&base, ModelInfo { id, parent: Some(name.clone()) }, &dir)?);
        }
        if first == First::Adapter {
            served.swap(0, 1);
        }
        let models: Vec<ModelInfo> = served.iter().map(|one| one.info.clone()).collect();
        let (jobs, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || work(&served, &receiver, lanes, reuse))?;
        Ok(LocalEngine { name, models, jobs: Some(jobs), thread: Some(thread) })
    }
}

/// The base with an adapter on it. The base's weights are the base's own: both hold the same memory.
fn adapted<M: LanguageModel, V: VisionEncoder, P: Projector>(
    base: &Ready<M, V, P>,
    info: ModelInfo,
    dir: &Path,
) -> anyhow::Result<Served<M, V, P>> {
    if !lies_on_top(dir)? {
        let text = format!(
            "the adapter {} says what stands around the language model, or holds a projector in a file of its own, and \
             cannot share a base; serve it alone, with --adapter",
            dir.display()
        );
        return Err(RecipeError::Usage(text).into());
    }
    let mut own = base.clone();
    let mut has = base.loaded.folder.head();
    if let Some(asked) = head::of_adapter(dir)?.filter(|_| has.is_none()) {
        let config = base.loaded.folder.config.value();
        // Every value is replaced by the adapter's.
        let width = own.loaded.model.language_model.hidden_size();
        own.loaded.model.score = Some(head::fresh(asked, width, config, &own.device));
        has = Some(asked);
    }
    if own.loaded.processor.is_some() && dir.join("preprocessor_config.json").is_file() {
        // It was trained on images as its own settings make them.
        let processor = ImageProcessor::from_dir(dir)?;
        own.loaded.processor = Some(processor.clone());
        if let Some(image) = &mut own.encoder.image {
            image.processor = processor;
        }
    }
    own.loaded = zoo::with_adapter(own.loaded, dir, &own.device)?;
    Served::new(info, own, has)
}
