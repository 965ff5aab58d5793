//! Weights of a list of losses.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The weight of each loss of a list; empty for 1 each. Settings write it as a list of texts: `0.8,0.2`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossWeights(Vec<f64>);

impl LossWeights {
    /// How many are given.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The weight of the loss at `index`: 1 where none is given.
    pub fn get(&self, index: usize) -> f64 {
        self.0.get(index).copied().unwrap_or(1.0)
    }
}

impl<const N: usize> From<[f64; N]> for LossWeights {
    fn from(weights: [f64; N]) -> Self {
        Self(weights.to_vec())
    }
}

impl From<Vec<f64>> for LossWeights {
    fn from(weights: Vec<f64>) -> Self {
        Self(weights)
    }
}

impl Serialize for LossWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Rust's shortest text of a float reads back as the same float.
        serializer.collect_seq(self.0.iter().map(f64::to_string))
    }
}

impl<'de> Deserialize<'de> for LossWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let number = |text: &String| match text.trim().parse::<f64>() {
            Ok(weight) if weight.is_finite() => Ok(weight),
            _ => Err(serde::de::Error::custom(format!(
                "`loss_weights` has the weight `{text}`, which is no finite number; write for example 0.8,0.2"
            ))),
        };
        texts.iter().map(number).collect::<Result<_, _>>().map(Self)
    }
}
