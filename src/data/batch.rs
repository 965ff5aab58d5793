//! Encoded records are put into a rectangle in host memory, a line each or several to a line, and padded.

use serde::{Deserialize, Serialize};

use super::{Encoded, Example, Place};
use crate::example::Facts;

/// The label of a position that is not learned.
pub const IGNORE_INDEX: i32 = -100;

/// Most padding that is attended to together: a block of the CPU's kernel.
const PADDING_PIECE: usize = 64;

/// On which side short rows are filled up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PadSide {
    /// Behind the tokens, as in training.
    #[default]
    Right,
    /// Before the tokens, as in generation, where all rows must end together.
    Left,
}

/// How rows are brought to one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// The id that fills. Padding is known by its position, never by this id, which may be that of a real token.
    pub token: u32,
    /// The side that is filled.
    pub side: PadSide,
    /// The rows' length is rounded up to a multiple of this; 0 and 1 do not round.
    pub multiple_of: usize,
}

/// Where in a batch the features of one image go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSlot {
    /// The row.
    pub row: usize,
    /// The first position within the row's line.
    pub start: usize,
    /// Number of positions.
    pub length: usize,
    /// Which of the batch's images it is, in the order of `pixel_values`. Rows of one example share theirs.
    pub image: usize,
}

/// Records side by side, padded.
///
/// A row is what a model is shown of an example; a line is a row of the rectangle. Where rows are packed a line holds
/// several, else each row has the line of its own number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// Rows of one example; they follow one another.
    pub rows_per_example: usize,
    /// Length of each line, padding included.
    pub length: usize,
    /// Token ids, `[lines, length]`.
    pub input_ids: Vec<i32>,
    /// Whether a token is to be learned, `[lines, length]`, unshifted; false at padding.
    pub supervised: Vec<bool>,
    /// Per row, the line that it lies in, in which it stands behind the rows before it; empty where each has its own.
    pub line_of: Vec<usize>,
    /// Per row, where it begins in its line.
    pub starts: Vec<usize>,
    /// Per row, where it ends in its line.
    pub ends: Vec<usize>,
    /// The images of all rows, row by row.
    pub images: Vec<ImageSlot>,
    /// Normalized pixels, `[images, 3, height, width]`.
    pub pixel_values: Vec<f32>,
    /// Height and width of each image; `(0, 0)` in a batch without images.
    pub image_size: (usize, usize),
    /// Per row, where its record begins.
    pub places: Vec<Place>,
    /// Per row, its record's id.
    pub ids: Vec<String>,
    /// Per row, its record's number in the data set.
    pub indices: Vec<usize>,
    /// Per example, what its record says besides; empty where nothing was asked.
    pub facts: Vec<Facts>,
    /// Rows of the same contexts, each with another example's answer; there where an objective asks for them.
    pub mismatched: Option<Box<Batch>>,
}

impl Batch {
    /// What each position holds if it is to be learned, else [`IGNORE_INDEX`]; `[lines, length]`, unshifted, as
    /// transformers takes labels.
    pub fn labels(&self) -> Vec<i32> {
        let pairs = self.input_ids.iter().zip(&self.supervised);
        pairs.map(|(&id, &supervised)| if supervised { id } else { IGNORE_INDEX }).collect()
    }

    /// The line that a row lies in.
    pub fn line(&self, row: usize) -> usize {
        self.line_of.get(row).copied().unwrap_or(row)
    }

    /// Number of lines.
    pub fn lines(&self) -> usize {
        if self.line_of.is_empty() { self.rows } else { self.line_of.iter().max().map_or(0, |last| last + 1) }
    }

    /// Where in each line the runs of tokens begin that see nothing but themselves: its rows, then pieces of the padding
    /// behind them, short because a piece costs its square and not longer than the longest row, on which frequencies may
    /// depend.
    pub fn segments(&self) -> Vec<Vec<usize>> {
        let longest = (0..self.rows).map(|row| self.ends[row] - self.starts[row]).max().unwrap_or(0);
        let piece = longest.clamp(1, PADDING_PIECE);
        let mut lines = vec![(Vec::new(), 0); self.lines()];
        for row in 0..self.rows {
            let (starts, end) = &mut lines[self.line(row)];
            starts.push(self.starts[row]);
            *end = self.ends[row];
        }
        let padded = |(mut starts, end): (Vec<usize>, usize)| {
            starts.extend((end..self.length).step_by(piece));
            starts
        };
        lines.into_iter().map(padded).collect()
    }

    /// Number of examples.
    pub fn examples(&self) -> usize {
        self.rows / self.rows_per_example.max(1)
    }

    /// Number of images, those that several rows share counted once.
    pub fn num_images(&self) -> usize {
        self.images.iter().map(|slot| slot.image + 1).max().unwrap_or(0)
    }

    /// Number of tokens that enter the loss. A row's first token is never one: nothing precedes it.
    pub fn num_supervised(&self) -> usize {
        (0..self.rows).map(|row| self.supervised_of(row)).sum()
    }

