//! The pass over the vocabulary as burn's own operations, for every device: logits of a few positions at a time.

use super::{Aside, Asked, Spread, Weights, plain};
use crate::nn::gradient::{Pullback, Tracked, graft};
use crate::nn::norm::{cast_to, to_f32};
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, kind::Basic};

// n tokens, d model width, v vocabulary, c positions of a chunk

/// Logits held at once: 256 MB of f32, of which there are two or three copies for a moment. At 128,000 tokens of
/// vocabulary that leaves 512 positions, enough for a product whose cost is arithmetic rather than reading the head.
const CHUNK_ELEMENTS: usize = 64 << 20;

/// Positions of a chunk are a multiple of this, so that the products keep one shape.
const GRANULE: usize = 64;

/// Positions whose logits are held at once.
pub(super) fn rows(v: usize) -> usize {
    (CHUNK_ELEMENTS / v.max(1) / GRANULE * GRANULE).max(GRANULE)
}

/// Hidden states and a head, without autodiff, in the hidden states' type.
#[derive(Clone, Debug)]
pub(super) struct Product {
    x_nd: Tensor<2>,
    head_vd: Tensor<2>,
    /// Positions of a chunk.
    rows: usize,
}

impl Product {
    pub(super) fn new(hidden_nd: Tensor<2>, head_vd: Tensor<2>, rows: usize) -> Self {
        let x_nd = plain(hidden_nd);
        let head_vd = cast_to(plain(head_vd), x_nd.dtype());
        Self { x_nd, head_vd, rows }
    }

    /// The first position and the number of positions of each chunk.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (n, rows) = (self.x_nd.dims()[0], self.rows);
        (0..n).step_by(rows).map(move |first| (first, rows.min(n - first)))
    }

    /// `[c, d]`.
    fn hidden(&self, (first, c): (usize, usize)) -> Tensor<2> {
        self.x_nd.clone().narrow(0, first, c)
    }

    /// `[c, v]`, f32.
    pub(super) fn logits(&self, chunk: (usize, usize)) -> Tensor<2> {
        to_f32(self.hidden(chunk).matmul(self.head_vd.clone().transpose()))
    }

    /// The hidden states' gradient, `[c, d]`, from that of the logits.
    pub(super) fn hidden_gradient(&self, logits_cv: Tensor<2>) -> Tensor<2> {
        cast_to(logits_cv, self.x_nd.dtype()).matmul(self.head_vd.clone())
    }

    /// The chunk's part of the head's gradient, `[v, d]`, f32.
    pub(super) fn head_gradient(&self, logits_cv: Tensor<2>, chunk: (usize, usize)) -> Tensor<2> {
        to_f32(cast_to(logits_cv, self.x_nd.dtype()).transpose().matmul(self.hidden(chunk)))
    }
}

/// Adds up.
pub(super) fn add(sum: Option<Tensor<2>>, part: Tensor<2>) -> Option<Tensor<2>> {
    Some(match sum {
        Some(sum) => sum + part,
        None => part,
    })
}

/// `parts` one after another; `[0, ..]` of no parts.
pub(super) fn join<const D: usize, K: Basic>(
    parts: Vec<Tensor<D, K>>,
    none: impl FnOnce() -> Tensor<D, K>,
) -> Tensor<D, K> {
    match parts.is_empty() {
        true => none(),
        false => Tensor::cat(parts, 0),
    }
}

/// The columns of the results, chunk by chunk.
#[derive(Default)]
struct Columns {
    log_probs: Vec<Tensor<1>>,
    argmax: Vec<Tensor<1, Int>>,
    entropies: Vec<Tensor<1>>,
    collisions: Vec<Tensor<1>>,
    hidden_gradient: Vec<Tensor<2>>,
}

