//! `report.html`: one page, complete in itself, that shows what a run did.
//!
//! Styles, curves and pictures are inside the file; it loads nothing and runs no script, so that it can be mailed and opened
//! years later. Everything that comes from outside (settings, questions, answers) is escaped.

mod samples;

pub use samples::{AnswerPicture, ClassPicture, JudgedRow, Moment, SamplePicture, Shares};

use std::fmt::Write;

use serde_json::{Map, Value};

use super::chart::{Chart, Series, Unit};

const STYLE: &str = include_str!("report.css");

/// Keys of a metrics row that are counters, not results.
const COUNTERS: [&str; 6] = ["step", "epoch", "num_tokens", "phase", "time", "elapsed_seconds"];
/// Charts of an objective's own metrics beyond which the page would drown.
const MAX_EXTRA_CHARTS: usize = 16;

/// One resolved setting.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its key, e.g. `train.learning_rate`.
    pub key: String,
    /// The value in force.
    pub value: String,
    /// Who set it: `default`, `recipe`, `file…` or `command line`.
    pub origin: String,
}

/// Everything the page shows. Empty parts are left out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Heading: as a rule the recipe's name.
    pub title: String,
    /// The command line that was run.
    pub command: String,
    /// When the run started, as text.
    pub started: String,
    /// When it ended.
    pub ended: String,
    /// What it ran on.
    pub device: String,
    /// Headline figures: name and value.
    pub summary: Vec<(String, String)>,
    /// Every setting with its origin.
    pub settings: Vec<Setting>,
    /// The rows of `metrics.jsonl`, in order.
    pub metrics: Vec<Map<String, Value>>,
    /// A few held-out records.
    pub samples: Vec<SamplePicture>,
    /// Records that were left out: reason and count.
    pub dropped: Vec<(String, usize)>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

/// The whole page.
pub fn render(report: &Report) -> String {
    let title = escape(&report.title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title} · Firebrick</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
    );
    header(report, &mut html);
    curves(report, &mut html);
    notes(report, &mut html);
    samples::section(&report.samples, &mut html);
    evaluations(report, &mut html);
    dropped(report, &mut html);
    settings(report, &mut html);
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(html, "<footer>Written by Firebrick {version}.</footer>\n</main>\n</body>\n</html>\n");
    html
}

/// Text made safe for HTML, in content and in quoted attributes alike.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Invisible in a browser, and not allowed in HTML.
            control if control.is_control() && !matches!(control, '\n' | '\t') => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

fn header(report: &Report, html: &mut String) {
    let _ = write!(html, "<header>\n<p class=\"eyebrow\">Training report</p>\n<h1>{}</h1>\n", escape(&report.title));
    let facts = [("started", &report.started), ("ended", &report.ended), ("on", &report.device)];
    html.push_str("<p class=\"meta\">");
    for (name, value) in facts.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(html, "<span>{name} {}</span>", escape(value));
    }
    html.push_str("</p>\n");
    if !report.command.is_empty() {
        let _ = writeln!(html, "<pre class=\"command\">{}</pre>", escape(&report.command));
    }
    if !report.summary.is_empty() {
        html.push_str("<dl class=\"figures\">");
        for (name, value) in &report.summary {
            let _ = write!(html, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
        }
        html.push_str("</dl>\n");
    }
    html.push_str("</header>\n");
}

fn curves(report: &Report, html: &mut String) {
    let charts: Vec<String> =
        charts(&report.metrics).iter().map(Chart::to_html).filter(|chart| !chart.is_empty()).collect();
    if !charts.is_empty() {
        let _ = write!(html, "<section class=\"charts\" aria-label=\"Curves\">\n{}\n</section>\n", charts.join("\n"));
    }
}

