//! The settings of a training run, under the names of Hugging Face's `TrainingArguments`.

use super::moments::{Home, Optim};
use super::track::ReportTo;
use crate::metrics::{Better, Facts, Registry};
use crate::nn::recompute::{Keep, Selection};
use crate::settings::{Component, Kind, SettingError};
use std::num::NonZeroUsize;

/// Parameters of [`Train`] that are about generated answers: a model that yields scores has none.
pub const GENERATION_ONLY: &[&str] = &["eval_generate", "eval_shuffled_images", "max_new_tokens"];

/// Stands for facts that are known later: whether a metric has a name does not depend on them.
const ANY_FACTS: Facts = Facts { vocabulary: Some(NonZeroUsize::MIN) };

/// Names of metrics that evaluations or objectives may log of themselves.
const LOGGED_BY_OTHERS: [&str; 3] = ["accuracy", "exact_match", "kl"];

/// What stands in a recipe's `train` slot: settings that yield [`Train`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a set of training settings",
    label = "the slot `train` takes `Train<learning_rate: 2e-4, …>`",
    note = "write `train: Train<…>`"
)]
pub trait TrainSettings: Component {
    /// The settings the training loop reads.
    fn train(&self) -> Train;
}

impl TrainSettings for Train {
    fn train(&self) -> Train {
        self.clone()
    }
}

