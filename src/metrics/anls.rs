//! Average normalised Levenshtein similarity, the score of DocVQA and ST-VQA.

use super::words::words;

/// Below this similarity an answer counts nothing.
pub const ANLS_THRESHOLD: f64 = 0.5;

/// `1 − distance / length` to the nearest reference, in lower case and with single spaces, and 0 where that is below
/// [`ANLS_THRESHOLD`] or there is no reference. `length` is that of the longer text as it stands.
///
/// # Source
/// Biten et al. 2019; the rules of the challenge's own evaluation, which takes the length before it takes out spaces.
pub fn anls<S: AsRef<str>>(prediction: &str, references: &[S]) -> f64 {
    let plain = |text: &str| words(&text.to_lowercase()).collect::<Vec<_>>().join(" ");
    let long = |text: &str| text.to_uppercase().chars().count();
    let ours = plain(prediction);
    let distance = |reference: &str| {
        let length = long(reference).max(long(prediction));
        if length == 0 { 0.0 } else { strsim::levenshtein(&plain(reference), &ours) as f64 / length as f64 }
    };
    let nearest = references.iter().map(|reference| distance(reference.as_ref())).fold(f64::INFINITY, f64::min);
    if 1.0 - nearest < ANLS_THRESHOLD { 0.0 } else { 1.0 - nearest }
}
