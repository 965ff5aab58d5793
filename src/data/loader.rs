//! Batches made on worker threads, a bounded number ahead of the training loop.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use serde::{Deserialize, Serialize};

use super::{
    Batch, DataError, DataKind, Dataset, Encoder, Example, Lines, Outcome, Padding, Place, Sample, collate,
    collate_lines,
};

/// What is done with a record that is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRecord {
    /// The run stops with its error.
    #[default]
    Error,
    /// It is left out of its batch, counted and reported.
    Skip,
}

/// How a [`Loader`] works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderSettings {
    /// Number of threads, at least 1. Neither order nor content of the batches depends on it.
    pub workers: usize,
    /// Number of batches in the making or waiting, at least 1: the bound on host memory.
    pub prefetch: usize,
    /// What is done with a record that is refused.
    pub bad_record: BadRecord,
    /// How rows are brought to one length.
    pub padding: Padding,
    /// Whether each batch is to have rows of mismatched context and answer beside it ([`Batch::mismatched`]).
    pub mismatched: bool,
}

/// A record that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The record's number in the data set.
    pub index: usize,
    /// Where it begins.
    pub place: Place,
    /// Why, in a few words, to count by.
    pub reason: &'static str,
    /// Why, in full, beginning with the place.
    pub message: String,
}

/// One batch of an epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedBatch {
    /// Which of the epoch's batches this is, counted from 0.
    pub position: usize,
    /// The records; `None` where each of them was skipped.
    pub batch: Option<Batch>,
    /// The records that were left out.
    pub skipped: Vec<Skipped>,
    /// Number of records that were cut to the length limit.
    pub truncated: usize,
    /// Number of turns before the user's first one that were dropped.
    pub dropped_leading: usize,
}

/// Batches in order. Dropping it stops its threads at the record they are at.
pub struct Loader {
    jobs: Sender<Job>,
    results: Receiver<(usize, Result<LoadedBatch, DataError>)>,
    workers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    batches: Vec<Lines>,
    /// The next batch to hand to the workers.
    submitted: usize,
    /// The next batch to hand out.
    position: usize,
    /// Results that came before their turn.
    early: BTreeMap<usize, Result<LoadedBatch, DataError>>,
    prefetch: usize,
}

/// A record, and what it was made of.
type Read<K> = (Example, Sample<<K as DataKind>::Shape>);

struct Job {
    position: usize,
    lines: Lines,
}

impl Loader {
    /// Starts the threads. `batches` are record numbers ([`Sampler::epoch`](super::Sampler::epoch)), in lines where records
    /// are [packed](super::pack); the first `start_at` of them are passed over without being read, which is how a resumed
    /// run finds its place.
    ///
    /// # Errors
    /// [`DataError::Workers`].
    pub fn new<K: DataKind>(
        dataset: Arc<Dataset<K>>,
        encoder: Arc<Encoder>,
        batches: Vec<impl Into<Lines>>,
        start_at: usize,
        settings: LoaderSettings,
    ) -> Result<Self, DataError> {
        let (jobs, job_queue) = unbounded::<Job>();
        let (finished, results) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let mut loader = Self {
            jobs,
            results,
            workers: Vec::new(),
            stop,
            batches: batches.into_iter().map(Into::into).collect(),
            submitted: start_at,
            position: start_at,
            early: BTreeMap::new(),
            prefetch: settings.prefetch.max(1),
        };
        for i in 0..settings.workers.max(1) {
            let worker =
                Worker { dataset: dataset.clone(), encoder: encoder.clone(), settings, stop: loader.stop.clone() };
            let (job_queue, finished) = (job_queue.clone(), finished.clone());
            let thread = thread::Builder::new()
                .name(format!("firebrick-data-{i}"))
                .spawn(move || worker.serve(&job_queue, &finished))
                .map_err(|source| DataError::Workers { source })?;
            loader.workers.push(thread);
        }
        loader.submit();
        Ok(loader)
    }

    /// Number of batches that are still to come.
    pub fn remaining(&self) -> usize {
        self.batches.len().saturating_sub(self.position)
    }

    /// Keeps `prefetch` batches in the making or waiting.
    fn submit(&mut self) {
        while self.submitted < self.batches.len() && self.submitted - self.position < self.prefetch {
            let lines = std::mem::take(&mut self.batches[self.submitted]);
            // Fails only where no worker is left, which `next` reports.
            let _ = self.jobs.send(Job { position: self.submitted, lines });
            self.submitted += 1;
        }
    }

    fn receive(&mut self) -> Result<LoadedBatch, DataError> {
        loop {
            if let Some(result) = self.early.remove(&self.position) {
                return result;
            }
            match self.results.recv() {
                Ok((position, result)) => self.early.insert(position, result),
                Err(_) => {
                    return Err(DataError::WorkersGone { position: self.position });
                }
            };
        }
    }
}

impl Iterator for Loader {
    type Item = Result<LoadedBatch, DataError>;

