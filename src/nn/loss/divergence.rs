//! How far two models' distributions are apart, a few positions at a time.

use super::chunked::{self, Product, add, join};
use crate::nn::gradient::{Pullback, Tracked, graft};
use crate::nn::norm::{cast_to, to_f32};
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor};

// n tokens, d model width (each model's own), v vocabulary, c positions of a chunk

/// A model's hidden states and the head that reads them.
#[derive(Clone, Debug)]
pub struct Predictor {
    /// `[n, d]`.
    pub hidden_nd: Tensor<2>,
    /// `[v, d]`.
    pub head_vd: Tensor<2>,
}

/// The generalised Jensen–Shannon divergence between a teacher's distribution `t` and a student's `s`:
/// `β·KL(t ‖ m) + (1 − β)·KL(s ‖ m)`, `m = β·t + (1 − β)·s`; `KL(t ‖ s)` at `β` 0 and `KL(s ‖ t)` at 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// From 0 to 1.
    pub beta: f64,
    /// What both logits are divided by, above 0.
    pub temperature: f64,
}

/// What a comparison found, over all positions.
#[derive(Clone, Debug)]
pub struct Contrast {
    /// Sum of the divergences, `[1]`, f32; differentiable with respect to the student.
    pub value: Tensor<1>,
    /// Sum of `KL(t ‖ s)` at the same temperature.
    pub relative_entropy: f64,
    /// Positions where both expect the same token most.
    pub agreeing: usize,
}

/// Compares two models' distributions over one vocabulary, position by position; nothing of size `[n, v]` is held.
///
/// The student's gradients are made in this forward pass. The teacher gets none.
///
/// # Panics
/// Where the vocabularies or the numbers of positions differ.
/// # Source
/// Agarwal et al. 2024, eq. 1.
pub fn divergence(student: Predictor, teacher: Predictor, rule: Divergence) -> Contrast {
    let counts = |of: &Predictor| [of.hidden_nd.dims()[0], of.head_vd.dims()[0]];
    assert_eq!(counts(&student), counts(&teacher), "positions and vocabulary of student and teacher");
    #[cfg(feature = "cpu")]
    if crate::nn::fused(&student.hidden_nd) && crate::nn::fused(&teacher.hidden_nd) {
        let wide = |of: Predictor| Predictor { head_vd: cast_to(of.head_vd, DType::F32), ..of };
        return crate::nn::flex::divergence(wide(student), wide(teacher), rule);
    }
    // Logits of both are held.
    let rows = chunked::rows(2 * student.head_vd.dims()[0]);
    compare(student, teacher, rule, rows)
}

/// [`divergence`] of burn's own operations, `rows` positions at a time.
fn compare(student: Predictor, teacher: Predictor, rule: Divergence, rows: usize) -> Contrast {
    let tracked = Tracked::of(&student.hidden_nd, &student.head_vd);
    let ours = Product::new(student.hidden_nd.clone(), student.head_vd.clone(), rows);
    let theirs = Product::new(teacher.hidden_nd, teacher.head_vd, rows);
    let device = super::plain(student.hidden_nd.clone()).device();
    let (mut sums, mut agreeing) = (Vec::new(), Vec::new());
    let (mut hidden_gradient, mut head_gradient) = (Vec::new(), None);
    for chunk in ours.chunks() {
        let (student_cv, teacher_cv) = (ours.logits(chunk), theirs.logits(chunk));
        agreeing.push(student_cv.clone().argmax(1).equal(teacher_cv.clone().argmax(1)).int().sum());
        let part = rule.compare(student_cv, teacher_cv);
        sums.extend([part.value, part.relative_entropy]);
        if tracked.second {
            head_gradient = add(head_gradient, ours.head_gradient(part.gradient_cv.clone(), chunk));
        }
        if tracked.first {
            hidden_gradient.push(ours.hidden_gradient(part.gradient_cv));
        }
    }
    let agreeing = join(agreeing, || Tensor::<1, Int>::zeros([1], &device)).sum().into_scalar::<i64>();
    let parts = sums.len() / 2;
    let sums_2 = match parts {
        0 => Tensor::zeros([2], &device),
        _ => Tensor::cat(sums, 0).reshape([parts, 2]).sum_dim(0).reshape([2]),
    };
    let relative_entropy = f64::from(sums_2.clone().narrow(0, 1, 1).into_scalar::<f32>());
    let pullback = tracked.any().then(|| {
        let [n, d] = student.hidden_nd.dims();
        let dtype = student.head_vd.dtype();
        let hidden = tracked.first.then(|| join(hidden_gradient, || Tensor::zeros([n, d], &device)));
        let none = || Tensor::zeros(student.head_vd.dims(), (&device, DType::F32));
        let head = tracked.second.then(|| cast_to(head_gradient.unwrap_or_else(none), dtype));
        Box::new(SumStep([hidden, head])) as Box<dyn Pullback>
    });
    let value = graft(sums_2.narrow(0, 0, 1), student.hidden_nd, student.head_vd, pullback);
    Contrast { value, relative_entropy, agreeing: agreeing as usize }
}

