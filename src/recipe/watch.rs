//! What evaluations watch, from the settings: which records, how their answers are made, which metrics.

use super::configure::Configured;
use super::run::describe;
use super::{Arguments, RecipeError, fetch, tools};
use crate::adapters::Adapter;
use crate::checkpoint::hub::Wanted;
use crate::data::{DataKind, Encoder};
use crate::example::{Shape, Supervised};
use crate::generation::Stop;
use crate::generation::decoding::Decoding;
use crate::generation::settings::{Generation, TokenIds};
use crate::metrics::{AnyMetric, Facts, Generated, Judged, Registry};
use crate::models::LanguageModel;
use crate::objectives::Objective;
use crate::projector::Projector;
use crate::settings::{Origin, Resolved};
use crate::text::StopText;
use crate::trainer::anchor::AnchorPlan;
use crate::trainer::{
    Answer, EvalData, Reference, Reply, RewardScorer, RowReading, Signal, Train, Watch, judged, spread,
};
use crate::vision::VisionEncoder;
use rayon::prelude::*;
use serde_json::json;
use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

/// Settings about records that are shown, which `generation.*` and metrics are about as well.
const WATCHING: [&str; 4] = ["train.eval_metrics", "train.cherry_pick", "train.cherry_pick_ids", "train.reward_model"];

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
    /// Whether evaluations generate answers.
    pub fn generates(&self) -> bool {
        <O::Signal as Signal>::GENERATES && <D::Shape as Shape>::SHOWS && self.train.eval_generate > 0
    }

    /// Whether a model says something of each of a record's rows.
    pub fn judges(&self) -> bool {
        TypeId::of::<D::Shape>() != TypeId::of::<Supervised>()
    }

    /// Refuses settings of evaluations that would do nothing.
    ///
    /// # Errors
    /// [`RecipeError::Usage`].
    pub fn check_watch(&self, arguments: &Arguments) -> Result<(), RecipeError> {
        let refused = |text: String| Err(RecipeError::Usage(text));
        let generation = self.generation != Generation::default();
        let asked = WATCHING.into_iter().find(|key| typed(&self.resolved, key));
        let asked = asked.or(generation.then_some("generation.*"));
        let evaluates = !arguments.eval_data.is_empty() || arguments.data.is_empty();
        if let Some(key) = asked.filter(|_| !evaluates) {
            return refused(format!("{key} would do nothing without held-out data; add --eval-data, or leave it out"));
        }
        if self.generates() {
            return self.check_lengths();
        }
        let words = <O::Signal as Signal>::GENERATES && <D::Shape as Shape>::SHOWS;
        let advice = if words {
            "train.eval_generate is 0: raise it".to_owned()
        } else {
            format!("this recipe's model generates no answers that {} could be compared with: leave it out", D::NAME)
        };
        if generation {
            return refused(format!("generation.* says how answers are made, but {advice}"));
        }
        if self.train.reward_model.is_some() {
            return refused(format!("train.reward_model scores generated answers, but {advice}"));
        }
        if !self.train.eval_metrics.is_empty() && self.reading() != RowReading::Class {
            return refused(format!(
                "train.eval_metrics is about generated answers or predicted classes, but {advice}"
            ));
        }
        if !self.judges() && ["train.cherry_pick", "train.cherry_pick_ids"].iter().any(|key| typed(&self.resolved, key))
        {
            return refused(format!("train.cherry_pick shows what the model answers, but {advice}"));
        }
        Ok(())
    }

    fn check_lengths(&self) -> Result<(), RecipeError> {
        if self.generation.best_of.is_some() {
            return Err(RecipeError::Usage(
                "generation.best_of has a reward choose among answers, which evaluations do not; leave it out, or set \
                 generation.num_return_sequences to see several"
                    .to_owned(),
            ));
        }
        let typed_here = typed(&self.resolved, "train.max_new_tokens");
        for (key, other) in
            [("max_new_tokens", self.generation.max_new_tokens), ("max_length", self.generation.max_length)]
        {
            if let Some(length) =
                other.filter(|&length| typed_here && (key == "max_length" || length != self.train.max_new_tokens))
            {
                return Err(RecipeError::Usage(format!(
                    "generation.{key} is {length}, but train.max_new_tokens is {}; leave one of the two out",
                    self.train.max_new_tokens
                )));
            }
        }
        Ok(())
    }

    /// How the scores of a record's rows are meant.
    pub fn reading(&self) -> RowReading {
        RowReading::of(self.objective.head())
    }

    /// How answers are made; `None` for the likeliest token at each step.
    ///
    /// # Errors
    /// [`RecipeError::Setting`] of settings that do not go together with this tokenizer.
    pub fn decoding(&self, stop: &Stop, encoder: &Encoder) -> Result<Option<Arc<Decoding>>, RecipeError> {
        if self.generation == Generation::default() {
            return Ok(None);
        }
        let mut wanted = self.generation.clone();
        if wanted.eos_token_id.is_empty() && !stop.end_tokens.is_empty() {
            wanted.eos_token_id = vec![TokenIds(stop.end_tokens.clone())];
        }
        if wanted.max_new_tokens.is_none() && wanted.max_length.is_none() {
            wanted.max_new_tokens = Some(stop.max_new_tokens);
        }
        let turn = encoder.template.stop().filter(|turn| StopText::is_shown(&encoder.tokenizer, turn));
        wanted.stop_strings.extend(turn.map(|turn| turn.to_string()));
        let decoding = wanted.resolve(&encoder.tokenizer).map_err(|error| error.in_section("generation"))?;
        Ok(Some(Arc::new(decoding)))
    }

    /// The numbers of the held-out records that every evaluation shows.
    ///
    /// # Errors
    /// [`RecipeError::Usage`] of an id that no usable record has.
    pub fn picks(&self, data: &EvalData<D>) -> Result<Vec<usize>, RecipeError> {
        let (train, usable) = (&self.train, &data.usable);
        if !self.generates() && !self.judges() {
            return Ok(Vec::new());
        }
        if !train.cherry_pick_ids.is_empty() {
            if typed(&self.resolved, "train.cherry_pick") {
                let text =
                    "train.cherry_pick says how many records are shown, train.cherry_pick_ids which; leave one out";
                return Err(RecipeError::Usage(text.to_owned()));
            }
            let mut numbers = HashMap::new();
            for &index in usable.iter().rev() {
                numbers.insert(data.dataset.sample(index)?.id, index);
            }
            let found = train.cherry_pick_ids.iter().map(|id| {
                numbers.get(id).copied().ok_or_else(|| {
                    let some: Vec<String> =
                        usable.iter().take(3).filter_map(|&index| Some(data.dataset.sample(index).ok()?.id)).collect();
                    RecipeError::Usage(format!(
                        "train.cherry_pick_ids names {id}, but no usable held-out record has this id; ids are like {}",
                        some.join(", ")
                    ))
                })
            });
            let found: Vec<usize> = found.collect::<Result<_, _>>()?;
            let mut seen = HashSet::new();
            return Ok(found.into_iter().filter(|index| seen.insert(*index)).collect());
        }
        // Among those that are answered anyway, where there are enough.
        let answered = if self.generates() { train.eval_generate } else { usize::MAX };
        // Nobody who asked for few answers pays for the default's.
        let wanted = match typed(&self.resolved, "train.cherry_pick") {
            true => train.cherry_pick,
            false => train.cherry_pick.min(answered),
        };
        let among = if wanted <= answered { answered } else { usize::MAX };
        let among = spread(usable.len(), among);
        Ok(spread(among.len(), wanted).into_iter().map(|at| usable[among[at]]).collect())
    }

    /// The metrics, held against every held-out record.
    ///
    /// # Errors
    /// [`RecipeError::Usage`] of a metric that cannot be computed of these records.
    pub fn watch(&self, data: &EvalData<D>) -> Result<Watch, RecipeError> {
        let refused = |error: String| RecipeError::Usage(format!("train.eval_metrics: {error}"));
        let facts = Facts { vocabulary: NonZeroUsize::new(data.encoder.tokenizer.vocab_size()) };
        let registry = Registry::default();
        let names = self.train.eval_metrics.iter();
        let metrics: Vec<AnyMetric> = names
            .map(|name| registry.by_name(name, &facts))
            .collect::<Result<_, _>>()
            .map_err(|error| refused(error.to_string()))?;
        if metrics.is_empty() {
            return Ok(Watch::default());
        }
        if !self.generates() {
            let classified =
                Judged { answers: vec![Generated::new("0")], label: Some("0".to_owned()), ..Judged::default() };
            let watch = Watch::new(metrics, &classified);
            return watch.map_err(|error| refused(format!("{error} (of predicted classes there is no more)")));
        }
        if self.train.eval_metrics.iter().any(|name| name == "vqa_accuracy") {
            return Err(refused(
                "vqa_accuracy counts how many of several people gave the answer, but a held-out record expects one; take \
                 exact_match_squad or anls"
                    .to_owned(),
            ));
        }
        let Some(&first) = data.usable.first() else { return Ok(Watch::default()) };
        let watch = Watch::new(metrics, &self.probe(data, first)?).map_err(|error| refused(error.to_string()))?;
        let compared =
            matches!(self.anchor(), AnchorPlan::Copy { .. } | AnchorPlan::AdapterOff | AnchorPlan::Synced(_))
                || self.train.metrics_model.is_some();
        if let Some(name) = watch.comparing().next().filter(|_| !compared) {
            return Err(refused(format!(
                "{name} compares with another model, and there is none that could score an answer; name one with \
                 train.metrics_model"
            )));
        }
        let wrong = data.usable.par_iter().find_map_first(|&index| {
            // What cannot be read was told before.
            let probe = self.probe(data, index).ok()?;
            watch.check(&probe).err()
        });
        match wrong {
            Some(error) => Err(refused(error.to_string())),
            None => Ok(watch),
        }
    }

    /// A record answered as it expects, as many times as there will be answers.
    fn probe(&self, data: &EvalData<D>, index: usize) -> Result<Judged, RecipeError> {
        let sample = data.dataset.sample(index)?;
        let shown = <D::Shape as Shape>::shown(&sample.conversation, &sample.target);
        let turns = crate::trainer::asked(&sample).messages.len();
        let expected = shown.messages.get(turns).map(|message| message.words()).unwrap_or_default();
        let reply = Reply { text: expected.clone(), ..Reply::default() };
        let replies = vec![reply; self.generation.num_return_sequences];
        Ok(judged(&sample, &Answer { index, expected, replies }, |_| &None))
    }

    /// Refuses a reward model that scores no answers, without its weights.
    ///
    /// # Errors
    /// [`RecipeError`] of its folder.
    pub fn check_reward(&self) -> Result<(), RecipeError> {
        match &self.train.reward_model {
            Some(from) => {
                let dir = fetch::folder(Path::new(from), Wanted::ModelWithoutWeights)?;
                tools::check_reward_model(&dir)
            }
            None => Ok(()),
        }
    }

    /// The reward model with its weights.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn reward(&self, arguments: &Arguments) -> Result<Option<Box<dyn RewardScorer>>, RecipeError> {
        let Some(from) = &self.train.reward_model else { return Ok(None) };
        let dir = fetch::folder(Path::new(from), Wanted::Model)?;
        let opened = tools::open_reward_model(&dir, arguments.device, self.train.per_device_eval_batch_size);
        opened.map(Some).map_err(|error| match error.downcast::<RecipeError>() {
            Ok(error) => error,
            Err(error) => RecipeError::Structure {
                dir,
                problem: describe(&error),
                advice: "train.reward_model takes what the recipe reward_model leaves".to_owned(),
            },
        })
    }
}

/// Whether a setting of `train` was typed, and not to nothing. A run's own config.json names every setting, those that
/// nobody changed too.
fn typed(resolved: &Resolved, key: &str) -> bool {
    let default = serde_json::to_value(Train::default()).unwrap_or_default();
    let default = key.strip_prefix("train.").map(|name| default[name].clone()).unwrap_or_default();
    resolved.setting(key).is_some_and(|setting| match setting.origin {
        _ if setting.value.is_null() || setting.value == json!([]) || setting.value == json!(0) => false,
        Origin::CommandLine | Origin::Recipe => true,
        Origin::File(_) => setting.value != default,
        _ => false,
    })
}
