//! Several texts in one line of a batch: which records share one.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Records among which partners are sought. More fill the lines hardly better, and would put records of like length
/// together.
const WINDOW: usize = 1024;

/// The stream of the generator that deals records to windows; those of the epochs count from 0.
const STREAM: u64 = u64::MAX;

/// The records of one micro-batch, those that share a line together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(pub Vec<Vec<usize>>);

/// Each record in a line of its own.
impl From<Vec<usize>> for Lines {
    fn from(records: Vec<usize>) -> Self {
        Self(records.into_iter().map(|record| vec![record]).collect())
    }
}

impl Lines {
    /// Number of lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its records, line by line.
    pub fn records(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().flatten().copied()
    }

    /// Tokens of the longest line, of records of these `lengths`.
    pub fn longest(&self, lengths: &[usize]) -> usize {
        let line = |line: &Vec<usize>| line.iter().map(|&record| lengths[record]).sum();
        self.0.iter().map(line).max().unwrap_or(0)
    }
}

/// Packs records of these `lengths` into lines of at most `capacity` tokens, none of them cut; one that is longer has a line
/// of its own. With a `seed` windows are drawn at random, else they are the records as they stand.
///
/// Within a window the longest record comes first, and each goes to the fullest line that has room.
///
/// # Source
/// Best fit decreasing, TRL's `packing_strategy="bfd"`, which cuts records that are too long; here the encoder has done that.
pub fn pack(lengths: &[usize], capacity: usize, seed: Option<u64>) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    if let Some(seed) = seed {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(STREAM);
        order.shuffle(&mut rng);
    }
    order.chunks(WINDOW).flat_map(|window| pack_window(window, lengths, capacity)).collect()
}

fn pack_window(window: &[usize], lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut sorted = window.to_vec();
    // Stable: equal lengths keep the window's order.
    sorted.sort_by_key(|&record| std::cmp::Reverse(lengths[record]));
    let mut lines: Vec<Vec<usize>> = Vec::new();
    // Lines by the room that is left in them; of equal ones the first is filled first.
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for record in sorted {
        let needed = lengths[record];
        let fullest = open.range((needed, 0)..).next().copied();
        let (room, line) = fullest.unwrap_or_else(|| {
            lines.push(Vec::new());
            (capacity, lines.len() - 1)
        });
        open.remove(&(room, line));
        lines[line].push(record);
        open.insert((room.saturating_sub(needed), line));
    }
    // As they stand, the records of a line begin with the earliest, and so do the lines.
    let place: BTreeMap<usize, usize> = window.iter().enumerate().map(|(at, &record)| (record, at)).collect();
    lines.iter_mut().for_each(|line| line.sort_unstable_by_key(|record| place[record]));
    lines.sort_unstable_by_key(|line| place[&line[0]]);
    lines
}

/// How much of the rectangles of some batches is filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Tokens of records.
    pub tokens: usize,
    /// Places for them, padding included.
    pub slots: usize,
}

impl Fill {
    /// Of batches of records of these `lengths`, padded to a multiple of `multiple_of`.
    pub fn of(batches: &[Lines], lengths: &[usize], multiple_of: usize) -> Self {
        let slots = |batch: &Lines| batch.len() * batch.longest(lengths).next_multiple_of(multiple_of.max(1));
        let tokens = batches.iter().flat_map(Lines::records).map(|record| lengths[record]).sum();
        Self { tokens, slots: batches.iter().map(slots).sum() }
    }

    /// Tokens over places.
    pub fn share(&self) -> f64 {
        self.tokens as f64 / self.slots.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_first_into_the_fullest_line_that_has_room() {
        // 7 | 6 | 5: the 3 fills the line of 7, the 4 that of 6, the 2 fits that of 5 alone.
        assert_eq!(pack(&[2, 7, 4, 6, 3, 5], 10, None), [vec![0, 5], vec![1, 4], vec![2, 3]]);
        assert_eq!(pack(&[10, 10, 12], 10, None), [[0], [1], [2]], "none is cut");
        assert!(pack(&[], 10, Some(1)).is_empty());
    }

    #[test]
    fn fill_counts_padding() {
        let batches = [Lines(vec![vec![0, 1], vec![2]]), Lines::from(vec![3])];
        let fill = Fill::of(&batches, &[3, 4, 5, 9], 8);
        assert_eq!(fill, Fill { tokens: 21, slots: 2 * 8 + 16 });
        assert_eq!(Fill::default().share(), 0.0);
    }

    proptest! {
        #[test]
        fn every_record_is_in_one_line_and_no_line_is_too_long(
            lengths in prop::collection::vec(1usize..40, 0..2500),
            seed in prop::option::of(any::<u64>()),
        ) {
            let lines = pack(&lengths, 40, seed);
            let mut records: Vec<usize> = lines.iter().flatten().copied().collect();
            records.sort_unstable();
            prop_assert_eq!(records, (0..lengths.len()).collect::<Vec<_>>());
            let tokens = |line: &Vec<usize>| line.iter().map(|&record| lengths[record]).sum::<usize>();
            prop_assert!(lines.iter().all(|line| tokens(line) <= 40));
            // No two lines of a window would fit into one: best fit leaves at most one of them half empty.
            let windows = lengths.len().div_ceil(WINDOW);
            prop_assert!(lines.iter().filter(|line| 2 * tokens(line) <= 40).count() <= windows);
            prop_assert_eq!(pack(&lengths, 40, seed), lines);
        }
    }
}
