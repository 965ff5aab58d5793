//! What several objectives share: facts on their way to a loss, numbers on their way to the log.

use super::{Difference, Inputs, Metric, TokenLogProbs};
use burn::tensor::{Device, Tensor};

/// Mean of the desirable answers' rewards less that of the others': no mean itself, for the two count different rows.
pub(super) const MARGINS: &[Difference] =
    &[Difference { name: "rewards/margins", of: "rewards/chosen", less: "rewards/rejected" }];

/// The values of several vectors, read in one transfer.
pub(super) fn host<const N: usize>(tensors: [&Tensor<1>; N]) -> [Vec<f64>; N] {
    let lengths = tensors.map(|tensor| tensor.dims()[0]);
    let data = Tensor::cat(tensors.map(|tensor| tensor.clone().detach()).to_vec(), 0).into_data_as::<f32>();
    let mut values = data.as_slice::<f32>().expect("the data was read as f32").iter().map(|&value| f64::from(value));
    lengths.map(|length| values.by_ref().take(length).collect())
}

/// One number per row, on the device.
pub(super) fn column(values: impl IntoIterator<Item = f64>, device: &Device) -> Tensor<1> {
    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    Tensor::from_data(values.as_slice(), device)
}

/// Answers that are desirable or not: what they are learned from, and what is logged of them.
pub(super) struct Answers {
    /// Sums of the policy's log-probabilities, `[r]`, differentiable.
    pub(super) sums: Tensor<1>,
    /// Those less the reference's, `[r]`, differentiable.
    pub(super) ratios: Tensor<1>,
    /// Whether each is desirable.
    pub(super) desirable: Vec<bool>,
}

impl Answers {
    /// # Panics
    /// Where the trainer left out the reference or the judgement, which the objective's types ask for.
    pub(super) fn of(inputs: &Inputs<'_, TokenLogProbs>) -> Self {
        let reference = inputs.reference.as_ref().expect("the objective compares with a reference");
        let sums = inputs.policy.sums();
        let ratios = sums.clone() - reference.sums();
        let judged = |facts: &super::Facts| facts.desirable.expect("the records are judged answers");
        Self { sums, ratios, desirable: inputs.facts.iter().map(judged).collect() }
    }

    /// `desirable` or `undesirable` for each row, `[r]`.
    pub(super) fn choose(&self, desirable: f64, undesirable: f64) -> Tensor<1> {
        let values = self.desirable.iter().map(|&is| if is { desirable } else { undesirable });
        column(values, &self.sums.device())
    }

    /// What all objectives over judged answers log.
    pub(super) fn metrics(&self, policy: &TokenLogProbs, beta: f64) -> Vec<Metric> {
        let [logps, ratios] = host([&self.sums, &self.ratios]);
        let rewards: Vec<f64> = ratios.iter().map(|ratio| beta * ratio).collect();
        by_class(policy, &logps, &rewards, &self.desirable)
    }
}

/// Means over the chosen and over the rejected rows, as TRL names them: `rewards/*`, `logps/*` (sums over a row's tokens),
/// and, where the policy brought them, `logits/*` (over the vocabulary and the answers' tokens) and `entropy` (over all
/// answers' tokens). A class without rows has none.
pub(super) fn by_class(policy: &TokenLogProbs, logps: &[f64], rewards: &[f64], chosen: &[bool]) -> Vec<Metric> {
    let of = |values: &[f64], class: bool| -> Vec<f64> {
        values.iter().zip(chosen).filter(|(_, is)| **is == class).map(|(value, _)| *value).collect()
    };
    let mut metrics = vec![
        Metric::mean("rewards/chosen", of(rewards, true)),
        Metric::mean("rewards/rejected", of(rewards, false)),
        Metric::mean("logps/chosen", of(logps, true)),
        Metric::mean("logps/rejected", of(logps, false)),
    ];
    if let Some(mean_logits) = &policy.mean_logits {
        let [values] = host([mean_logits]);
        let classes = policy.per_row.iter().zip(chosen).flat_map(|(&n, &is)| std::iter::repeat_n(is, n));
        let (chosen, rejected): (Vec<_>, Vec<_>) = values.into_iter().zip(classes).partition(|(_, is)| *is);
        metrics.push(Metric::mean("logits/chosen", chosen.into_iter().map(|(value, _)| value)));
        metrics.push(Metric::mean("logits/rejected", rejected.into_iter().map(|(value, _)| value)));
    }
    metrics.extend(entropy(policy));
    metrics.retain(|metric| metric.weight > 0.0);
    metrics
}

/// The mean entropy of the answers' tokens, where the policy brought it.
pub(super) fn entropy(policy: &TokenLogProbs) -> Option<Metric> {
    let [values] = host([policy.entropies.as_ref()?]);
    Some(Metric::mean("entropy", values))
}
