//! Classification: a class, several classes, or numbers for a whole conversation.

mod measures;
#[cfg(all(test, feature = "cpu"))]
mod tests;

use super::host::column;
use super::{Alone, Head, Inputs, Level, Loss, Metric, Objective, Observation, SequenceScores, State, StepTotals};
use crate::example::{Facts, Label, Labelled};
use crate::settings::{Kind, SettingError};
use burn::tensor::activation::{log_sigmoid, log_softmax};
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

// r rows, k outputs

crate::component! {
    /// The loss of a labelled conversation, of the kind that transformers calls `problem_type`; mean over the step's rows.
    ///
    /// - `single_label_classification`: focal loss `(1 − p)^γ·ce`, `ce` the cross-entropy times the weight of the row's
    ///   class, `p = e^{−ce}`. γ 0 is plain cross-entropy. The mean is over rows, not over their weights.
    /// - `multi_label_classification`: binary cross-entropy, mean over a row's classes.
    /// - `regression`: squared error, mean over a row's outputs.
    ///
    /// Class weights `alpha`: none, one for each class, or `auto`, which is `n/(K·count)` over the training records, `K` the
    /// number of classes; a class without records is weighed as if it had one. Where no training began, `auto` weighs
    /// nothing.
    ///
    /// Logged: `accuracy` (of several classes: all of a row's right), for regression `mse` and `mae`; over a whole
    /// evaluation also `balanced_accuracy` (one class only), `precision`, `recall` and `f1` (each class weighed by its rows)
    /// and `roc_auc` (more than two classes: each against the rest, weighed by its rows).
    ///
    /// # Source
    /// Lin et al. 2017 for the focal loss; turbo-alignment's class weights; losses of transformers'
    /// `…ForSequenceClassification`; measures checked against scikit-learn 1.9.
    pub struct Classification, ClassificationBuilder {
        /// Number of classes, or of outputs in regression. Must be given.
        pub num_labels: Option<usize> = None => Kind::count().or_none(),
        /// What the labels are.
        pub problem_type: String = SINGLE.to_owned() => Kind::choice(&[SINGLE, MULTI, REGRESSION]),
        /// Turns away from rows that are right already; 2 is common.
        pub gamma: f64 = 0.0 => Kind::number().at_least(0.0),
        /// Weights of the classes: a list of numbers, or "auto".
        pub alpha: Option<ClassWeights> = None => Kind::list_or_text().or_none(),
    }
    check = Classification::check_settings;
    required = [num_labels];
}

const SINGLE: &str = "single_label_classification";
const MULTI: &str = "multi_label_classification";
const REGRESSION: &str = "regression";

/// Below this, `1 − p` counts as this: the power of 0 has no gradient for γ below 1.
const LEAST: f64 = 1e-12;

/// The weights of the classes as they are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClassWeights {
    /// `auto`.
    Text(String),
    /// A number for each class.
    List(Vec<String>),
}

impl ClassWeights {
    /// The numbers, or nothing for `auto`.
    ///
    /// # Errors
    /// What is no weight.
    fn numbers(&self) -> Result<Option<Vec<f64>>, String> {
        let texts = match self {
            Self::Text(text) if text == "auto" => return Ok(None),
            Self::Text(text) => std::slice::from_ref(text),
            Self::List(texts) => texts,
        };
        let number = |text: &String| match text.trim().parse::<f64>() {
            Ok(weight) if weight.is_finite() && weight >= 0.0 => Ok(weight),
            _ => Err(text.clone()),
        };
        texts.iter().map(number).collect::<Result<_, _>>().map(Some)
    }
}

impl Classification {
    /// How many outputs there are.
    ///
    /// # Errors
    /// Where it was not said.
    pub fn num_labels(&self) -> Result<usize, SettingError> {
        self.num_labels.ok_or_else(|| {
            SettingError::rule("`num_labels` is not given; say how many classes the records have, or how many numbers")
        })
    }