/// Log-probabilities and what else is asked for, `rows` positions at a time.
pub(super) fn token_pass(
    hidden_nd: Tensor<2>,
    head_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
    asked: Asked,
    rows: usize,
) -> (Tensor<1>, Aside) {
    let tracked = Tracked::of(&hidden_nd, &head_vd);
    let product = Product::new(hidden_nd.clone(), head_vd.clone(), rows);
    let targets = targets_n.inner();
    let now = tracked.second && asked.weights == Weights::Equal;
    let (mut columns, mut head_gradient) = (Columns::default(), None);
    for chunk in product.chunks() {
        let logs_cv = log_softmax(product.logits(chunk), 1);
        let ids = targets.clone().narrow(0, chunk.0, chunk.1);
        columns.read(&logs_cv, &ids, asked);
        if tracked.first || now {
            let difference_cv = difference(logs_cv, ids);
            if now {
                head_gradient = add(head_gradient, product.head_gradient(difference_cv.clone(), chunk));
            }
            if tracked.first {
                columns.hidden_gradient.push(product.hidden_gradient(difference_cv));
            }
        }
    }
    let device = product.x_nd.device();
    let empty = || Tensor::zeros([0], &device);
    let log_probs = join(columns.log_probs, empty);
    let aside = Aside {
        argmax: asked.argmax.then(|| join(columns.argmax, || Tensor::zeros([0], &device))),
        spread: asked
            .spread
            .then(|| Spread { entropies: join(columns.entropies, empty), collisions: join(columns.collisions, empty) }),
    };
    let pullback = tracked.any().then(|| {
        let none = || Tensor::zeros([0, product.x_nd.dims()[1]], &device);
        let hidden = tracked.first.then(|| join(columns.hidden_gradient, none));
        let head_type = head_vd.dtype();
        let head = match (tracked.second, head_gradient) {
            (false, _) => HeadStep::Frozen,
            (true, Some(gradient)) => HeadStep::Made(gradient, head_type),
            (true, None) => HeadStep::Later(product, targets, head_type),
        };
        Box::new(TokenStep { hidden, head }) as Box<dyn Pullback>
    });
    (graft(log_probs, hidden_nd, head_vd, pullback), aside)
}

impl Columns {
    fn read(&mut self, logs_cv: &Tensor<2>, ids: &Tensor<1, Int>, asked: Asked) {
        let c = logs_cv.dims()[0];
        self.log_probs.push(logs_cv.clone().gather(1, ids.clone().reshape([c, 1])).reshape([c]));
        if asked.argmax {
            self.argmax.push(logs_cv.clone().argmax(1).reshape([c]));
        }
        if asked.spread {
            let p_cv = logs_cv.clone().exp();
            self.entropies.push((p_cv.clone() * logs_cv.clone()).sum_dim(1).neg().reshape([c]));
            self.collisions.push(p_cv.square().sum_dim(1).log().reshape([c]));
        }
    }
}

/// `softmax - onehot(target)`, the gradient of `-log p(target)` with respect to the logits. Subtracted before anything is
/// rounded to a narrower type: a likely target leaves a small difference of two numbers near 1.
fn difference(logs_cv: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    let c = ids.dims()[0];
    let less = Tensor::<2>::full([c, 1], -1.0, &logs_cv.device());
    logs_cv.exp().scatter(1, ids.reshape([c, 1]), less, IndexingUpdateOp::Add)
}

/// Of log-probabilities: hidden states, head.
#[derive(Debug)]
struct TokenStep {
    /// `[n, d]`: each position's gradient of `-log p`.
    hidden: Option<Tensor<2>>,
    head: HeadStep,
}

/// What is left to do for the head, whose type comes last.
#[expect(clippy::large_enum_variant, reason = "one for each loss")]
#[derive(Debug)]
enum HeadStep {
    Frozen,
    /// `[v, d]`: of the sum of all `-log p`.
    Made(Tensor<2>, DType),
    /// All of it.
    Later(Product, Tensor<1, Int>, DType),
}

impl Pullback for TokenStep {
    fn pull(self: Box<Self>, upstream: Tensor<1>) -> [Option<Tensor<2>>; 2] {
        let n = upstream.dims()[0];
        let factor_n1 = to_f32(upstream).neg().reshape([n, 1]);
        let hidden = self.hidden.map(|gradient| {
            let dtype = gradient.dtype();
            cast_to(to_f32(gradient) * factor_n1.clone(), dtype)
        });
        let head = match self.head {
            HeadStep::Frozen => None,
            HeadStep::Made(gradient, dtype) => Some(cast_to(gradient * common(factor_n1), dtype)),
            HeadStep::Later(product, targets, dtype) => {
                Some(cast_to(head_gradient(&product, &targets, factor_n1), dtype))
            }
        };
        [hidden, head]
    }
}

