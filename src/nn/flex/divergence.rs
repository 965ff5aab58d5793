//! The divergence between a teacher's and a student's distributions, straight from hidden states: both
//! heads' products, the formula and its gradients run over chunks of rows.

use super::{
    adamw::plain,
    buffer::{Output, dense, rows_and_width, tensor, values},
    gemm::{MatMut, MatRef, Threads, accumulate, multiply},
    kernels::{LANES, exp, fold, max, mul_add, multiversion},
    token_nll::{chunk_rows, logits_of, scaled},
};
use crate::nn::gradient::{Pullback, Tracked, graft};
use crate::nn::loss::{Contrast, Divergence, Predictor};
use burn::backend::{Flex, flex::FlexTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// Logits of each model held at a time, in elements: 16 MB.
const CHUNK_ELEMENTS: usize = 4 << 20;

/// Logits of each model per parallel task.
const TASK_ELEMENTS: usize = 1 << 15;

/// [`crate::nn::divergence`] on the flex device; all tensors are f32.
pub(in crate::nn) fn divergence(student: Predictor, teacher: Predictor, rule: Divergence) -> Contrast {
    let tracked = Tracked::of(&student.hidden_nd, &student.head_vd);
    let flat = |x: &Tensor<2>| dense(plain(x.clone()));
    let (hidden, head) = (flat(&student.hidden_nd), flat(&student.head_vd));
    let (their_hidden, their_head) = (flat(&teacher.hidden_nd), flat(&teacher.head_vd));
    let ((n, d), (v, _)) = (rows_and_width(&hidden), rows_and_width(&head));
    let mut hidden_gradient = Output::new(if tracked.first { n * d } else { 0 });
    let mut head_gradient = vec![0f32; if tracked.second { v * d } else { 0 }];
    let mut found = vec![RowContrast::default(); n];
    let chunk = chunk_rows(CHUNK_ELEMENTS, v.max(1), n);
    let (mut ours, mut theirs) = (Output::new(chunk * v), Output::new(chunk * v));
    for first in (0..n).step_by(chunk.max(1)) {
        let range = first..n.min(first + chunk);
        let logits = logits_of(&hidden, &head, range.clone(), &mut ours);
        let their_logits = logits_of(&their_hidden, &their_head, range.clone(), &mut theirs);
        let step = (TASK_ELEMENTS / v).max(1);
        (logits.par_chunks_mut(step * v))
            .zip(their_logits.par_chunks_mut(step * v))
            .zip(found[range.clone()].par_chunks_mut(step))
            .for_each(|((ours, theirs), found)| contrast_rows(ours, theirs, v, rule, found));
        let difference = MatRef::new(logits, range.len(), v);
        if tracked.first {
            let out = &mut hidden_gradient.as_mut()[first * d..range.end * d];
            let out = MatMut::uninit(out, range.len(), d);
            multiply(out, difference, MatRef::new(values(&head), v, d), 1.0, Threads::All);
        }
        if tracked.second {
            let x = MatRef::new(&values(&hidden)[first * d..range.end * d], range.len(), d);
            accumulate(MatMut::new(&mut head_gradient, v, d), difference.t(), x, 1.0, Threads::All);
        }
    }
    // SAFETY: the chunks cover all rows, and the product writes each of the gradient's.
    let hidden_gradient = unsafe { hidden_gradient.assume_init() };
    let pullback = tracked.any().then(|| {
        let hidden = tracked.first.then(|| tensor(hidden_gradient, [n, d]));
        let head = tracked.second.then(|| tensor(head_gradient, [v, d]));
        Box::new(SumStep([hidden, head])) as Box<dyn Pullback>
    });
    let sum = |value: fn(&RowContrast) -> f32| found.iter().map(|row| f64::from(value(row))).sum::<f64>();
    let value = Tensor::from_primitive::<Flex>(tensor(vec![sum(|row| row.value) as f32], [1]));
    Contrast {
        value: graft(value, student.hidden_nd, student.head_vd, pullback),
        relative_entropy: sum(|row| row.relative_entropy),
        agreeing: found.iter().filter(|row| row.agrees).count(),
    }
}

/// Of a sum: gradients for an upstream gradient of 1.
#[derive(Debug)]
struct SumStep([Option<FlexTensor>; 2]);

impl Pullback for SumStep {
    fn pull(self: Box<Self>, upstream: Tensor<1>) -> [Option<Tensor<2>>; 2] {
        let upstream = dense(plain(upstream));
        let factor = values(&upstream)[0];
        self.0.map(|gradient| gradient.map(|gradient| Tensor::from_primitive::<Flex>(scaled(gradient, &|_| factor))))
    }
}

/// Of one position.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RowContrast {
    value: f32,
    relative_entropy: f32,
    agrees: bool,
}

