//! The memory plan of a preparation: what its settings, model and records need, whether that is there, and the micro-batch
//! that fits.

use super::memory::{Batch, Batching, Hints, Known, MemoryPlan, OtherModels, available, largest, resident};
use super::opened::{Opened, VlmOf, has_vision};
use super::preflight::bytes;
use super::prepare::{Preparation, trainable};
use super::quantize::QuantPlan;
use super::{RecipeError, adapter_file};
use crate::adapters::{Adapter, Start};
use crate::checkpoint::Shards;
use crate::data::{Checked, DataKind, Lines};
use crate::example::Shape;
use crate::models::{CausalLm, LanguageModel};
use crate::nn::params::{self, ParamInfo};
use crate::nn::{FIXED, is_flex};
use crate::objectives::Objective;
use crate::projector::Projector;
use crate::trainer::anchor::AnchorPlan;
use crate::trainer::{Optim, Reference, Signal, Train};
use crate::vision::{VisionEncoder, VisionTower};
use crate::vlm::Layout;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::json;
use std::path::Path;

/// Of what is available, the share that `--auto-batch` fills: the plan is that exact, and other programs take some too.
const SHARE: f64 = 0.8;

/// What a run is sized by.
pub(super) struct Sized<'a> {
    pub checked: &'a Checked,
    pub eval: Option<&'a Checked>,
    /// Every parameter, the adapter's among them.
    pub parameters: &'a [ParamInfo],
    pub hints: Hints,
    /// Which weights are held in fewer bits.
    pub quant: &'a QuantPlan,
    /// Bytes of models beside the one that is trained.
    pub others: usize,
    /// Bytes that the process held before.
    pub base: usize,
}

