//! Prompts whose beginning was read before: what rows held when they ended.

use crate::data::Encoded;
use crate::nn::KvCache;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// How much is kept of rows that have ended, so that prompts which begin alike need not be read from their beginning.
///
/// The row that was not used for the longest time goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Rows; 0 keeps nothing.
    pub rows: usize,
    /// Tokens of all rows together. A row that alone has more is not kept.
    pub tokens: usize,
}

impl Reuse {
    /// Keeps nothing.
    pub const OFF: Self = Self { rows: 0, tokens: 0 };
}

/// What a lane has read: tokens, and images by what they show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct History {
    ids: Vec<u32>,
    images: Vec<Seen>,
}

/// An image among the tokens. Two files of one picture are one image, a file that was written anew is another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    place: Range<usize>,
    pixels: [u8; 32],
}

impl History {
    /// What a prompt consists of; `None` where its images came with another row.
    pub(super) fn of(prompt: &Encoded) -> Option<Self> {
        let (height, width) = prompt.image_size;
        let each = 3 * height * width;
        if prompt.pixel_values.len() != prompt.image_positions.len() * each {
            return None;
        }
        let pixels = prompt.pixel_values.chunks_exact(each.max(1));
        let images = prompt.image_positions.iter().zip(pixels);
        let seen = |(place, pixels): (&Range<usize>, &[f32])| Seen {
            place: place.clone(),
            pixels: Sha256::digest(bytemuck::cast_slice::<f32, u8>(pixels)).into(),
        };
        Some(Self { ids: prompt.input_ids.clone(), images: images.map(seen).collect() })
    }

