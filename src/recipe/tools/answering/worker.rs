//! The thread that has the models.

use super::prompts::{Prompted, prompted, tokens_of};
use super::reading::{Reading, WINDOW, read};
use super::{Failure, Job, Listener, Work};
use crate::checkpoint::{CheckpointError, read_json};
use crate::engine::{Finish, ModelInfo, Pooling, Prompt, Usage};
use crate::generation::driver::{Batch, Request as Row};
use crate::generation::row::RowSettings;
use crate::generation::sequence::Event;
use crate::generation::settings::CheckpointDefaults;
use crate::generation::stop::FinishReason;
use crate::generation::{Lanes, Reuse};
use crate::models::{CausalLm, LanguageModel};
use crate::objectives::Head;
use crate::projector::Projector;
use crate::recipe::opened::has_vision;
use crate::recipe::tools::{Ready, end_tokens, pad_id};
use crate::text::{Tokenizer, ToolText};
use crate::vision::VisionEncoder;
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

/// A model or an adapter that requests may name.
pub(super) struct Served<M: LanguageModel, V: VisionEncoder, P: Projector> {
    pub(super) info: ModelInfo,
    pub(super) ready: Ready<M, V, P>,
    /// What its folder says of generation.
    pub(super) defaults: CheckpointDefaults,
    /// Tokens that end an answer.
    pub(super) ends: Vec<u32>,
    /// The text that ends a turn of the template's, where it is no token that ends it.
    pub(super) stop: Option<String>,
    /// Tokens of prompt and answer; `None` where the checkpoint does not say.
    pub(super) context: Option<usize>,
    pub(super) sees: bool,
    /// The head that it has in place of words.
    pub(super) head: Option<Head>,
    /// The names of that head's outputs.
    pub(super) labels: Vec<String>,
    /// How a text's hidden states become one where the request does not say.
    pub(super) pooling: Pooling,
}

impl<M: LanguageModel, V: VisionEncoder, P: Projector> Served<M, V, P> {
    pub(super) fn new(info: ModelInfo, ready: Ready<M, V, P>, head: Option<Head>) -> anyhow::Result<Self> {
        let path = ready.loaded.folder.dir.join("generation_config.json");
        let defaults = match std::fs::read_to_string(&path) {
            Ok(text) => CheckpointDefaults::parse(&text, &path.display().to_string())?,
            Err(_) => CheckpointDefaults::default(),
        };
        let ends = end_tokens(&ready.loaded.folder.dir, &ready.encoder);
        let text_config = ready.loaded.folder.text_config();
        let context = text_config.value()["max_position_embeddings"].as_u64().map(|tokens| tokens as usize);
        let shown = |stop: &String| !stop.trim().is_empty() && !ready.encoder.tokenizer.hides(stop.trim());
        let stop = ready.encoder.template.stop().map(|stop| stop.to_string()).filter(shown);
        let outputs = head.map_or(0, |head| head.outputs);
        let names = &ready.loaded.folder.config.value()["id2label"];
        let name = |i: usize| names[i.to_string()].as_str().map_or_else(|| format!("LABEL_{i}"), str::to_owned);
        let labels = (0..outputs).map(name).collect();
        let pooling = pooling(&ready.loaded.folder.dir)?;
        Ok(Self { info, ready, defaults, ends, stop, context, sees: has_vision::<V>(), head, labels, pooling })
    }

    /// Values of an embedding.
    pub(super) fn width(&self) -> usize {
        self.ready.loaded.model.language_model.hidden_size()
    }
}

/// How a folder of sentence-transformers says that embeddings are made; the last token's hidden state, where it says nothing.
fn pooling(dir: &Path) -> Result<Pooling, CheckpointError> {
    let file = dir.join("1_Pooling/config.json");
    let mean = file.is_file() && read_json(&file)?["pooling_mode_mean_tokens"] == true;
    Ok(if mean { Pooling::Mean } else { Pooling::Last })
}

