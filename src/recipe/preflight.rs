//! Everything that can be checked before a weight is read, and what `--dry-run` shows of it.

use super::RecipeError;
use crate::data::{BadRecord, Check, Checked, DataKind, Dataset, Encoder, check};
use crate::nn::params::ParamInfo;
use crate::trainer::progress::Progress;
use burn::module::Module;
use owo_colors::OwoColorize;
use std::fmt::Write as _;
use std::io::IsTerminal;

/// Reads, tokenizes and checks every record.
///
/// # Errors
/// [`RecipeError::Records`] with the first refused records, unless they are to be skipped; always where none is left.
pub fn check_records<K: DataKind>(
    dataset: &Dataset<K>,
    encoder: &Encoder,
    bad_record: BadRecord,
    how: &Check<'_>,
) -> Result<Checked, RecipeError> {
    let progress = how.decode.then(|| Progress::work(dataset.len() as u64, "decoding images"));
    let done = std::sync::atomic::AtomicUsize::new(0);
    let checked = check(dataset, encoder, how, |now| {
        let before = done.swap(now, std::sync::atomic::Ordering::Relaxed);
        if let Some(progress) = &progress {
            progress.inc(now.saturating_sub(before) as u64);
        }
    });
    if let Some(progress) = &progress {
        progress.finish();
    }
    let refused = checked.refused();
    if refused > 0 && (bad_record == BadRecord::Error || checked.ok == 0) {
        let mut listed: Vec<String> = checked.problems.iter().map(|p| format!("  {p}")).collect();
        if refused > listed.len() {
            listed.push(format!("  and {} more", refused - listed.len()));
        }
        let advice = match bad_record {
            BadRecord::Skip => "none is left to train on; repair them",
            BadRecord::Error => "repair them, or leave them out with --set data.bad_record=skip",
        };
        return Err(RecipeError::Records { count: refused, total: dataset.len(), listed: listed.join("\n"), advice });
    }
    if checked.ok == 0 {
        let reasons: Vec<String> = checked.skipped.iter().map(|(reason, n)| format!("  {n} {reason}")).collect();
        let (count, total) = (dataset.len(), dataset.len());
        let advice = "none is left to train on; raise data.max_tokens_count, or split the records";
        return Err(RecipeError::Records { count, total, listed: reasons.join("\n"), advice });
    }
    Ok(checked)
}

/// What was found, a line each.
pub fn describe(label: &str, checked: &Checked, records: usize) -> Vec<String> {
    let longest = checked.lengths.iter().copied().max().unwrap_or(0);
    let mut lines = vec![format!(
        "{label}: {records} records, {} images, {} tokens ({} of them for images, {} supervised), longest {longest}",
        checked.images,
        checked.tokens(),
        checked.image_tokens,
        checked.supervised_tokens,
    )];
    for (reason, n) in &checked.problem_counts {
        lines.push(format!("  {n} refused, to be skipped: {reason}"));
    }
    for (reason, n) in &checked.skipped {
        lines.push(format!("  {n} skipped: {reason}"));
    }
    if checked.truncated > 0 {
        lines.push(format!("  {} cut to the length limit", checked.truncated));
    }
    if checked.dropped_leading > 0 {
        lines.push(format!("  {} turns before a record's first question dropped", checked.dropped_leading));
    }
    if !checked.ignored_fields.is_empty() {
        let fields: Vec<String> = checked.ignored_fields.iter().map(|(f, n)| format!("{f} ({n})")).collect();
        lines.push(format!("  fields that are not read: {}", fields.join(", ")));
    }
    lines
}

/// One record as the model sees it: what is learned in colour, image tokens counted.
pub fn show_sample<K: DataKind>(dataset: &Dataset<K>, encoder: &Encoder, checked: &Checked) -> Option<String> {
    let index = checked.lengths.iter().position(|&l| l > 0)?;
    let sample = dataset.sample(index).ok()?;
    let rendered = encoder.render(&sample).ok()?.into_iter().next()?;
    let mut text = format!("{} as the model sees it (learned: ", sample.place);
    // Without colour, brackets show the same.
    let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mark = |learned: &str| match coloured {
        true => learned.green().to_string(),
        false => format!("[[{learned}]]"),
    };
    let _ = write!(text, "{}):\n  ", mark("so"));
    let mut at = 0;
    for span in &rendered.spans {
        text.push_str(&rendered.text[at..span.start]);
        text.push_str(&mark(&rendered.text[span.clone()]));
        at = span.end;
    }
    text.push_str(&rendered.text[at..]);
    let images = sample.conversation.image_count();
    if let (Some(image), true) = (&encoder.image, images > 0) {
        let _ = write!(
            text,
            "\n  each {} stands for {} image tokens; the record has {} tokens",
            image.token, image.tokens_per_image, checked.lengths[index]
        );
    }
    Some(text)
}

/// Sizes of a training step in memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// All parameters.
    pub weights: usize,
    /// Gradients and both moments of what is trained.
    pub training: usize,
    /// Activations kept for the backward pass; an estimate.
    pub activations: usize,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.training + self.activations
    }
}

/// Estimates the memory of a step whose hidden states have `values` elements: padded tokens × width × blocks. `held` gives the
/// bytes of one parameter.
pub fn memory<M: Module>(
    model: &M,
    trainable: impl Fn(&str) -> bool,
    held: impl Fn(&ParamInfo) -> usize,
    values: usize,
    narrow: bool,
) -> Memory {
    let (mut weights, mut trained) = (0, 0);
    let parameters: Vec<ParamInfo> = crate::nn::params::list(model);
    for parameter in &parameters {
        let trains = trainable(&parameter.name);
        weights += held(parameter);
        trained += if trains { parameter.len() } else { 0 };
    }
    // Per block and token about sixteen vectors of the model's width are kept: the inputs of the norms, of the seven
    // products and of the gate, with an MLP of about three widths.
    let activations = values * 16 * if narrow { 2 } else { 4 };
    Memory { weights, training: trained * 4 * 3, activations }
}

/// Bytes for people.
pub fn bytes(n: usize) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}
