//! The largest singular values of a matrix and their vectors, in f64.
//!
//! Lanczos' recursion on the Gram matrix of the shorter side, every vector made orthogonal to all before it: a few hundred
//! products with the matrix give what a full decomposition of a large weight would take minutes for.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;

/// Singular values, largest first, and their vectors. Signs of pairs of vectors are arbitrary.
#[derive(Clone, Debug)]
pub struct Svd {
    /// Left vectors, one after another, `[rank, rows]`.
    pub u: Vec<f64>,
    /// Singular values, `[rank]`.
    pub s: Vec<f64>,
    /// Right vectors, one after another, `[rank, columns]`.
    pub v: Vec<f64>,
}

/// Residual of an eigenvector, relative to the largest eigenvalue, at which it is found.
const FOUND: f64 = 1e-11;
/// Share of the largest eigenvalue below which a direction is rounding.
const NOTHING: f64 = 1e-26;

/// The `rank` largest singular values of `matrix`, `[rows, columns]` row by row, and their vectors; fewer where the matrix
/// has fewer. The same bits for any number of threads.
pub fn truncated_svd(matrix: &[f32], rows: usize, columns: usize, rank: usize) -> Svd {
    let gram = Gram { matrix, rows, columns, wide: columns > rows };
    let rank = rank.min(rows).min(columns);
    let mut found: Vec<(f64, Vec<f64>)> = Vec::new();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    // One run sees one vector of equal singular values: the next one, beside what was found, sees another.
    loop {
        let least = found.get(rank.wrapping_sub(1)).map_or(0.0, |(value, _)| *value);
        let wanted = if found.len() < rank { rank } else { 1 };
        let more = gram.largest(wanted, least, &found, &mut rng);
        let before = found.len();
        let largest = found.iter().chain(&more).map(|(value, _)| *value).fold(0.0, f64::max);
        found.extend(more.into_iter().filter(|(value, _)| *value > least * (1.0 + 1e-9) && *value > largest * NOTHING));
        if found.len() == before {
            break;
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        found.truncate(rank);
    }
    gram.vectors(found)
}

/// `MᵀM`, or `MMᵀ` where that is smaller; it is never built.
struct Gram<'a> {
    matrix: &'a [f32],
    rows: usize,
    columns: usize,
    wide: bool,
}

impl Gram<'_> {
    /// Length of the vectors that it acts on.
    fn size(&self) -> usize {
        self.rows.min(self.columns)
    }

    /// `M x`.
    fn forward(&self, x: &[f64]) -> Vec<f64> {
        self.matrix.par_chunks(self.columns).map(|row| dot(row, x)).collect()
    }

    /// `Mᵀ y`.
    fn backward(&self, y: &[f64]) -> Vec<f64> {
        const COLUMNS: usize = 256;
        let mut out = vec![0.0; self.columns];
        out.par_chunks_mut(COLUMNS).enumerate().for_each(|(task, out)| {
            for (row, y) in self.matrix.chunks(self.columns).zip(y) {
                let row = &row[task * COLUMNS..][..out.len()];
                out.iter_mut().zip(row).for_each(|(out, m)| *out += f64::from(*m) * y);
            }
        });
        out
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        if self.wide { self.forward(&self.backward(x)) } else { self.backward(&self.forward(x)) }
    }

    /// The `wanted` largest eigenvalues and their vectors beside those `known`; none where all of them are below `least`.
    fn largest(
        &self,
        wanted: usize,
        least: f64,
        known: &[(f64, Vec<f64>)],
        rng: &mut ChaCha8Rng,
    ) -> Vec<(f64, Vec<f64>)> {
        let known: Vec<&[f64]> = known.iter().map(|(_, vector)| vector.as_slice()).collect();
        let most = self.size() - known.len();
        let (mut basis, mut diagonal, mut beside) = (Vec::<Vec<f64>>::new(), Vec::new(), Vec::new());
        let mut check = (2 * wanted + 8).min(most);
        let mut next = fresh(self.size(), &known, &basis, rng);
        while let Some(vector) = next.take() {
            let mut image = self.apply(&vector);
            diagonal.push(dot(&image, &vector));
            basis.push(vector);
            orthogonalize(&mut image, &known, &basis);
            let length = dot(&image, &image).sqrt();
            let scale = diagonal.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let broken = length <= scale * 1e-14;
            beside.push(if broken { 0.0 } else { length });
            let full = basis.len() >= most;
            if broken && !full {
                // The space that the start reaches is used up; another start reaches the rest.
                next = fresh(self.size(), &known, &basis, rng);
            } else if !full {
                image.iter_mut().for_each(|x| *x /= length);
                next = Some(image);
            }
            if next.is_none() || basis.len() >= check {
                check = (basis.len() * 3 / 2).min(most);
                let pairs = tridiagonal(&diagonal, &beside);
                let coupling = if next.is_none() { 0.0 } else { beside[beside.len() - 1] };
                let residual = |vector: &[f64]| (coupling * vector[vector.len() - 1]).abs();
                if pairs[0].0 + residual(&pairs[0].1) < least {
                    return Vec::new();
                }
                if pairs.iter().take(wanted).all(|(_, vector)| residual(vector) <= FOUND * pairs[0].0.abs()) {
                    return pairs
                        .into_iter()
                        .take(wanted)
                        .map(|(value, vector)| (value, combined(&basis, &vector)))
                        .collect();
                }
            }
        }
        Vec::new()
    }

    /// Both sides' vectors of the eigenpairs.
    fn vectors(&self, pairs: Vec<(f64, Vec<f64>)>) -> Svd {
        let mut svd = Svd { u: Vec::new(), s: Vec::new(), v: Vec::new() };
        for (_, vector) in pairs {
            let mut other = if self.wide { self.backward(&vector) } else { self.forward(&vector) };
            let length = dot(&other, &other).sqrt();
            other.iter_mut().for_each(|x| *x /= length);
            svd.s.push(length);
            let (left, right) = if self.wide { (vector, other) } else { (other, vector) };
            svd.u.extend(left);
            svd.v.extend(right);
        }
        svd
    }
}

