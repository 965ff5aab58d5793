//! Where the segments of each row of a batch begin.

use std::ops::Range;
use std::sync::Arc;

/// Where the segments of each row begin, in ascending order.
///
/// A segment is a run of tokens that sees nothing but itself and whose positions count from 0: a text; one of several texts
/// in a row; the padding behind them. It ends where the next one begins, the last with the row. What lies before a row's
/// first segment is left padding, which no one sees. So one description serves padding and packing, and no mask is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts {
    /// The segments' beginnings, row after row.
    starts: Arc<[usize]>,
    /// Where the rows' parts of `starts` end; empty where every row is one segment from index 0.
    ends: Arc<[usize]>,
}

impl Starts {
    /// The beginnings of each row's segments; a row without any is one segment from index 0.
    pub fn of_rows(rows: impl IntoIterator<Item = Vec<usize>>) -> Self {
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for mut row in rows {
            // Kernels rely on it: every token is in one segment.
            row.sort_unstable();
            if row.is_empty() {
                starts.push(0);
            }
            starts.extend(row);
            ends.push(starts.len());
        }
        Self { starts: starts.into(), ends: ends.into() }
    }

    /// Whether nothing is said of any row, so that each is one segment from index 0.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Rows that something is said of.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Where the segments of a row begin; at least one.
    pub fn of(&self, row: usize) -> &[usize] {
        match self.ends.get(row) {
            None => &[0],
            Some(&end) => &self.starts[if row == 0 { 0 } else { self.ends[row - 1] }..end],
        }
    }

    /// Where a row's first segment begins: the width of its left padding.
    pub fn first(&self, row: usize) -> usize {
        self.of(row)[0]
    }

    /// The segment of the token at `index` of a row of `end` tokens; of left padding, the row's first one.
    pub fn segment(&self, row: usize, index: usize, end: usize) -> Range<usize> {
        let starts = self.of(row);
        let next = starts.partition_point(|&start| start <= index).max(1);
        starts[next - 1].min(end)..starts.get(next).map_or(end, |&next| next.min(end))
    }

    /// The tokens of the longest segment of rows of `end` tokens.
    pub fn longest(&self, end: usize) -> usize {
        let of_row = |row: usize| {
            let starts = self.of(row).iter().map(move |&start| self.segment(row, start, end).len());
            starts.max().unwrap_or(end)
        };
        // With nothing said there is no row to count, and each is as long as can be.
        (0..self.rows()).map(of_row).max().unwrap_or(end)
    }

    /// The same rows with `n` more tokens at the beginning of each one's first segment.
    pub fn lengthened(&self, n: usize) -> Self {
        let row = |row: usize| {
            let starts = self.of(row).iter().enumerate();
            starts.map(|(i, &start)| if i == 0 { start } else { start + n }).collect()
        };
        Self::of_rows((0..self.rows()).map(row))
    }
}

/// One segment in each row.
impl FromIterator<usize> for Starts {
    fn from_iter<I: IntoIterator<Item = usize>>(starts: I) -> Self {
        let starts: Arc<[usize]> = starts.into_iter().collect();
        Self { ends: (1..=starts.len()).collect(), starts }
    }
}

impl From<Vec<usize>> for Starts {
    fn from(starts: Vec<usize>) -> Self {
        starts.into_iter().collect()
    }
}

impl<const N: usize> From<[usize; N]> for Starts {
    fn from(starts: [usize; N]) -> Self {
        starts.into_iter().collect()
    }
}

impl From<Arc<[usize]>> for Starts {
    fn from(starts: Arc<[usize]>) -> Self {
        starts.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_ends_where_the_next_begins() {
        let starts = Starts::of_rows([vec![2, 5, 6], vec![], vec![9]]);
        for (row, index, expected) in [
            (0, 0, 2..5),
            (0, 1, 2..5),
            (0, 4, 2..5),
            (0, 5, 5..6),
            (0, 6, 6..9),
            (0, 8, 6..9),
            (1, 3, 0..9),
            (2, 8, 9..9),
        ] {
            assert_eq!(starts.segment(row, index, 9), expected, "row {row}, token {index}");
        }
        assert_eq!((starts.first(0), starts.first(1), starts.first(2)), (2, 0, 9));
        assert_eq!(starts.longest(9), 9);
        assert_eq!(Starts::of_rows([vec![2, 5, 6]]).longest(9), 3);
        assert_eq!(Starts::default().longest(9), 9);
    }

    #[test]
    fn tokens_in_front_lengthen_the_first_segment() {
        let starts = Starts::of_rows([vec![2, 5, 6], vec![0]]).lengthened(3);
        assert_eq!((starts.of(0), starts.of(1)), (&[2, 8, 9][..], &[0][..]));
        assert!(Starts::default().lengthened(3).is_empty());
    }

    #[test]
    fn one_number_for_each_row_is_left_padding() {
        let starts = Starts::from([0, 3]);
        assert_eq!(starts, Starts::of_rows([vec![0], vec![3]]));
        assert_eq!((starts.segment(1, 0, 5), starts.segment(0, 0, 5)), (3..5, 0..5));
        assert_eq!(starts.segment(7, 1, 5), 0..5, "a row that nothing is said of");
    }
}
