//! Everything that can be checked before a weight is read, and what `--dry-run` shows of it.

use super::RecipeError;
use crate::data::{BadRecord, Check, Checked, DataKind, Dataset, Encoder, Outcome, check};
use crate::text::{EncodedText, Rendered};
use crate::trainer::progress::Progress;
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

/// One record as the model sees it: what is learned in colour, image tokens counted, and no more of it than is kept.
pub fn show_sample<K: DataKind>(dataset: &Dataset<K>, encoder: &Encoder, checked: &Checked) -> Option<String> {
    let index = checked.lengths.iter().position(|&l| l > 0)?;
    let sample = dataset.sample(index).ok()?;
    let (rendered, cut) = match encoder.encode_text(&sample).ok()? {
        Outcome::Truncated { kept, tokens } => (read_back(&kept.into_iter().next()?.text, encoder), Some(tokens)),
        _ => (encoder.render(&sample).ok()?.into_iter().next()?, None),
    };
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
    if let Some(tokens) = cut {
        let _ = write!(text, "\n  cut to {} of {tokens} tokens", checked.lengths[index]);
    }
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

/// Tokens as text, with the spans that are learned; an image is its token once.
fn read_back(text: &EncodedText, encoder: &Encoder) -> Rendered {
    let mut rendered = Rendered::prompt("");
    let mut at = 0;
    while at < text.input_ids.len() {
        if let Some(image) = text.image_positions.iter().find(|image| image.start == at && !image.is_empty()) {
            rendered.text.push_str(encoder.image.as_ref().map_or("<image>", |image| image.token.as_str()));
            at = image.end;
            continue;
        }
        let next_image = text.image_positions.iter().map(|image| image.start).find(|&start| start > at);
        let learned = text.supervised[at];
        let length = text.supervised[at..next_image.unwrap_or(text.input_ids.len())]
            .iter()
            .take_while(|&&supervised| supervised == learned)
            .count();
        let start = rendered.text.len();
        rendered.text.push_str(&encoder.tokenizer.decode_all(&text.input_ids[at..at + length]));
        if learned && rendered.text.len() > start {
            rendered.spans.push(start..rendered.text.len());
        }
        at += length;
    }
    rendered
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