/// The rows of one model.
struct Running<'a, M: LanguageModel, V: VisionEncoder, P: Projector> {
    served: &'a Served<M, V, P>,
    batch: Batch<Lanes<'a, M::Model, V::Model, P::Model>>,
    open: HashMap<u64, Open>,
    reuse: Reuse,
    /// Rows that were admitted: the number of the next one.
    admitted: u64,
}

/// A request that is being answered.
struct Open {
    listener: Box<dyn Listener>,
    prompt_tokens: u64,
    cached_tokens: u64,
}

/// Answers until nobody can ask any more.
pub(super) fn work<M: LanguageModel, V: VisionEncoder, P: Projector>(
    served: &[Served<M, V, P>],
    jobs: &Receiver<Vec<Work>>,
    lanes: usize,
    reuse: Reuse,
) {
    let mut running: Vec<Running<'_, M, V, P>> = served.iter().map(|one| Running::new(one, reuse)).collect();
    let mut waiting = VecDeque::new();
    loop {
        let busy = running.iter().map(|one| one.batch.lanes()).sum();
        let Some(new) = next(served, jobs, &mut waiting, lanes.max(1), busy) else { return };
        for (one, new) in running.iter_mut().zip(new) {
            read(one.served, new.readings);
            one.admit(new.jobs);
            one.step();
        }
    }
}

/// What is new for one of the models.
#[derive(Default)]
struct New {
    jobs: Vec<Job>,
    readings: Vec<Reading>,
}

/// What each model is to begin now: as much as there are lanes for. Waits where nothing is under way; `None` where nobody can ask
/// any more.
fn next<M: LanguageModel, V: VisionEncoder, P: Projector>(
    served: &[Served<M, V, P>],
    jobs: &Receiver<Vec<Work>>,
    waiting: &mut VecDeque<Work>,
    lanes: usize,
    mut busy: usize,
) -> Option<Vec<New>> {
    let mut new: Vec<New> = served.iter().map(|_| New::default()).collect();
    let mut readings = 0;
    while busy < lanes && readings < WINDOW {
        let Some(work) = waiting.pop_front() else {
            match busy + readings {
                0 => waiting.extend(jobs.recv().ok()?),
                _ => match jobs.try_recv() {
                    Ok(more) => waiting.extend(more),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                },
            }
            continue;
        };
        if work.is_cancelled() {
            continue;
        }
        let place = match work.model() {
            None => 0,
            Some(name) => match served.iter().position(|one| &one.info.id == name) {
                Some(place) => place,
                None => {
                    let known: Vec<&str> = served.iter().map(|one| one.info.id.as_str()).collect();
                    let text = format!("there is no model {name:?}; there are {}", known.join(", "));
                    work.failed(Failure::Invalid(text));
                    continue;
                }
            },
        };
        match work {
            Work::Write(job) => {
                busy += job.request.lanes();
                new[place].jobs.push(*job);
            }
            Work::Read(reading) => {
                readings += 1;
                new[place].readings.push(reading);
            }
        }
    }
    Some(new)
}

impl<'a, M: LanguageModel, V: VisionEncoder, P: Projector> Running<'a, M, V, P> {
    fn new(served: &'a Served<M, V, P>, reuse: Reuse) -> Self {
        Self { served, batch: Self::batch(served, reuse), open: HashMap::new(), reuse, admitted: 0 }
    }

