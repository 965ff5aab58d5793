//! Optimizer steps, as the training loop takes them: tokens with `Sft`, pairs with any loss over pairs.

use crate::model::{Model, Settings, load};
use crate::{Compared, Options, Work, batch};
use anyhow::Context;
use burn::module::Module;
use burn::tensor::Device;
use firebrick::data::Batch;
use firebrick::example::Shape;
use firebrick::nn::params;
use firebrick::objectives::{Objective, StepTotals};
use firebrick::projector::Projector;
use firebrick::trainer::anchor::{Fingerprint, StoredLogProbs, StoredWriter};
use firebrick::trainer::{Anchor, Others, Policy, Signal, Stepper};
use firebrick::vision::VisionEncoder;
use serde_json::{Map, Value, json};

const LOST: &str = "the model is lost after an error";

/// The training loop's step, and the one batch that it is made on.
pub struct Training<V: VisionEncoder, P: Projector, O> {
    /// Taken within a step.
    stepper: Option<Stepper<O, Model<V, P>>>,
    batch: Batch,
}

impl<V: VisionEncoder, P: Projector, O: Objective<Signal: Signal>> Training<V, P, O> {
    pub fn new(options: &Options, plain: &Device) -> anyhow::Result<Self> {
        let device = plain.clone().autodiff();
        let settings = Settings::<O>::new(options)?;
        let loaded = load::<V, P, O>(options, &settings, &device)?;
        let batch = batch::of(options, &loaded, <O::Example as Shape>::ROWS)?;
        let kind = if settings.objective.compares() { options.reference } else { Compared::None };
        let anchor = anchor::<V, P>(kind, &loaded.model, &batch, plain)?;
        let others = Others { anchor, observer: None };
        let stepper = Stepper::new(settings.objective, settings.train, loaded.model, others, device);
        Ok(Self { stepper: Some(stepper), batch })
    }
}

impl<V: VisionEncoder, P: Projector, O: Objective<Signal: Signal>> Work for Training<V, P, O> {
    const SCOPED: bool = true;

    fn facts(&self) -> anyhow::Result<Map<String, Value>> {
        let stepper = self.stepper.as_ref().context(LOST)?;
        let count = |list: Vec<params::ParamInfo>| list.iter().map(params::ParamInfo::len).sum::<usize>();
        Ok(object(json!({
            "tokens": self.batch.num_tokens(),
            "supervised_tokens": self.batch.num_supervised(),
            "trainable_parameters": count(params::list_trainable(&stepper.model)),
            "parameters": count(params::list(&stepper.model)),
        })))
    }

    fn turn(&mut self) -> anyhow::Result<Map<String, Value>> {
        let stepper = self.stepper.take().context(LOST)?;
        let tokens = self.batch.supervised_by_place();
        let totals = StepTotals { examples: self.batch.examples(), tokens, training: true };
        let (stepper, found) = stepper.step(std::slice::from_ref(&self.batch), &totals, 1.0)?;
        self.stepper = Some(stepper);
        Ok(object(json!({"loss": found.loss, "grad_norm": found.norm})))
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
