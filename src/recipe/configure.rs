//! The settings of an experiment: what recipe, file and command line say, what follows from that, and what would do
//! nothing.

use super::experiment::Parts;
use super::{Arguments, ImageSettings, RecipeError, adapter_file, making};
use crate::adapters::Adapter;
use crate::data::{DataKind, Reading};
use crate::models::LanguageModel;
use crate::objectives::Objective;
use crate::projector::Projector;
use crate::settings::{Component, Given, Origin, Resolved, Resolver, Section};
use crate::trainer::Train;
use crate::vision::VisionEncoder;
use serde_json::{Value, json};
use std::path::Path;

/// The typed settings, and where each value comes from.
pub(super) struct Configured<M, A, V, P, O, D> {
    pub resolved: Resolved,
    pub model: M,
    pub adapter: A,
    pub vision: V,
    pub projector: P,
    pub objective: O,
    pub data: D,
    pub reading: Reading,
    pub image: ImageSettings,
    pub train: Train,
}

impl<M, A, V, P, O, D> Configured<M, A, V, P, O, D>
where
    M: LanguageModel,
    A: Adapter,
    V: VisionEncoder,
    P: Projector,
    O: Objective,
    D: DataKind,
{
    /// Joins defaults, recipe, file and command line, in this order.
    ///
    /// # Errors
    /// [`RecipeError`] with the key, its value and the valid ones; also where an option or a setting would do nothing.
    pub fn new<R: Component>(parts: &Parts<M, A, V, P, O, D, R>, arguments: &Arguments) -> Result<Self, RecipeError> {
        refuse_idle_options(arguments)?;
        let mut resolver = Resolver::new(vec![
            Section::of::<M>("model"),
            Section::of::<A>("adapter"),
            Section::of::<V>("vision"),
            Section::of::<P>("projector"),
            Section::of::<O>("objective"),
            Section::of::<D>("data"),
            Section::of::<ImageSettings>("image"),
            Section::of::<R>("reference"),
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
        derive::<A>(&mut resolved, arguments)?;
        let data: D = resolved.section("data")?;
        let configured = Self {
            model: resolved.section("model")?,
            adapter: resolved.section("adapter")?,
            vision: resolved.section("vision")?,
            projector: resolved.section("projector")?,
            objective: resolved.section("objective")?,
            image: resolved.section("image")?,
            train: resolved.section("train")?,
            reading: data.reading(),
            data,
            resolved,
        };
        refuse_idle_settings(&configured.adapter, &configured.resolved, &configured.train, arguments)?;
        Ok(configured)
    }
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
fn derive<A: Adapter>(resolved: &mut Resolved, arguments: &Arguments) -> Result<(), RecipeError> {
    if arguments.model.is_none() {
        let own_data = !arguments.data.is_empty();
        for (key, value) in making::training(own_data) {
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
    adapter: &A,
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
    if train.bf16 && train.language_model == Some(true) {
        return Err(RecipeError::Usage(
            "train.bf16 holds frozen weights in bf16, but the language model is trained; add an adapter, or leave it out"
                .to_owned(),
        ));
    }
    let saved_whole = adapter.modules_to_save().unwrap_or_default();
    if train.bf16 && saved_whole.iter().any(|module| module == "embed_tokens") {
        return Err(RecipeError::Usage(
            "train.bf16 holds frozen weights in bf16, but adapter.modules_to_save trains the token table, from which all \
             activations take their type; leave one out, or name single rows in adapter.trainable_token_indices"
                .to_owned(),
        ));
    }
    let evaluates = !arguments.eval_data.is_empty() || arguments.data.is_empty();
    for key in ["train.eval_steps", "train.load_best_model_at_end", "train.eval_on_start", "train.eval_shuffled_images"]
    {
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
