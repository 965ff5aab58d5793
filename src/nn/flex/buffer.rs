//! Memory: outputs that are written once, scratch that each thread keeps, and flex tensors as slices.

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};
use std::{cell::RefCell, mem::MaybeUninit};

/// Elements per parallel task of an element-wise kernel. Fixed, so that the pieces of a reduction
/// are the same for any number of threads.
pub(super) const TASK_ELEMENTS: usize = 1 << 15;

/// Rows of `width` elements that make up about [`TASK_ELEMENTS`]; at least one.
pub(super) fn rows_per_task(width: usize) -> usize {
    (TASK_ELEMENTS / width.max(1)).max(1)
}

/// A buffer that is allocated, but not yet written: zeroing what a kernel overwrites costs a pass
/// over memory for each operation.
#[derive(Debug)]
pub(super) struct Output(Vec<MaybeUninit<f32>>);

impl Output {
    /// Allocates `len` elements.
    pub(super) fn new(len: usize) -> Self {
        let mut data = Vec::with_capacity(len);
        // SAFETY: the capacity is `len`, and `MaybeUninit` needs no initialisation.
        unsafe { data.set_len(len) };
        Self(data)
    }

    /// The elements, to be written.
    pub(super) fn as_mut(&mut self) -> &mut [MaybeUninit<f32>] {
        &mut self.0
    }

    /// The elements, to be written by several threads.
    pub(super) fn shared(&mut self) -> SharedOutput {
        SharedOutput { data: self.0.as_mut_ptr().cast(), len: self.0.len() }
    }

    /// The first `len` elements, which have been written.
    ///
    /// # Safety
    /// They must have been.
    pub(super) unsafe fn written(&mut self, len: usize) -> &mut [f32] {
        let data = &mut self.0[..len];
        // SAFETY: the layouts are equal, and the caller promises that the elements are written.
        unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), len) }
    }

    /// The written elements.
    ///
    /// # Safety
    /// Every element must have been written.
    pub(super) unsafe fn assume_init(self) -> Vec<f32> {
        let mut data = std::mem::ManuallyDrop::new(self.0);
        let (pointer, len, capacity) = (data.as_mut_ptr(), data.len(), data.capacity());
        // SAFETY: the parts come from a vector whose element type has the same layout, the vector
        // is not dropped, and the caller promises that all elements are written.
        unsafe { Vec::from_raw_parts(pointer.cast(), len, capacity) }
    }
}

/// A pointer to an [`Output`] for tasks that write interleaved parts of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharedOutput {
    data: *mut f32,
    len: usize,
}

// SAFETY: only a pointer and a length; each use is `unsafe` and promises disjoint elements.
unsafe impl Send for SharedOutput {}
// SAFETY: as above.
unsafe impl Sync for SharedOutput {}

impl SharedOutput {
    /// A pointer to the element at `offset`.
    ///
    /// # Panics
    /// Where fewer than `extent` elements follow.
    pub(super) fn at(self, offset: usize, extent: usize) -> *mut f32 {
        assert!(offset + extent <= self.len, "output out of bounds");
        self.data.wrapping_add(offset)
    }

    /// A part of the output that this task alone writes.
    ///
    /// # Safety
    /// No other reference to these elements may exist while the slice lives, and the [`Output`]
    /// must outlive it.
    pub(super) unsafe fn slice<'a>(self, offset: usize, len: usize) -> &'a mut [MaybeUninit<f32>] {
        // SAFETY: in bounds by `at`; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len).cast(), len) }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `task` with `len` floats of unspecified (but initialised) content that the thread keeps for
/// the next task.
pub(super) fn with_scratch<R>(len: usize, task: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out while in use: a task that waits for other tasks may run one of them on this thread.
    let mut memory = SCRATCH.take();
    if memory.len() < len {
        memory = vec![0.0; len];
    }
    let result = task(&mut memory[..len]);
    SCRATCH.set(memory);
    result
}

/// Splits the first `len` elements off a scratch slice.
pub(super) fn take<'a>(scratch: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(scratch).split_at_mut(len);
    *scratch = tail;
    head
}

/// The tensor with row-major, dense memory; shares the memory where it is so already.
pub(super) fn dense(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The elements of a [`dense`] f32 tensor.
///
/// # Panics
/// Where the tensor is not f32: the callers of this module must cast first.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    debug_assert_eq!(tensor.dtype(), DType::F32, "fused CPU operations compute in f32");
    tensor.as_slice::<f32>().expect("a dense f32 tensor")
}

/// A tensor over `data`.
pub(super) fn tensor(data: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    let shape = shape.into();
    debug_assert_eq!(data.len(), shape.num_elements());
    FlexTensor::new(Bytes::from_elems(data), Layout::contiguous(shape), DType::F32)
}

/// The number of rows and the width of the last axis.
pub(super) fn rows_and_width(tensor: &FlexTensor) -> (usize, usize) {
    let shape = tensor.layout().shape();
    let width = shape.iter().last().copied().unwrap_or(1);
    let rows = shape.iter().rev().skip(1).product();
    (rows, width)
}

/// The integers of `targets` as row numbers; for the panic see [`class_id`].
pub(super) fn class_ids(targets: &FlexTensor, classes: usize) -> Vec<usize> {
    let targets = targets.to_contiguous();
    let id = |id: i64| class_id(id, classes);
    match targets.dtype() {
        DType::I64 => targets.storage::<i64>().iter().map(|x| id(*x)).collect(),
        DType::I32 => targets.storage::<i32>().iter().map(|x| id(i64::from(*x))).collect(),
        DType::U32 => targets.storage::<u32>().iter().map(|x| id(i64::from(*x))).collect(),
        DType::U8 => targets.storage::<u8>().iter().map(|x| id(i64::from(*x))).collect(),
        other => panic!("targets of type {other:?}; use i32 or i64"),
    }
}

/// A token id as a row number.
///
/// # Panics
/// Where it lies outside `0..classes`: an id that the head does not know is a fault of the caller,
/// and reading past the row would be worse.
pub(super) fn class_id(id: i64, classes: usize) -> usize {
    let known = usize::try_from(id).ok().filter(|id| *id < classes);
    known.unwrap_or_else(|| panic!("target {id} is outside the {classes} classes of the head"))
}
