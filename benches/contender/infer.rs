//! What needs no gradients: greedy answers, and log-probabilities of given tokens.

use crate::model::{Model, Settings, load};
use crate::train::object;
use crate::{Options, Work, batch};
use burn::tensor::Device;
use firebrick::data::Batch;
use firebrick::generation::Stop;
use firebrick::nn::params;
use firebrick::objectives::Sft;
use firebrick::projector::Projector;
use firebrick::trainer::Policy;
use firebrick::vision::VisionEncoder;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// A model without gradients and the batch it is asked about.
struct Asked<V: VisionEncoder, P: Projector> {
    model: Model<V, P>,
    batch: Batch,
    device: Device,
}

impl<V: VisionEncoder, P: Projector> Asked<V, P> {
    fn new(options: &Options, device: &Device) -> anyhow::Result<Self> {
        let loaded = load::<V, P, Sft>(options, &Settings::new(options)?, device)?;
        let batch = batch::of(options, &loaded, 1)?;
        Ok(Self { model: loaded.model, batch, device: device.clone() })
    }

    fn facts(&self) -> Map<String, Value> {
        object(json!({
            "tokens": self.batch.num_tokens(),
            "supervised_tokens": self.batch.num_supervised(),
            "trainable_parameters": 0,
            "parameters": params::list(&self.model).iter().map(params::ParamInfo::len).sum::<usize>(),
        }))
    }
}

/// Answers of a fixed length: no token ends them.
pub struct Generating<V: VisionEncoder, P: Projector> {
    asked: Asked<V, P>,
    stop: Stop,
}

impl<V: VisionEncoder, P: Projector> Generating<V, P> {
    pub fn new(options: &Options, device: &Device) -> anyhow::Result<Self> {
        let stop = Stop { end_tokens: Vec::new(), max_new_tokens: options.max_new_tokens };
        Ok(Self { asked: Asked::new(options, device)?, stop })
    }
}

impl<V: VisionEncoder, P: Projector> Work for Generating<V, P> {
    const SCOPED: bool = false;

    fn facts(&self) -> anyhow::Result<Map<String, Value>> {
        Ok(self.asked.facts())
    }

    fn turn(&mut self) -> anyhow::Result<Map<String, Value>> {
        let Asked { model, batch, device } = &self.asked;
        let started = Instant::now();
        let (mut seen, mut prefill) = (0, None);
        let answers = model.generate(batch, &self.stop, device, &mut |_, _| {
            seen += 1;
            if seen == batch.rows {
                prefill = Some(started.elapsed().as_secs_f64());
            }
            true
        });
        Ok(object(json!({"prefill_seconds": prefill, "answers": answers})))
    }
}

/// Log-probabilities of the supervised tokens.
pub struct Scoring<V: VisionEncoder, P: Projector>(Asked<V, P>);

impl<V: VisionEncoder, P: Projector> Scoring<V, P> {
    pub fn new(options: &Options, device: &Device) -> anyhow::Result<Self> {
        Ok(Self(Asked::new(options, device)?))
    }
}

impl<V: VisionEncoder, P: Projector> Work for Scoring<V, P> {
    const SCOPED: bool = false;

    fn facts(&self) -> anyhow::Result<Map<String, Value>> {
        Ok(self.0.facts())
    }

    fn turn(&mut self) -> anyhow::Result<Map<String, Value>> {
        let Asked { model, batch, device } = &self.0;
        let scored = model.score(batch, device);
        let sums: Vec<f64> = scored.log_probs.iter().map(|row| row.iter().map(|&v| f64::from(v)).sum()).collect();
        Ok(object(json!({"log_probs": sums})))
    }
}
