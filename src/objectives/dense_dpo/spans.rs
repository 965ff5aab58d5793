//! Which tokens of two answers differ.

use std::collections::HashMap;
use std::ops::Range;

/// For each token of `a` and of `b`, whether it lies outside of their common runs.
///
/// The longest common run is found first (the earliest one among equals), then those to its left and to its right, as
/// Ratcliff and Obershelp do and Python's `difflib` (without its heuristic for frequent elements); runs that touch in both
/// answers are one, and those shorter than `min_match` are dropped.
pub(super) fn differing(a: &[u32], b: &[u32], min_match: usize) -> [Vec<bool>; 2] {
    let mut places: HashMap<u32, Vec<usize>> = HashMap::new();
    for (at, &id) in b.iter().enumerate() {
        places.entry(id).or_default().push(at);
    }
    let mut runs = Vec::new();
    // A stack instead of recursion: answers may be long.
    let mut open = vec![(0..a.len(), 0..b.len())];
    while let Some((left, right)) = open.pop() {
        let run = longest(a, &places, left.clone(), right.clone());
        if run.length > 0 {
            open.push((left.start..run.a, right.start..run.b));
            open.push((run.a + run.length..left.end, run.b + run.length..right.end));
            runs.push(run);
        }
    }
    runs.sort_by_key(|run| run.a);
    let mut differs = [vec![true; a.len()], vec![true; b.len()]];
    for run in joined(runs).into_iter().filter(|run| run.length >= min_match) {
        differs[0][run.a..run.a + run.length].fill(false);
        differs[1][run.b..run.b + run.length].fill(false);
    }
    differs
}

/// A run that is common to both.
#[derive(Clone, Copy, Default)]
struct Run {
    a: usize,
    b: usize,
    length: usize,
}

/// The longest run within `left` of `a` and `right` of the other, by the other's places of each token.
fn longest(a: &[u32], places: &HashMap<u32, Vec<usize>>, left: Range<usize>, right: Range<usize>) -> Run {
    let mut best = Run::default();
    // Length of the run that ends at the previous token of `a` and at a place of the other.
    let mut ending: HashMap<usize, usize> = HashMap::new();
    for i in left {
        let mut now = HashMap::new();
        for &j in places.get(&a[i]).into_iter().flatten().filter(|&&j| right.contains(&j)) {
            let length = j.checked_sub(1).and_then(|before| ending.get(&before)).copied().unwrap_or(0) + 1;
            now.insert(j, length);
            if length > best.length {
                best = Run { a: i + 1 - length, b: j + 1 - length, length };
            }
        }
        ending = now;
    }
    best
}

/// Runs that touch in both answers, as one.
fn joined(runs: Vec<Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.a + last.length == run.a && last.b + last.length == run.b => last.length += run.length,
            _ => joined.push(run),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::differing;

    /// `x` marks what differs.
    fn check(a: &str, b: &str, min_match: usize, expected: [&str; 2]) {
        let ids = |text: &str| text.chars().map(u32::from).collect::<Vec<_>>();
        let marks = differing(&ids(a), &ids(b), min_match)
            .map(|side| side.into_iter().map(|differs| if differs { 'x' } else { '.' }).collect::<String>());
        assert_eq!(marks, expected, "{a} and {b}");
    }

    #[test]
    fn runs_replacements_insertions_and_deletions() {
        check("abcXdef", "abcYdef", 3, ["...x...", "...x..."]);
        check("abcXYdef", "abcdef", 3, ["...xx...", "......"]);
        check("abc", "abcdef", 3, ["...", "...xxx"]);
        // A common run of two is too short to count.
        check("abXcdef", "abYcdef", 3, ["xxx....", "xxx...."]);
        check("abXcdef", "abYcdef", 2, ["..x....", "..x...."]);
        check("abc", "abc", 3, ["...", "..."]);
        check("abc", "", 1, ["xxx", ""]);
        check("", "", 1, ["", ""]);
    }

    #[test]
    fn the_longest_run_goes_first() {
        // `difflib.SequenceMatcher(None, "qabxcd", "abycdf")`: ab, cd; of "abxcd" in "abcd": ab, then cd.
        check("qabxcd", "abycdf", 2, ["x..x..", "..x..x"]);
        // The longer `bcde` wins over the earlier `ab`.
        check("abXbcde", "bcdeab", 2, ["xxx....", "....xx"]);
    }
}
