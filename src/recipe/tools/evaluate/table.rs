//! What is printed.

use super::Other;
use crate::metrics::{Better, Comparison, Interval, Registry};
use crate::pipelines::evaluation::{Figure, System};

/// Classes of which a table is printed whole; more would not fit a terminal.
const MOST_CLASSES: usize = 12;

/// All metrics, each with its line.
pub(super) fn list(registry: &Registry) {
    let rows: Vec<Vec<String>> = registry.names().map(|(name, help)| vec![name.to_owned(), help.to_owned()]).collect();
    let width = rows.iter().map(|row| row[0].len()).max().unwrap_or_default();
    rows.iter().for_each(|row| say!("{:width$}  {}", row[0], row[1]));
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

pub(super) fn better(better: Better) -> &'static str {
    match better {
        Better::Higher => "higher",
        Better::Lower => "lower",
        Better::Neither => "-",
    }
}

fn percent(level: f64) -> String {
    // 0.95 · 100 is not quite 95.
    format!("{}% interval", (level * 1e4).round() / 100.0)
}

fn interval(interval: Interval) -> String {
    format!("[{:.4}, {:.4}]", interval.low, interval.high)
}

/// The metrics' values.
pub(super) fn figures(system: &System, figures: &[Figure], level: f64) {
    let records = system.records.len();
    say!("{}: {records} record{}", system.name, if records == 1 { "" } else { "s" });
    let mut rows = vec![header(&["metric", "value", &percent(level), "better"])];
    rows.extend(figures.iter().map(|figure| {
        let value = format!("{:.4}", figure.value);
        vec![figure.name.clone(), value, interval(figure.interval), better(figure.better).to_owned()]
    }));
    print(&rows);
}

/// Which classes are taken for which.
pub(super) fn classes(system: &System) {
    let Some(confusion) = system.confusion() else { return };
    let classes = confusion.classes();
    if classes.len() > MOST_CLASSES {
        say!("\n{} classes; --output writes their table", classes.len());
        return;
    }
    say!("\nclasses: a row is the right one, a column the predicted one");
    let shown = |class: &str| if class.trim().is_empty() { format!("{class:?}") } else { class.to_owned() };
    let written: Vec<String> = classes.iter().map(|class| shown(class)).collect();
    let mut names: Vec<&str> = vec!["class"];
    names.extend(written.iter().map(String::as_str));
    names.extend(["precision", "recall", "f1", "records"]);
    let mut rows = vec![header(&names)];
    for ((class, counts), known) in written.iter().zip(confusion.table()).zip(confusion.per_class()) {
        let mut row = vec![class.clone()];
        row.extend(counts.iter().map(u64::to_string));
        row.extend([known.precision(), known.recall(), known.f1()].map(|value| format!("{value:.4}")));
        row.push(known.support.to_string());
        rows.push(row);
    }
    print(&rows);
}

/// Another system beside the first one.
pub(super) fn compared(first: &str, other: &Other, figures: &[Figure], level: f64) {
    say!("\n{} against {first} on {} records; differences are {} less {first}", other.name, other.pairs, other.name);
    let names =
        ["metric", first, &other.name, "difference", &percent(level), "p", "better", "same", "worse", "McNemar p"];
    let mut rows = vec![header(&names)];
    for (one, figure) in other.compared.iter().zip(figures) {
        let Comparison { first, second, difference, interval: range, p_value, records, mcnemar } = one.comparison;
        let mut row = vec![format!("{} ({})", one.name, better(figure.better))];
        row.extend([format!("{first:.4}"), format!("{second:.4}"), format!("{difference:+.4}"), interval(range)]);
        row.push(probability(p_value));
        let counts = records.map(|all| [all.wins, all.ties, all.losses].map(|n| n.to_string()));
        row.extend(counts.unwrap_or_else(|| ["", "", ""].map(str::to_owned)));
        row.push(mcnemar.map(|test| probability(test.p_value)).unwrap_or_default());
        rows.push(row);
    }
    // A column that says nothing of any metric is left out.
    let spoken = |i: usize| rows[1..].iter().any(|row| !row[i].is_empty());
    let kept: Vec<usize> = (0..names.len()).filter(|&i| spoken(i)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| kept.iter().map(|&i| row[i].clone()).collect()).collect();
    print(&rows);
}

fn probability(p: f64) -> String {
    if p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") }
}

/// Columns under each other, the first to the left and the others to the right.
pub(super) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(column, text): (usize, &String)| match column {
            0 => format!("{text:width$}", width = widths[0]),
            _ => format!("  {text:>width$}", width = widths[column]),
        };
        row.iter().enumerate().map(cell).collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn print(rows: &[Vec<String>]) {
    columns(rows).iter().for_each(|line| say!("{line}"));
}