crate::component! {
    /// How a model is trained. Names and meanings are Hugging Face's `TrainingArguments`, where it has them.
    pub struct Train, TrainBuilder {
        /// Peak learning rate.
        pub learning_rate: f64 = 2e-4 => Kind::number().at_least(0.0),
        /// Peak learning rate of the vision tower; `learning_rate` where it is left open.
        pub vision_tower_learning_rate: Option<f64> = None => Kind::number().at_least(0.0).or_none(),
        /// Peak learning rate of the projector; `learning_rate` where it is left open.
        pub projector_learning_rate: Option<f64> = None => Kind::number().at_least(0.0).or_none(),
        /// Peak learning rate of the language model and its adapter; `learning_rate` where it is left open.
        pub language_model_learning_rate: Option<f64> = None => Kind::number().at_least(0.0).or_none(),
        /// LoRA+: the adapter's B, and DoRA's magnitudes, learn at this many times the rate of its A (PEFT's
        /// `create_loraplus_optimizer`); left open, at the same.
        pub loraplus_lr_ratio: Option<f64> = None => Kind::number().above(0.0).or_none(),
        /// Whether the vision tower is trained.
        pub vision_tower: bool = false => Kind::bool(),
        /// Whether the projector is trained.
        pub projector: bool = true => Kind::bool(),
        /// Whether the language model's own weights are trained; left open, they are unless an adapter is.
        pub language_model: Option<bool> = None => Kind::bool().or_none(),
        /// Records per micro-batch.
        pub per_device_train_batch_size: usize = 8 => Kind::count(),
        /// Records per batch in evaluation.
        pub per_device_eval_batch_size: usize = 16 => Kind::count(),
        /// Micro-batches per optimizer step.
        pub gradient_accumulation_steps: usize = 1 => Kind::count(),
        /// Passes over the data; may be a fraction.
        pub num_train_epochs: f64 = 1.0 => Kind::number().above(0.0),
        /// Optimizer steps; overrides the epochs where it is given.
        pub max_steps: Option<usize> = None => Kind::count().or_none(),
        /// How the learning rate runs after the warmup.
        pub lr_scheduler_type: String = "cosine".to_owned() => Kind::choice(&["linear", "cosine", "constant", "constant_with_warmup"]),
        /// Share of the steps during which the learning rate rises from 0.
        pub warmup_ratio: f64 = 0.03 => Kind::number().at_least(0.0).at_most(1.0),
        /// Steps during which the learning rate rises; overrides the ratio where it is given.
        pub warmup_steps: Option<usize> = None => Kind::integer(0, i64::MAX).or_none(),
        /// Decoupled weight decay, on everything but biases and norms.
        pub weight_decay: f64 = 0.0 => Kind::number().at_least(0.0),
        /// Decay of the first moment.
        pub adam_beta1: f64 = 0.9 => Kind::number().at_least(0.0).below(1.0),
        /// Decay of the second moment.
        pub adam_beta2: f64 = 0.999 => Kind::number().at_least(0.0).below(1.0),
        /// Added to the denominator.
        pub adam_epsilon: f64 = 1e-8 => Kind::number().above(0.0),
        /// Gradients are scaled down to this global norm; 0 does not clip.
        pub max_grad_norm: f64 = 1.0 => Kind::number().at_least(0.0),
        /// How AdamW holds its moments: `adamw_torch` in f32; `adamw_8bit` in 8 bits, block by block, as bitsandbytes does
        /// (those of parameters below 4096 elements stay in f32); `paged_adamw_32bit` and `paged_adamw_8bit` in host memory,
        /// from where one parameter's at a time comes to the device, for GPUs.
        pub optim: String = "adamw_torch".to_owned() => Kind::choice(Optim::NAMES),
        /// Changes each block's weights in the backward pass as soon as their gradient is known, so that no full gradient is
        /// held. Needs `gradient_checkpointing`; goes without accumulation and without clipping, which want all gradients
        /// first.
        pub optimizer_in_backward: bool = false => Kind::bool(),
        /// Keeps only the inputs of blocks and runs the blocks again in the backward pass: less memory, about a third more
        /// time, the same bits on the CPU.
        pub gradient_checkpointing: bool = false => Kind::bool(),
        /// Runs only every this-manieth block again, the first one included.
        pub gradient_checkpointing_every: usize = 1 => Kind::count(),
        /// Runs again only among this many first blocks of a stack; left open, all.
        pub gradient_checkpointing_first: Option<usize> = None => Kind::count().or_none(),
        /// The kept inputs wait in host memory; for GPUs.
        pub gradient_checkpointing_offload: bool = false => Kind::bool(),
        /// Order of the records: as they are, shuffled, by length, LLaVA's groups of one modality and like length, or bucketed:
        /// micro-batches of like length (transformers' `group_by_length`), that with the longest record first.
        pub sampler: String = "shuffled".to_owned() => Kind::choice(&["sequential", "shuffled", "length", "modality", "bucketed"]),
        /// Puts several short records into one row of up to `data.max_tokens_count` tokens, where they neither see each other
        /// nor cost more than alone; a micro-batch is then as many such rows. For records of text and of one row each.
        pub packing: bool = false => Kind::bool(),
        /// Seeds the order of the data, dropout and fresh weights.
        pub seed: u64 = 42 => Kind::integer(0, i64::MAX),
        /// Steps between log lines.
        pub logging_steps: usize = 10 => Kind::count(),
        /// Steps between evaluations; left open, one at each epoch's end.
        pub eval_steps: Option<usize> = None => Kind::count().or_none(),
        /// Evaluates before the first step as well.
        pub eval_on_start: bool = false => Kind::bool(),
        /// Records whose answers an evaluation during training generates; at the end all are. 0 generates none at all.
        pub eval_generate: usize = 64 => Kind::integer(0, i64::MAX),
        /// Metrics of the generated answers, or of the predicted classes, that an evaluation logs as `eval_<name>`: `rouge_l`,
        /// `bleu`, `chrf`, `distinct_2`, `perplexity`, `kl`, `f1_macro` …
        pub eval_metrics: Vec<String> = Vec::new() => Kind::list(),
        /// Held-out records that every evaluation shows with what the model says of them, evenly spread.
        pub cherry_pick: usize = 12 => Kind::integer(0, i64::MAX),
        /// The ids of the held-out records to show instead.
        pub cherry_pick_ids: Vec<String> = Vec::new() => Kind::list(),
        /// Folder or hub id of a reward model, frozen, whose mean score of the generated answers is logged as `eval_reward`.
        pub reward_model: Option<String> = None => Kind::text().or_none(),
        /// At the end, evaluates again with the images handed to the wrong questions.
        pub eval_shuffled_images: bool = false => Kind::bool(),
        /// Most tokens of a generated answer.
        pub max_new_tokens: usize = 64 => Kind::count(),
        /// Steps between checkpoints; left open, one at each epoch's end.
        pub save_steps: Option<usize> = None => Kind::count().or_none(),
        /// Checkpoints that are kept, the best one among them.
        pub save_total_limit: usize = 2 => Kind::count(),
        /// What makes a checkpoint the best: the name of any number that an evaluation logs, with or without `eval_`.
        pub metric_for_best_model: String = "eval_loss".to_owned() => Kind::text(),
        /// Whether more of it is better; left open, a metric of `eval_metrics` says so itself, and else less of a loss, a KL, a
        /// perplexity or an error (mse, mae) is, and more of everything else.
        pub greater_is_better: Option<bool> = None => Kind::bool().or_none(),
        /// Ends the run after so many evaluations in a row in which `metric_for_best_model` did not improve (transformers'
        /// `EarlyStoppingCallback`); left open, it runs to its end.
        pub early_stopping_patience: Option<usize> = None => Kind::count().or_none(),
        /// By how much it must be better than the best so far to count as improved.
        pub early_stopping_threshold: f64 = 0.0 => Kind::number().at_least(0.0),
        /// Folder or hub id of a third model, frozen, whose log-probabilities are logged beside the policy's
        /// (turbo-alignment's SFT model); nothing is trained with them.
        pub metrics_model: Option<String> = None => Kind::text().or_none(),
        /// `final/` holds the best checkpoint's weights instead of the last step's.
        pub load_best_model_at_end: bool = false => Kind::bool(),
        /// Holds frozen weights and computes activations in bf16; trained weights, moments, norms, softmax, losses and sums
        /// of gradients stay f32; for GPUs. There is no f16: its largest number, 65504, is less than what the activations
        /// of large models reach, while bf16 has the range of f32.
        pub bf16: bool = false => Kind::bool(),
        /// Logs besides `metrics.jsonl`: `tensorboard`, `json`, or `none`.
        pub report_to: Vec<String> = vec!["tensorboard".to_owned()] => Kind::choices(&["tensorboard", "json", "none"]),
        /// Threads that read, decode and tokenize.
        pub dataloader_num_workers: usize = 2 => Kind::count(),
        /// Batches that each of them is ahead.
        pub dataloader_prefetch_factor: usize = 2 => Kind::count(),
    }
    check = Train::check_together;
}