/// Of a few positions.
struct Part {
    /// `[1]`.
    value: Tensor<1>,
    /// `KL(t ‖ s)`, `[1]`.
    relative_entropy: Tensor<1>,
    /// With respect to the student's logits.
    gradient_cv: Tensor<2>,
}

impl Divergence {
    fn compare(&self, student_cv: Tensor<2>, teacher_cv: Tensor<2>) -> Part {
        let student_cv = log_softmax(student_cv / self.temperature, 1);
        let teacher_cv = log_softmax(teacher_cv / self.temperature, 1);
        let (s_cv, t_cv) = (student_cv.clone().exp(), teacher_cv.clone().exp());
        let relative_entropy = (t_cv.clone() * (teacher_cv.clone() - student_cv.clone())).sum();
        if self.beta == 0.0 {
            let gradient_cv = (s_cv - t_cv) / self.temperature;
            return Part { value: relative_entropy.clone(), relative_entropy, gradient_cv };
        }
        // With m = t at β 1. How m moves with s cancels out of the gradient: (1 − β)·s·(log s − log m − KL(s ‖ m)).
        let (mixed_cv, share) = match self.beta {
            1.0 => (teacher_cv.clone(), 1.0),
            beta => (mixture(student_cv.clone() + (1.0 - beta).ln(), teacher_cv.clone() + beta.ln()), 1.0 - beta),
        };
        let above_cv = student_cv - mixed_cv.clone();
        let forward_c1 = (s_cv.clone() * above_cv.clone()).sum_dim(1);
        let mut value = forward_c1.clone().sum() * share;
        if self.beta < 1.0 {
            value = value + (t_cv * (teacher_cv - mixed_cv)).sum() * self.beta;
        }
        // Counted from the likeliest token, where a student that is nearly sure would leave two large numbers that hardly
        // differ.
        let above_cv = above_cv.clone() - above_cv.gather(1, s_cv.clone().argmax(1));
        let mean_c1 = (s_cv.clone() * above_cv.clone()).sum_dim(1);
        let gradient_cv = s_cv * (above_cv - mean_c1) * (share / self.temperature);
        Part { value, relative_entropy, gradient_cv }
    }
}

/// `log(eᵃ + eᵇ)`.
fn mixture(a_cv: Tensor<2>, b_cv: Tensor<2>) -> Tensor<2> {
    let top_cv = a_cv.clone().max_pair(b_cv.clone());
    ((a_cv - top_cv.clone()).exp() + (b_cv - top_cv.clone()).exp()).log() + top_cv
}

/// Of a sum: gradients for an upstream gradient of 1.
#[derive(Debug)]
struct SumStep([Option<Tensor<2>>; 2]);