    /// Whether a record's label is one that these settings can learn.
    ///
    /// # Errors
    /// What the label is, what is expected, and what to do.
    pub fn check_label(&self, label: &Label) -> Result<(), String> {
        let k = self.num_labels().map_err(|error| error.to_string())?;
        let kind = self.problem_type.as_str();
        match (kind, label) {
            (SINGLE, Label::Class(class)) if *class < k => Ok(()),
            (SINGLE, Label::Class(class)) => Err(format!(
                "the label is class {class}, but `num_labels` is {k} and classes count from 0 to {}; correct the record \
                 or set `num_labels` to at least {}",
                k - 1,
                class.saturating_add(1)
            )),
            (REGRESSION, Label::Class(_)) if k == 1 => Ok(()),
            (MULTI | REGRESSION, Label::Values(values)) if values.len() == k => match values
                .iter()
                .find(|value| !value.is_finite() || kind == MULTI && **value != 0.0 && **value != 1.0)
            {
                None => Ok(()),
                Some(value) => Err(format!(
                    "the label has the value {value}, but `{kind}` takes {}; correct the record",
                    if kind == MULTI { "0 or 1 for each class" } else { "finite numbers" }
                )),
            },
            (MULTI | REGRESSION, Label::Values(values)) => Err(format!(
                "the label has {} values, but `num_labels` is {k}; correct the record or `num_labels`",
                values.len()
            )),
            (_, Label::Class(class)) => Err(format!(
                "the label is class {class}, but `{kind}` takes a list of {k} numbers; correct the record or `problem_type`"
            )),
            (_, Label::Values(values)) => Err(format!(
                "the label is the list {values:?}, but `{kind}` takes one class; correct the record or `problem_type`"
            )),
        }
    }