/// The charts of a run: the usual ones, then one for each metric of the objective's own.
fn charts(rows: &[Map<String, Value>]) -> Vec<Chart> {
    let series = |name: &str, key: &str, phase: &str, noisy: bool| {
        let points = rows.iter().filter(|row| phase_of(row) == phase).filter_map(|row| {
            // A loss that is not a number is written as null: a gap.
            let value = row.get(key)?;
            Some((row.get("step")?.as_f64()?, value.as_f64().unwrap_or(f64::NAN)))
        });
        Series { name: name.to_owned(), points: points.collect(), noisy }
    };
    let chart = |title: &str, unit: Unit, series: Vec<Series>| Chart { title: title.to_owned(), unit, series };
    let mut used: Vec<String> = COUNTERS.map(str::to_owned).to_vec();
    let mut take = |keys: &[&str]| used.extend(keys.iter().map(|&key| key.to_owned()));
    take(&["loss", "eval_loss", "token_accuracy", "eval_token_accuracy", "eval_exact_match"]);
    take(&["learning_rate", "tokens_per_second", "grad_norm"]);
    // Neither is a curve: one tells the time, the other is measured once and stands in the summary.
    take(&["eval_seconds", "eval_exact_match_shuffled_images"]);
    let rates: Vec<&str> = keys(rows).into_iter().filter(|key| key.ends_with("_learning_rate")).collect();
    take(&rates);
    let mut learning_rates = vec![series("learning rate", "learning_rate", "train", false)];
    learning_rates.extend(rates.iter().map(|key| series(&key.replace('_', " "), key, "train", false)));
    let mut charts = vec![
        chart(
            "Loss",
            Unit::Plain,
            vec![series("training", "loss", "train", true), series("held out", "eval_loss", "eval", false)],
        ),
        chart(
            "Accuracy on held-out records",
            Unit::Percent,
            vec![
                series("exact match", "eval_exact_match", "eval", false),
                series("tokens", "eval_token_accuracy", "eval", false),
                series("tokens, training", "token_accuracy", "train", true),
            ],
        ),
        chart("Learning rate", Unit::Plain, learning_rates),
        chart("Tokens per second", Unit::Plain, vec![series("training", "tokens_per_second", "train", true)]),
        chart("Gradient norm before clipping", Unit::Plain, vec![series("training", "grad_norm", "train", true)]),
    ];
    let mut own: Vec<&str> = Vec::new();
    for key in keys(rows).into_iter().filter(|key| !used.iter().any(|used| used == key)) {
        let base = key.strip_prefix("eval_").unwrap_or(key);
        if !own.contains(&base) {
            own.push(base);
        }
    }
    let pairs: Vec<String> = own.iter().filter_map(|key| Some(key.strip_suffix("/chosen")?.to_owned())).collect();
    let paired = |key: &str| pairs.iter().any(|p| key == format!("{p}/chosen") || key == format!("{p}/rejected"));
    let share =
        |key: &str| if key.ends_with("accuracies") || key.ends_with("accuracy") { Unit::Percent } else { Unit::Plain };
    let single = own.iter().filter(|key| !paired(key)).map(|key| {
        let held_out = series("held out", &format!("eval_{key}"), "eval", false);
        chart(&sentence(key), share(key), vec![series("training", key, "train", true), held_out])
    });
    // Chosen and rejected belong into one chart: it is their distance that tells.
    let both = pairs.iter().map(|prefix| {
        let side = |name: &str| {
            let held_out = format!("eval_{prefix}/{name}");
            let there = rows.iter().any(|row| row.contains_key(&held_out));
            let (key, phase) = if there { (held_out, "eval") } else { (format!("{prefix}/{name}"), "train") };
            series(name, &key, phase, false)
        };
        chart(&sentence(prefix), Unit::Plain, vec![side("chosen"), side("rejected")])
    });
    let mut extra: Vec<Chart> = single.chain(both).collect();
    extra.sort_by_key(|chart| rank(&chart.title));
    charts.extend(extra.into_iter().take(MAX_EXTRA_CHARTS));
    charts
}

/// What a reader looks for first comes first.
fn rank(title: &str) -> usize {
    let first = ["accuracies", "Accuracy", "margin", "Rewards", "Logps", "Kl", "Entropy"];
    // The reference does not change: its curves come last.
    let constant = title.contains(" ref ") as usize;
    first.iter().position(|word| title.contains(word)).unwrap_or(first.len()) + constant * (first.len() + 1)
}

/// Every key with a number in any row, in order of appearance.
fn keys(rows: &[Map<String, Value>]) -> Vec<&str> {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in rows.iter().flatten().filter(|(_, value)| value.is_number()) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    keys
}

fn phase_of(row: &Map<String, Value>) -> &str {
    row.get("phase").and_then(Value::as_str).unwrap_or("train")
}

