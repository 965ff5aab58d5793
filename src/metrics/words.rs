//! Words and n-grams.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Whether Python's `str.split()` parts words here. Beside Unicode's white space that is the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The runs of characters between white space, as Python's `str.split()` gives them.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// ASCII's punctuation, Python's `string.punctuation`.
pub(super) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
}

/// How often each run of `n` tokens occurs; `n` is at least 1.
pub(super) fn counts<T: Eq + Hash>(tokens: &[T], n: usize) -> HashMap<&[T], u64> {
    let mut counts = HashMap::new();
    for ngram in tokens.windows(n.max(1)) {
        *counts.entry(ngram).or_insert(0) += 1;
    }
    counts
}

/// One number for one n-gram. Two n-grams share one with a chance of 2⁻⁶⁴.
pub(super) fn mark<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