impl Pullback for SumStep {
    fn pull(self: Box<Self>, upstream: Tensor<1>) -> [Option<Tensor<2>>; 2] {
        let factor_11 = to_f32(upstream).reshape([1, 1]);
        self.0.map(|gradient| {
            gradient.map(|gradient| {
                let dtype = gradient.dtype();
                cast_to(to_f32(gradient) * factor_11.clone(), dtype)
            })
        })
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::nn::loss::tests::{assert_close, leaf, values, vec};

    const CASES: [Divergence; 4] = [
        Divergence { beta: 0.0, temperature: 1.0 },
        Divergence { beta: 0.3, temperature: 0.7 },
        Divergence { beta: 0.5, temperature: 2.0 },
        Divergence { beta: 1.0, temperature: 1.0 },
    ];

    const FORMS: [fn(Predictor, Predictor, Divergence) -> Contrast; 2] =
        [divergence, |student, teacher, rule| compare(student, teacher, rule, 2)];

    /// The formula, of whole logits and with burn's own gradients.
    fn whole(student: Tensor<2>, teacher: Tensor<2>, rule: Divergence) -> Tensor<1> {
        let s = log_softmax(student / rule.temperature, 1);
        let t = log_softmax(teacher / rule.temperature, 1);
        let kl = |p: Tensor<2>, q: Tensor<2>| (p.clone().exp() * (p - q)).sum();
        if rule.beta == 0.0 {
            return kl(t, s);
        }
        if rule.beta == 1.0 {
            return kl(s, t);
        }
        let m = (t.clone().exp() * rule.beta + s.clone().exp() * (1.0 - rule.beta)).log();
        kl(t, m.clone()) * rule.beta + kl(s, m) * (1.0 - rule.beta)
    }

    /// Compares with the form that holds all logits: positions, vocabulary, and the widths of student and teacher.
    fn check(sizes: [usize; 4], found: impl Fn(Predictor, Predictor, Divergence) -> Contrast) {
        let [n, v, d, wide] = sizes;
        let teacher = Predictor { hidden_nd: values([n, wide], 5), head_vd: values([v, wide], 6) };
        for rule in CASES {
            let run = |held: bool| {
                let student = Predictor { hidden_nd: leaf([n, d], 3), head_vd: leaf([v, d], 4) };
                let product = |of: &Predictor| of.hidden_nd.clone().matmul(of.head_vd.clone().transpose());
                let (ours, theirs) = (product(&student), product(&teacher));
                let value = match held {
                    true => whole(ours.clone(), theirs.clone().autodiff(), rule),
                    false => {
                        let contrast = found(student.clone(), teacher.clone(), rule);
                        let kl = whole(ours.clone(), theirs.clone().autodiff(), Divergence { beta: 0.0, ..rule });
                        let kl = f64::from(kl.into_scalar::<f32>());
                        assert!((contrast.relative_entropy - kl).abs() < 1e-5 * (1.0 + kl), "{rule:?}");
                        let same = ours.inner().argmax(1).equal(theirs.clone().argmax(1)).int().sum();
                        assert_eq!(contrast.agreeing as i64, same.into_scalar::<i64>());
                        contrast.value
                    }
                };
                let gradients = (value.clone() * 0.25).sum().backward();
                let of = |x: &Tensor<2>| vec(x.grad(&gradients).unwrap());
                (vec(value.inner()), of(&student.hidden_nd), of(&student.head_vd))
            };
            let (found, expected) = (run(false), run(true));
            let what = format!("{sizes:?}, {rule:?}");
            assert_close(&what, &found.0, &expected.0);
            assert_close(&format!("{what}, hidden states"), &found.1, &expected.1);
            assert_close(&format!("{what}, head"), &found.2, &expected.2);
        }
    }

    #[test]
    fn matches_whole_logits() {
        check([7, 67, 5, 3], divergence);
        check([130, 35, 4, 4], divergence);
    }

    /// 70,000 tokens of vocabulary leave 64 positions to a chunk of the CPU's kernel.
    #[test]
    fn the_kernels_chunks_add_up() {
        let run = |first: usize, count: usize| {
            let part = |x: Tensor<2>| x.narrow(0, first, count);
            let hidden_nd = part(values([70, 3], 3)).autodiff().require_grad();
            let student = Predictor { hidden_nd, head_vd: leaf([70_000, 3], 4) };
            let teacher = Predictor { hidden_nd: part(values([70, 2], 5)), head_vd: values([70_000, 2], 6) };
            let found = divergence(student.clone(), teacher, CASES[1]);
            let gradients = found.value.clone().backward();
            let of = |x: &Tensor<2>| vec(x.grad(&gradients).unwrap());
            (vec(found.value), of(&student.hidden_nd), of(&student.head_vd), found.relative_entropy, found.agreeing)
        };
        let (whole, start, rest) = (run(0, 70), run(0, 64), run(64, 6));
        assert_close("the value", &whole.0, &[start.0[0] + rest.0[0]]);
        assert_close("the hidden states", &whole.1, &[start.1, rest.1].concat());
        let head: Vec<f32> = start.2.iter().zip(&rest.2).map(|(a, b)| a + b).collect();
        assert_close("the head", &whole.2, &head);
        assert!((whole.3 - start.3 - rest.3).abs() < 1e-6 * whole.3 && whole.4 == start.4 + rest.4);
    }

    #[test]
    fn chunks_add_up() {
        for rows in [1, 3, 7, 64] {
            check([7, 67, 5, 3], |student, teacher, rule| compare(student, teacher, rule, rows));
        }
    }

    #[test]
    fn what_is_frozen_gets_no_gradient() {
        for compare in FORMS {
            let frozen = Predictor { hidden_nd: leaf([3, 4], 1), head_vd: values([9, 4], 2).autodiff() };
            let teacher = Predictor { hidden_nd: leaf([3, 4], 3), head_vd: leaf([9, 4], 2) };
            let value = compare(frozen.clone(), teacher.clone(), CASES[2]).value;
            let gradients = value.backward();
            assert!(frozen.hidden_nd.grad(&gradients).is_some());
            assert!(frozen.head_vd.grad(&gradients).is_none());
            assert!(teacher.hidden_nd.grad(&gradients).is_none() && teacher.head_vd.grad(&gradients).is_none());
        }
    }

    #[test]
    fn no_positions_are_no_divergence() {
        for compare in FORMS {
            let hidden_nd = || values([2, 4], 1).slice([0..0, 0..4]).autodiff();
            let none = || Predictor { hidden_nd: hidden_nd(), head_vd: leaf([9, 4], 2) };
            let found = compare(none(), none(), CASES[1]);
            assert_eq!((found.value.into_scalar::<f32>(), found.relative_entropy, found.agreeing), (0.0, 0.0, 0));
        }
    }
}
