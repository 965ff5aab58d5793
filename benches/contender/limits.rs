//! What this machine can do at most with our own means: matrix products of the crate `gemm`, copies, and reading.

use rayon::prelude::*;
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;

/// Rows and columns of the matrices: large enough that packing does not show.
const SIZE: usize = 2048;
/// Elements of a copied buffer: 256 MiB, beyond every cache.
const COPIED: usize = 64 << 20;
/// Elements that one task copies.
const PIECE: usize = 1 << 20;
/// The best of so many counts.
const TRIES: usize = 5;

/// `{"limits": …}`: operations per second, and bytes when copying and when only reading. A copied byte counts twice, read
/// and written.
pub fn measure() -> Value {
    json!({"limits": {
        "threads": rayon::current_num_threads(),
        "flops": rayon::scope(|_| product()),
        "copied": rayon::scope(|_| copy()),
        "read": rayon::scope(|_| read()),
    }})
}

fn best(mut act: impl FnMut()) -> f64 {
    let mut time = || {
        let started = Instant::now();
        act();
        started.elapsed().as_secs_f64()
    };
    time();
    (0..TRIES).map(|_| time()).fold(f64::INFINITY, f64::min)
}

fn product() -> f64 {
    let (a, b) = (vec![1e-3f32; SIZE * SIZE], vec![1e-3f32; SIZE * SIZE]);
    let mut c = vec![0f32; SIZE * SIZE];
    let rows = SIZE as isize;
    let seconds = best(|| {
        // SAFETY: all three are SIZE by SIZE in rows that follow one another, and nothing else holds `c`.
        unsafe {
            gemm::gemm(
                SIZE,
                SIZE,
                SIZE,
                c.as_mut_ptr(),
                1,
                rows,
                false,
                a.as_ptr(),
                1,
                rows,
                b.as_ptr(),
                1,
                rows,
                0.0f32,
                1.0f32,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
        black_box(&c);
    });
    2.0 * (SIZE * SIZE * SIZE) as f64 / seconds
}

fn copy() -> f64 {
    let (from, mut to) = (vec![1f32; COPIED], vec![0f32; COPIED]);
    let seconds = best(|| {
        to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&to);
    });
    2.0 * (COPIED * 4) as f64 / seconds
}

fn read() -> f64 {
    // Whole numbers, whose sum may be taken in any order and so in vectors.
    let from = vec![1u64; COPIED / 2];
    let seconds = best(|| {
        let sum: u64 =
            from.par_chunks(PIECE).map(|piece| piece.iter().fold(0, |sum: u64, one| sum.wrapping_add(*one))).sum();
        black_box(sum);
    });
    (COPIED * 4) as f64 / seconds
}
