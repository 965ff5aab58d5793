//! AdamW on moments in 8 bits, in place: a block is read, moved and rounded while it is in the nearest cache.

use super::{
    adamw::{Coefficients, owned, plain},
    buffer::{TASK_ELEMENTS, dense, values},
    kernels::multiversion,
};
use crate::nn::AdamWStep;
use crate::nn::adamw_8bit::{AdamW8Tensors, BLOCK, CodeMap, CodeTable, Moment8};
use burn::backend::Flex;
use burn::tensor::Tensor;
use rayon::prelude::*;

/// One step; see [`crate::nn::adamw_8bit_step`].
///
/// # Panics
/// Where a moment has another length than the parameter.
pub fn adamw_8bit_step(tensors: AdamW8Tensors, grad: Tensor<1>, hyper: AdamWStep) -> AdamW8Tensors {
    let AdamW8Tensors { param, m, v } = tensors;
    let grad = dense(plain(grad));
    let mut param = owned(plain(param));
    let gradient = values(&grad);
    let length = gradient.len();
    let ((mut m_codes, mut m_scales), (mut v_codes, mut v_scales)) = (parts(m, length), parts(v, length));
    let c = Coefficients::new(&hyper);
    {
        const BLOCKS: usize = TASK_ELEMENTS / BLOCK;
        let param = param.storage_mut::<f32>();
        assert_eq!([param.len(), m_codes.len(), v_codes.len()], [length; 3], "AdamW state of another size");
        (param.par_chunks_mut(TASK_ELEMENTS))
            .zip(gradient.par_chunks(TASK_ELEMENTS))
            .zip(m_codes.par_chunks_mut(TASK_ELEMENTS).zip(m_scales.par_chunks_mut(BLOCKS)))
            .zip(v_codes.par_chunks_mut(TASK_ELEMENTS).zip(v_scales.par_chunks_mut(BLOCKS)))
            .for_each(|(((param, grad), m), v)| task(param, grad, m, v, &c));
    }
    AdamW8Tensors {
        param: Tensor::from_primitive::<Flex>(param),
        m: Moment8::Host { codes: m_codes, scales: m_scales },
        v: Moment8::Host { codes: v_codes, scales: v_scales },
    }
}

fn parts(moment: Moment8, length: usize) -> (Vec<u8>, Vec<f32>) {
    match moment.into_host(length) {
        Moment8::Host { codes, scales } => (codes, scales),
        Moment8::Device { .. } => unreachable!("it was read back"),
    }
}

type Codes<'a> = (&'a mut [u8], &'a mut [f32]);

fn task(param: &mut [f32], grad: &[f32], m: Codes<'_>, v: Codes<'_>, c: &Coefficients) {
    let (signed, unsigned) = (CodeMap::Signed.table(), CodeMap::Unsigned.table());
    let blocks = param.chunks_mut(BLOCK).zip(grad.chunks(BLOCK));
    let m = m.0.chunks_mut(BLOCK).zip(m.1);
    let v = v.0.chunks_mut(BLOCK).zip(v.1);
    for (((param, grad), (m_codes, m_scale)), (v_codes, v_scale)) in blocks.zip(m).zip(v) {
        block(param, grad, m_codes, m_scale, v_codes, v_scale, signed, unsigned, c);
    }
}

multiversion! {
    fn block<FMA>(
        param: &mut [f32],
        grad: &[f32],
        m_codes: &mut [u8],
        m_scale: &mut f32,
        v_codes: &mut [u8],
        v_scale: &mut f32,
        signed: &CodeTable,
        unsigned: &CodeTable,
        c: &Coefficients,
    ) {
        let (mut m, mut v) = ([0f32; BLOCK], [0f32; BLOCK]);
        for (m, code) in m.iter_mut().zip(&*m_codes) {
            *m = signed.values[usize::from(*code)] * *m_scale;
        }
        for (v, code) in v.iter_mut().zip(&*v_codes) {
            *v = unsigned.values[usize::from(*code)] * *v_scale;
        }
        // Without fused multiply-add on purpose: the same bits on every processor.
        for (((param, m), v), grad) in param.iter_mut().zip(&mut m).zip(&mut v).zip(grad) {
            let grad = grad * c.grad_scale;
            *m = *m * c.beta1 + c.lerp * grad;
            *v = *v * c.beta2 + c.one_minus_beta2 * grad * grad;
            let denominator = v.sqrt() / c.bias_correction2_sqrt + c.eps;
            *param = *param * c.keep + c.minus_step_size * *m / denominator;
        }
        *m_scale = write(&m[..m_codes.len()], m_codes, signed);
        *v_scale = write(&v[..v_codes.len()], v_codes, unsigned);
    }
}

/// Rounds a block to codes; its scale.
#[inline(always)]
fn write(values: &[f32], codes: &mut [u8], table: &CodeTable) -> f32 {
    let scale = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let per_scale = 1.0 / scale.max(f32::MIN_POSITIVE);
    for (code, value) in codes.iter_mut().zip(values) {
        *code = table.nearest((value * per_scale).clamp(-1.0, 1.0));
    }
    scale
}
