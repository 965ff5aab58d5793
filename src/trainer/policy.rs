//! What the training loop asks of a model.

use crate::data::{Batch, Encoded};
use crate::generation::driver::{BatchError, Request, generate};
use crate::generation::sequence::Sequence;
use crate::generation::{Lanes, Stop, greedy};
use crate::models::CausalLm;
use crate::nn::{Asked, Predictor, RateGroup, token_log_probs, token_readings};
use crate::objectives::{Distributions, SequenceScores, TokenLogProbs, TokenScores, Wants};
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;
use crate::vlm::{Targets, Vlm, VlmInputs, last_tokens, marked_tokens};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::ControlFlow;

/// A model that gives log-probabilities of a batch's supervised tokens, or scores, and answers prompts.
pub trait Policy: Module + Sync {
    /// How fast an adapter's parameters learn under LoRA+, by name; others learn at the base's rate.
    fn rate_groups(&self) -> BTreeMap<String, RateGroup> {
        BTreeMap::new()
    }

    /// Log-probabilities of the supervised tokens, and what else is wanted; differentiable.
    fn log_probs(&self, batch: &Batch, device: &Device, wants: &Wants) -> TokenLogProbs;

    /// What is expected at every supervised token; differentiable.
    fn distributions(&self, batch: &Batch, device: &Device) -> Distributions;

    /// The head's scores at the last token of each row; differentiable.
    ///
    /// # Panics
    /// Where the model has no such head.
    fn sequence_scores(&self, batch: &Batch, device: &Device) -> SequenceScores;

    /// The head's scores at each supervised token; differentiable.
    ///
    /// # Panics
    /// Where the model has no such head.
    fn token_scores(&self, batch: &Batch, device: &Device) -> TokenScores;

    /// Log-probabilities and greedy hits of a batch, in host memory.
    fn score(&self, batch: &Batch, device: &Device) -> Scored;

    /// Greedy answers to a left-padded batch of prompts; `on_token(row, id)` as in [`greedy`].
    fn generate(
        &self,
        prompts: &Batch,
        stop: &Stop,
        device: &Device,
        on_token: &mut dyn FnMut(usize, u32) -> bool,
    ) -> Vec<Vec<u32>>;

    /// Answers to prompts, each made as its row says; `room` is the most tokens that one may have.
    ///
    /// # Errors
    /// [`BatchError::Row`] of a row whose search finds no token.
    fn respond(
        &self,
        rows: Vec<Request<Encoded>>,
        pad_token: u32,
        room: usize,
        device: &Device,
    ) -> Result<Vec<Vec<Sequence>>, BatchError<Infallible>>;
}

/// Scores of the supervised tokens of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// Log-probability of each supervised token in nats, per row.
    pub log_probs: Vec<Vec<f32>>,
    /// Supervised tokens that the model would have chosen itself.
    pub correct: usize,
    /// Supervised tokens.
    pub total: usize,
}

impl<L: CausalLm, T: VisionTower, P: ProjectorModel> Policy for Vlm<L, T, P> {
    fn rate_groups(&self) -> BTreeMap<String, RateGroup> {
        Vlm::rate_groups(self)
    }

    fn log_probs(&self, batch: &Batch, device: &Device, wants: &Wants) -> TokenLogProbs {
        let inputs = VlmInputs { embedding_noise: wants.embedding_noise, ..VlmInputs::upload(batch, device) };
        let targets = Targets::upload(batch, device);
        let hidden = self.hidden(&inputs, None);
        let [b, t, d] = hidden.dims();
        let hidden = hidden.reshape([b * t, d]);
        let at = hidden.clone().select(0, targets.predictors_s.clone());
        let head = self.language_model.head();
        let readings = token_readings(at, head.clone(), targets.ids_s.clone(), asked(wants));
        let mut found = TokenLogProbs::new(readings.log_probs, targets.per_row.clone(), targets.host_ids.clone());
        found.normalizers = readings.normalizers;
        found.mean_logits = readings.mean_logits;
        if let Some(spread) = readings.spread {
            found.entropies = wants.entropies.then_some(spread.entropies);
            found.collisions = wants.collisions.then_some(spread.collisions);
        }
        if let Some(argmax) = readings.argmax {
            let argmax = argmax.into_data();
            found.correct = Some(argmax.iter::<i64>().zip(&found.ids).map(|(a, &b)| a == i64::from(b)).collect());
        }
        if wants.prompt {
            let prompt = Targets::prompt(batch, device);
            let at = hidden.select(0, prompt.predictors_s);
            found.prompt = Some((token_log_probs(at, head, prompt.ids_s), prompt.per_row));
        }
        found
    }