    fn batch(served: &'a Served<M, V, P>, reuse: Reuse) -> Batch<Lanes<'a, M::Model, V::Model, P::Model>> {
        let Ready { loaded, encoder, device } = &served.ready;
        Batch::new(Lanes::new(&loaded.model, pad_id(&encoder.tokenizer), ROOM, device).with_reuse(reuse))
    }

    fn admit(&mut self, jobs: Vec<Job>) {
        let mut rows = Vec::new();
        for Job { request, key, mut listener } in jobs {
            let calls = matches!(&request.prompt, Prompt::Chat { conversation, .. } if !conversation.tools.is_empty());
            match prompted(self.served, &request) {
                Err(failure) => listener.failed(failure),
                Ok(Prompted { encoded, decoding, echo }) => {
                    if let Some(tokens) = echo {
                        listener.prompt(tokens);
                    }
                    let prompt: Vec<u32> = encoded.input_ids.clone();
                    let Some(decoding) = decoding else {
                        (0..request.n.max(1)).for_each(|choice| listener.finished(choice, Finish::Length));
                        let prompt_tokens = prompt.len() as u64;
                        listener.done(Usage { prompt_tokens, ..Usage::default() });
                        continue;
                    };
                    let open = Open { listener, prompt_tokens: prompt.len() as u64, cached_tokens: 0 };
                    self.open.insert(self.admitted, open);
                    self.admitted += 1;
                    let stream = self.served.ready.encoder.tokenizer.stream();
                    let stream = if calls { stream.keeping(ToolText::MARKS) } else { stream };
                    let detokenizer = Some(Box::new(stream) as _);
                    let settings = RowSettings { decoding: Arc::new(decoding), prompt, key, detokenizer };
                    rows.push(Row { prompt: encoded, settings });
                }
            }
        }
        if rows.is_empty() {
            return;
        }
        let (open, tokenizer) = (&mut self.open, &self.served.ready.encoder.tokenizer);
        let admitted = self.batch.admit(rows, &mut |row, event| tell(open, tokenizer, row, event));
        for (row, tokens) in self.batch.take_reused() {
            if let Some(open) = self.open.get_mut(&row) {
                open.cached_tokens = tokens as u64;
            }
        }
        self.after(admitted.map(|_| ()).map_err(|error| error.to_string()));
        self.rest();
    }

    fn step(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let gone: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.listener.is_cancelled()).map(|(row, _)| *row).collect();
        for row in gone {
            self.batch.cancel(row);
        }
        let (open, tokenizer) = (&mut self.open, &self.served.ready.encoder.tokenizer);
        let stepped = self.batch.step(&mut |row, event| tell(open, tokenizer, row, event));
        self.after(stepped.map(|_| ()).map_err(|error| error.to_string()));
        self.rest();
    }

    /// Gives the cache back where the last row has ended: the next request may be for another model.
    fn rest(&mut self) {
        if self.open.is_empty() {
            // Without rows this takes no step.
            let settled = self.batch.step(&mut |_, _| ControlFlow::Continue(()));
            self.after(settled.map(|_| ()).map_err(|error| error.to_string()));
        }
    }

    /// Tells what has ended.
    fn after(&mut self, result: Result<(), String>) {
        for (row, result) in self.batch.take_done() {
            let Some(Open { mut listener, prompt_tokens, cached_tokens }) = self.open.remove(&row) else { continue };
            match result {
                Ok(sequences) => {
                    for (choice, sequence) in sequences.iter().enumerate() {
                        listener.whole(choice, sequence, &self.served.ready.encoder.tokenizer);
                    }
                    let completion_tokens = sequences.iter().map(|sequence| sequence.ids.len() as u64).sum();
                    listener.done(Usage { prompt_tokens, cached_tokens, completion_tokens });
                }
                Err(error) => listener.failed(Failure::Broken(error.to_string())),
            }
        }
        if let Err(error) = result {
            for (_, open) in self.open.drain() {
                open.listener.failed(Failure::Broken(error.clone()));
            }
            self.batch = Self::batch(self.served, self.reuse);
            self.admitted = 0;
        }
    }
}

/// Tokens that an answer is expected to have at the most; longer ones move their cache once in a while.
const ROOM: usize = 512;

fn tell(open: &mut HashMap<u64, Open>, tokenizer: &Tokenizer, row: u64, event: Event) -> ControlFlow<()> {
    let Some(open) = open.get_mut(&row) else { return ControlFlow::Break(()) };
    let Event { sequence, text, logprob, finish, .. } = event;
    let token = logprob.map(|logprob| tokens_of(tokenizer, &logprob));
    let wanted = if text.is_empty() && token.is_none() { true } else { open.listener.text(sequence, text, token) };
    match finish {
        Some(FinishReason::Length) => open.listener.finished(sequence, Finish::Length),
        Some(FinishReason::Cancelled) | None => {}
        Some(_) => open.listener.finished(sequence, Finish::Stop),
    }
    if wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}
