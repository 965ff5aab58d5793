//! Optimizer steps, as the training loop takes them: tokens with `Sft`, pairs with any loss over pairs.

use crate::model::{Model, Settings, load};
use crate::{Compared, Options, Work, batch};
use anyhow::Context;
use burn::module::Module;
use burn::tensor::Device;
use firebrick::data::Batch;
use firebrick::example::Shape;
use firebrick::nn::params;
use firebrick::objectives::{Inputs, Objective, State, StepTotals};
use firebrick::projector::Projector;
use firebrick::trainer::anchor::{Fingerprint, Split, StoredLogProbs, StoredWriter};
use firebrick::trainer::{AdamW, Anchor, GradientSum, Policy, Signal, Train};
use firebrick::vision::VisionEncoder;
use serde_json::{Map, Value, json};

/// A model, its optimizer and the one batch it is trained on.
pub struct Training<V: VisionEncoder, P: Projector, O> {
    /// Taken while the optimizer has it, as in the training loop.
    model: Option<Model<V, P>>,
    anchor: Anchor<Model<V, P>>,
    objective: O,
    state: State,
    optimizer: AdamW,
    settings: Train,
    batch: Batch,
    /// With gradients.
    device: Device,
}

impl<V: VisionEncoder, P: Projector, O: Objective<Signal: Signal>> Training<V, P, O> {
    pub fn new(options: &Options, plain: &Device) -> anyhow::Result<Self> {
        let device = plain.clone().autodiff();
        let settings = Settings::<O>::new(options)?;
        let loaded = load::<V, P, O>(options, &settings, &device)?;
        let batch = batch::of(options, &loaded, <O::Example as Shape>::ROWS)?;
        let kind = if settings.objective.compares() { options.reference } else { Compared::None };
        let anchor = anchor::<V, P>(kind, &loaded.model, &batch, plain)?;
        let Settings { train, objective, .. } = settings;
        Ok(Self {
            model: Some(loaded.model),
            anchor,
            objective,
            state: State::default(),
            optimizer: AdamW::default(),
            settings: train,
            batch,
            device,
        })
    }

    fn model(&self) -> anyhow::Result<&Model<V, P>> {
        self.model.as_ref().context("the model is lost after an error")
    }

    /// One optimizer step, the operations of the training loop's in its order: loss and gradient norm.
    fn step(&mut self) -> anyhow::Result<(f64, f64)> {
        let model = self.model.take().context("the model is lost after an error")?;
        let totals =
            StepTotals { examples: self.batch.examples(), tokens: self.batch.supervised_by_place(), training: true };
        let plain = self.device.clone().inner();
        let reference = self.anchor.ask::<O::Signal>(&self.batch, Split::Train, &plain)?.map(Signal::constant);
        let policy = O::Signal::of(&model, &self.batch, &self.device, &self.objective.wants());
        let inputs = Inputs { policy, reference, mismatched: None, facts: &self.batch.facts };
        let value = self.objective.loss(inputs, &totals, &mut self.state).value;
        let loss = value.clone().inner();
        let mut gradients = GradientSum::default();
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

impl<V: VisionEncoder, P: Projector, O: Objective<Signal: Signal>> Work for Training<V, P, O> {
    const SCOPED: bool = true;

    fn facts(&self) -> anyhow::Result<Map<String, Value>> {
        let count = |list: Vec<params::ParamInfo>| list.iter().map(params::ParamInfo::len).sum::<usize>();
        Ok(object(json!({
            "tokens": self.batch.num_tokens(),
            "supervised_tokens": self.batch.num_supervised(),
            "trainable_parameters": count(params::list_trainable(self.model()?)),
            "parameters": count(params::list(self.model()?)),
        })))
    }

    fn turn(&mut self) -> anyhow::Result<Map<String, Value>> {
        let (loss, norm) = self.step()?;
        Ok(object(json!({"loss": loss, "grad_norm": norm})))
    }
}

pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

/// The reference as a recipe makes it before the first step.
fn anchor<V: VisionEncoder, P: Projector>(
    kind: Compared,
    model: &Model<V, P>,
    batch: &Batch,
    plain: &Device,
) -> anyhow::Result<Anchor<Model<V, P>>> {
    Ok(match kind {
        Compared::None => Anchor::None,
        Compared::AdapterOff => Anchor::Model(model.without_adapters().valid(), None),
        Compared::FrozenCopy => Anchor::Model(model.valid(), None),
        Compared::Stored => Anchor::Stored { train: stored(&model.valid(), batch, plain)?, eval: None },
    })
}

/// What a model says of the batch, written into a folder and read back as a run reads it.
fn stored<P: Policy>(model: &P, batch: &Batch, plain: &Device) -> anyhow::Result<StoredLogProbs> {
    let about = || "bench".to_owned();
    let fingerprint = Fingerprint { model: about(), data: about(), encoding: about(), images: about() };
    let mut writer = StoredWriter::new(batch.examples(), batch.rows_per_example);
    writer.add(batch, model.score(batch, plain).log_probs);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("reference");
    writer.write(&path, fingerprint.clone())?;
    Ok(StoredLogProbs::open(&path, &fingerprint)?)
}