    fn distributions(&self, batch: &Batch, device: &Device) -> Distributions {
        let targets = Targets::upload(batch, device);
        let at = self.hidden_at(&VlmInputs::upload(batch, device), targets.predictors_s);
        let predictor = Predictor { hidden_nd: at, head_vd: self.language_model.head() };
        Distributions { predictor, ids: targets.ids_s, per_row: targets.per_row }
    }

    fn sequence_scores(&self, batch: &Batch, device: &Device) -> SequenceScores {
        let at = self.hidden_at(&VlmInputs::upload(batch, device), last_tokens(batch, device));
        SequenceScores { values: headed(self, at) }
    }

    fn token_scores(&self, batch: &Batch, device: &Device) -> TokenScores {
        let (positions, per_row) = marked_tokens(batch, device);
        let at = self.hidden_at(&VlmInputs::upload(batch, device), positions);
        TokenScores { values: headed(self, at), per_row }
    }

    fn score(&self, batch: &Batch, device: &Device) -> Scored {
        let targets = Targets::upload(batch, device);
        if targets.count == 0 {
            return Scored { log_probs: vec![Vec::new(); batch.rows], ..Scored::default() };
        }
        let stats = self.stats(&VlmInputs::upload(batch, device), &targets);
        let values: Vec<f32> = stats.log_probs.into_data().iter::<f32>().collect();
        let guesses = stats.argmax.into_data();
        let correct = guesses.iter::<i64>().zip(&targets.host_ids).filter(|(a, b)| *a == i64::from(**b)).count();
        let mut rest = values.as_slice();
        let log_probs = targets
            .per_row
            .iter()
            .map(|&n| {
                let (row, after) = rest.split_at(n);
                rest = after;
                row.to_vec()
            })
            .collect();
        Scored { log_probs, correct, total: targets.count }
    }

    fn generate(
        &self,
        prompts: &Batch,
        stop: &Stop,
        device: &Device,
        on_token: &mut dyn FnMut(usize, u32) -> bool,
    ) -> Vec<Vec<u32>> {
        greedy(self, &VlmInputs::upload(prompts, device), stop, on_token)
    }

    fn respond(
        &self,
        rows: Vec<Request<Encoded>>,
        pad_token: u32,
        room: usize,
        device: &Device,
    ) -> Result<Vec<Vec<Sequence>>, BatchError<Infallible>> {
        generate(Lanes::new(self, pad_token, room, device), rows, &mut |_, _| ControlFlow::Continue(()))
    }
}

/// What is read in the pass over the vocabulary.
fn asked(wants: &Wants) -> Asked {
    Asked {
        argmax: wants.correct,
        spread: wants.entropies || wants.collisions,
        normalizers: wants.normalizers,
        mean_logits: wants.mean_logits,
        weights: wants.weights,
    }
}

/// The scores of a model whose recipe asked for a head.
fn headed<L: CausalLm, T: VisionTower, P: ProjectorModel>(model: &Vlm<L, T, P>, hidden_nd: Tensor<2>) -> Tensor<2> {
    match model.scores(hidden_nd) {
        Some(scores) => scores,
        None => panic!("a model without a head was asked for scores"),
    }
}

/// What an objective reads of a policy, and how the training loop gets it.
pub trait Signal: Sized {
    /// Whether a policy that is trained by it answers questions; false for a head that yields scores.
    const GENERATES: bool;

    /// Whether what a reference says can be stored once and read back ([`stored`](Self::stored)).
    const STORES: bool = false;

    /// Asks the policy.
    fn of<P: Policy>(policy: &P, batch: &Batch, device: &Device, wants: &Wants) -> Self;

    /// The same values on a device with gradients, without any of their own.
    fn constant(self) -> Self;

    /// Tokens that the policy would have chosen itself, and how many were asked; `None` where that was not wanted.
    fn hits(&self) -> Option<(usize, usize)> {
        None
    }

    /// What was read of each row, in host memory: its log-probability, or its scores.
    fn row_values(&self) -> Vec<Vec<f64>>;

