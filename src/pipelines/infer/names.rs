//! A file for each model and each setting.

use std::collections::BTreeSet;

/// Characters of a name that come from a model or a setting.
const LONGEST: usize = 80;

/// The names of the files, for each model those of all settings: `model.setting.jsonl`, with `part` in between where there
/// is one. No two are alike, not even where capitals are not told apart.
pub fn file_names(models: &[String], settings: &[String], part: Option<&str>) -> Vec<Vec<String>> {
    let mut taken = BTreeSet::new();
    let part = part.map(|part| format!(".{part}")).unwrap_or_default();
    let mut name = |model: &str, setting: &str| {
        let stem = match setting {
            "" => plain(model),
            setting => format!("{}.{}", plain(model), plain(setting)),
        };
        let numbered = |n: usize| if n == 1 { stem.clone() } else { format!("{stem}-{n}") };
        let free = (1..).map(numbered).find(|stem| taken.insert(stem.to_lowercase()));
        // There are more numbers than names.
        format!("{}{part}.jsonl", free.unwrap_or_default())
    };
    models.iter().map(|model| settings.iter().map(|setting| name(model, setting)).collect()).collect()
}

/// A text as a part of a file's name: of a path the last piece, and nothing that a shell or a file system reads otherwise.
pub fn plain(text: &str) -> String {
    let last = text.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    let kept = |c: char| if c.is_alphanumeric() || "-_.+@=".contains(c) { c } else { '_' };
    let name: String = last.chars().map(kept).take(LONGEST).collect();
    // A dot in front hides a file, and one at the end is lost on some systems.
    match name.trim_matches('.') {
        "" => "unnamed".to_owned(),
        name => name.to_owned(),
    }
}
