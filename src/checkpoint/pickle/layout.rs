//! From offset, size and stride to bytes: a window of the file where the elements lie in order, a
//! copy where they do not.

use std::ops::Range;
use std::sync::Arc;

use super::super::tensors::byte_len;
use super::StoredBytes;
use super::value::{Heap, Tensor, Tuple, Value};

/// Most dimensions, as in torch.
const MAX_RANK: usize = 64;

/// Finds the elements of `tensor` in its storage, the bytes `storage` of `file`. `copies` is how
/// many bytes may still be copied, and shrinks.
pub(super) fn place(
    file: &[u8],
    storage: Range<usize>,
    tensor: &Tensor,
    heap: &Heap<'_>,
    copies: &mut usize,
) -> Result<(Vec<usize>, StoredBytes), String> {
    let shape = integers(heap, tensor.size, "size")?;
    let stride = integers(heap, tensor.stride, "stride")?;
    if shape.len() != stride.len() {
        return Err(format!("has {} sizes and {} strides", shape.len(), stride.len()));
    }
    let bytes = byte_len(tensor.dtype, &shape)
        .ok_or_else(|| format!("has the impossible shape {shape:?} of {}", tensor.dtype))?;
    let offset = usize::try_from(tensor.offset).map_err(|_| format!("begins at element {}", tensor.offset))?;
    if bytes == 0 {
        return Ok((shape, StoredBytes::Mapped(storage.start..storage.start)));
    }
    let width = tensor.dtype.bitsize() / 8;
    let held = storage.len() / width;
    let last = shape
        .iter()
        .zip(&stride)
        .try_fold(offset, |at, (&side, &step)| at.checked_add((side - 1).checked_mul(step)?))
        .filter(|&last| last < held);
    if last.is_none() {
        return Err(format!(
            "of shape {shape:?}, strides {stride:?} and offset {offset} reaches past its storage of {held} elements"
        ));
    }
    // A side of one element is never stepped along: its stride means nothing.
    let (sides, steps): (Vec<usize>, Vec<usize>) = shape.iter().zip(&stride).filter(|&(&side, _)| side != 1).unzip();
    if contiguous(&sides, &steps) {
        let start = storage.start + offset * width;
        return Ok((shape, StoredBytes::Mapped(start..start + bytes)));
    }
    *copies = copies.checked_sub(bytes).ok_or_else(|| {
        format!(
            "of shape {shape:?} and strides {stride:?} repeats elements: its {bytes} bytes and other tensors' copies \
             take more than the whole file; save it with `.contiguous()`"
        )
    })?;
    let copied = gather(&file[storage], width, offset, &sides, &steps, bytes);
    Ok((shape, StoredBytes::Copied(Arc::new(copied))))
}

fn integers(heap: &Heap<'_>, tuple: Tuple, what: &str) -> Result<Vec<usize>, String> {
    let items = heap.items(tuple);
    if items.len() > MAX_RANK {
        return Err(format!("has {} dimensions, more than the {MAX_RANK} allowed", items.len()));
    }
    items
        .iter()
        .map(|&item| match item {
            Value::Int(side) => usize::try_from(side).map_err(|_| format!("has the {what} {side}")),
            other => Err(format!("has {} as a {what}", heap.kind(other))),
        })
        .collect()
}

/// Whether the elements lie row-major without gaps; no side is 1.
fn contiguous(sides: &[usize], steps: &[usize]) -> bool {
    let mut expected = 1;
    sides.iter().zip(steps).rev().all(|(&side, &step)| {
        let fits = step == expected;
        expected *= side;
        fits
    })
}

/// Copies the elements row-major. The caller has checked that the last one is in `storage`, and
/// every other lies before it.
fn gather(storage: &[u8], width: usize, offset: usize, sides: &[usize], steps: &[usize], bytes: usize) -> Vec<u8> {
    let mut copied = Vec::with_capacity(bytes);
    let mut index = vec![0; sides.len()];
    let mut at = offset;
    while copied.len() < bytes {
        copied.extend_from_slice(&storage[at * width..(at + 1) * width]);
        for axis in (0..sides.len()).rev() {
            index[axis] += 1;
            at += steps[axis];
            if index[axis] < sides[axis] {
                break;
            }
            at -= steps[axis] * sides[axis];
            index[axis] = 0;
        }
    }
    copied
}
