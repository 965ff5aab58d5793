//! ROUGE-N, ROUGE-L and ROUGE-Lsum.

use super::porter::stem;
use super::words::counts;
use std::collections::HashMap;

/// Which ROUGE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rouge {
    /// Overlap of n-grams of this order.
    N(usize),
    /// Longest common subsequence of the whole texts.
    L,
    /// Union of the longest common subsequences of their lines.
    Lsum,
}

/// Precision, recall and their harmonic mean, each from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overlap {
    /// Share of the prediction that the reference has too.
    pub precision: f64,
    /// Share of the reference that the prediction has too.
    pub recall: f64,
    /// `2PR/(P+R)`.
    pub f1: f64,
}

impl Overlap {
    /// Of `hits` common tokens.
    pub fn of(hits: f64, predicted: usize, expected: usize) -> Self {
        let (precision, recall) = (hits / predicted.max(1) as f64, hits / expected.max(1) as f64);
        let sum = precision + recall;
        Self { precision, recall, f1: if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 } }
    }
}

/// ROUGE of a prediction; of several references the one with the best F-score, the first of equals, and zeros without any. Words
/// are runs of ASCII letters and digits in lower case, as in Lin's own program, so that a text in another script has none;
/// with `stemmed`, those of more than three letters are reduced to their stems.
///
/// # Source
/// Lin 2004; checked against rouge-score 0.1.2.
pub fn rouge<S: AsRef<str>>(kind: Rouge, stemmed: bool, prediction: &str, references: &[S]) -> Overlap {
    let mut best: Option<Overlap> = None;
    for reference in references {
        let mut ids = Ids::default();
        let found = match kind {
            Rouge::N(n) => ngrams(&ids.of(reference.as_ref(), stemmed), &ids.of(prediction, stemmed), n),
            Rouge::L => longest(&ids.of(reference.as_ref(), stemmed), &ids.of(prediction, stemmed)),
            Rouge::Lsum => {
                let mut lines = |text: &str| -> Vec<Vec<u32>> {
                    text.split('\n').map(|line| ids.of(line, stemmed)).filter(|line| !line.is_empty()).collect()
                };
                lines_union(&lines(reference.as_ref()), &lines(prediction))
            }
        };
        if best.is_none_or(|best| found.f1 > best.f1) {
            best = Some(found);
        }
    }
    best.unwrap_or_default()
}

/// A number for each word.
#[derive(Default)]
struct Ids(HashMap<String, u32>);

impl Ids {
    fn of(&mut self, text: &str, stemmed: bool) -> Vec<u32> {
        let lower = text.to_lowercase();
        let words =
            lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit()).filter(|word| !word.is_empty());
        let words = words.map(|word| if stemmed && word.len() > 3 { stem(word) } else { word.to_owned() });
        words
            .map(|word| {
                let next = self.0.len() as u32;
                *self.0.entry(word).or_insert(next)
            })
            .collect()
    }
}

fn ngrams(reference: &[u32], prediction: &[u32], n: usize) -> Overlap {
    let theirs = counts(prediction, n);
    let hits: u64 = counts(reference, n).iter().map(|(g, &count)| count.min(theirs.get(g).copied().unwrap_or(0))).sum();
    let all = |tokens: &[u32]| (tokens.len() + 1).saturating_sub(n.max(1));
    Overlap::of(hits as f64, all(prediction), all(reference))
}

fn longest(reference: &[u32], prediction: &[u32]) -> Overlap {
    let mut row = vec![0_u32; prediction.len() + 1];
    for word in reference {
        next_row(&mut row, *word, prediction, |_| ());
    }
    Overlap::of(f64::from(row[prediction.len()]), prediction.len(), reference.len())
}

/// The next row of the table of lengths; `left(j)` is called where the value to the left of column `j` is above the one over it.
fn next_row(row: &mut [u32], word: u32, prediction: &[u32], mut left: impl FnMut(usize)) {
    let mut corner = row[0];
    for (j, other) in prediction.iter().enumerate() {
        let over = row[j + 1];
        if row[j] > over {
            left(j);
        }
        row[j + 1] = if word == *other { corner + 1 } else { over.max(row[j]) };
        corner = over;
    }
}

/// Which words of `reference` are in one longest common subsequence; which one, follows rouge-score.
fn common(reference: &[u32], prediction: &[u32], found: &mut [bool]) {
    // One bit per cell: two texts of 50,000 words take 300 MB.
    let width = prediction.len().div_ceil(64);
    let mut lefts = vec![0_u64; reference.len() * width];
    let mut row = vec![0_u32; prediction.len() + 1];
    for (i, word) in reference.iter().enumerate() {
        let bits = &mut lefts[i * width..][..width];
        next_row(&mut row, *word, prediction, |j| bits[j / 64] |= 1 << (j % 64));
    }
    let (mut i, mut j) = (reference.len(), prediction.len());
    while i > 0 && j > 0 {
        if reference[i - 1] == prediction[j - 1] {
            found[i - 1] = true;
            (i, j) = (i - 1, j - 1);
        } else if lefts[(i - 1) * width + (j - 1) / 64] >> ((j - 1) % 64) & 1 == 1 {
            j -= 1;
        } else {
            i -= 1;
        }
    }
}

/// Hits are words of the union over the prediction's lines, each as often as both texts have it.
fn lines_union(reference: &[Vec<u32>], prediction: &[Vec<u32>]) -> Overlap {
    let tally = |lines: &[Vec<u32>]| {
        let mut tally: HashMap<u32, u64> = HashMap::new();
        lines.iter().flatten().for_each(|&word| *tally.entry(word).or_insert(0) += 1);
        tally
    };
    let (mut theirs, mut ours) = (tally(reference), tally(prediction));
    let mut hits = 0.0;
    for line in reference {
        let mut found = vec![false; line.len()];
        prediction.iter().for_each(|other| common(line, other, &mut found));
        for (word, _) in line.iter().zip(&found).filter(|(_, found)| **found) {
            if let (Some(a @ 1..), Some(b @ 1..)) = (theirs.get_mut(word), ours.get_mut(word)) {
                hits += 1.0;
                *a -= 1;
                *b -= 1;
            }
        }
    }
    let all = |lines: &[Vec<u32>]| lines.iter().map(Vec::len).sum();
    Overlap::of(hits, all(prediction), all(reference))
}
