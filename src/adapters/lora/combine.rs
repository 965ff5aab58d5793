//! Several LoRA adapters become one, by a weighted sum.
//!
//! `wᵢ` are the weights, `sᵢ` the adapters' own factors, `Δᵢ = sᵢ·Bᵢ·Aᵢ` their updates. The result's factor is 1.

use super::svd::truncated_svd;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::str::FromStr;

/// A matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// The elements, `rows × columns` of them.
    pub values: Vec<f32>,
}

/// One adapter's part in a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// `[r, in]`.
    pub a: Matrix,
    /// `[out, r]`.
    pub b: Matrix,
    /// Factor on `B·A`.
    pub scale: f64,
}

/// PEFT's `combination_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CombinationType {
    /// `Σ wᵢΔᵢ` exactly, with the sum of the ranks.
    Cat,
    /// `A = Σ ±√|wᵢsᵢ|·Aᵢ`, `B = Σ √|wᵢsᵢ|·Bᵢ`: no sum of the updates, but of one rank.
    Linear,
    /// The largest singular values of `Σ wᵢΔᵢ`.
    Svd,
    /// Every matrix pruned by magnitude, then as `linear`.
    MagnitudePrune,
    /// Every update pruned by magnitude, then as `svd`.
    MagnitudePruneSvd,
    /// Pruned by magnitude; per entry, only those of the elected sign are averaged (Yadav et al. 2023).
    Ties,
    /// The same on updates, then as `svd`.
    TiesSvd,
    /// Entries dropped at random and the others scaled up (Yu et al. 2023), then as `linear`.
    DareLinear,
    /// The same on updates, then as `svd`.
    DareLinearSvd,
    /// Dropped at random; per entry, only those of the elected sign are averaged.
    DareTies,
    /// The same on updates, then as `svd`.
    DareTiesSvd,
}

const NAMES: &[(&str, CombinationType)] = &[
    ("cat", CombinationType::Cat),
    ("linear", CombinationType::Linear),
    ("svd", CombinationType::Svd),
    ("magnitude_prune", CombinationType::MagnitudePrune),
    ("magnitude_prune_svd", CombinationType::MagnitudePruneSvd),
    ("ties", CombinationType::Ties),
    ("ties_svd", CombinationType::TiesSvd),
    ("dare_linear", CombinationType::DareLinear),
    ("dare_linear_svd", CombinationType::DareLinearSvd),
    ("dare_ties", CombinationType::DareTies),
    ("dare_ties_svd", CombinationType::DareTiesSvd),
];

impl FromStr for CombinationType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind);
        found.ok_or_else(|| {
            format!("write one of {}", NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "))
        })
    }
}

/// How the sign of an entry is elected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MajoritySign {
    /// The sign of the sum.
    #[default]
    Total,
    /// The sign that more of them have.
    Frequency,
}

impl FromStr for MajoritySign {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "total" => Ok(Self::Total),
            "frequency" => Ok(Self::Frequency),
            _ => Err("write total or frequency".to_owned()),
        }
    }
}

/// A way to combine adapters.
///
/// # Source
/// PEFT's `add_weighted_adapter`; its defects are not repeated: the factor of a `use_rslora` adapter is counted once, no base
/// is changed, and what cannot be combined is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Combine {
    /// The kind.
    pub kind: CombinationType,
    /// Share of the entries that pruning leaves; in (0, 1].
    pub density: Option<f64>,
    /// How a sign is elected.
    pub majority_sign: MajoritySign,
    /// Rank of a decomposition; the largest of the adapters' where it is left open.
    pub svd_rank: Option<usize>,
    /// Seeds what `dare_…` drops.
    pub seed: u64,
}

/// Adapters that cannot be combined.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CombineError {
    /// No adapter at all.
    #[error("no adapter is given; a combination needs at least one")]
    Nothing,
    /// Layers of different shapes.
    #[error(
        "the layer is {outputs} × {inputs} in one adapter and {other_outputs} × {other_inputs} in another; take adapters of \
             one model"
    )]
    Shape {
        /// Rows in the first.
        outputs: usize,
        /// Columns in the first.
        inputs: usize,
        /// Rows in the other.
        other_outputs: usize,
        /// Columns in the other.
        other_inputs: usize,
    },
    /// Different ranks where they must agree.
    #[error(
        "the adapters have ranks {ranks:?}, but this kind of combination works on A and B apart, which must be of one rank; \
             take cat or svd, or a kind that ends in _svd"
    )]
    Ranks {
        /// The ranks.
        ranks: Vec<usize>,
    },
    /// A setting that is missing, or out of range, or of no use.
    #[error("{0}")]
    Setting(String),
}