/// The sum of products, in lanes that the compiler can hold in one register.
fn dot<T: Copy + Into<f64>>(a: &[T], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane].into() * b[lane];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| (*a).into() * b).sum::<f64>()
}

/// Takes from `x` what lies along the vectors, twice: once leaves what rounding leaves.
fn orthogonalize(x: &mut [f64], known: &[&[f64]], basis: &[Vec<f64>]) {
    const PART: usize = 512;
    let vectors: Vec<&[f64]> = known.iter().copied().chain(basis.iter().map(Vec::as_slice)).collect();
    for _ in 0..2 {
        let along: Vec<f64> = vectors.par_iter().map(|vector| dot(x, vector)).collect();
        x.par_chunks_mut(PART).enumerate().for_each(|(task, x)| {
            for (vector, along) in vectors.iter().zip(&along) {
                x.iter_mut().zip(&vector[task * PART..]).for_each(|(x, v)| *x -= along * v);
            }
        });
    }
}

/// A random direction beside the vectors; `None` where they fill the space.
fn fresh(size: usize, known: &[&[f64]], basis: &[Vec<f64>], rng: &mut ChaCha8Rng) -> Option<Vec<f64>> {
    if known.len() + basis.len() >= size {
        return None;
    }
    let mut x: Vec<f64> = (0..size).map(|_| rng.random_range(-1.0..1.0)).collect();
    orthogonalize(&mut x, known, basis);
    let length = dot(&x, &x).sqrt();
    x.iter_mut().for_each(|x| *x /= length);
    Some(x)
}

/// `Σ weights · basis`.
fn combined(basis: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; basis[0].len()];
    for (vector, weight) in basis.iter().zip(weights) {
        sum.iter_mut().zip(vector).for_each(|(sum, v)| *sum += weight * v);
    }
    sum
}