impl Train {
    /// The key of `metric_for_best_model` in the rows of evaluations.
    pub fn best_key(&self) -> String {
        let name = &self.metric_for_best_model;
        if name.starts_with("eval_") { name.clone() } else { format!("eval_{name}") }
    }

    /// Whether more of `metric_for_best_model` is better.
    pub fn greater_is_better(&self) -> bool {
        let key = self.best_key();
        let less = ["loss", "kl", "perplexity", "mse", "mae"]
            .iter()
            .any(|word| key.split(['_', '/']).any(|part| part == *word));
        self.greater_is_better.unwrap_or_else(|| match self.direction() {
            Some(Better::Higher) => true,
            Some(Better::Lower) => false,
            Some(Better::Neither) | None => !less,
        })
    }

    /// Which way is up for `metric_for_best_model`, where it is one of `eval_metrics`.
    fn direction(&self) -> Option<Better> {
        let key = self.best_key();
        let name = self.eval_metrics.iter().find(|name| key.strip_prefix("eval_") == Some(name))?;
        Some(Registry::default().by_name(name, &ANY_FACTS).ok()?.better())
    }

    /// Which blocks are run again in the backward pass.
    pub fn recompute(&self) -> Option<Selection> {
        self.gradient_checkpointing.then(|| Selection {
            every: self.gradient_checkpointing_every,
            first: self.gradient_checkpointing_first.unwrap_or(usize::MAX),
            keep: if self.gradient_checkpointing_offload { Keep::Host } else { Keep::Device },
        })
    }