    fn check_settings(&self) -> Result<(), SettingError> {
        let (kind, single) = (&self.problem_type, self.problem_type == SINGLE);
        if !single && (self.gamma > 0.0 || self.alpha.is_some()) {
            return Err(SettingError::rule(format!(
                "`gamma` is {} and `alpha` is {}, but `{kind}` has neither; leave them out or set `problem_type` to \
                 {SINGLE:?}",
                self.gamma,
                if self.alpha.is_some() { "given" } else { "none" }
            )));
        }
        if single && self.num_labels == Some(1) {
            return Err(SettingError::rule(format!(
                "`num_labels` is 1, but `{kind}` chooses between 2 or more; set `problem_type` to {REGRESSION:?} for a number"
            )));
        }
        let weights = self.alpha.as_ref().map_or(Ok(None), ClassWeights::numbers).map_err(|text| {
            SettingError::rule(format!(
                "`alpha` has {text:?}, which is no weight; give \"auto\" or a number of at least 0 for each class"
            ))
        })?;
        match (weights, self.num_labels) {
            (Some(weights), Some(k)) if weights.len() != k => Err(SettingError::rule(format!(
                "`alpha` has {} weights, but `num_labels` is {k}; give one for each class",
                weights.len()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether the weights come from the training records.
    fn counts(&self) -> bool {
        matches!(self.alpha.as_ref().map(ClassWeights::numbers), Some(Ok(None)))
    }

    /// The weight of `class`.
    fn weight(&self, class: usize, state: &State) -> f64 {
        match self.alpha.as_ref().map(ClassWeights::numbers) {
            Some(Ok(Some(weights))) => weights[class],
            Some(_) => state.get(&weight_name(class)).unwrap_or(1.0),
            None => 1.0,
        }
    }

    /// A value for each row, `[r]`.
    fn losses(&self, scores_rk: Tensor<2>, labels: &[&Label], state: &State) -> Tensor<1> {
        let ([r, k], device) = (scores_rk.dims(), scores_rk.device());
        if self.problem_type == SINGLE {
            let classes: Vec<usize> = labels.iter().map(|label| class_of(label)).collect();
            let index: Vec<i32> = classes.iter().map(|&class| class as i32).collect();
            let index = Tensor::<2, Int>::from_data(TensorData::new(index, [r, 1]), &device);
            let mut ce = -log_softmax(scores_rk, 1).gather(1, index).reshape([r]);
            if self.alpha.is_some() {
                ce = ce * column(classes.iter().map(|&class| self.weight(class, state)), &device);
            }
            if self.gamma == 0.0 {
                return ce;
            }
            let wrong = (-(-ce.clone()).exp() + 1.0).clamp_min(LEAST);
            return wrong.powf_scalar(self.gamma) * ce;
        }
        let labels = labels.iter().flat_map(|label| values_of(label).into_owned());
        let labels_rk = column(labels, &device).reshape([r, k]);
        let losses_rk = match self.problem_type == MULTI {
            true => -log_sigmoid(scores_rk.clone()) * labels_rk.clone() - log_sigmoid(-scores_rk) * (-labels_rk + 1.0),
            false => (scores_rk - labels_rk).square(),
        };
        losses_rk.mean_dim(1).reshape([r])
    }

    fn metrics(&self, labels: &[&Label], scores: &[Vec<f64>]) -> Vec<Metric> {
        let rows = || labels.iter().zip(scores);
        match self.problem_type.as_str() {
            SINGLE => vec![Metric::mean(
                "accuracy",
                rows().map(|(label, scores)| f64::from(measures::likeliest(scores) == class_of(label))),
            )],
            MULTI => {
                let right = |label: &Label, scores: &[f64]| {
                    values_of(label).iter().zip(scores).all(|(value, score)| (*value == 1.0) == (*score > 0.0))
                };
                vec![Metric::mean("accuracy", rows().map(|(label, scores)| f64::from(right(label, scores))))]
            }
            _ => {
                let errors = || {
                    rows().flat_map(|(label, scores)| {
                        values_of(label).iter().zip(scores).map(|(value, score)| score - value).collect::<Vec<f64>>()
                    })
                };
                let squares = errors().map(|error| error * error);
                vec![Metric::mean("mse", squares), Metric::mean("mae", errors().map(f64::abs))]
            }
        }
    }
}

impl Objective for Classification {
    type Example = Labelled;
    type Signal = SequenceScores;
    type Reference = Alone;

    fn accepts(&self, facts: &Facts) -> Result<(), String> {
        match &facts.label {
            Some(label) => self.check_label(label),
            None => Err("has no label".to_owned()),
        }
    }

    /// It has no outputs where [`num_labels`](Classification::num_labels) was not said, which a recipe refuses.
    fn head(&self) -> Option<Head> {
        let problem_type = [SINGLE, MULTI, REGRESSION].into_iter().find(|kind| *kind == self.problem_type);
        Some(Head { outputs: self.num_labels.unwrap_or(0), bias: false, level: Level::Sequence, problem_type })
    }

    fn wants_facts(&self) -> bool {
        self.counts()
    }

    fn begin(&self, facts: &[Facts], state: &mut State) {
        let Some(k) = self.num_labels.filter(|_| self.counts()) else { return };
        let mut counts = vec![0usize; k];
        facts.iter().filter_map(|facts| facts.label.as_ref()).for_each(|label| counts[class_of(label)] += 1);
        let n: usize = counts.iter().sum();
        for (class, count) in counts.into_iter().enumerate() {
            state.set(&weight_name(class), n as f64 / (k * count.max(1)) as f64);
        }
    }

    fn loss(&self, inputs: Inputs<'_, SequenceScores>, step: &StepTotals, state: &mut State) -> Loss {
        let scores_rk = inputs.policy.values;
        let owned = inputs.facts.iter().map(|facts| facts.label.clone().expect("the records are labelled"));
        let owned: Vec<Label> = owned.collect();
        let labels: Vec<&Label> = owned.iter().collect();
        let data = scores_rk.clone().detach().into_data_as::<f32>();
        let rows = data.as_slice::<f32>().expect("the data was read as f32").chunks(scores_rk.dims()[1]);
        let scores: Vec<Vec<f64>> = rows.map(|row| row.iter().map(|&score| f64::from(score)).collect()).collect();
        let value = self.losses(scores_rk, &labels, state).sum() / step.examples.max(1) as f64;
        let mut loss = Loss::new(value, labels.len() as f64, self.metrics(&labels, &scores));
        // Of training nobody asks for a summary, and it would keep every row of the run.
        if !step.training {
            let observation = |(label, scores)| Observation { label, scores };
            loss.observations = owned.into_iter().zip(scores).map(observation).collect();
        }
        loss
    }

    fn summarise(&self, observations: &[Observation]) -> Vec<(Cow<'static, str>, f64)> {
        match self.problem_type.as_str() {
            SINGLE => measures::of_one_class(observations),
            MULTI => measures::of_several_classes(observations),
            _ => Vec::new(),
        }
    }
}

fn weight_name(class: usize) -> String {
    format!("alpha.{class}")
}

/// # Panics
/// Where [`Classification::check_label`] was not asked.
fn class_of(label: &Label) -> usize {
    match label {
        Label::Class(class) => *class,
        Label::Values(values) => panic!("{values:?} is no class"),
    }
}

/// The numbers of a label; a class is a number too.
fn values_of(label: &Label) -> Cow<'_, [f64]> {
    match label {
        Label::Values(values) => Cow::Borrowed(values),
        Label::Class(class) => Cow::Owned(vec![*class as f64]),
    }
}