/// Draws which of `n` entries stay.
pub type Mask<'a> = dyn FnMut(usize) -> Vec<bool> + 'a;

impl Combine {
    /// The kind, with everything else left open.
    pub fn new(kind: CombinationType) -> Self {
        Self { kind, density: None, majority_sign: MajoritySign::Total, svd_rank: None, seed: 0 }
    }

    fn prunes(&self) -> bool {
        !matches!(self.kind, CombinationType::Cat | CombinationType::Linear | CombinationType::Svd)
    }

    fn decomposes(&self) -> bool {
        use CombinationType as Kind;
        let svd = [Kind::Svd, Kind::TiesSvd, Kind::MagnitudePruneSvd, Kind::DareLinearSvd, Kind::DareTiesSvd];
        svd.contains(&self.kind)
    }

    fn elects(&self) -> bool {
        use CombinationType as Kind;
        [Kind::Ties, Kind::TiesSvd, Kind::DareTies, Kind::DareTiesSvd].contains(&self.kind)
    }

    fn random(&self) -> bool {
        use CombinationType as Kind;
        [Kind::DareLinear, Kind::DareLinearSvd, Kind::DareTies, Kind::DareTiesSvd].contains(&self.kind)
    }

    /// Refuses settings that are missing, out of range, or of no use to the kind.
    ///
    /// # Errors
    /// [`CombineError::Setting`].
    pub fn check(&self) -> Result<(), CombineError> {
        let wrong = |text: &str| Err(CombineError::Setting(text.to_owned()));
        match self.density {
            None if self.prunes() => {
                wrong("this kind of combination prunes, and needs the density: the share that stays")
            }
            Some(_) if !self.prunes() => wrong("the density would do nothing: this kind of combination prunes nothing"),
            Some(density) if !(density > 0.0 && density <= 1.0) => {
                Err(CombineError::Setting(format!("the density is {density}, expected above 0 and at most 1")))
            }
            _ if self.svd_rank.is_some() && !self.decomposes() => {
                wrong("the rank would do nothing: this kind of combination makes no decomposition")
            }
            _ if self.svd_rank == Some(0) => wrong("the rank is 0, expected at least 1"),
            _ if self.majority_sign != MajoritySign::Total && !self.elects() => {
                wrong("the majority's sign would do nothing: this kind of combination elects no sign")
            }
            _ => Ok(()),
        }
    }

    /// What `dare_…` keeps, drawn from [`Self::seed`]: one sequence for all layers, in the order of their names.
    pub fn masks(&self) -> impl FnMut(usize) -> Vec<bool> + use<> {
        let (mut rng, density) = (ChaCha8Rng::seed_from_u64(self.seed), self.density.unwrap_or(1.0));
        move |n| (0..n).map(|_| rng.random_bool(density.clamp(0.0, 1.0))).collect()
    }

    /// Combines one layer of several adapters, each with its weight. `mask` says which of `n` entries stay where they are
    /// dropped at random, for A of every adapter and then for B of each, or for every update.
    ///
    /// # Errors
    /// [`CombineError`].
    pub fn layer(&self, parts: &[(f64, &Factors)], mask: &mut Mask<'_>) -> Result<Factors, CombineError> {
        self.check()?;
        let ((_, first), _) = parts.split_first().ok_or(CombineError::Nothing)?;
        for (_, other) in parts {
            if (first.a.columns, first.b.rows) != (other.a.columns, other.b.rows) {
                return Err(CombineError::Shape {
                    outputs: first.b.rows,
                    inputs: first.a.columns,
                    other_outputs: other.b.rows,
                    other_inputs: other.a.columns,
                });
            }
        }
        let (a, b) = if self.kind == CombinationType::Cat {
            stacked(parts)
        } else if self.decomposes() {
            let deltas: Vec<Matrix> = parts.iter().map(|(_, part)| part.delta()).collect();
            let weights: Vec<f64> = parts.iter().map(|(weight, _)| *weight).collect();
            let sum = self.mixed(deltas.iter().collect(), &weights, mask);
            let largest = parts.iter().map(|(_, part)| part.a.rows).max().unwrap_or(1);
            decomposed(&sum, self.svd_rank.unwrap_or(largest))
        } else {
            let ranks: Vec<usize> = parts.iter().map(|(_, part)| part.a.rows).collect();
            if ranks.iter().any(|rank| *rank != ranks[0]) {
                return Err(CombineError::Ranks { ranks });
            }
            let roots: Vec<f64> = parts.iter().map(|(weight, part)| (weight * part.scale).abs().sqrt()).collect();
            // The sign stands on A alone: on both it would vanish.
            let signed = parts
                .iter()
                .zip(&roots)
                .map(|((weight, part), root)| root.copysign(weight * part.scale))
                .collect::<Vec<_>>();
            let a = self.mixed(parts.iter().map(|(_, part)| &part.a).collect(), &signed, mask);
            (a, self.mixed(parts.iter().map(|(_, part)| &part.b).collect(), &roots, mask))
        };
        Ok(Factors { a, b, scale: 1.0 })
    }

