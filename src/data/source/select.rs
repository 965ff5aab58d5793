//! Which of a source's rows are taken.

use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::data::scan::Span;

/// Why a row before or behind the range is not there.
const OUTSIDE: &str = "outside offset and n_rows";
/// Why a row that was not drawn is not there.
const SAMPLED_OUT: &str = "sampled out";

/// Which of a source's rows are taken: first a range of them, then some of that range.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Selection {
    /// Rows to pass over.
    pub offset: usize,
    /// Rows from there on; all where left open.
    pub n_rows: Option<usize>,
    /// How many of those.
    pub amount: Amount,
}

/// How many rows are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Amount {
    /// All of them.
    #[default]
    All,
    /// This many.
    Number(usize),
    /// This share of them, above 0 and at most 1.
    Share(f64),
}

/// What a [`Selection`] takes.
pub struct Selected {
    /// The rows that are taken, in the file's order.
    pub spans: Vec<Span>,
    /// How many are not, by reason.
    pub left_out: Vec<(&'static str, usize)>,
}

impl Selection {
    /// Takes rows. The draw depends on nothing but `seed`, `stream` (the source's number) and the number of rows; no row
    /// is drawn twice, and those that are stay in their order.
    ///
    /// # Errors
    /// What cannot be satisfied, in words.
    pub fn apply(&self, mut spans: Vec<Span>, seed: u64, stream: u64) -> Result<Selected, String> {
        let rows = spans.len();
        let offset = self.offset;
        if offset >= rows {
            return Err(format!("`offset` is {offset}, but there are {rows} rows; lower it"));
        }
        let range = self.n_rows.unwrap_or(rows - offset);
        if range > rows - offset {
            return Err(format!(
                "`offset` {offset} and `n_rows` {range} end at row {}, but there are {rows} rows; lower one of them",
                offset.saturating_add(range)
            ));
        }
        spans = spans.split_off(offset);
        spans.truncate(range);
        let wanted = match self.amount {
            Amount::All => range,
            Amount::Number(wanted) if wanted > range => {
                return Err(format!("`num_samples` is {wanted}, but there are {range} rows to draw from; lower it"));
            }
            Amount::Number(wanted) => wanted,
            Amount::Share(share) => match (range as f64 * share).round() as usize {
                0 => return Err(format!("a `sample_rate` of {share} leaves none of {range} rows; raise it")),
                wanted => wanted.min(range),
            },
        };
        if wanted < range {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream);
            let mut drawn = index::sample(&mut rng, range, wanted).into_vec();
            drawn.sort_unstable();
            spans = drawn.into_iter().map(|row| spans[row]).collect();
        }
        let mut left_out = vec![(OUTSIDE, rows - range), (SAMPLED_OUT, range - wanted)];
        left_out.retain(|(_, count)| *count > 0);
        Ok(Selected { spans, left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(selection: Selection, rows: usize, seed: u64) -> Result<Vec<usize>, String> {
        let spans = (0..rows).map(|line| Span { start: 0, end: 0, line }).collect();
        Ok(selection.apply(spans, seed, 0)?.spans.iter().map(|span| span.line).collect())
    }

    #[test]
    fn ranges_come_before_samples() {
        let range = Selection { offset: 2, n_rows: Some(5), amount: Amount::All };
        assert_eq!(lines(range, 10, 0), Ok(vec![2, 3, 4, 5, 6]));
        let all = Selection { n_rows: None, ..range };
        assert_eq!(lines(all, 4, 0), Ok(vec![2, 3]));
        let some = Selection { amount: Amount::Number(3), ..range };
        let drawn = lines(some, 10, 0).expect("three rows");
        assert!(drawn.is_sorted() && drawn.len() == 3 && drawn.iter().all(|row| (2..7).contains(row)), "{drawn:?}");
        assert_eq!(lines(some, 10, 0), Ok(drawn));
        let draws: std::collections::BTreeSet<_> = (0..50).map(|seed| lines(some, 10, seed)).collect();
        assert_eq!(draws.len(), 10, "of 5 rows 3 can be drawn in 10 ways, and 50 seeds find them all");
        let half = Selection { amount: Amount::Share(0.5), ..Selection::default() };
        assert_eq!(lines(half, 9, 1).expect("half").len(), 5);
    }

    #[test]
    fn what_was_left_out_is_counted() {
        let spans = vec![Span { start: 0, end: 0, line: 1 }; 10];
        let selection = Selection { offset: 2, n_rows: Some(5), amount: Amount::Number(3) };
        let selected = selection.apply(spans, 0, 0).expect("three rows");
        assert_eq!(selected.left_out, [(OUTSIDE, 5), (SAMPLED_OUT, 2)]);
    }

    #[test]
    fn what_cannot_be_satisfied_is_said_with_both_numbers() {
        let check = |selection: Selection, numbers: [&str; 2]| {
            let message = lines(selection, 10, 0).expect_err("too much");
            assert!(numbers.iter().all(|number| message.contains(number)), "{message}");
        };
        let all = Selection::default();
        check(Selection { offset: 10, ..all }, ["`offset` is 10", "10 rows"]);
        check(Selection { offset: 4, n_rows: Some(7), ..all }, ["end at row 11", "10 rows"]);
        check(Selection { offset: 4, n_rows: Some(usize::MAX), ..all }, ["end at row", "10 rows"]);
        check(Selection { amount: Amount::Number(11), ..all }, ["is 11", "10 rows"]);
        check(Selection { n_rows: Some(4), amount: Amount::Number(5), ..all }, ["is 5", "4 rows"]);
        check(Selection { amount: Amount::Share(0.01), ..all }, ["0.01", "10 rows"]);
    }
}