    /// The next batch. After an error there is none.
    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining() == 0 {
            return None;
        }
        let result = self.receive();
        if result.is_ok() {
            self.position += 1;
            self.submit();
        } else {
            self.stop.store(true, Ordering::Relaxed);
            self.position = self.batches.len();
        }
        Some(result)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Closing the queue wakes the threads that wait on it.
        self.jobs = unbounded().0;
        for worker in self.workers.drain(..) {
            // A worker that panicked has reported it as a result.
            let _ = worker.join();
        }
    }
}

struct Worker<K> {
    dataset: Arc<Dataset<K>>,
    encoder: Arc<Encoder>,
    settings: LoaderSettings,
    stop: Arc<AtomicBool>,
}

impl<K: DataKind> Worker<K> {
    fn serve(&self, jobs: &Receiver<Job>, finished: &Sender<(usize, Result<LoadedBatch, DataError>)>) {
        for job in jobs {
            // Nothing that a panic could leave half done outlives the call.
            let result = catch_unwind(AssertUnwindSafe(|| self.load(&job)))
                .unwrap_or_else(|panic| Err(self.panicked(&job, panic.as_ref())));
            if self.stop.load(Ordering::Relaxed) || finished.send((job.position, result)).is_err() {
                return;
            }
        }
    }

    fn load(&self, job: &Job) -> Result<LoadedBatch, DataError> {
        let mut loaded =
            LoadedBatch { position: job.position, batch: None, skipped: Vec::new(), truncated: 0, dropped_leading: 0 };
        let mut groups: Vec<Vec<Example>> = Vec::with_capacity(job.lines.len());
        let mut samples = Vec::new();
        for (line, index) in job.lines.0.iter().enumerate().flat_map(|(line, of)| of.iter().map(move |&i| (line, i))) {
            // The result of a stopped batch is never looked at.
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            groups.resize_with(line + 1, Vec::new);
            match (self.encode(index, &mut loaded), self.settings.bad_record) {
                (Ok(Some((example, sample))), _) => {
                    groups[line].push(example);
                    samples.push(sample);
                }
                (Ok(None), _) => {}
                (Err(error), BadRecord::Error) => return Err(error),
                (Err(error), BadRecord::Skip) => loaded.skipped.push(Skipped {
                    index,
                    place: self.dataset.place(index),
                    reason: error.reason(),
                    message: error.to_string(),
                }),
            }
        }
        // A line all of whose records were left out is none.
        groups.retain(|group| !group.is_empty());
        if !groups.is_empty() {
            let mut batch = collate_lines(groups.iter().map(Vec::as_slice), &self.settings.padding);
            if self.settings.mismatched {
                batch.mismatched = self.mismatched(&samples, &batch)?;
            }
            loaded.batch = Some(batch);
        }
        Ok(loaded)
    }

    /// Each context with the answer of the record before it, the first with the last one's. A record alone in its batch
    /// takes that of another record of the data set.
    fn mismatched(&self, samples: &[Sample<K::Shape>], batch: &Batch) -> Result<Option<Box<Batch>>, DataError> {
        let mut rows = Vec::with_capacity(samples.len());
        let stranger = match samples {
            [_] => self.stranger(batch.indices[0]),
            _ => None,
        };
        for (i, sample) in samples.iter().enumerate() {
            let before = &samples[(i + samples.len() - 1) % samples.len()];
            let other = &stranger.as_ref().unwrap_or(before).target;
            rows.extend(self.encoder.encode_mismatched(sample, batch.indices[i], other)?);
        }
        Ok((!rows.is_empty()).then(|| Box::new(collate(&rows, &self.settings.padding))))
    }

    /// The nearest record before this one, round the data set, that can be read.
    fn stranger(&self, index: usize) -> Option<Sample<K::Shape>> {
        let records = self.dataset.len();
        (1..records).find_map(|back| self.dataset.sample((index + records - back) % records).ok())
    }

    /// The record, or `None` where it was skipped on account of its length.
    fn encode(&self, index: usize, loaded: &mut LoadedBatch) -> Result<Option<Read<K>>, DataError> {
        let sample = self.dataset.sample(index)?;
        let example = match self.encoder.encode(&sample, index)? {
            Outcome::Whole(example) => example,
            Outcome::Truncated { kept, .. } => {
                loaded.truncated += 1;
                kept
            }
            Outcome::Skipped { reason, tokens } => {
                let limit = self.encoder.max_length;
                let message = format!("{}: {reason} ({tokens} tokens, the limit is {limit})", sample.place);
                loaded.skipped.push(Skipped { index, place: sample.place, reason: reason.label(), message });
                return Ok(None);
            }
        };
        loaded.dropped_leading += sample.dropped_leading;
        Ok(Some((example, sample)))
    }

    fn panicked(&self, job: &Job, panic: &(dyn Any + Send)) -> DataError {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let detail = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
        match job.lines.records().next().filter(|&first| first < self.dataset.len()) {
            Some(first) => {
                DataError::WorkerPanicked { position: job.position, place: self.dataset.place(first), detail }
            }
            None => DataError::WorkersGone { position: job.position },
        }
    }
}