multiversion! {
    /// From rows of `v` logits of both models to what is found of each; the student's become the
    /// gradient with respect to them, the teacher's mean nothing afterwards.
    fn contrast_rows<FMA>(
        ours: &mut [f32],
        theirs: &mut [f32],
        v: usize,
        rule: Divergence,
        found: &mut [RowContrast],
    ) {
        let heat = rule.temperature as f32;
        for ((s, t), found) in ours.chunks_exact_mut(v).zip(theirs.chunks_exact_mut(v)).zip(found) {
            let (top_s, top_t) = (max(s), max(t));
            let likeliest = |row: &[f32], top: f32| row.iter().position(|logit| *logit == top).unwrap_or(0);
            let top = likeliest(s, top_s);
            found.agrees = top == likeliest(t, top_t);
            let (log_s, log_t) = (shift_and_sum::<FMA>(s, top_s, heat).ln(), shift_and_sum::<FMA>(t, top_t, heat).ln());
            let row = Row { s, t, log_s, log_t, heat, top };
            (found.value, found.relative_entropy) = match rule.beta {
                0.0 => towards_teacher::<FMA>(row),
                1.0 => towards_other::<FMA, false>(row, 1.0),
                beta => towards_other::<FMA, true>(row, beta as f32),
            };
        }
    }
}

/// Replaces `x` by `(x - shift) / heat` and returns the sum of the exponentials.
#[inline(always)]
fn shift_and_sum<const FMA: bool>(x: &mut [f32], shift: f32, heat: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = x.as_chunks_mut::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            block[i] = (block[i] - shift) / heat;
            lanes[i] += exp::<FMA>(block[i]);
        }
    }
    let mut sum = fold(&lanes);
    for value in rest {
        *value = (*value - shift) / heat;
        sum += exp::<FMA>(*value);
    }
    sum
}

/// One position: shifted and divided logits of student and teacher, and the logarithms of the sums of
/// their exponentials.
struct Row<'a> {
    s: &'a mut [f32],
    t: &'a mut [f32],
    log_s: f32,
    log_t: f32,
    heat: f32,
    /// The student's likeliest token.
    top: usize,
}

/// Calls a body with every element's index inside its block of lanes, for whole blocks and for the
/// rest, which is padded with elements of no weight: both logarithms far below any probability.
macro_rules! each_block {
    ($row:ident, |$s:ident, $t:ident| $body:block) => {{
        const NOTHING: f32 = -1e4;
        let (s_blocks, s_rest) = $row.s.as_chunks_mut::<LANES>();
        let (t_blocks, t_rest) = $row.t.as_chunks_mut::<LANES>();
        for ($s, $t) in s_blocks.iter_mut().zip(t_blocks) $body
        if !s_rest.is_empty() {
            let (mut s_last, mut t_last) = ([NOTHING; LANES], [NOTHING; LANES]);
            s_last[..s_rest.len()].copy_from_slice(s_rest);
            t_last[..t_rest.len()].copy_from_slice(t_rest);
            {
                let ($s, $t) = (&mut s_last, &mut t_last);
                $body
            }
            s_rest.copy_from_slice(&s_last[..s_rest.len()]);
            t_rest.copy_from_slice(&t_last[..t_rest.len()]);
        }
    }};
}

/// `KL(t ‖ s)`, twice; leaves `(s - t) / heat`.
#[inline(always)]
fn towards_teacher<const FMA: bool>(row: Row<'_>) -> (f32, f32) {
    let mut backward = [0f32; LANES];
    let (log_s, log_t, heat) = (row.log_s, row.log_t, row.heat);
    each_block!(row, |s, t| {
        for i in 0..LANES {
            let (ours, theirs) = (s[i] - log_s, t[i] - log_t);
            let p = exp::<FMA>(theirs);
            backward[i] = mul_add::<FMA>(p, theirs - ours, backward[i]);
            s[i] = (exp::<FMA>(ours) - p) / heat;
        }
    });
    let backward = fold(&backward);
    (backward, backward)
}

