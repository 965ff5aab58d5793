//! Matrix products over borrowed slices: a bounds-checked front for the `gemm` crate.
//!
//! A product's bits do not depend on the number of threads: every element of the result sums over
//! the inner dimension in the same order, whichever thread computes it.

use super::{buffer::Output, few::Corner};
use std::{marker::PhantomData, mem::MaybeUninit};

/// A borrowed matrix with any strides, counted in elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct MatRef<'a> {
    data: &'a [f32],
    pub(super) rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// A dense row-major matrix.
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::with_stride(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start every `row_stride` elements.
    ///
    /// # Panics
    /// Where `data` is too short.
    pub(super) fn with_stride(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(data.len() >= extent(rows, cols, row_stride), "matrix out of bounds");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The rows in `range`.
    ///
    /// # Panics
    /// Where `range` reaches past the last row.
    pub(super) fn rows(self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows out of bounds");
        let rows = range.len();
        let start = if rows == 0 { 0 } else { range.start * self.row_stride };
        Self { data: &self.data[start..], rows, ..self }
    }

    /// Copies the elements row by row to the front of `out`.
    ///
    /// # Panics
    /// For a transposed view, or where `out` is too short.
    pub(super) fn copy_to(self, out: &mut [f32]) {
        assert_eq!(self.col_stride, 1, "copy of a transposed view");
        for (i, out) in out[..self.rows * self.cols].chunks_exact_mut(self.cols).enumerate() {
            out.copy_from_slice(&self.data[i * self.row_stride..][..self.cols]);
        }
    }

    /// The elements from the first to the last, and the distance of the rows.
    pub(super) fn as_rows(self) -> (&'a [f32], usize) {
        (self.data, self.row_stride)
    }

    /// Whether its elements lie one after another, row by row.
    pub(super) fn is_dense(self) -> bool {
        self.col_stride == 1 && self.row_stride == self.cols
    }

    /// The transposed view.
    pub(super) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// A matrix to write: rows start every `row_stride` elements, columns are adjacent.
///
/// Holds a pointer because the matrices of two heads interleave in memory, and because the
/// elements may be uninitialised until a product has written them.
#[derive(Debug)]
pub(super) struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    initialised: bool,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> MatMut<'a> {
    /// A dense row-major matrix.
    ///
    /// # Panics
    /// Where `data` is too short.
    pub(super) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::with_stride(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start every `row_stride` elements.
    ///
    /// # Panics
    /// Where `data` is too short.
    pub(super) fn with_stride(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(data.len() >= extent(rows, cols, row_stride), "matrix out of bounds");
        let data = data.as_mut_ptr();
        Self { data, rows, cols, row_stride, initialised: true, borrow: PhantomData }
    }

    /// A dense row-major matrix that [`multiply`] is to initialise.
    ///
    /// # Panics
    /// Where `data` is too short.
    pub(super) fn uninit(data: &'a mut [MaybeUninit<f32>], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= extent(rows, cols, cols), "matrix out of bounds");
        let data = data.as_mut_ptr().cast();
        Self { data, rows, cols, row_stride: cols, initialised: false, borrow: PhantomData }
    }

    /// The columns in `range`, as a matrix of its own.
    ///
    /// # Panics
    /// Where `range` reaches past the last column.
    pub(super) fn columns(&mut self, range: std::ops::Range<usize>) -> MatMut<'_> {
        assert!(range.start <= range.end && range.end <= self.cols, "columns out of bounds");
        let data = self.data.wrapping_add(range.start);
        MatMut { data, cols: range.len(), borrow: PhantomData, ..*self }
    }

    /// Where a matrix of this shape begins, for tasks that each write a part of it.
    ///
    /// # Panics
    /// Where it has another shape.
    pub(super) fn corner(&self, rows: usize, cols: usize) -> Corner {
        assert_eq!((self.rows, self.cols), (rows, cols), "product of unequal shapes");
        Corner::new(self.data, self.row_stride)
    }

    /// A matrix that [`multiply`] is to initialise, inside memory that other threads write too.
    ///
    /// # Safety
    /// `data` must be valid for writes at every element of the matrix for `'a`, and nothing else
    /// may read or write these elements meanwhile.
    pub(super) unsafe fn from_raw(data: *mut f32, rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, initialised: false, borrow: PhantomData }
    }
}

/// The number of elements that a row-major matrix spans.
fn extent(rows: usize, cols: usize, row_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + cols }
}

/// Who computes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread; for use inside a parallel task.
    One,
    /// The current rayon pool.
    All,
}

/// `c = scale·a·b`; every element of `c` is initialised afterwards.
///
/// # Panics
/// Where the shapes do not fit.
pub(super) fn multiply(c: MatMut<'_>, a: MatRef<'_>, b: MatRef<'_>, scale: f32, threads: Threads) {
    run(c, false, a, b, scale, threads);
}

/// `c += scale·a·b`.
///
/// # Panics
/// Where the shapes do not fit or `c` is uninitialised.
pub(super) fn accumulate(c: MatMut<'_>, a: MatRef<'_>, b: MatRef<'_>, scale: f32, threads: Threads) {
    assert!(c.initialised, "accumulating into uninitialised memory");
    run(c, true, a, b, scale, threads);
}

/// `scale·a·b` as a new row-major buffer, computed by all threads.
pub(super) fn product(a: MatRef<'_>, b: MatRef<'_>, scale: f32) -> Vec<f32> {
    let mut out = Output::new(a.rows * b.cols);
    multiply(MatMut::uninit(out.as_mut(), a.rows, b.cols), a, b, scale, Threads::All);
    // SAFETY: the product covers all `a.rows * b.cols` elements.
    unsafe { out.assume_init() }
}

fn run(c: MatMut<'_>, read_c: bool, a: MatRef<'_>, b: MatRef<'_>, scale: f32, threads: Threads) {
    assert_eq!((a.rows, a.cols, b.cols), (c.rows, b.rows, c.cols), "product of unequal shapes");
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    let stride = |stride: usize| stride as isize;
    // SAFETY: `MatRef` and `MatMut` were checked to lie inside their slices (or promised to, for
    // `from_raw`), the shapes agree, and `c` is exclusively borrowed so that it cannot overlap the
    // operands. Where `read_c` is false `c` is only written.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data,
            1,
            stride(c.row_stride),
            read_c,
            a.data.as_ptr(),
            stride(a.col_stride),
            stride(a.row_stride),
            b.data.as_ptr(),
            stride(b.col_stride),
            stride(b.row_stride),
            1.0f32,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