    /// What was stored of a reference for the rows of `batch`; `None` where signals of this kind cannot be stored.
    fn stored(_values: Vec<f32>, _per_row: Vec<usize>, _batch: &Batch, _device: &Device) -> Option<Self> {
        None
    }
}

fn host(values: Tensor<1>) -> Vec<f64> {
    values.into_data().iter::<f32>().map(f64::from).collect()
}

fn rows(values: &Tensor<2>) -> Vec<Vec<f64>> {
    let [_, k] = values.dims();
    let flat: Vec<f64> = values.clone().into_data().iter::<f32>().map(f64::from).collect();
    flat.chunks(k.max(1)).map(<[f64]>::to_vec).collect()
}

/// Sums of consecutive runs of `values`, one for each row.
fn runs(values: &[f64], per_row: &[usize]) -> Vec<Vec<f64>> {
    let mut rest = values;
    let sum = |&n: &usize| {
        let (row, after) = rest.split_at(n);
        rest = after;
        vec![row.iter().sum()]
    };
    per_row.iter().map(sum).collect()
}

impl Signal for TokenLogProbs {
    const GENERATES: bool = true;
    const STORES: bool = true;

    fn of<P: Policy>(policy: &P, batch: &Batch, device: &Device, wants: &Wants) -> Self {
        policy.log_probs(batch, device, wants)
    }

    fn constant(self) -> Self {
        let lift = |values: Option<Tensor<1>>| values.map(Tensor::autodiff);
        Self {
            values: self.values.autodiff(),
            normalizers: lift(self.normalizers),
            mean_logits: lift(self.mean_logits),
            prompt: self.prompt.map(|(values, per_row)| (values.autodiff(), per_row)),
            ..self
        }
    }

    fn row_values(&self) -> Vec<Vec<f64>> {
        runs(&host(self.values.clone()), &self.per_row)
    }

    fn stored(values: Vec<f32>, per_row: Vec<usize>, batch: &Batch, device: &Device) -> Option<Self> {
        let ids = Targets::upload(batch, device).host_ids;
        Some(Self::new(Tensor::from_data(values.as_slice(), device), per_row, ids))
    }

    fn hits(&self) -> Option<(usize, usize)> {
        self.correct.as_ref().map(|all| (all.iter().filter(|&&hit| hit).count(), all.len()))
    }
}

impl Signal for Distributions {
    const GENERATES: bool = true;

    fn of<P: Policy>(policy: &P, batch: &Batch, device: &Device, _wants: &Wants) -> Self {
        policy.distributions(batch, device)
    }

    fn constant(self) -> Self {
        let Predictor { hidden_nd, head_vd } = self.predictor;
        let predictor = Predictor { hidden_nd: hidden_nd.autodiff(), head_vd: head_vd.autodiff() };
        Self { predictor, ids: self.ids.autodiff(), ..self }
    }

    fn row_values(&self) -> Vec<Vec<f64>> {
        let Predictor { hidden_nd, head_vd } = self.predictor.clone();
        let [hidden_nd, head_vd] = [hidden_nd, head_vd].map(Tensor::inner);
        runs(&host(token_log_probs(hidden_nd, head_vd, self.ids.clone().inner())), &self.per_row)
    }
}

impl Signal for SequenceScores {
    const GENERATES: bool = false;

    fn of<P: Policy>(policy: &P, batch: &Batch, device: &Device, _wants: &Wants) -> Self {
        policy.sequence_scores(batch, device)
    }

    fn constant(self) -> Self {
        Self { values: self.values.autodiff() }
    }

    fn row_values(&self) -> Vec<Vec<f64>> {
        rows(&self.values)
    }
}

impl Signal for TokenScores {
    const GENERATES: bool = false;

    fn of<P: Policy>(policy: &P, batch: &Batch, device: &Device, _wants: &Wants) -> Self {
        policy.token_scores(batch, device)
    }

    fn constant(self) -> Self {
        Self { values: self.values.autodiff(), ..self }
    }

    /// Of each step in turn, by how much its last score is above its first.
    fn row_values(&self) -> Vec<Vec<f64>> {
        let scores = rows(&self.values);
        let mut steps = scores.iter().map(|step| step.last().unwrap_or(&0.0) - step.first().unwrap_or(&0.0));
        self.per_row.iter().map(|&n| steps.by_ref().take(n).collect()).collect()
    }
}