impl<M, A, V, P, O, D, R> Preparation<'_, M, A, V, P, O, D, R>
where
    M: LanguageModel,
    A: Adapter,
    V: VisionEncoder,
    P: Projector,
    O: Objective<Signal: Signal>,
    D: DataKind,
    R: Reference,
{
    /// The parameters of the model with its adapter, by which a run is sized.
    ///
    /// # Errors
    /// [`RecipeError::Adapter`] of an adapter that does not suit the model.
    pub(super) fn parameters(&self, opened: &Opened<M, V, P>) -> Result<Vec<ParamInfo>, RecipeError> {
        let mut model: VlmOf<M, V, P> = opened.model.clone();
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.train.seed);
        let layout = if opened.processor.is_some() { Layout::Composed } else { Layout::Plain };
        let start = match self.arguments.adapter {
            Some(_) => Start::Saved,
            None => Start::Fresh(&opened.tokenizer),
        };
        let device = self.chosen.device.clone().autodiff();
        let adapter = &self.settings.adapter;
        adapter_file::attach::<M, A, V, P>(&mut model, adapter, layout, start, &mut rng, &device)?;
        Ok(params::list(&model))
    }

    /// What the shapes of parameters do not tell.
    pub(super) fn hints(&self, opened: &Opened<M, V, P>) -> Hints {
        let (settings, language_model) = (self.settings, &opened.model.language_model);
        let set = |key: &str| settings.resolved.setting(key).map(|setting| setting.value.clone());
        Hints {
            width: language_model.hidden_size(),
            vocabulary: if settings.objective.head().is_some() { 0 } else { language_model.vocab_size() },
            heads: language_model.num_attention_heads(),
            key_width: language_model.num_key_value_heads() * language_model.head_dim(),
            layers: language_model.num_layers(),
            image_tokens: if has_vision::<V>() { opened.model.vision_tower.tokens_per_image() + 1 } else { 0 },
            pixels: match has_vision::<V>() {
                true => 3 * opened.model.vision_tower.image_size().0 * opened.model.vision_tower.image_size().1,
                false => 0,
            },
            dropout: set("adapter.lora_dropout").and_then(|share| share.as_f64()).is_some_and(|share| share > 0.0),
            scales_outputs: set("adapter.use_dora") == Some(json!(true)),
            distributions: <O::Signal as Signal>::GENERATES && !<O::Signal as Signal>::STORES,
        }
    }

    /// Bytes of the models beside the one that is trained, as far as they are on this machine.
    pub(super) fn others(&self) -> usize {
        let teacher = match self.settings.anchor() {
            AnchorPlan::Copy { from } => from,
            _ => None,
        };
        let observer = self.settings.train.metrics_model.as_ref().map(Into::into);
        let reward = self.settings.train.reward_model.as_ref().map(Into::into);
        [teacher, observer, reward].iter().flatten().map(|dir| weights_of(dir)).sum()
    }

    /// The plan for one cut of the steps.
    pub(super) fn memory(&self, sized: &Sized<'_>, batching: Batching) -> MemoryPlan {
        let settings = self.settings;
        let saved_whole = settings.adapter.modules_to_save().unwrap_or_default();
        let trains = |name: &str| !self.stores && trainable(name, &settings.train, saved_whole);
        let weight = |p: &ParamInfo| sized.quant.bytes_held(p, settings.train.bf16 && !trains(&p.name));
        let copied = |p: &&ParamInfo| {
            let inside = p.name.contains(".adapter.") && !p.name.contains(FIXED);
            match settings.anchor() {
                AnchorPlan::Copy { from: None } | AnchorPlan::Synced(_) => trains(&p.name),
                AnchorPlan::AdapterOff => trains(&p.name) && !inside,
                _ => false,
            }
        };
        let train = batched(&settings.train, batching);
        let evaluation = match self.stores {
            true => Some((self.largest_batch(sized, &train), 0)),
            false => sized.eval.map(|checked| {
                (
                    longest(checked, train.per_device_eval_batch_size, &sized.hints, D::Shape::ROWS),
                    match settings.generates() {
                        true => settings.generation.max_new_tokens.unwrap_or(train.max_new_tokens),
                        false => 0,
                    },
                )
            }),
        };
        MemoryPlan::new(&Known {
            parameters: sized.parameters,
            trained: &trains,
            weight: &weight,
            hints: sized.hints,
            batch: self.largest_batch(sized, &train),
            accumulates: batching.accumulation > 1,
            evaluation,
            beside: OtherModels {
                copied: sized.parameters.iter().filter(copied).map(weight).sum(),
                others: sized.others,
            },
            optim: Optim::of(&settings.train),
            recompute: settings.train.recompute(),
            in_backward: settings.train.optimizer_in_backward,
            base: sized.base,
            threads: rayon::current_num_threads(),
            queued: train.dataloader_num_workers * train.dataloader_prefetch_factor,
        })
    }

    /// The largest of each number among the first pass's micro-batches.
    fn largest_batch(&self, sized: &Sized<'_>, train: &Train) -> Batch {
        let shape = |batch: Lines| shape_of(sized.checked, &batch, &sized.hints, D::Shape::ROWS);
        self.plan(train, sized.checked).epoch(0).into_iter().map(shape).fold(Batch::default(), Batch::max)
    }

    /// What there is for this run, and whether the user said so.
    fn room(&self) -> Option<usize> {
        match self.arguments.memory_limit {
            Some(limit) => Some(limit),
            None if is_flex(&self.chosen.device) => available().map(|room| room + resident()),
            None => None,
        }
    }

    /// The cut of the steps: the settings' own, the one that a resumed run began with, or the largest that fits.
    ///
    /// # Errors
    /// [`RecipeError::Usage`] where `--auto-batch` has nothing to choose; [`RecipeError::Memory`] where nothing fits.
    pub(super) fn batching(&self, sized: &Sized<'_>) -> Result<(Batching, Vec<String>), RecipeError> {
        let train = &self.settings.train;
        let own =
            Batching { micro: train.per_device_train_batch_size, accumulation: train.gradient_accumulation_steps };
        let mut notes = Vec::new();
        let mut batching = own;
        if self.arguments.auto_batch {
            self.check_auto_batch()?;
            batching = match self.recorded.filter(|recorded| recorded.examples() == own.examples()) {
                Some(recorded) => {
                    notes.push(format!("auto-batch: {} records, as the run began", cut(recorded)));
                    recorded
                }
                None => self.choose(sized, own, &mut notes)?,
            };
        }
        let plan = self.memory(sized, batching);
        let room = self.room();
        notes.extend(plan.lines(room));
        match room.filter(|room| plan.peak > *room) {
            // A resumed run has had its memory once; what there is now may be less, but it knows its batches.
            Some(_) if !self.arguments.auto_batch || self.recorded.is_none() => {
                Err(RecipeError::Memory { plan: notes.join("\n"), advice: self.advice(&plan) })
            }
            _ => Ok((batching, notes)),
        }
    }

    fn choose(&self, sized: &Sized<'_>, own: Batching, notes: &mut Vec<String>) -> Result<Batching, RecipeError> {
        let room = match (self.arguments.memory_limit, self.room()) {
            (Some(limit), _) => limit,
            (None, Some(room)) => (room as f64 * SHARE) as usize,
            (None, None) => {
                return Err(RecipeError::Usage(
                    "--auto-batch does not know how much memory this device has; say it with --memory-limit 20GiB"
                        .to_owned(),
                ));
            }
        };
        match largest(own.examples(), room, |batching| self.memory(sized, batching).peak) {
            Ok((batching, peak)) => {
                notes.push(format!(
                    "auto-batch: {} records, {} of {} (train.per_device_train_batch_size={}, \
                     train.gradient_accumulation_steps={})",
                    cut(batching),
                    bytes(peak),
                    bytes(room),
                    batching.micro,
                    batching.accumulation
                ));
                Ok(batching)
            }
            Err(_) => {
                let plan = self.memory(sized, Batching { micro: 1, accumulation: own.examples() });
                let lines = plan.lines(Some(room)).join("\n");
                Err(RecipeError::Memory { plan: lines, advice: self.advice(&plan) })
            }
        }
    }

    /// Where a choice would change the loss, or the user has made it.
    fn check_auto_batch(&self) -> Result<(), RecipeError> {
        use crate::settings::Origin;
        let key = "train.per_device_train_batch_size";
        let origin = self.settings.resolved.setting(key).map(|setting| &setting.origin);
        if let Some(origin @ (Origin::CommandLine | Origin::File(_))) = origin {
            return Err(RecipeError::Usage(format!(
                "--auto-batch chooses {key}, which is given ({origin}); leave one out (the records of a step are what both \
                 settings say together: give train.gradient_accumulation_steps for more of them)"
            )));
        }
        if self.settings.objective.mixes_examples() {
            return Err(RecipeError::Usage(format!(
                "--auto-batch would change what is learned: {} looks at all records of a micro-batch together, so that another \
                 size is another loss; set {key} yourself",
                O::NAME
            )));
        }
        Ok(())
    }

    /// What to change, the largest part first.
    fn advice(&self, plan: &MemoryPlan) -> String {
        let train = &self.settings.train;
        let mut ways: Vec<(usize, &str)> = vec![
            (
                plan.activations + plan.work,
                "smaller micro-batches (--auto-batch, or train.per_device_train_batch_size with more \
              train.gradient_accumulation_steps) or a smaller data.max_tokens_count",
            ),
            (
                if train.gradient_checkpointing { 0 } else { plan.activations },
                "train.gradient_checkpointing=true, which costs about a third more time",
            ),
            (plan.gradients + plan.moments, "an adapter (Lora) instead of the whole model, or fewer trained parts"),
            (
                if train.optim.ends_with("8bit") { 0 } else { plan.moments },
                "train.optim=adamw_8bit, which holds moments in a quarter of the memory",
            ),
            (plan.evaluation, "a smaller train.per_device_eval_batch_size"),
            (plan.beside, "reference: AdapterOff or Stored, which hold no second model"),
            (plan.data, "a smaller train.dataloader_prefetch_factor"),
        ];
        ways.retain(|(n, _)| *n * 20 > plan.peak);
        ways.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
        let ways: Vec<&str> = ways.into_iter().map(|(_, way)| way).collect();
        format!(
            "the run would need more memory than there is; take {}, or say with --memory-limit that there is more",
            if ways.is_empty() { "a smaller model".to_owned() } else { ways.join("; or ") }
        )
    }
}