/// The divergence from the mixture `m` (or from the teacher alone, at `beta` 1) and `KL(t ‖ s)`.
/// Leaves the gradient `share·s·(log s - log m - KL(s ‖ m)) / heat`: how `m` moves with `s` cancels out
/// of it. Logarithms are counted from those of the likeliest token: for a student that is nearly sure
/// `log s - log m` and its mean are two large numbers that hardly differ.
#[inline(always)]
fn towards_other<const FMA: bool, const MIXED: bool>(row: Row<'_>, beta: f32) -> (f32, f32) {
    let [mut forward, mut backward, mut relative, mut centred] = [[0f32; LANES]; 4];
    let (log_s, log_t) = (row.log_s, row.log_t);
    let (log_beta, log_rest) = (beta.ln(), (1.0 - beta).ln());
    let (ours, theirs) = (row.s[row.top] - log_s, row.t[row.top] - log_t);
    let centre = ours - if MIXED { mixture::<FMA>(ours + log_rest, theirs + log_beta) } else { theirs };
    each_block!(row, |s, t| {
        for i in 0..LANES {
            let (ours, theirs) = (s[i] - log_s, t[i] - log_t);
            let (p, q) = (exp::<FMA>(ours), exp::<FMA>(theirs));
            let other = if MIXED { mixture::<FMA>(ours + log_rest, theirs + log_beta) } else { theirs };
            let above = ours - other;
            relative[i] = mul_add::<FMA>(q, theirs - ours, relative[i]);
            forward[i] = mul_add::<FMA>(p, above, forward[i]);
            centred[i] = mul_add::<FMA>(p, above - centre, centred[i]);
            if MIXED {
                backward[i] = mul_add::<FMA>(q, theirs - other, backward[i]);
            }
            (s[i], t[i]) = (above - centre, p);
        }
    });
    let (forward, centred) = (fold(&forward), fold(&centred));
    let share = if MIXED { 1.0 - beta } else { 1.0 };
    for (above, p) in row.s.iter_mut().zip(row.t.iter()) {
        *above = (*above - centred) * p * share / row.heat;
    }
    let value = if MIXED { beta * fold(&backward) + share * forward } else { forward };
    (value, fold(&relative))
}

/// `log(eᵃ + eᵇ)`: the larger plus `log(1 + u)`, `u = e^-|a - b|`, whose logarithm is `2·atanh(u / (2 + u))`;
/// the argument is at most 1/3, and the series to its 15th power leaves 1.4e-9 of it.
#[inline(always)]
fn mixture<const FMA: bool>(a: f32, b: f32) -> f32 {
    let (top, low) = if a < b { (b, a) } else { (a, b) };
    let u = exp::<FMA>(low - top);
    let w = u / (2.0 + u);
    let w2 = w * w;
    let p = mul_add::<FMA>(w2, 1.0 / 15.0, 1.0 / 13.0);
    let p = mul_add::<FMA>(p, w2, 1.0 / 11.0);
    let p = mul_add::<FMA>(p, w2, 1.0 / 9.0);
    let p = mul_add::<FMA>(p, w2, 1.0 / 7.0);
    let p = mul_add::<FMA>(p, w2, 1.0 / 5.0);
    let p = mul_add::<FMA>(p, w2, 1.0 / 3.0);
    let p = mul_add::<FMA>(p, w2, 1.0);
    mul_add::<FMA>(2.0 * w, p, top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_is_the_logarithm_of_a_sum() {
        let [mut worst, steps] = [0f64, 4000.0];
        for i in 0..4000 {
            let (a, b) = (-3.5f32, -3.5 + 40.0 * (f64::from(i) / steps - 0.5) as f32);
            let exact = (f64::from(a).exp() + f64::from(b).exp()).ln();
            worst = worst.max((f64::from(mixture::<true>(a, b)) - exact).abs() / exact.abs().max(1.0));
        }
        assert!(worst < 2e-7, "{worst}");
    }
}