/// `reward_margin` as `Reward margin`.
fn sentence(key: &str) -> String {
    let words = key.replace(['_', '/'], " ");
    let mut characters = words.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn notes(report: &Report, html: &mut String) {
    if report.notes.is_empty() {
        return;
    }
    html.push_str("<section>\n<h2>Notes</h2>\n<ul class=\"notes\">");
    for note in &report.notes {
        let _ = write!(html, "<li>{}</li>", escape(note));
    }
    html.push_str("</ul>\n</section>\n");
}

/// The evaluation rows as a table, because curves do not give exact numbers.
fn evaluations(report: &Report, html: &mut String) {
    let rows: Vec<_> = report.metrics.iter().filter(|row| phase_of(row) == "eval").cloned().collect();
    let columns: Vec<&str> = keys(&rows).into_iter().filter(|key| key.starts_with("eval_")).collect();
    if columns.is_empty() {
        return;
    }
    html.push_str(
        "<section>\n<h2>Evaluations</h2>\n<div class=\"scroll\"><table><thead><tr><th class=\"number\">step</th>",
    );
    for column in &columns {
        let _ = write!(html, "<th class=\"number\">{}</th>", escape(&column["eval_".len()..].replace('_', " ")));
    }
    html.push_str("</tr></thead><tbody>\n");
    for row in &rows {
        let step = row.get("step").map_or_else(|| "–".to_owned(), Value::to_string);
        let _ = write!(html, "<tr><td class=\"number\">{}</td>", escape(&step));
        for column in &columns {
            let value = row.get(*column).and_then(Value::as_f64);
            let text = match value {
                Some(share)
                    if column.ends_with("accuracy")
                        || column.ends_with("accuracies")
                        || column.contains("exact_match") =>
                {
                    format!("{:.1}%", share * 100.0)
                }
                Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value}"),
                Some(value) => format!("{value:.4}"),
                None => "–".to_owned(),
            };
            let _ = write!(html, "<td class=\"number\">{text}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n</section>\n");
}

fn dropped(report: &Report, html: &mut String) {
    if report.dropped.is_empty() {
        return;
    }
    html.push_str(
        "<section>\n<h2>Records left out</h2>\n<div class=\"scroll\"><table>\
         <thead><tr><th>reason</th><th class=\"number\">records</th></tr></thead><tbody>\n",
    );
    for (reason, count) in &report.dropped {
        let _ = writeln!(html, "<tr><td>{}</td><td class=\"number\">{count}</td></tr>", escape(reason));
    }
    html.push_str("</tbody></table></div>\n</section>\n");
}

fn settings(report: &Report, html: &mut String) {
    if report.settings.is_empty() {
        return;
    }
    html.push_str(
        "<section>\n<h2>Settings</h2>\n<div class=\"scroll\"><table>\
         <thead><tr><th>key</th><th>value</th><th>set by</th></tr></thead><tbody>\n",
    );
    for setting in &report.settings {
        let class = match setting.origin.as_str() {
            "recipe" => "origin recipe",
            "command line" => "origin line",
            origin if origin.starts_with("file") || origin.starts_with("config") => "origin file",
            _ => "origin",
        };
        let (key, value, origin) = (escape(&setting.key), escape(&setting.value), escape(&setting.origin));
        let _ = writeln!(
            html,
            "<tr><td class=\"mono\">{key}</td><td class=\"mono value\">{value}</td>\
             <td><span class=\"{class}\">{origin}</span></td></tr>",
        );
    }
    html.push_str("</tbody></table></div>\n</section>\n");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOSTILE: &str = "<script>alert('x')</script> \"quoted\" & 'single' </style>\u{0}";

    fn row(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn hostile_text_is_escaped_everywhere() {
        let text = || HOSTILE.to_owned();
        let report = Report {
            title: text(),
            command: text(),
            started: text(),
            ended: text(),
            device: text(),
            summary: vec![(text(), text())],
            settings: vec![Setting { key: text(), value: text(), origin: text() }],
            metrics: vec![
                row(json!({ "step": 1, "loss": 2.0, HOSTILE: 1.0 })),
                row(json!({ "step": HOSTILE, "phase": "eval", "eval_<i>": 1.5 })),
            ],
            samples: vec![SamplePicture {
                images: vec![("image/png\" onerror=\"x".into(), vec![1, 2, 3])],
                question: text(),
                expected: text(),
                before: vec![AnswerPicture { text: text(), right: Some(false) }; 2],
                after: vec![AnswerPicture { text: text(), right: None }],
                judged: vec![JudgedRow { name: text(), text: text(), before: vec![1.0], after: vec![0.5, 2.0] }],
                class: Some(ClassPicture {
                    label: text(),
                    before: Some(AnswerPicture { text: text(), right: Some(true) }),
                    after: None,
                    shares: Shares::Scores(vec![1.0], Vec::new()),
                }),
                moments: vec![Moment { step: 1, texts: vec![text()], values: vec![(text(), 0.5)] }; 2],
            }],
            dropped: vec![(text(), 3)],
            notes: vec![text()],
        };
        let html = render(&report);
        assert!(!html.contains("<script") && !html.contains("alert('") && !html.contains("\"quoted\""), "{html}");
        assert!(!html.contains(" onerror=\"") && !html.contains("<i>:") && !html.contains('\u{0}'));
        assert_eq!(html.matches("</style>").count(), 1);
        assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
    }

    #[test]
    fn the_page_loads_nothing() {
        let html = render(&Report { title: "run".into(), ..Report::default() });
        for outside in ["http:", "https:", "url(", "@import", "<link", "src=\"/"] {
            assert!(!html.contains(outside), "{outside}");
        }
        // Empty parts leave no heading behind.
        assert!(!html.contains("<h2>"));
    }

    #[test]
    fn metrics_become_curves_and_a_table() {
        let metrics = vec![
            row(json!({ "phase": "train", "step": 1, "loss": 2.0, "learning_rate": 1e-4, "reward_margin": 0.1 })),
            row(json!({ "phase": "train", "step": 2, "loss": null, "learning_rate": 2e-4, "reward_margin": 0.2 })),
            row(json!({ "phase": "eval", "step": 2, "eval_loss": 1.5, "eval_exact_match": 0.5 })),
        ];
        let html = render(&Report { metrics, ..Report::default() });
        for expected in ["<h3>Loss</h3>", "held out", "<h3>Learning rate</h3>", "<h3>Reward margin</h3>", "50.0%"] {
            assert!(html.contains(expected), "{expected}");
        }
        assert!(!html.contains("Tokens per second") && !html.contains("NaN"));
    }
}
