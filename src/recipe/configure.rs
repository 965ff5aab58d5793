//! The settings of an experiment: what recipe, file and command line say, what follows from that, and what would do
//! nothing.

use super::experiment::Parts;
use super::memory::Batching;
use super::opened::has_vision;
use super::quantize::Quantize;
use super::slots::packing_refusal;
use super::{Arguments, ImageSettings, RecipeError, adapter_file, making};
use crate::adapters::{Adapter, NoAdapter};
use crate::data::{DataKind, Reading, SpecialTokens, TextOptions};
use crate::example::Shape;
use crate::generation::settings::Generation;
use crate::models::LanguageModel;
use crate::objectives::{Objective, ReferenceUse};
use crate::projector::Projector;
use crate::settings::{Given, Origin, Resolved, Resolver, Section};
use crate::trainer::anchor::AnchorPlan;
use crate::trainer::{GENERATION_ONLY, Reference, Signal, Train};
use crate::vision::VisionEncoder;
use serde_json::{Value, json};
use std::any::TypeId;
use std::path::Path;

/// The typed settings, and where each value comes from.
pub(super) struct Configured<M, A, V, P, O, D, R> {
    pub resolved: Resolved,
    pub model: M,
    pub adapter: A,
    pub vision: V,
    pub projector: P,
    pub objective: O,
    pub data: D,
    pub reading: Reading,
    pub image: ImageSettings,
    pub tokens: SpecialTokens,
    pub quantize: Quantize,
    pub reference: R,
    /// How evaluations generate answers.
    pub generation: Generation,
    pub train: Train,
}

