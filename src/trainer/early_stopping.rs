//! The best evaluation so far, and whether it has become time to stop.

use super::state::Counters;

/// How values of one metric are compared, and how long none may improve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Improvement {
    /// Whether more is better.
    pub greater_is_better: bool,
    /// Evaluations in a row without improvement after which a run stops; `None` never stops it.
    pub patience: Option<usize>,
    /// By how much a value must be better than the best so far.
    pub threshold: f64,
}

impl Improvement {
    /// Takes the value of an evaluation after the step that `counters` have; `true` where the run stops. Of one before the
    /// first step it takes nothing: there is no checkpoint that could be the best one.
    ///
    /// # Source
    /// transformers' `EarlyStoppingCallback`: a value must beat the best one so far by more than the threshold, and the best
    /// is the best whatever the threshold is. A value that is not a number improves nothing.
    pub fn note(&self, value: f64, counters: &mut Counters) -> bool {
        if counters.step == 0 {
            return false;
        }
        let best = counters.best.map(|(_, best)| best);
        let beats = |best: f64| if self.greater_is_better { value > best } else { value < best };
        let improved = match best {
            None => value.is_finite(),
            Some(best) => beats(best) && (value - best).abs() > self.threshold,
        };
        if value.is_finite() && best.is_none_or(beats) {
            counters.best = Some((counters.step, value));
        }
        counters.stale_evaluations = if improved { 0 } else { counters.stale_evaluations + 1 };
        let stops = self.patience.is_some_and(|patience| counters.stale_evaluations >= patience);
        counters.stopped_early |= stops;
        stops
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Sequences of values with what transformers' callback counts after each of them, and where it stops.
    #[test]
    fn it_counts_as_transformers_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/logs/early_stopping.json");
        let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(cases.len() > 20);
        for case in &cases {
            let rule = Improvement {
                greater_is_better: case["greater_is_better"].as_bool().unwrap(),
                patience: Some(case["patience"].as_u64().unwrap() as usize),
                threshold: case["threshold"].as_f64().unwrap(),
            };
            let mut counters = Counters::default();
            let mut found = Vec::new();
            for value in case["values"].as_array().unwrap() {
                counters.step += 10;
                let stops = rule.note(value.as_f64().unwrap(), &mut counters);
                let (at, best) = counters.best.unwrap();
                found.push(serde_json::json!([counters.stale_evaluations, best, at, stops]));
                if stops {
                    break;
                }
            }
            assert_eq!(Value::from(found), case["after"], "{case}");
        }
    }

    #[test]
    fn what_is_no_number_and_what_comes_before_the_first_step_improve_nothing() {
        let rule = Improvement { greater_is_better: false, patience: Some(2), threshold: 0.0 };
        let mut counters = Counters::default();
        assert!(!rule.note(1.0, &mut counters));
        assert_eq!((counters.best, counters.stale_evaluations), (None, 0));
        counters.step = 1;
        assert!(!rule.note(f64::NAN, &mut counters));
        counters.step = 2;
        assert!(rule.note(f64::INFINITY, &mut counters));
        assert!(counters.stopped_early && counters.best.is_none());
    }
}
