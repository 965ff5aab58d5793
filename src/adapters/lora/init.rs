//! How A and B start.

// i in_features, o out_features, r rank
use super::svd::truncated_svd;
use crate::nn::{Linear, Weight, params};
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;
use std::sync::{Arc, OnceLock};

/// The values of A and of B.
type FactorsOf = (Vec<f32>, Vec<f32>);

/// PEFT's `init_lora_weights`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// A uniform in `±1/√in`, B zero (PEFT's `true`).
    #[default]
    Default,
    /// A normal with standard deviation `1/r`, B zero.
    Gaussian,
    /// The `r` largest singular values, which leave the base.
    Pissa,
}

/// Matrices at the start of training.
pub(super) struct Start {
    /// `[r, in]`.
    pub(super) a: Param<Tensor<2>>,
    /// `[out, r]`.
    pub(super) b: Param<Tensor<2>>,
    /// Where the update is to count from a start that is not nothing: that start's A and B.
    pub(super) fixed: Vec<Param<Tensor<2>>>,
}

impl Init {
    pub(super) fn draw(self, linear: &Linear, rank: usize, scale: f32, rng: &mut ChaCha8Rng, device: &Device) -> Start {
        let [outputs, inputs] = linear.shape();
        let matrix = |values: Vec<f32>, shape: [usize; 2]| {
            Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
        };
        let zeros = || matrix(vec![0.0; outputs * rank], [outputs, rank]);
        match self {
            Self::Default => {
                // PEFT draws A by kaiming_uniform(a = √5), which is uniform in ±1/√in.
                let bound = 1.0 / (inputs as f32).sqrt();
                let a = (0..rank * inputs).map(|_| rng.random_range(-bound..bound)).collect();
                Start { a: matrix(a, [rank, inputs]), b: zeros(), fixed: Vec::new() }
            }
            Self::Gaussian => {
                let a = (0..rank * inputs).map(|_| (normal(rng) / rank as f64) as f32).collect();
                Start { a: matrix(a, [rank, inputs]), b: zeros(), fixed: Vec::new() }
            }
            Self::Pissa => {
                let principal =
                    Arc::new(Principal { weight: linear.weight.clone(), rank, scale, found: OnceLock::new() });
                let parameter = |shape, which: fn(&FactorsOf) -> &Vec<f32>| {
                    let principal = principal.clone();
                    params::derived(shape, device, move |device| {
                        Tensor::from_data(TensorData::new(which(principal.factors()).clone(), shape), device)
                    })
                };
                let a = || parameter([rank, inputs], |found| &found.0);
                let b = || parameter([outputs, rank], |found| &found.1);
                let fixed = vec![a().set_require_grad(false), b().set_require_grad(false)];
                Start { a: a(), b: b(), fixed }
            }
        }
    }
}

/// Box and Muller's transform of two uniform numbers.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..1.0));
    (-2.0 * u.ln()).sqrt() * (TAU * v).cos()
}

/// The part of a weight that its largest singular values make up, computed when it is first needed.
struct Principal {
    weight: Weight,
    rank: usize,
    scale: f32,
    found: OnceLock<(Vec<f32>, Vec<f32>)>,
}

impl Principal {
    /// `A = √(S/s)·Vᵀ` and `B = U·√(S/s)`, so that `s·BA = U·S·Vᵀ`.
    fn factors(&self) -> &(Vec<f32>, Vec<f32>) {
        self.found.get_or_init(|| {
            let [outputs, inputs] = self.weight.shape();
            let weight: Vec<f32> = self.weight.dense().inner().into_data().iter::<f32>().collect();
            let svd = truncated_svd(&weight, outputs, inputs, self.rank);
            // A weight of a lower rank has fewer; the others are nothing.
            let (mut a, mut b) = (vec![0.0; self.rank * inputs], vec![0.0; outputs * self.rank]);
            for (k, s) in svd.s.iter().enumerate() {
                let root = (s / f64::from(self.scale)).sqrt();
                let (u, v) = (&svd.u[k * outputs..][..outputs], &svd.v[k * inputs..][..inputs]);
                a[k * inputs..][..inputs].iter_mut().zip(v).for_each(|(a, v)| *a = (v * root) as f32);
                u.iter().enumerate().for_each(|(o, u)| b[o * self.rank + k] = (u * root) as f32);
            }
            (a, b)
        })
    }
}