/// `[v, d]`, f32, with the logits computed again.
fn head_gradient(product: &Product, targets: &Tensor<1, Int>, factor_n1: Tensor<2>) -> Tensor<2> {
    let mut sum = None;
    for chunk in product.chunks() {
        let ids = targets.clone().narrow(0, chunk.0, chunk.1);
        let difference_cv = difference(log_softmax(product.logits(chunk), 1), ids);
        let scaled_cv = difference_cv * factor_n1.clone().narrow(0, chunk.0, chunk.1);
        sum = add(sum, product.head_gradient(scaled_cv, chunk));
    }
    sum.unwrap_or_else(|| Tensor::zeros(product.head_vd.dims(), (&product.head_vd.device(), DType::F32)))
}

/// The number that all of `x` are, `[1, 1]`; NaN where they differ, which stops a run instead of misleading it.
fn common(x_n1: Tensor<2>) -> Tensor<2> {
    let (low, high) = (x_n1.clone().min_dim(0), x_n1.max_dim(0));
    let differ = low.clone().not_equal(high);
    low.mask_fill(differ, f32::NAN)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::nn::loss::tests::{check_pass, problem};

    #[test]
    fn chunks_are_as_large_as_memory_allows() {
        assert_eq!([32_000, 152_064, 64 << 20, 0].map(rows), [2048, 384, 64, 64 << 20]);
    }

    /// Against the form that holds all logits, whether or not the chunks divide the positions.
    #[test]
    fn chunks_add_up() {
        for rows in [1, 3, 5, 7, 64] {
            check_pass(&format!("{rows} positions at a time"), |problem, asked| {
                token_pass(problem.hidden, problem.head, problem.targets, asked, rows)
            });
        }
    }

    #[test]
    fn unequal_weights_that_were_called_equal_stop_the_run() {
        let problem = problem();
        let asked = Asked { weights: Weights::Equal, ..Asked::default() };
        let (values, _) = token_pass(problem.hidden.clone(), problem.head.clone(), problem.targets, asked, 4);
        let uneven = Tensor::<1>::from_floats([1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0], &values.device());
        let gradients = (values * uneven).sum().backward();
        let found = problem.head.grad(&gradients).unwrap().into_data();
        assert!(found.iter::<f32>().all(|g: f32| g.is_nan()));
    }

    #[test]
    fn a_frozen_head_gets_no_gradient() {
        let problem = problem();
        let frozen = plain(problem.head.clone()).autodiff();
        let (values, _) = token_pass(problem.hidden.clone(), frozen.clone(), problem.targets, Asked::default(), 4);
        let gradients = values.sum().backward();
        assert!(problem.hidden.grad(&gradients).is_some() && frozen.grad(&gradients).is_none());
    }

    #[test]
    fn a_narrow_type_keeps_f32_sums() {
        let problem = problem();
        let narrow = |x: &Tensor<2>| x.clone().cast(burn::tensor::FloatDType::BF16);
        let asked = Asked { spread: true, ..Asked::default() };
        let (wide, _) = token_pass(problem.hidden.clone(), problem.head.clone(), problem.targets.clone(), asked, 4);
        let (values, aside) = token_pass(narrow(&problem.hidden), problem.head.clone(), problem.targets, asked, 4);
        assert_eq!(values.dtype(), DType::F32);
        assert_eq!(aside.spread.unwrap().entropies.dtype(), DType::F32);
        let gradients = values.clone().sum().backward();
        assert_eq!(problem.head.grad(&gradients).unwrap().dtype(), DType::F32);
        // Eight bits of mantissa on logits of about 2.
        let off = (wide.inner() - values.inner()).abs().max().into_scalar::<f32>();
        assert!(off < 0.05, "{off}");
    }
}
