//! Process reward models: for every step of an answer, whether it is right.

use super::{Alone, Head, Inputs, Level, Loss, Metric, Objective, State, StepTotals, TokenScores};
use crate::example::Steps;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};

// n labelled steps

crate::component! {
    /// Cross-entropy of wrong (class 0) against right (class 1) at the last token of each step, its mean over all labelled
    /// steps of the whole optimizer step.
    ///
    /// A row may have fewer scores than its record has steps, where the end was cut off: the labels of the first ones count.
    ///
    /// Logged: `accuracy` over the steps.
    ///
    /// # Source
    /// Lightman et al. 2023 and Uesato et al. 2022; checked against TRL 1.10, which adds up the means of accumulated batches
    /// instead of averaging them.
    pub struct ProcessReward, ProcessRewardBuilder {}
}

impl Objective for ProcessReward {
    type Example = Steps;
    type Signal = TokenScores;
    type Reference = Alone;

    fn head(&self) -> Option<Head> {
        Some(Head { outputs: 2, bias: true, level: Level::Token, problem_type: None })
    }

    fn loss(&self, inputs: Inputs<'_, TokenScores>, step: &StepTotals, _state: &mut State) -> Loss {
        let TokenScores { values, per_row } = inputs.policy;
        let rows = inputs.facts.iter().zip(per_row);
        let labels: Vec<bool> = rows.flat_map(|(facts, n)| facts.steps[..n].iter().copied()).collect();
        let n = labels.len();
        if n == 0 {
            return Loss::new(values.sum(), 0.0, Vec::new());
        }
        let predicted = values.clone().argmax(1).into_data_as::<i32>();
        let predicted = predicted.as_slice::<i32>().expect("the data was read as i32");
        let hits = labels.iter().zip(predicted).map(|(&label, &class)| f64::from(i32::from(label) == class));
        let metrics = vec![Metric::mean("accuracy", hits)];
        let labels: Vec<i32> = labels.into_iter().map(i32::from).collect();
        let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [n, 1]), &values.device());
        let total = step.supervised_tokens().max(1) as f64;
        let value = log_softmax(values, 1).gather(1, labels).sum() / -total;
        Loss::new(value, n as f64, metrics)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{agrees, finite, fixture, floats, metric, recorded};
    use super::*;
    use crate::example::Facts;
    use burn::tensor::Device;

    /// Of scores `[n, 2]`.
    fn run(scores: Tensor<1>, per_row: Vec<usize>, steps: &[&[bool]], total: usize) -> Loss {
        let facts: Vec<Facts> = steps.iter().map(|s| Facts { steps: s.to_vec(), ..Facts::default() }).collect();
        let n = per_row.iter().sum();
        let policy = TokenScores { values: scores.reshape([n, 2]), per_row };
        let inputs = Inputs { policy, reference: None, mismatched: None, facts: &facts };
        let step = StepTotals { examples: steps.len(), tokens: vec![total], training: true };
        ProcessReward::default().loss(inputs, &step, &mut State::default())
    }

    #[test]
    fn is_the_formula_and_so_is_its_gradient() {
        // The second row lost its last step; the micro-batch has 3 of the step's 5.
        let plain = |x: &[f64]| {
            let nll = |right: f64, wrong: f64| (wrong - right).exp().ln_1p();
            (nll(x[1], x[0]) + nll(x[2], x[3]) + nll(x[5], x[4])) / 5.0
        };
        let loss = |scores| run(scores, vec![2, 1], &[&[true, false], &[true, false]], 5).value;
        for at in [[0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.3, 0.4, -1.0, 2.0]] {
            agrees(loss, plain, &at);
        }
        finite(loss, &[1e4, -1e4, -1e4, 1e4, 0.0, 1e4]);
    }

    #[test]
    fn accuracy_is_over_steps() {
        let loss = run(Tensor::from([0.0, 1.0, 0.0, 1.0, 2.0, 1.0]), vec![2, 1], &[&[true, false], &[false]], 3);
        assert_eq!((metric(&loss.metrics, "accuracy"), loss.weight), (2.0 / 3.0, 3.0));
    }

    #[test]
    fn a_batch_whose_steps_were_all_cut_off_adds_nothing() {
        let empty = Tensor::<1>::zeros([0], &Device::flex());
        let loss = run(empty, vec![0], &[&[true]], 4);
        assert_eq!((loss.value.into_scalar::<f32>(), loss.weight), (0.0, 0.0));
    }

    #[test]
    fn the_numbers_of_trl() {
        let cases = &fixture("objectives_scores.json")["prm"];
        let mut compared = 0;
        for case in cases.as_array().unwrap() {
            // The last case adds up the means of accumulated batches; its rows are the first case's.
            let Some(rows) = case["rows"].as_array() else { continue };
            let labels = |row: &serde_json::Value| -> Vec<bool> {
                row["labels"].as_array().unwrap().iter().map(|label| label == 1).collect()
            };
            let labels: Vec<Vec<bool>> = rows.iter().map(labels).collect();
            let steps: Vec<&[bool]> = labels.iter().map(Vec::as_slice).collect();
            let per_row: Vec<usize> = steps.iter().map(|steps| steps.len()).collect();
            let scores = rows.iter().flat_map(|row| row["logits"].as_array().unwrap());
            let scores: Vec<f32> = scores.flat_map(floats).collect();
            let total = per_row.iter().sum();
            let loss = run(Tensor::from_data(scores.as_slice(), &Device::flex()), per_row, &steps, total);
            let what = case["settings"].to_string();
            recorded(f64::from(loss.value.into_scalar::<f32>()), &case["loss"], &what);
            recorded(metric(&loss.metrics, "accuracy"), &case["evaluation"]["eval_accuracy"], &what);
            compared += 1;
        }
        assert_eq!(compared, 4);
    }
}
