//! How likely a model thinks given answers.

use super::super::{Common, Ready, Tool, Weights, end_tokens, pad_id, ready};
use crate::data::{Encoded, Outcome, PadSide, Padding, Place, Sample, collate};
use crate::example::Supervised;
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::recipe::folder::ModelFolder;
use crate::recipe::zoo;
use crate::text::{Conversation, Message, Role};
use crate::trainer::{Policy, progress::Progress};
use crate::vision::VisionEncoder;
use rayon::prelude::*;
use std::path::PathBuf;

/// An answer to a question, whoever gave it.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// The question's number.
    pub(super) question: usize,
    /// The turns before the answer.
    pub(super) conversation: Conversation,
    pub(super) images: Vec<PathBuf>,
    pub(super) answer: String,
    /// Whether the token that ends the answer belongs to it.
    pub(super) with_end: bool,
    pub(super) place: Place,
}

/// The log-probability of each token of each answer, in nats, in their order. The model is loaded, asked, and dropped.
pub(super) fn score(
    mut common: Common,
    all: Vec<Given>,
    batch: usize,
    what: &'static str,
) -> anyhow::Result<Vec<Vec<f64>>> {
    common = common.here()?;
    let Common { model, adapter, .. } = common.clone();
    zoo::with_types(&model, adapter.as_deref(), Scoring { common, all, batch, what })
}

struct Scoring {
    common: Common,
    all: Vec<Given>,
    batch: usize,
    what: &'static str,
}

impl Tool for Scoring {
    type Output = Vec<Vec<f64>>;

    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        folder: ModelFolder,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<Vec<Vec<f64>>> {
        let ready = ready(&self.common, folder.with_head(None)?, &model, &vision, &projector, Weights::AsStored)?;
        let ends = end_tokens(&ready.loaded.folder.dir, &ready.encoder);
        let padding = Padding { token: pad_id(&ready.encoder.tokenizer), side: PadSide::Right, multiple_of: 1 };
        let progress = Progress::work(self.all.len() as u64, self.what);
        // Rows of one length in one batch are not padded for nothing.
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.sort_by_key(|&i| length(&self.all[i]));
        let mut found = vec![Vec::new(); self.all.len()];
        for numbers in order.chunks(self.batch.max(1)) {
            let encoded: Vec<anyhow::Result<Encoded>> =
                numbers.par_iter().map(|&i| encode(&ready, &self.all[i], i)).collect();
            let encoded = encoded.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
            let scored = ready.loaded.model.score(&collate(&encoded, &padding), &ready.device);
            for ((&i, row), log_probs) in numbers.iter().zip(&encoded).zip(scored.log_probs) {
                let kept = if self.all[i].with_end { log_probs.len() } else { before_end(row, &ends) };
                found[i] = log_probs.into_iter().take(kept).map(f64::from).collect();
            }
            progress.inc(numbers.len() as u64);
        }
        progress.finish();
        Ok(found)
    }
}

fn length(given: &Given) -> usize {
    given.conversation.messages.iter().map(|message| message.words().len()).sum::<usize>() + given.answer.len()
}

fn encode<M: LanguageModel, V: VisionEncoder, P: Projector>(
    ready: &Ready<M, V, P>,
    given: &Given,
    index: usize,
) -> anyhow::Result<Encoded> {
    let mut conversation = given.conversation.clone();
    conversation.messages.iter_mut().for_each(|message| message.train = false);
    conversation.messages.push(Message::text(Role::Assistant, given.answer.as_str()));
    let sample = Sample::<Supervised> {
        id: String::new(),
        conversation,
        target: (),
        images: given.images.clone(),
        dropped_leading: 0,
        place: given.place.clone(),
    };
    // Nothing is too long for a tool's encoder.
    let row = match ready.encoder.encode(&sample, index)? {
        Outcome::Whole(example) => example.rows.into_iter().next(),
        Outcome::Truncated { .. } | Outcome::Skipped { .. } => None,
    };
    row.ok_or_else(|| {
        anyhow::anyhow!("{}: {:?} cannot be scored: no token of it is written", given.place, given.answer)
    })
}

/// How many of a row's supervised tokens stand before the one that ends the answer.
fn before_end(row: &Encoded, ends: &[u32]) -> usize {
    let ids: Vec<u32> =
        row.input_ids.iter().zip(&row.supervised).filter(|(_, learned)| **learned).map(|(id, _)| *id).collect();
    ids.iter().rposition(|id| ends.contains(id)).unwrap_or(ids.len())
}
