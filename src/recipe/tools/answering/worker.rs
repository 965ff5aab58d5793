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
use crate::text::{StopText, Tokenizer, ToolText};
use crate::vision::VisionEncoder;
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
        let shown = |stop: &String| StopText::is_shown(&ready.encoder.tokenizer, stop);
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
    // Its tokens are of all models together.
    let reuse = Reuse { tokens: reuse.tokens / served.len().max(1), ..reuse };
    let mut running: Vec<Running<'_, M, V, P>> = served.iter().map(|one| Running::new(one, reuse)).collect();
    let mut waiting = VecDeque::new();
    loop {
        let busy = running.iter().map(|one| one.batch.lanes()).sum();
        let Some(new) = next(served, jobs, &mut waiting, lanes.max(1), busy) else { return };
        for (one, new) in running.iter_mut().zip(new) {
            // Whoever waits for a text that is not read is told as its reader is dropped.
            let _ = caught(|| read(one.served, new.readings));
            one.careful(|one| one.admit(new.jobs));
            one.careful(Running::step);
        }
    }
}

/// Does the work; a panic of it, which has been told already, is an error in words.
fn caught(work: impl FnOnce()) -> Result<(), String> {
    // What the panic left half done is not used again: a batch is made anew.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it does not say why");
        format!("computing the answer failed: {words}")
    })
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

    /// Does the work; where it panics, all rows of this model have failed, and the next ones are begun anew.
    fn careful(&mut self, work: impl FnOnce(&mut Self)) {
        if let Err(words) = caught(|| work(self)) {
            self.after(Err(words));
        }
    }

    fn admit(&mut self, jobs: Vec<Job>) {
        let mut rows = Vec::new();
        for Job { request, key, mut listener } in jobs {
            // It may have waited while the prompts before it were scored.
            if listener.is_cancelled() {
                continue;
            }
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
                    let stream = match &request.prompt {
                        Prompt::Chat { .. } if calls => stream.keeping(ToolText::MARKS),
                        Prompt::Chat { .. } => stream,
                        // It goes on in the same text.
                        Prompt::Text(_) | Prompt::Tokens(_) => stream.after(&prompt),
                    };
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

#[cfg(test)]
mod tests {
    use super::super::{LocalEngine, LocalSettings};
    use super::*;
    use crate::engine::{Answer, Engine, Request, Token};
    use crate::recipe::tools::Common;
    use std::path::PathBuf;
    use std::sync::mpsc::{Sender, channel};

    /// Panics at the first word that it hears.
    struct Fragile(Sender<Failure>);

    impl Listener for Fragile {
        fn prompt(&mut self, _: Vec<Token>) {}

        fn text(&mut self, _: usize, _: String, _: Option<Token>) -> bool {
            panic!("heard too much")
        }

        fn finished(&mut self, _: usize, _: Finish) {}

        fn done(self: Box<Self>, _: Usage) {}

        fn failed(self: Box<Self>, failure: Failure) {
            self.0.send(failure).unwrap();
        }

        fn is_cancelled(&self) -> bool {
            false
        }
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    fn engine(model: PathBuf) -> LocalEngine {
        let device = "cpu".parse().unwrap();
        let common = Common { model, adapter: None, vision_from: None, device, template: None };
        let settings = LocalSettings { common, adapters: Vec::new(), lanes: 2, reuse: Reuse::OFF };
        LocalEngine::open(settings).unwrap()
    }

    fn answer(engine: &LocalEngine, request: Request) -> Answer {
        let mut answers = Vec::new();
        engine.generate(&[request], &mut |_, answer| {
            answers.push(answer.unwrap());
            ControlFlow::Continue(())
        });
        answers.remove(0)
    }

    /// Decoders of SentencePiece strip the space of the first word that they see.
    #[test]
    fn tokens_have_the_spaces_of_their_text() {
        let folder = tempfile::tempdir().unwrap();
        for (from, name) in [
            ("parity/llama_text/model", "config.json"),
            ("parity/llama_text/model", "model.safetensors"),
            ("parity/llama_text/model", "chat_template.jinja"),
            ("text/metaspace", "tokenizer.json"),
            ("text/metaspace", "tokenizer_config.json"),
        ] {
            std::fs::copy(fixture(from).join(name), folder.path().join(name)).unwrap();
        }
        let engine = engine(folder.path().to_owned());
        let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
        let words = tokenizer.token_id("\u{2581}the").unwrap();
        let mut request = Request::new("row", Prompt::Text("the the the".to_owned()));
        (request.echo, request.logprobs) = (true, Some(2));
        (request.sampling.max_new_tokens, request.sampling.allowed_tokens) = (Some(2), vec![words]);
        let answer = answer(&engine, request);
        let texts = |tokens: &[Token]| tokens.iter().map(|token| token.text.clone()).collect::<Vec<String>>();
        let mut prompt = texts(&answer.prompt);
        if tokenizer.adds_bos() {
            assert_eq!(prompt.remove(0), "<s>");
            assert_eq!(prompt, [" the", " the", " the"]);
        } else {
            assert_eq!(prompt, ["the", " the", " the"]);
        }
        assert_eq!(
            (answer.choices[0].text.as_str(), texts(&answer.choices[0].tokens)),
            (" the the", vec![" the".to_owned(); 2])
        );
        assert_eq!(answer.choices[0].tokens[0].bytes.as_deref(), Some(&b" the"[..]));
    }

    #[test]
    fn a_panic_ends_what_is_open_and_no_more() {
        let engine = engine(fixture("parity/llama_text/model"));
        let mut request = Request::new("row", Prompt::Tokens(vec![5, 6, 7]));
        (request.sampling.max_new_tokens, request.logprobs) = (Some(3), Some(0));
        let (sender, failures) = channel();
        let job = Job { request: request.clone(), key: 0, listener: Box::new(Fragile(sender)) };
        engine.send(vec![Work::Write(Box::new(job))]);
        let words = "computing the answer failed: heard too much".to_owned();
        assert_eq!(failures.recv(), Ok(Failure::Broken(words)));
        assert_eq!(answer(&engine, request).choices[0].tokens.len(), 3);
        #[cfg(feature = "serve")]
        assert!(engine.is_alive());
    }

    #[test]
    fn a_panic_is_an_error_in_words() {
        assert_eq!(caught(|| ()), Ok(()));
        assert_eq!(caught(|| panic!("no {}", "memory")), Err("computing the answer failed: no memory".to_owned()));
        assert_eq!(caught(|| panic!("plain")), Err("computing the answer failed: plain".to_owned()));
    }
}
