//! Text for TensorBoard's cards, which show Markdown with tables.

use crate::trainer::shown::Table;
use std::fmt::Write;

/// A table; every cell is shown as it is, whatever it holds.
pub(super) fn table<const COLUMNS: usize>(
    headers: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    lines(&headers.join(" | "), COLUMNS, rows)
}

/// A table of any width; headings and cells are shown as they are.
pub(super) fn table_of(table: &Table) -> String {
    let headings: Vec<String> = table.columns.iter().map(|column| escape(column)).collect();
    lines(&headings.join(" | "), table.columns.len(), &table.rows)
}

fn lines(headings: &str, columns: usize, rows: impl IntoIterator<Item = impl AsRef<[String]>>) -> String {
    let mut text = format!("| {headings} |\n|{}\n", "---|".repeat(columns));
    for row in rows {
        let row: Vec<String> = row.as_ref().iter().map(|cell| escape(cell)).collect();
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// Text that is neither markup nor the end of a cell.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.trim().chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '|' => out.push_str("&#124;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '!' => out.extend(['\\', character]),
            '\n' => out.push_str("<br>"),
            '\r' | '\t' => out.push(' '),
            control if control.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_leave_their_table() {
        let text = table(["a", "b"], [["x|y\nz".to_owned(), "<b>![p](u) a_b\0".to_owned()]]);
        assert_eq!(text, "| a | b |\n|---|---|\n| x&#124;y<br>z | &lt;b&gt;\\!\\[p\\](u) a\\_b\u{fffd} |\n");
        let wide = Table { columns: vec!["rouge_l".to_owned(); 3], rows: vec![vec!["|".to_owned(); 3]; 2] };
        let text = table_of(&wide);
        assert!(
            text.starts_with("| rouge\\_l | rouge\\_l | rouge\\_l |\n|---|---|---|\n| &#124; | &#124; | &#124; |\n")
        );
        assert_eq!(text.lines().count(), 4);
    }
}