    /// One more token was read.
    pub(super) fn push(&mut self, id: u32) {
        self.ids.push(id);
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Tokens with which both begin; never to the middle of an image.
    fn shared(&self, other: &Self) -> usize {
        let equal = self.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
        self.whole(equal, other).min(other.whole(equal, self))
    }

    /// `tokens`, or as many as stand before the first image that `other` has not or that ends behind them.
    fn whole(&self, tokens: usize, other: &Self) -> usize {
        let cut = |seen: &&Seen| seen.place.start < tokens && (seen.place.end > tokens || !other.images.contains(seen));
        self.images.iter().find(cut).map_or(tokens, |seen| seen.place.start)
    }

    /// The most tokens of a prompt that need not be read, where `read` were: one is read in any case, for its logits.
    fn reusable(&self, read: &Self) -> usize {
        let shared = self.shared(read).min(self.len().saturating_sub(1));
        self.whole(shared, read)
    }
}

/// What is behind the beginning of a prompt, as a prompt of its own.
pub(super) fn rest(mut prompt: Encoded, from: usize) -> Encoded {
    let each = 3 * prompt.image_size.0 * prompt.image_size.1;
    let known = prompt.image_positions.iter().take_while(|place| place.end <= from).count();
    prompt.input_ids.drain(..from);
    prompt.supervised.drain(..from);
    prompt.pixel_values.drain(..known * each);
    prompt.image_positions.drain(..known);
    prompt.image_positions.iter_mut().for_each(|place| *place = place.start - from..place.end - from);
    if prompt.image_positions.is_empty() {
        prompt.image_size = (0, 0);
    }
    prompt
}

/// Rows that have ended.
#[derive(Debug)]
pub(super) struct Parked {
    bounds: Reuse,
    /// Each with its cache of one row; the one that was used last is at the end.
    rows: Vec<(History, KvCache)>,
}

impl Parked {
    pub(super) fn new(bounds: Reuse) -> Self {
        Self { bounds, rows: Vec::new() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.bounds.rows > 0
    }

    /// How many tokens of a prompt need not be read, and a cache that begins with them.
    pub(super) fn find(&mut self, prompt: &History) -> Option<(usize, KvCache)> {
        let reusable = self.rows.iter().map(|(read, _)| prompt.reusable(read)).enumerate();
        let (place, tokens) =
            reusable.max_by_key(|&(place, tokens)| (tokens, place)).filter(|(_, tokens)| *tokens > 0)?;
        let row = self.rows.remove(place);
        let cache = row.1.clone();
        self.rows.push(row);
        Some((tokens, cache))
    }

    /// Keeps a row; what is a beginning of it goes, and what there is no room for.
    pub(super) fn park(&mut self, history: History, cache: impl FnOnce() -> KvCache) {
        if !self.is_on() || history.len() > self.bounds.tokens {
            return;
        }
        if let Some(place) = self.rows.iter().position(|(known, _)| known.shared(&history) == history.len()) {
            let row = self.rows.remove(place);
            self.rows.push(row);
            return;
        }
        self.rows.retain(|(known, _)| known.shared(&history) < known.len());
        while self.rows.len() >= self.bounds.rows || self.tokens() + history.len() > self.bounds.tokens {
            self.rows.remove(0);
        }
        self.rows.push((history, cache()));
    }

    fn tokens(&self) -> usize {
        self.rows.iter().map(|(history, _)| history.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Place;
    use std::path::Path;

    /// A prompt of these ids; each image stands where it is said and is all of one value.
    fn prompt(ids: &[u32], images: &[(Range<usize>, f32)]) -> Encoded {
        Encoded {
            input_ids: ids.to_vec(),
            supervised: vec![false; ids.len()],
            image_positions: images.iter().map(|(place, _)| place.clone()).collect(),
            pixel_values: images.iter().flat_map(|(_, value)| [*value; 12]).collect(),
            image_size: if images.is_empty() { (0, 0) } else { (2, 2) },
            id: String::new(),
            index: 0,
            place: Place { file: Path::new("test").into(), line: 1 },
        }
    }

    fn history(ids: &[u32], images: &[(Range<usize>, f32)]) -> History {
        History::of(&prompt(ids, images)).unwrap()
    }

    #[test]
    fn a_beginning_ends_before_what_differs() {
        let read = history(&[1, 2, 3, 4], &[]);
        for (ids, reusable) in [(&[1, 2, 3, 4, 5][..], 4), (&[1, 2, 9, 4], 2), (&[9, 2], 0), (&[1, 2], 1), (&[1], 0)] {
            assert_eq!(history(ids, &[]).reusable(&read), reusable, "{ids:?}");
        }
        assert_eq!(history(&[1, 2, 3, 4], &[]).reusable(&read), 3, "one token is always read");
    }

    #[test]
    fn images_are_known_by_their_pixels_and_never_cut() {
        let read = history(&[1, 7, 7, 7, 2, 7, 7, 7, 3], &[(1..4, 0.5), (5..8, 0.25)]);
        let both = |first: f32, second: f32| {
            history(&[1, 7, 7, 7, 2, 7, 7, 7, 3, 4], &[(1..4, first), (5..8, second)]).reusable(&read)
        };
        assert_eq!(both(0.5, 0.25), 9);
        assert_eq!(both(0.5, 0.75), 5, "another second image");
        assert_eq!(both(0.25, 0.5), 1, "the same images in another order");
        // The last token of the prompt is an image's, which is then read whole.
        assert_eq!(history(&[1, 7, 7, 7], &[(1..4, 0.5)]).reusable(&read), 1);
        // Tokens that are written like an image's and are none.
        assert_eq!(history(&[1, 7, 7, 7, 2, 5], &[]).reusable(&read), 1);
        assert_eq!(history(&[1, 7, 7, 7, 2, 5], &[(1..4, 0.5)]).reusable(&history(&[1, 7, 7, 7, 2], &[])), 1);
        // An image that goes on where what was read ends.
        assert_eq!(history(&[1, 7, 7, 7, 7, 2], &[(1..5, 0.5)]).reusable(&history(&[1, 7, 7, 7], &[(1..4, 0.5)])), 1);
    }

    #[test]
    fn the_rest_of_a_prompt_has_the_images_that_are_left() {
        let whole = prompt(&[1, 7, 7, 2, 7, 7, 3], &[(1..3, 0.5), (4..6, 0.25)]);
        let left = rest(whole.clone(), 3);
        assert_eq!((left.input_ids, left.image_positions), (vec![2, 7, 7, 3], std::iter::once(1..3).collect()));
        assert_eq!((left.pixel_values, left.image_size), (vec![0.25; 12], (2, 2)));
        let none = rest(whole, 6);
        assert_eq!((none.input_ids.len(), none.pixel_values.len(), none.image_size), (1, 0, (0, 0)));
        assert_eq!(none.supervised, [false]);
    }

    #[test]
    fn images_of_another_row_are_no_history() {
        let mut shared = prompt(&[1, 7, 7], &[(1..3, 0.5)]);
        shared.pixel_values.clear();
        assert_eq!(History::of(&shared), None);
    }

    fn known(parked: &Parked) -> Vec<&[u32]> {
        parked.rows.iter().map(|(history, _)| &history.ids[..]).collect()
    }

    fn park(parked: &mut Parked, ids: &[u32]) {
        parked.park(history(ids, &[]), || KvCache::new(1));
    }

    #[test]
    fn the_row_that_was_not_used_for_longest_goes() {
        let mut parked = Parked::new(Reuse { rows: 2, tokens: 8 });
        park(&mut parked, &[1, 2, 3]);
        park(&mut parked, &[4, 5]);
        assert_eq!(parked.find(&history(&[1, 2, 9], &[])).unwrap().0, 2);
        park(&mut parked, &[6, 7, 8]);
        assert_eq!(known(&parked), [&[1, 2, 3][..], &[6, 7, 8]]);
        park(&mut parked, &[9, 9, 9, 9, 9, 9]);
        assert_eq!(known(&parked), [&[9; 6][..]], "eight tokens are all");
        park(&mut parked, &[1; 9]);
        assert_eq!(known(&parked), [&[9; 6][..]], "longer than all that may be kept");
        assert!(parked.find(&history(&[1, 2], &[])).is_none());
    }

    #[test]
    fn a_row_takes_the_place_of_its_beginning() {
        let mut parked = Parked::new(Reuse { rows: 3, tokens: 99 });
        park(&mut parked, &[1, 2]);
        park(&mut parked, &[5]);
        park(&mut parked, &[1, 2, 3]);
        assert_eq!(known(&parked), [&[5][..], &[1, 2, 3]]);
        park(&mut parked, &[5]);
        assert_eq!(known(&parked), [&[1, 2, 3][..], &[5]], "known already, and used");
        let mut off = Parked::new(Reuse::OFF);
        park(&mut off, &[1]);
        assert!(!off.is_on() && known(&off).is_empty());
    }
}