    /// The weighted sum of pruned matrices, or the mean of those of the elected sign.
    fn mixed(&self, matrices: Vec<&Matrix>, weights: &[f64], mask: &mut Mask<'_>) -> Matrix {
        let shape = matrices[0];
        let pruned: Vec<Vec<f32>> = matrices.iter().map(|matrix| self.pruned(&matrix.values, mask)).collect();
        let entry = |at: usize| {
            let values = || pruned.iter().map(|matrix| f64::from(matrix[at])).zip(weights);
            if !self.elects() {
                return values().map(|(value, weight)| value * weight).sum::<f64>();
            }
            let vote: f64 = match self.majority_sign {
                MajoritySign::Total => values().map(|(value, _)| value).sum(),
                MajoritySign::Frequency => {
                    values().filter(|(value, _)| *value != 0.0).map(|(value, _)| value.signum()).sum()
                }
            };
            let agrees = |value: f64| if vote >= 0.0 { value > 0.0 } else { value < 0.0 };
            let (sum, n) = values()
                .filter(|(value, _)| agrees(*value))
                .fold((0.0, 0.0), |(sum, n), (value, weight)| (sum + value * weight, n + 1.0));
            sum / f64::max(n, 1.0)
        };
        let values = (0..shape.values.len()).map(|at| entry(at) as f32).collect();
        Matrix { values, ..shape.clone() }
    }

    /// What pruning leaves.
    fn pruned(&self, values: &[f32], mask: &mut Mask<'_>) -> Vec<f32> {
        let density = match self.density {
            Some(density) if density < 1.0 => density,
            _ => return values.to_vec(),
        };
        if self.random() {
            let stays = mask(values.len());
            return values.iter().zip(stays).map(|(v, stays)| if stays { v / density as f32 } else { 0.0 }).collect();
        }
        let kept = (density * values.len() as f64) as usize;
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()));
        let mut pruned = vec![0.0; values.len()];
        order[..kept].iter().for_each(|at| pruned[*at] = values[*at]);
        pruned
    }
}

impl Factors {
    /// `s·B·A`, `[out, in]`.
    fn delta(&self) -> Matrix {
        let (rows, columns, rank) = (self.b.rows, self.a.columns, self.a.rows);
        let mut values = vec![0.0_f32; rows * columns];
        for (row, b) in values.chunks_mut(columns.max(1)).zip(self.b.values.chunks(rank.max(1))) {
            for (a, b) in self.a.values.chunks(columns.max(1)).zip(b) {
                let factor = (f64::from(*b) * self.scale) as f32;
                row.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
            }
        }
        Matrix { rows, columns, values }
    }
}

/// `A` one above the other with weight and factor in them, `B` side by side.
fn stacked(parts: &[(f64, &Factors)]) -> (Matrix, Matrix) {
    let (inputs, outputs) = (parts[0].1.a.columns, parts[0].1.b.rows);
    let rank = parts.iter().map(|(_, part)| part.a.rows).sum();
    let rows = |(weight, part): &(f64, &Factors)| {
        let factor = (weight * part.scale) as f32;
        part.a.values.iter().map(move |a| a * factor).collect::<Vec<_>>()
    };
    let a = parts.iter().flat_map(rows).collect();
    let row = |o: usize| parts.iter().flat_map(move |(_, part)| &part.b.values[o * part.b.columns..][..part.b.columns]);
    let b = (0..outputs).flat_map(row).copied().collect();
    (Matrix { rows: rank, columns: inputs, values: a }, Matrix { rows: outputs, columns: rank, values: b })
}

/// `Vᵀ` and `U·S` of the largest singular values; zeros where there are fewer.
fn decomposed(sum: &Matrix, rank: usize) -> (Matrix, Matrix) {
    let rank = rank.min(sum.rows).min(sum.columns);
    let svd = truncated_svd(&sum.values, sum.rows, sum.columns, rank);
    let (mut a, mut b) = (vec![0.0; rank * sum.columns], vec![0.0; sum.rows * rank]);
    a.iter_mut().zip(&svd.v).for_each(|(a, v)| *a = *v as f32);
    for (k, (u, s)) in svd.u.chunks(sum.rows).zip(&svd.s).enumerate() {
        u.iter().enumerate().for_each(|(o, u)| b[o * rank + k] = (u * s) as f32);
    }
    (Matrix { rows: rank, columns: sum.columns, values: a }, Matrix { rows: sum.rows, columns: rank, values: b })
}

