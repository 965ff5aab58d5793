//! A checkpoint that answers: the trait [`Engine`] over this library's own models.
//!
//! The model is on a thread of its own, which decodes all requests together: they join and leave between two tokens.

mod collect;
mod prompts;
#[cfg(feature = "serve")]
mod served;
mod worker;

#[cfg(feature = "serve")]
pub use served::LocalBackend;

use super::{Common, Tool, Weights, ready};
use crate::engine::{Answer, Engine, EngineError, Finish, Finished, ModelInfo, Request, ScoreRequest, Token, Usage};
use crate::generation::Reuse;
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::recipe::folder::ModelFolder;
use crate::recipe::{RecipeError, zoo};
use crate::vision::VisionEncoder;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use worker::{Served, work};

/// Which models answer, and how many answers at once.
#[derive(Clone, Debug)]
pub struct LocalSettings {
    /// The checkpoint and its adapter, device and template.
    pub common: Common,
    /// Further adapters on the same base, by the names that requests have for them.
    pub adapters: Vec<(String, PathBuf)>,
    /// Answers that are decoded at once.
    pub lanes: usize,
    /// What each model keeps of answers that have ended, for prompts that begin alike.
    pub reuse: Reuse,
}

/// An engine over a checkpoint on this machine. Dropped, it ends what it has begun.
#[derive(Debug)]
pub struct LocalEngine {
    name: String,
    models: Vec<ModelInfo>,
    jobs: Option<Sender<Job>>,
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

impl LocalEngine {
    /// Loads the checkpoint, on the types that it names.
    ///
    /// # Errors
    /// Whatever is wrong with the checkpoint, an adapter, or the device.
    pub fn open(mut settings: LocalSettings) -> anyhow::Result<Self> {
        let asked = settings.common.model.display().to_string();
        settings.common = settings.common.here()?;
        for (_, dir) in &mut settings.adapters {
            *dir = crate::recipe::fetch::folder(dir, crate::checkpoint::hub::Wanted::Adapter)?;
        }
        let Common { model, adapter, .. } = settings.common.clone();
        zoo::with_types(&model, adapter.as_deref(), Opening { settings, asked })
    }

    fn send(&self, job: Job) {
        // Where the thread is gone, the listener is dropped with the job, and whoever waits is told.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
    }
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
        for (index, request) in requests.iter().enumerate() {
            let reason = "this engine answers and does not score; the recipe of a reward model does".to_owned();
            let error = EngineError::Unsupported { request: request.id.clone(), reason };
            if finished(index, Err(error)).is_break() {
                return;
            }
        }
    }
}

struct Opening {
    settings: LocalSettings,
    asked: String,
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
        let LocalSettings { common, adapters, lanes, reuse } = self.settings;
        let base = ready(&common, folder.with_head(None)?, &model, &vision, &projector, Weights::AsStored)?;
        let mut served = vec![Served::new(ModelInfo { id: self.asked.clone(), parent: None }, base.clone())?];
        for (name, dir) in adapters {
            if served.iter().any(|one| one.info.id == name) {
                let text = format!("two models are called {name:?}; give each adapter a name of its own");
                return Err(RecipeError::Usage(text).into());
            }
            let mut own = base.clone();
            own.loaded = zoo::with_adapter(own.loaded, &dir, &own.device)?;
            served.push(Served::new(ModelInfo { id: name, parent: Some(self.asked.clone()) }, own)?);
        }
        let models = served.iter().map(|one| one.info.clone()).collect();
        let (jobs, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || work(&served, &receiver, lanes, reuse))?;
        Ok(LocalEngine { name: self.asked, models, jobs: Some(jobs), thread: Some(thread) })
    }
}