impl<M, A, V, P, O, D, R> Configured<M, A, V, P, O, D, R>
where
    M: LanguageModel,
    A: Adapter,
    V: VisionEncoder,
    P: Projector,
    O: Objective<Signal: Signal>,
    D: DataKind,
    R: Reference,
{
    /// Joins defaults, recipe, file and command line, in this order.
    ///
    /// # Errors
    /// [`RecipeError`] with the key, its value and the valid ones; also where an option or a setting would do nothing.
    pub fn new(parts: &Parts<M, A, V, P, O, D, R>, arguments: &Arguments) -> Result<Self, RecipeError> {
        refuse_idle_options(arguments)?;
        let mut resolver = Resolver::new(vec![
            Section::of::<M>("model"),
            Section::of::<A>("adapter"),
            Section::of::<V>("vision"),
            Section::of::<P>("projector"),
            Section::of::<O>("objective"),
            Section::of::<D>("data"),
            Section::of::<ImageSettings>("image"),
            Section::of::<SpecialTokens>("tokens"),
            Section::of::<Quantize>("quantize"),
            Section::of::<R>("reference"),
            Section::of::<Generation>("generation"),
            Section::of::<Train>("train"),
        ])
        .recipe("model", &parts.model)?
        .recipe("adapter", &parts.adapter)?
        .recipe("vision", &parts.vision)?
        .recipe("projector", &parts.projector)?
        .recipe("objective", &parts.objective)?
        .recipe("data", &parts.data)?
        .recipe("reference", &parts.reference)?
        .recipe("train", &parts.train)?;
        if let Some(file) = &arguments.config {
            resolver = resolver.file(file)?;
        }
        let mut resolved = resolver.command_line(&arguments.assignments())?.finish();
        derive::<A>(&mut resolved, arguments, has_vision::<V>())?;
        let data: D = resolved.section("data")?;
        let configured = Self {
            model: resolved.section("model")?,
            adapter: resolved.section("adapter")?,
            vision: resolved.section("vision")?,
            projector: resolved.section("projector")?,
            objective: resolved.section("objective")?,
            image: resolved.section("image")?,
            tokens: resolved.section("tokens")?,
            quantize: resolved.section("quantize")?,
            reference: resolved.section("reference")?,
            generation: resolved.section("generation")?,
            train: resolved.section("train")?,
            reading: data.reading(),
            data,
            resolved,
        };
        if let Some(name) = O::REQUIRED.iter().find(|name| {
            configured.resolved.setting(&format!("objective.{name}")).is_none_or(|setting| setting.value.is_null())
        }) {
            return Err(RecipeError::Usage(format!(
                "{} needs {name}: write it in the recipe, or give --set objective.{name}=…",
                O::NAME
            )));
        }
        refuse_idle_settings::<A>(&configured.resolved, &configured.train, arguments)?;
        if !has_vision::<V>() {
            refuse_vision(&configured.resolved)?;
        }
        let idle = TextOptions::from(&configured.reading).without_effect(<D::Shape as Shape>::LEARNS);
        if let Some(name) = idle.first() {
            return Err(RecipeError::Usage(format!(
                "data.{name} would do nothing for {}, from which no answers are learned token by token; leave it out",
                D::NAME
            )));
        }
        if !<O::Signal as Signal>::GENERATES {
            refuse_generation(&configured.resolved)?;
        }
        if configured.train.metrics_model.is_some() && !<O::Signal as Signal>::GENERATES {
            return Err(RecipeError::Usage(format!(
                "train.metrics_model is a model whose log-probabilities are logged, but {} reads scores; leave it out",
                O::NAME
            )));
        }
        configured.check_quantized()?;
        if let Some(reason) = packing_refusal::<A, V, O>().filter(|_| configured.train.packing) {
            return Err(RecipeError::Usage(format!("train.packing is true: {reason}")));
        }
        configured.check_reference(arguments)?;
        configured.check_watch(arguments)?;
        Ok(configured)
    }

    /// Quantized weights are frozen.
    fn check_quantized(&self) -> Result<(), RecipeError> {
        let Some(format) = self.quantize.format() else { return Ok(()) };
        match self.train.language_model {
            Some(true) => Err(RecipeError::Usage(format!(
                "quantize.weights holds frozen weights in {format}, but the language model is trained; add an adapter (and set \
                 train.language_model=false), or leave it out"
            ))),
            _ => Ok(()),
        }
    }

    /// Cuts the steps as `--auto-batch` chose.
    ///
    /// # Errors
    /// None: the settings take every count.
    pub fn cut_by(&mut self, batching: Batching) -> Result<(), RecipeError> {
        for (name, value) in
            [("per_device_train_batch_size", batching.micro), ("gradient_accumulation_steps", batching.accumulation)]
        {
            self.resolved.derive(&format!("train.{name}"), json!(value), "--auto-batch")?;
        }
        self.train = self.resolved.section("train")?;
        Ok(())
    }

    /// Where the reference comes from.
    pub fn anchor(&self) -> AnchorPlan {
        self.reference.plan(self.objective.compares(), has_adapter::<A>())
    }

    /// Whether a teacher is made beside the made model.
    pub fn makes_teacher(&self, arguments: &Arguments) -> bool {
        O::Reference::OTHER && arguments.model.is_none() && self.anchor() == AnchorPlan::Copy { from: None }
    }

    /// Objective and reference, as far as their types leave it to their settings.
    fn check_reference(&self, arguments: &Arguments) -> Result<(), RecipeError> {
        let (name, plan) = (O::NAME, self.anchor());
        let refused = |text: String| Err(RecipeError::Usage(text));
        match (&plan, self.objective.compares()) {
            (AnchorPlan::Copy { from: Some(_) }, true) => Ok(()),
            _ if O::Reference::OTHER && !self.makes_teacher(arguments) => refused(format!(
                "{name} learns from another model: name its folder or hub id with --set reference.from=TEACHER"
            )),
            (AnchorPlan::None, true) => refused(format!(
                "{name} with these settings compares with a reference policy, but there is none; set reference.kind=auto, or \
                 choose a loss that compares with nothing"
            )),
            (AnchorPlan::None, false) => Ok(()),
            (_, false) => refused(format!(
                "{name} with these settings compares with nothing, so that a reference policy would be ignored; leave the \
                 reference out (reference.kind=none)"
            )),
            (AnchorPlan::AdapterOff, true) if !has_adapter::<A>() => refused(
                "reference.kind is adapter_off, but there is no adapter to switch off; take frozen_copy, or a recipe with an \
                 adapter"
                    .to_owned(),
            ),
            (AnchorPlan::Stored { .. }, true) if self.objective.compares_mismatched() => refused(format!(
                "{name} asks the reference about answers to other questions, which are not stored; take another reference"
            )),
            (AnchorPlan::Stored { .. }, true) if !<O::Signal as Signal>::STORES => refused(format!(
                "{name} reads whole distributions of the reference, which are not stored; take reference: FrozenCopy"
            )),
            _ if self.objective.compares_mismatched() && self.train.per_device_train_batch_size < 2 => {
                refused(format!(
                    "{name} estimates the KL by giving each question another one's answer, for which a batch needs two records; \
                     train.per_device_train_batch_size is 1: raise it"
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the slot `adapter` is filled.
pub(super) fn has_adapter<A: Adapter>() -> bool {
    TypeId::of::<A>() != TypeId::of::<NoAdapter>()
}

/// Settings of images that were typed for a recipe that sees none.
fn refuse_vision(resolved: &Resolved) -> Result<(), RecipeError> {
    for key in [
        "image.aspect_ratio",
        "image.start_end",
        "train.vision_tower",
        "train.vision_tower_learning_rate",
        "train.projector",
        "train.projector_learning_rate",
    ] {
        let Some(setting) = resolved.setting(key) else { continue };
        // A run's own config.json names every setting, those without effect too.
        let typed = matches!(setting.origin, Origin::CommandLine);
        if typed && !setting.value.is_null() && setting.value != json!(false) {
            return Err(RecipeError::Usage(format!(
                "{key} would do nothing: this recipe has no vision encoder; leave it out"
            )));
        }
    }
    Ok(())
}

/// Settings of generation that were typed for a model that yields scores.
fn refuse_generation(resolved: &Resolved) -> Result<(), RecipeError> {
    for key in GENERATION_ONLY {
        let key = format!("train.{key}");
        let typed = resolved.setting(&key).is_some_and(|s| matches!(s.origin, Origin::CommandLine));
        if typed {
            return Err(RecipeError::Usage(format!(
                "{key} is about generated answers, but this recipe's model yields scores and generates none; leave it out"
            )));
        }
    }
    Ok(())
}

/// Options that would do nothing without another one.
fn refuse_idle_options(arguments: &Arguments) -> Result<(), RecipeError> {
    for (given, flag, needs) in [
        (!arguments.eval_data.is_empty() && arguments.data.is_empty(), "--eval-data", "--data"),
        (!arguments.images.is_empty() && arguments.data.is_empty(), "--images", "--data"),
        (arguments.adapter.is_some() && arguments.model.is_none(), "--adapter", "--model"),
    ] {
        if given {
            return Err(RecipeError::Usage(format!(
                "{flag} would do nothing without {needs}; add it, or leave {flag} out"
            )));
        }
    }
    Ok(())
}

/// Settings that follow from others: what a made model needs, and what an adapter implies.
fn derive<A: Adapter>(resolved: &mut Resolved, arguments: &Arguments, sees: bool) -> Result<(), RecipeError> {
    if arguments.model.is_none() {
        let own_data = !arguments.data.is_empty();
        // What cannot be merged is trained alone: a whole model could not be saved with it.
        let parts = |key: &str| {
            ["vision_tower", "projector", "language_model"]
                .iter()
                .any(|part| key.strip_prefix("train.").is_some_and(|rest| rest.starts_with(part)))
        };
        for (key, value) in making::training(own_data, sees).into_iter().filter(|(key, _)| A::MERGES || !parts(key)) {
            derive_default(resolved, key, value, "the made model is random")?;
        }
    }
    if let Some(dir) = &arguments.adapter {
        take_from_file::<A>(resolved, dir)?;
    }
    let adapter: A = resolved.section("adapter")?;
    if adapter.trains_projector() == Some(false) {
        let projector = resolved.setting("train.projector");
        let asked = projector.is_some_and(|s| s.origin != Origin::Default && s.value == json!(true));
        if asked {
            return Err(RecipeError::Usage(
                "train.projector is true, but adapter.modules_to_save leaves the projector out; add multi_modal_projector \
                 to it, or set train.projector=false"
                    .to_owned(),
            ));
        }
        derive_default(resolved, "train.projector", json!(false), "adapter.modules_to_save leaves it out")?;
    }
    let language_model = resolved.setting("train.language_model").map(|s| s.value.clone());
    if language_model.is_none_or(|v| v.is_null()) {
        let trains = !A::FREEZES_LANGUAGE_MODEL;
        let reason = if trains { "there is no adapter" } else { "an adapter is trained instead" };
        resolved.derive("train.language_model", json!(trains), reason)?;
    }
    Ok(())
}

/// Settings that were typed and would do nothing.
fn refuse_idle_settings<A: Adapter>(
    resolved: &Resolved,
    train: &Train,
    arguments: &Arguments,
) -> Result<(), RecipeError> {
    let typed = |key: &str| {
        let origin = resolved.setting(key).map(|s| &s.origin);
        matches!(origin, Some(Origin::CommandLine | Origin::File(_)))
            && resolved.setting(key).is_some_and(|s| !s.value.is_null())
    };
    let parts = [
        ("vision_tower", train.vision_tower),
        ("projector", train.projector),
        // The adapter's rate is the language model's.
        ("language_model", train.language_model.unwrap_or(false) || A::FREEZES_LANGUAGE_MODEL),
    ];
    if parts.iter().all(|(_, trained)| !trained) {
        return Err(RecipeError::Usage(
            "nothing would be trained: set train.projector, train.language_model or train.vision_tower to true, or add an \
             adapter"
                .to_owned(),
        ));
    }
    for (part, trained) in parts {
        let key = format!("train.{part}_learning_rate");
        if !trained && typed(&key) {
            return Err(RecipeError::Usage(format!(
                "{key} would do nothing: the part is frozen; set train.{part}=true, or leave it out"
            )));
        }
    }
    let evaluates = !arguments.eval_data.is_empty() || arguments.data.is_empty();
    for key in [
        "train.eval_steps",
        "train.load_best_model_at_end",
        "train.early_stopping_patience",
        "train.eval_on_start",
        "train.eval_shuffled_images",
    ] {
        let off = resolved.setting(key).is_some_and(|s| s.value == json!(false));
        if !evaluates && !off && typed(key) {
            return Err(RecipeError::Usage(format!(
                "{key} would do nothing without held-out data; add --eval-data, or leave it out"
            )));
        }
    }
    Ok(())
}

fn derive_default(resolved: &mut Resolved, key: &str, value: Value, reason: &str) -> Result<(), RecipeError> {
    if resolved.setting(key).is_some_and(|s| s.origin == Origin::Default) {
        resolved.derive(key, value, reason)?;
    }
    Ok(())
}

/// An adapter's file decides its shape; a user who asks for another is refused, not ignored.
fn take_from_file<A: Adapter>(resolved: &mut Resolved, dir: &Path) -> Result<(), RecipeError> {
    let file: A = adapter_file::read_settings(dir)?;
    for (name, value) in Given::<A>::from_fields(&file).values() {
        let key = format!("adapter.{name}");
        let Some(setting) = resolved.setting(&key) else { continue };
        let asked = matches!(setting.origin, Origin::CommandLine | Origin::File(_));
        if asked && setting.value != *value {
            return Err(RecipeError::Usage(format!(
                "{key} is {} ({}), but the adapter's own file says {value}; leave {key} out",
                setting.value, setting.origin
            )));
        }
        resolved.derive(&key, value.clone(), "the adapter's own file")?;
    }
    Ok(())
}