/// Eigenvalues, largest first, and vectors of a symmetric tridiagonal matrix, by the QL method with implicit shifts.
fn tridiagonal(diagonal: &[f64], beside: &[f64]) -> Vec<(f64, Vec<f64>)> {
    /// The method needs two or three turns for each eigenvalue.
    const TURNS: usize = 60;
    let n = diagonal.len();
    let (mut d, mut e) = (diagonal.to_vec(), beside[..n].to_vec());
    e[n - 1] = 0.0;
    // Vectors are rows here, so that a rotation of two of them walks memory in order.
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for l in 0..n {
        for _ in 0..TURNS {
            let small = |m: &usize| e[*m].abs() <= f64::EPSILON * (d[*m].abs() + d[*m + 1].abs());
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            let half = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let root = half.hypot(1.0);
            let mut shifted = d[m] - d[l] + e[l] / (half + root.copysign(half));
            let (mut sine, mut cosine, mut moved) = (1.0, 1.0, 0.0);
            let mut whole = true;
            for i in (l..m).rev() {
                let (f, b) = (sine * e[i], cosine * e[i]);
                let length = f.hypot(shifted);
                e[i + 1] = length;
                if length == 0.0 {
                    // The matrix falls apart here; the next turn goes on with the smaller part.
                    d[i + 1] -= moved;
                    e[m] = 0.0;
                    whole = false;
                    break;
                }
                (sine, cosine) = (f / length, shifted / length);
                let old = d[i + 1] - moved;
                let turned = (d[i] - old) * sine + 2.0 * cosine * b;
                moved = sine * turned;
                d[i + 1] = old + moved;
                shifted = cosine * turned - b;
                let (low, high) = vectors.split_at_mut(i + 1);
                for (x, y) in low[i].iter_mut().zip(high[0].iter_mut()) {
                    (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
                }
            }
            if whole {
                d[l] -= moved;
                e[l] = shifted;
                e[m] = 0.0;
            }
        }
    }
    let mut pairs: Vec<(f64, Vec<f64>)> = d.into_iter().zip(vectors).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..rows * columns).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// `U S Vᵀ`.
    fn product(svd: &Svd, rows: usize, columns: usize) -> Vec<f64> {
        let mut out = vec![0.0; rows * columns];
        for ((u, v), s) in svd.u.chunks(rows).zip(svd.v.chunks(columns)).zip(&svd.s) {
            for (i, u) in u.iter().enumerate() {
                v.iter().enumerate().for_each(|(j, v)| out[i * columns + j] += u * s * v);
            }
        }
        out
    }

    fn check_orthonormal(vectors: &[f64], length: usize) {
        let all: Vec<&[f64]> = vectors.chunks(length).collect();
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                let expected = f64::from(u8::from(i == j));
                assert!((dot(a, b) - expected).abs() < 1e-9, "{i} {j}: {}", dot(a, b));
            }
        }
    }

    #[test]
    fn all_of_them_give_the_matrix_back() {
        for (rows, columns) in [(7, 5), (5, 7), (40, 40), (1, 3), (3, 1)] {
            let matrix = random(rows, columns, 1);
            let svd = truncated_svd(&matrix, rows, columns, usize::MAX);
            assert_eq!(svd.s.len(), rows.min(columns));
            assert!(svd.s.windows(2).all(|pair| pair[0] >= pair[1]));
            check_orthonormal(&svd.u, rows);
            check_orthonormal(&svd.v, columns);
            let back = product(&svd, rows, columns);
            let far = back.iter().zip(&matrix).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
            assert!(far < 1e-9, "{rows} × {columns}: {far:e}");
        }
    }

    #[test]
    fn some_are_the_largest_ones() {
        let (rows, columns) = (160, 120);
        let matrix = random(rows, columns, 2);
        let all = truncated_svd(&matrix, rows, columns, usize::MAX);
        let some = truncated_svd(&matrix, rows, columns, 6);
        let six = Svd { u: all.u[..6 * rows].to_vec(), s: all.s[..6].to_vec(), v: all.v[..6 * columns].to_vec() };
        let (a, b) = (product(&some, rows, columns), product(&six, rows, columns));
        let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(some.s.len() == 6 && far < 1e-8, "{far:e}");
    }

    #[test]
    fn equal_singular_values_and_low_ranks() {
        let mut diagonal = vec![0.0_f32; 64];
        [5.0, 5.0, 5.0, 1.0].iter().enumerate().for_each(|(i, value)| diagonal[i * 9] = *value);
        let svd = truncated_svd(&diagonal, 8, 8, 3);
        assert!(svd.s.iter().all(|s| (s - 5.0).abs() < 1e-9), "{:?}", svd.s);
        check_orthonormal(&svd.u, 8);
        // Rank 4: there are no more.
        let svd = truncated_svd(&diagonal, 8, 8, 8);
        assert_eq!(svd.s.iter().filter(|s| **s > 1e-6).count(), 4);
        assert!(truncated_svd(&[0.0; 6], 2, 3, 2).s.is_empty());
    }
}