    /// As [`num_supervised`](Self::num_supervised), by the place of the row in its example.
    pub fn supervised_by_place(&self) -> Vec<usize> {
        let places = self.rows_per_example.max(1);
        (0..places).map(|place| (place..self.rows).step_by(places).map(|row| self.supervised_of(row)).sum()).collect()
    }

    /// As [`num_supervised`](Self::num_supervised), row by row.
    pub fn supervised_by_row(&self) -> Vec<usize> {
        (0..self.rows).map(|row| self.supervised_of(row)).collect()
    }

    fn supervised_of(&self, row: usize) -> usize {
        let tokens = self.range(row);
        self.supervised[tokens].iter().skip(1).filter(|&&supervised| supervised).count()
    }

    /// Number of tokens without padding, image tokens included.
    pub fn num_tokens(&self) -> usize {
        self.starts.iter().zip(&self.ends).map(|(start, end)| end - start).sum()
    }

    /// Where the tokens of `row` lie in `input_ids` and `supervised`.
    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        let line = self.line(row) * self.length;
        line + self.starts[row]..line + self.ends[row]
    }
}

/// Puts examples side by side, all rows of one after another.
pub fn collate_examples(examples: &[Example], padding: &Padding) -> Batch {
    collate_lines(examples.chunks(1), padding)
}

/// As [`collate_examples`], each group of examples packed: their first rows share a line, so do their second ones, …
pub fn collate_lines<'a>(groups: impl IntoIterator<Item = &'a [Example]>, padding: &Padding) -> Batch {
    let groups: Vec<&[Example]> = groups.into_iter().collect();
    let examples = || groups.iter().flat_map(|group| group.iter());
    let rows: Vec<&Encoded> = examples().flat_map(|example| &example.rows).collect();
    let per_example = rows.len() / examples().count().max(1);
    let of_group = |(number, group): (usize, &&[Example])| {
        std::iter::repeat_n(number * per_example..(number + 1) * per_example, group.len()).flatten()
    };
    let line_of = match groups.iter().all(|group| group.len() == 1) {
        true => Vec::new(),
        false => groups.iter().enumerate().flat_map(of_group).collect(),
    };
    let mut batch = side_by_side(&rows, line_of, padding);
    batch.rows_per_example = per_example;
    batch.facts = examples().map(|example| example.facts.clone()).collect();
    batch
}

/// Puts rows side by side, each an example of its own.
///
/// All images of one call have the same size, as one encoder's preprocessing yields them.
pub fn collate(samples: &[Encoded], padding: &Padding) -> Batch {
    side_by_side(&samples.iter().collect::<Vec<_>>(), Vec::new(), padding)
}

fn side_by_side(samples: &[&Encoded], line_of: Vec<usize>, padding: &Padding) -> Batch {
    let rows = samples.len();
    let mut batch = Batch { rows, rows_per_example: 1, line_of, ..Batch::default() };
    let mut filled = vec![0; batch.lines()];
    samples.iter().enumerate().for_each(|(row, sample)| filled[batch.line(row)] += sample.input_ids.len());
    let longest = filled.iter().copied().max().unwrap_or(0);
    let length = longest.next_multiple_of(padding.multiple_of.max(1));
    batch.length = length;
    batch.input_ids = vec![padding.token as i32; filled.len() * length];
    batch.supervised = vec![false; filled.len() * length];
    // From here on, where the next row of each line begins.
    let mut next: Vec<usize> = match padding.side {
        PadSide::Right => vec![0; filled.len()],
        PadSide::Left => filled.iter().map(|tokens| length - tokens).collect(),
    };
    let mut images = 0;
    batch.pixel_values.reserve_exact(samples.iter().map(|sample| sample.pixel_values.len()).sum());
    for (row, sample) in samples.iter().enumerate() {
        let next = &mut next[batch.line(row)];
        let start = *next;
        *next += sample.input_ids.len();
        batch.starts.push(start);
        batch.ends.push(*next);
        let range = batch.range(row);
        for (slot, &id) in batch.input_ids[range.clone()].iter_mut().zip(&sample.input_ids) {
            *slot = id as i32;
        }
        batch.supervised[range].copy_from_slice(&sample.supervised);
        // Without pixels of its own, a row shows the images of the row before it.
        let shown = sample.image_positions.len();
        let first = if sample.pixel_values.is_empty() { images - shown.min(images) } else { images };
        images = first + shown;
        batch.images.extend(sample.image_positions.iter().enumerate().map(|(i, at)| ImageSlot {
            row,
            start: start + at.start,
            length: at.len(),
            image: first + i,
        }));
        if !sample.image_positions.is_empty() {
            debug_assert!(batch.image_size == (0, 0) || batch.image_size == sample.image_size);
            batch.image_size = sample.image_size;
        }
        batch.pixel_values.extend_from_slice(&sample.pixel_values);
        batch.places.push(sample.place.clone());
        batch.ids.push(sample.id.clone());
        batch.indices.push(sample.index);
    }
    batch
}