/// The settings with another cut.
pub(super) fn batched(train: &Train, batching: Batching) -> Train {
    Train {
        per_device_train_batch_size: batching.micro,
        gradient_accumulation_steps: batching.accumulation,
        ..train.clone()
    }
}

fn cut(batching: Batching) -> String {
    format!("{} × {}", batching.micro, batching.accumulation)
}

/// A micro-batch of these lines of records.
fn shape_of(checked: &Checked, batch: &Lines, hints: &Hints, rows: usize) -> Batch {
    let of = |values: &[usize]| batch.records().map(|record| values.get(record).copied().unwrap_or(0)).sum();
    Batch {
        rows: batch.len() * rows,
        length: batch.longest(&checked.lengths).next_multiple_of(super::prepare::PAD_MULTIPLE),
        supervised: of(&checked.supervised),
        images: of(&checked.shown),
        pixels: hints.pixels,
    }
}

/// The batch that would have the longest records side by side.
fn longest(checked: &Checked, size: usize, hints: &Hints, rows: usize) -> Batch {
    let most = |values: &[usize]| values.iter().copied().max().unwrap_or(0);
    let records = size.min(checked.ok);
    Batch {
        rows: records * rows,
        length: most(&checked.lengths).next_multiple_of(super::prepare::PAD_MULTIPLE),
        supervised: records * most(&checked.supervised),
        images: records * most(&checked.shown),
        pixels: hints.pixels,
    }
}

/// Bytes of a folder's weights in f32; 0 where they are not here.
fn weights_of(dir: &Path) -> usize {
    let Ok(shards) = Shards::open(dir) else { return 0 };
    shards.iter().map(|view| view.shape.iter().product::<usize>() * 4).sum()
}
