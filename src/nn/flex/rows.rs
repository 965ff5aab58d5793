//! Rows of a table by index, and the gradient of the table.

use super::buffer::{Output, class_ids, dense, rows_and_width, rows_per_task, tensor, values};
use super::kernels::add_assign;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;
use std::{mem::MaybeUninit, sync::Arc};

/// What the backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct RowsState {
    /// `[v, d]` of the table.
    table: [usize; 2],
    ids: Arc<Vec<usize>>,
}

/// Row `ids[i]` of `table` at `i`, `[n, d]`.
pub(super) fn forward(table: FlexTensor, ids: &FlexTensor) -> (FlexTensor, RowsState) {
    let table = dense(table);
    let (v, d) = rows_and_width(&table);
    let ids = class_ids(ids, v);
    let mut out = Output::new(ids.len() * d);
    if d > 0 {
        let (step, from) = (rows_per_task(d), values(&table));
        out.as_mut().par_chunks_mut(step * d).zip(ids.par_chunks(step)).for_each(|(out, ids)| {
            for (out, id) in out.chunks_exact_mut(d).zip(ids) {
                out.write_copy_of_slice(&from[id * d..][..d]);
            }
        });
    }
    // SAFETY: the chunks cover the buffer and every row was written.
    let out = tensor(unsafe { out.assume_init() }, [ids.len(), d]);
    (out, RowsState { table: [v, d], ids: Arc::new(ids) })
}

/// The gradient of the table: each row is the sum of the gradients of its places, in their order.
pub(super) fn backward(state: &RowsState, upstream: FlexTensor) -> FlexTensor {
    let upstream = dense(upstream);
    let ([v, d], from) = (state.table, values(&upstream));
    // By row, then by place: one task then finds what belongs to its rows, and the order of each sum is fixed.
    let mut places: Vec<(usize, usize)> = state.ids.iter().copied().zip(0..).collect();
    places.sort_unstable();
    let mut out = Output::new(v * d);
    if d > 0 {
        let step = rows_per_task(d);
        out.as_mut().par_chunks_mut(step * d).enumerate().for_each(|(task, out)| {
            let first = task * step;
            out.fill(MaybeUninit::new(0.0));
            // SAFETY: all elements have just been written, and the layouts are equal.
            let out = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<f32>(), out.len()) };
            let (start, end) = (first, first + out.len() / d);
            let own = |row: usize| places.partition_point(|(id, _)| *id < row);
            for (id, place) in &places[own(start)..own(end)] {
                add_assign(&mut out[(id - first) * d..][..d], &from[place * d..][..d]);
            }
        });
    }
    // SAFETY: the chunks cover the buffer and each was filled.
    tensor(unsafe { out.assume_init() }, [v, d])
}
