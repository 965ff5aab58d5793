//! The merges of a BPE vocabulary, which the file does not say: every way to make a piece of two pieces.

use super::MergeOrder;
use super::proto::Piece;
use std::cmp::Ordering;

/// The memory that merges may take, as their texts plus [`MERGE_COST`] each: some twelve million of usual length.
pub(super) const MAX_COST: usize = 1 << 30;
/// The two strings of a merge, and its place in the order.
const MERGE_COST: usize = 76;

/// Pairs of pieces whose texts together are a piece, first the one to merge first.
///
/// A shorter and a longer way to look for them give the same: trying every cut of every piece, as transformers does, or
/// pairing the pieces it begins with and those it ends in. The second takes time linear in the text.
///
/// # Errors
/// A vocabulary whose merges cost more than `limit` bytes of memory, as `a`, `aa`, `aaa`, … made for that would.
pub(super) fn merges(pieces: &[Piece], order: MergeOrder, limit: usize) -> Result<Vec<(String, String)>, String> {
    let mut pairs = pairs(pieces, limit)?;
    if order == MergeOrder::ByScore {
        by_score(pieces, &mut pairs);
    }
    let text = |id: usize| pieces[id].text.clone();
    Ok(pairs.into_iter().map(|pair| (text(pair.left), text(pair.right))).collect())
}

/// Ids of a piece and of two that make it.
struct Pair {
    whole: usize,
    left: usize,
    right: usize,
}

/// In the order of the whole's id, then of the left length.
fn pairs(pieces: &[Piece], limit: usize) -> Result<Vec<Pair>, String> {
    let texts: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
    let starts = longest(&texts, |a, b| a.cmp(b), |text, start| text.starts_with(start));
    let ends = longest(&texts, |a, b| a.bytes().rev().cmp(b.bytes().rev()), |text, end| text.ends_with(end));
    let mut pairs = Vec::new();
    let mut cost = 0;
    let mut lefts = Vec::new();
    for (whole, text) in texts.iter().enumerate() {
        lefts.clear();
        lefts.extend(chain(&starts, whole));
        let mut rights = chain(&ends, whole).peekable();
        // Lefts from the shortest, rights from the longest: their lengths must add up.
        for &left in lefts.iter().rev() {
            let right_length = text.len() - texts[left].len();
            while rights.next_if(|&right| texts[right].len() > right_length).is_some() {}
            if let Some(right) = rights.next_if(|&right| texts[right].len() == right_length) {
                cost += text.len() + MERGE_COST;
                if cost > limit {
                    return Err(format!(
                        "its merges up to piece {whole} take more than {limit} bytes; no trained model's do"
                    ));
                }
                pairs.push(Pair { whole, left, right });
            }
        }
    }
    Ok(pairs)
}

/// Highest score first; of the same score the longest left part, then the longest right part, in characters.
fn by_score(pieces: &[Piece], pairs: &mut [Pair]) {
    let lengths: Vec<usize> = pieces.iter().map(|piece| piece.text.chars().count()).collect();
    // transformers gives the first three pieces, which it names itself, the score 0.
    let score = |pair: &Pair| if pair.whole < 3 { 0.0 } else { pieces[pair.whole].score };
    pairs.sort_by(|a, b| {
        let by_length = |part: fn(&Pair) -> usize| lengths[part(b)].cmp(&lengths[part(a)]);
        // Scores are finite, and -0 is 0.
        let by_score = score(b).partial_cmp(&score(a)).unwrap_or(Ordering::Equal);
        by_score.then(by_length(|pair| pair.left)).then(by_length(|pair| pair.right))
    });
}

/// For each text the longest other one that it begins with (or ends in: `order` must put it before, with only texts
/// that begin with it between them).
fn longest(
    texts: &[&str],
    order: impl Fn(&str, &str) -> Ordering,
    contains: impl Fn(&str, &str) -> bool,
) -> Vec<Option<usize>> {
    let mut sorted: Vec<usize> = (0..texts.len()).collect();
    sorted.sort_unstable_by(|&a, &b| order(texts[a], texts[b]));
    let mut longest = vec![None; texts.len()];
    let mut open: Vec<usize> = Vec::new();
    for id in sorted {
        while open.pop_if(|last| !contains(texts[id], texts[*last])).is_some() {}
        longest[id] = open.last().copied();
        open.push(id);
    }
    longest
}

/// The links from `id`, longest text first.
fn chain(links: &[Option<usize>], id: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(links[id], |&id| links[id])
}

#[cfg(test)]
mod tests {
    use super::super::proto::PieceKind;
    use super::*;
    use proptest::prelude::*;

    /// transformers' way: every cut of every piece.
    fn every_cut(texts: &[String]) -> Vec<(String, String)> {
        let known = |text: &str| texts.iter().any(|known| known == text);
        let cuts = texts.iter().flat_map(|text| {
            text.char_indices()
                .skip(1)
                .map(|(at, _)| (text[..at].to_owned(), text[at..].to_owned()))
                .collect::<Vec<_>>()
        });
        cuts.filter(|(left, right)| known(left) && known(right)).collect()
    }

    fn pieces(texts: &[String]) -> Vec<Piece> {
        texts.iter().map(|text| Piece { text: text.clone(), score: 0.0, kind: PieceKind::Plain }).collect()
    }

    fn made(pieces: &[Piece], order: MergeOrder) -> Vec<(String, String)> {
        merges(pieces, order, MAX_COST).unwrap()
    }

    #[test]
    fn order_is_by_piece_then_by_left_length() {
        let texts = ["a", "b", "ab", "abb", "bb"].map(String::from);
        let expected = [("a", "b"), ("a", "bb"), ("ab", "b"), ("b", "b")];
        assert_eq!(made(&pieces(&texts), MergeOrder::ById), expected.map(|(a, b)| (a.into(), b.into())));
    }

    #[test]
    fn order_by_score_puts_the_highest_and_longest_first() {
        let texts = ["<unk>", "<s>", "</s>", "a", "é", "aé", "aéé", "éé"].map(String::from);
        let mut pieces = pieces(&texts);
        for (piece, score) in pieces.iter_mut().zip([0.0, 0.0, 0.0, -1.0, -2.0, -1e9, -3.0, -1e9]) {
            piece.score = score;
        }
        // `éé` is longer than `aé` in bytes, but its left part is not in characters.
        let expected = [("aé", "é"), ("a", "éé"), ("a", "é"), ("é", "é")];
        assert_eq!(made(&pieces, MergeOrder::ByScore), expected.map(|(a, b)| (a.into(), b.into())));
    }

    #[test]
    fn hostile_vocabulary_is_refused() {
        // Every cut of every piece is a merge: 500 thousand of up to 1 KB from a file of 500 KB.
        let texts: Vec<String> = (1..1000).map(|n| "a".repeat(n)).collect();
        let error = merges(&pieces(&texts), MergeOrder::ById, 10 << 20).unwrap_err();
        assert!(error.contains("take more than 10485760 bytes"), "{error}");
    }

    proptest! {
        #[test]
        fn same_as_trying_every_cut(texts in prop::collection::hash_set("[ab▁é]{1,5}", 1..60)) {
            let texts: Vec<String> = texts.into_iter().collect();
            prop_assert_eq!(made(&pieces(&texts), MergeOrder::ById), every_cut(&texts));
        }
    }
}
