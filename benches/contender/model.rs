//! Settings and model, read as a recipe reads them.

use crate::{Options, Tuning};
use anyhow::Context;
use burn::tensor::Device;
use firebrick::adapters::{Lora, Start};
use firebrick::checkpoint::bridge::Hold;
use firebrick::models::Llama;
use firebrick::nn::params;
use firebrick::projector::{NoProjector, Projector};
use firebrick::recipe::{Loaded, Opened, Quantize, VlmOf, adapter_file};
use firebrick::settings::{Component, Resolver, Section};
use firebrick::trainer::Train;
use firebrick::vision::VisionEncoder;
use firebrick::vlm::Part;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::any::TypeId;
use std::path::Path;

pub type Model<V, P> = VlmOf<Llama, V, P>;

/// What `--set` gives, under the names that recipes have for it.
pub struct Settings<O> {
    pub train: Train,
    pub adapter: Lora,
    pub objective: O,
    pub quantize: Quantize,
}

impl<O: Component> Settings<O> {
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        let sections = vec![
            Section::of::<Lora>("adapter"),
            Section::of::<O>("objective"),
            Section::of::<Quantize>("quantize"),
            Section::of::<Train>("train"),
        ];
        let resolved = Resolver::new(sections).command_line(&options.set)?.finish();
        let mut train: Train = resolved.section("train")?;
        train.language_model = train.language_model.or(Some(options.adapter == Tuning::None));
        Ok(Self {
            train,
            adapter: resolved.section("adapter")?,
            objective: resolved.section("objective")?,
            quantize: resolved.section("quantize")?,
        })
    }
}

/// Whether the model in a folder has a vision tower.
pub fn sees(dir: &Path) -> anyhow::Result<bool> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let config: serde_json::Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(config.get("vision_config").is_some())
}

/// Whether a step changes a parameter.
fn trains<P: Projector>(name: &str, train: &Train) -> bool {
    match Part::of(name) {
        _ if name.contains(".adapter.") => true,
        Part::VisionTower => train.vision_tower,
        Part::Projector => train.projector && TypeId::of::<P>() != TypeId::of::<NoProjector>(),
        Part::LanguageModel => train.language_model.unwrap_or(false),
    }
}

/// The model with its adapter, what is trained marked on a device with gradients.
pub fn load<V: VisionEncoder, P: Projector, O: Component>(
    options: &Options,
    settings: &Settings<O>,
    device: &Device,
) -> anyhow::Result<Loaded<Llama, V, P>> {
    let projector = P::default();
    let mut opened = Opened::new(options.model()?, &Llama::default(), &V::default(), &projector, device)?;
    opened.quantize(&settings.quantize, &|name| trains::<P>(name, &settings.train))?;
    let hold = |name: &str| match (trains::<P>(name, &settings.train), settings.train.bf16) {
        (true, _) => Hold::Trained,
        (false, true) => Hold::Narrow,
        (false, false) => Hold::Frozen,
    };
    let mut loaded = opened.load(&projector, &hold, device)?;
    match (options.adapter, &options.adapter_weights) {
        (Tuning::None, _) => {}
        (Tuning::Lora, Some(dir)) => loaded = adapter_file::load(loaded, &settings.adapter, dir, device)?,
        (Tuning::Lora, None) => {
            let (layout, mut rng) = (loaded.layout(), ChaCha8Rng::seed_from_u64(0));
            let start = Start::Fresh(&loaded.tokenizer);
            let model = &mut loaded.model;
            adapter_file::attach::<Llama, Lora, V, P>(model, &settings.adapter, layout, start, &mut rng, device)?;
        }
    }
    if device.is_autodiff() {
        loaded.model = params::set_trainable(loaded.model, |name| trains::<P>(name, &settings.train));
    }
    Ok(loaded)
}