    /// Refuses what a device cannot do; `cpu` says whether it is the CPU.
    ///
    /// # Errors
    /// [`SettingError`] names the setting and says why.
    pub fn check_device(&self, cpu: bool) -> Result<(), SettingError> {
        if !cpu {
            return Ok(());
        }
        if self.gradient_checkpointing_offload {
            return Err(SettingError::rule(
                "`gradient_checkpointing_offload` moves what is kept from a GPU's memory to the host's, but the device is \
                 the CPU, whose memory is the host's; leave it out"
                    .to_owned(),
            ));
        }
        if Optim::of(self).home == Home::Host {
            return Err(SettingError::rule(format!(
                "`optim` is {}, which moves moments from a GPU's memory to the host's, but the device is the CPU, whose \
                 memory is the host's; take {}",
                self.optim,
                if self.optim.ends_with("8bit") { "adamw_8bit" } else { "adamw_torch" }
            )));
        }
        Ok(())
    }

    fn check_together(&self) -> Result<(), SettingError> {
        self.check_recompute()?;
        self.check_packing()?;
        self.check_metrics()?;
        self.check_best()
    }

    fn check_recompute(&self) -> Result<(), SettingError> {
        if !self.gradient_checkpointing {
            let given = [
                ("gradient_checkpointing_every", self.gradient_checkpointing_every != 1),
                ("gradient_checkpointing_first", self.gradient_checkpointing_first.is_some()),
                ("gradient_checkpointing_offload", self.gradient_checkpointing_offload),
                ("optimizer_in_backward", self.optimizer_in_backward),
            ];
            if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
                return Err(SettingError::rule(format!(
                    "`{name}` is given, but `gradient_checkpointing` is false; set it to true, or leave `{name}` out"
                )));
            }
        }
        if !self.optimizer_in_backward {
            return Ok(());
        }
        if self.gradient_accumulation_steps > 1 {
            return Err(SettingError::rule(format!(
                "`optimizer_in_backward` changes weights in the first backward pass, but `gradient_accumulation_steps` is {}; \
                 set it to 1 and raise `per_device_train_batch_size`, or leave `optimizer_in_backward` out",
                self.gradient_accumulation_steps
            )));
        }
        if self.max_grad_norm > 0.0 {
            return Err(SettingError::rule(format!(
                "`optimizer_in_backward` changes weights before the norm of all gradients is known, but `max_grad_norm` is {}; \
                 set it to 0, or leave `optimizer_in_backward` out",
                self.max_grad_norm
            )));
        }
        Ok(())
    }

    fn check_packing(&self) -> Result<(), SettingError> {
        if self.packing && !["sequential", "shuffled"].contains(&self.sampler.as_str()) {
            return Err(SettingError::rule(format!(
                "`packing` is true and `sampler` is {}, but packed rows are all about as long, and records of any length share \
                 them; leave one of the two out",
                self.sampler
            )));
        }
        Ok(())
    }

    fn check_metrics(&self) -> Result<(), SettingError> {
        let registry = Registry::default();
        for (at, name) in self.eval_metrics.iter().enumerate() {
            if let Err(error) = registry.by_name(name, &ANY_FACTS) {
                let all: Vec<&str> = registry.names().map(|(name, _)| name).collect();
                let error = error.to_string();
                let said = error.split("; `names()`").next().unwrap_or(&error);
                return Err(SettingError::rule(format!("`eval_metrics`: {said}; there are: {}", all.join(", "))));
            }
            if self.eval_metrics[..at].contains(name) {
                return Err(SettingError::rule(format!("`eval_metrics` names {name} twice; leave one out")));
            }
        }
        Ok(())
    }

    fn check_best(&self) -> Result<(), SettingError> {
        let key = self.best_key();
        let name = key.strip_prefix("eval_").unwrap_or(&key);
        if name == "exact_match" && self.eval_generate == 0 {
            return Err(SettingError::rule(
                "`metric_for_best_model` is eval_exact_match, but `eval_generate` is 0, so nothing is ever generated; raise it"
                    .to_owned(),
            ));
        }
        let listed = self.eval_metrics.iter().any(|metric| metric == name);
        let known = Registry::default().by_name(name, &ANY_FACTS).is_ok();
        if known && !listed && !LOGGED_BY_OTHERS.contains(&name) {
            return Err(SettingError::rule(format!(
                "`metric_for_best_model` is {key}, but `eval_metrics` does not name {name}, so that it is not computed; add it"
            )));
        }
        if name == "reward" && self.reward_model.is_none() {
            return Err(SettingError::rule(
                "`metric_for_best_model` is eval_reward, but there is no `reward_model` to score answers; name its folder"
                    .to_owned(),
            ));
        }
        if self.direction() == Some(Better::Neither) && name != "kl" && self.greater_is_better.is_none() {
            return Err(SettingError::rule(format!(
                "`metric_for_best_model` is {key}, of which neither more nor less is better by itself; set `greater_is_better`"
            )));
        }
        if self.early_stopping_threshold > 0.0 && self.early_stopping_patience.is_none() {
            return Err(SettingError::rule(format!(
                "`early_stopping_threshold` is {}, but `early_stopping_patience` is left open, so that nothing stops early; set \
                 it, or leave the threshold out",
                self.early_stopping_threshold
            )));
        }
        ReportTo::parse(&self.report_to).map(drop).map_err(|error| SettingError::rule(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(best: &str, metrics: &[&str]) -> Train {
        let eval_metrics = metrics.iter().map(|&name| name.to_owned()).collect();
        Train { metric_for_best_model: best.to_owned(), eval_metrics, ..Train::default() }
    }

    #[test]
    fn a_metric_says_which_way_is_up() {
        for (best, metrics, greater) in [
            ("eval_loss", &[][..], false),
            ("loss", &[], false),
            ("eval_rewards/accuracies", &[], true),
            ("eval_kl/sft_chosen", &[], false),
            ("eval_rouge_l", &["rouge_l"], true),
            ("rouge_l", &["rouge_l"], true),
            ("eval_self_bleu", &["bleu", "self_bleu"], false),
            ("eval_perplexity", &["perplexity"], false),
            ("eval_kl", &["kl"], false),
        ] {
            let train = train(best, metrics);
            assert_eq!(train.check_together(), Ok(()), "{best}");
            assert_eq!(train.greater_is_better(), greater, "{best}");
            assert!(Train { greater_is_better: Some(!greater), ..train }.greater_is_better() != greater);
        }
    }

    #[test]
    fn what_no_evaluation_will_log_is_refused() {
        let refused = |train: Train, words: &[&str]| {
            let said = train.check_together().unwrap_err().to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        };
        refused(train("eval_loss", &["rougeL"]), &["rougeL", "did you mean `rouge_l`", "chrf_pp"]);
        refused(train("eval_loss", &["bleu", "chrf", "bleu"]), &["bleu twice"]);
        refused(train("eval_rouge_l", &["bleu"]), &["does not name rouge_l"]);
        refused(train("eval_length_words", &["length_words"]), &["greater_is_better"]);
        refused(train("eval_reward", &[]), &["reward_model"]);
        refused(Train { eval_generate: 0, ..train("exact_match", &[]) }, &["eval_generate"]);
        refused(Train { early_stopping_threshold: 0.1, ..Train::default() }, &["early_stopping_patience"]);
    }
}