#[cfg(test)]
mod tests {
    use super::*;
    use CombinationType as Kind;

    fn matrix(rows: usize, columns: usize, values: &[f32]) -> Matrix {
        Matrix { rows, columns, values: values.to_vec() }
    }

    /// Two adapters of rank 1 on a layer of 2 × 2.
    fn two() -> [Factors; 2] {
        [
            Factors { a: matrix(1, 2, &[1.0, -2.0]), b: matrix(2, 1, &[1.0, 3.0]), scale: 2.0 },
            Factors { a: matrix(1, 2, &[3.0, 1.0]), b: matrix(2, 1, &[-1.0, 1.0]), scale: 1.0 },
        ]
    }

    fn combine(combine: &Combine, weights: [f64; 2]) -> Factors {
        let [a, b] = two();
        combine.layer(&[(weights[0], &a), (weights[1], &b)], &mut combine.masks()).unwrap()
    }

    fn check(found: &[f32], expected: &[f32]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
    }

    #[test]
    fn cat_and_svd_are_the_sum_of_the_updates() {
        // 0.5·2·[[1, -2], [3, -6]] − [[-3, -1], [3, 1]]
        let expected = [4.0, -1.0, 0.0, -7.0];
        check(&combine(&Combine::new(Kind::Cat), [0.5, -1.0]).delta().values, &expected);
        let svd = Combine { svd_rank: Some(2), ..Combine::new(Kind::Svd) };
        check(&combine(&svd, [0.5, -1.0]).delta().values, &expected);
        assert_eq!(combine(&Combine::new(Kind::Svd), [0.5, -1.0]).a.rows, 1);
    }

    #[test]
    fn linear_takes_the_root_of_the_weight_and_the_sign_on_a() {
        let found = combine(&Combine::new(Kind::Linear), [2.0, -1.0]);
        check(&found.a.values, &[2.0 - 3.0, -4.0 - 1.0]);
        check(&found.b.values, &[2.0 - 1.0, 6.0 + 1.0]);
    }

    #[test]
    fn ties_keeps_the_largest_and_averages_those_of_the_elected_sign() {
        let ties = Combine { density: Some(0.5), ..Combine::new(Kind::Ties) };
        let found = combine(&ties, [0.5, 1.0]);
        // A: -2 and 3 stay. B: 3 of the first; of the second's equals, the one that comes first.
        check(&found.a.values, &[3.0, -2.0]);
        check(&found.b.values, &[-1.0, 3.0]);
        let all = Combine { density: Some(1.0), ..Combine::new(Kind::Ties) };
        // B's first entries cancel, and nothing counts as plus.
        check(&combine(&all, [0.5, 1.0]).b.values, &[1.0, (3.0 + 1.0) / 2.0]);
    }

    #[test]
    fn dare_scales_what_stays() {
        let dare = Combine { density: Some(0.5), ..Combine::new(Kind::DareLinear) };
        let [a, _] = two();
        let found = dare.layer(&[(0.5, &a)], &mut |n| (0..n).map(|i| i % 2 == 0).collect()).unwrap();
        check(&found.a.values, &[2.0, 0.0]);
        check(&found.b.values, &[2.0, 0.0]);
        assert_eq!(combine(&dare, [1.0, 1.0]), combine(&dare, [1.0, 1.0]));
    }

    #[test]
    fn what_cannot_be_combined_is_refused() {
        let [a, mut b] = two();
        b.a = matrix(2, 2, &[0.0; 4]);
        b.b = matrix(2, 2, &[0.0; 4]);
        let refused = |combine: Combine, expected: &str| {
            let error = combine.layer(&[(1.0, &a), (1.0, &b)], &mut combine.masks()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(Combine::new(Kind::Linear), "[1, 2]");
        refused(Combine::new(Kind::Ties), "density");
        refused(Combine { density: Some(0.0), ..Combine::new(Kind::Ties) }, "above 0");
        refused(Combine { density: Some(0.5), ..Combine::new(Kind::Cat) }, "nothing");
        refused(Combine { svd_rank: Some(2), ..Combine::new(Kind::Cat) }, "nothing");
        refused(Combine { majority_sign: MajoritySign::Frequency, ..Combine::new(Kind::Svd) }, "sign");
        assert!("mean".parse::<Kind>().unwrap_err().contains("magnitude_prune_svd"));
        assert_eq!(Combine::new(Kind::Cat).layer(&[], &mut |_| Vec::new()), Err(CombineError::Nothing));
    }
}
