//! Reads the library's files: which paths they name. A small lexer, not a parser: `crate::`, `firebrick::` and `super::`
//! paths, single or in groups, outside of comments, strings and tests.

use std::fs;
use std::path::{Path, PathBuf};

/// A path that a file names, from the root of the library.
pub struct Import {
    /// Where, from 1.
    pub line: usize,
    /// Its parts; of a macro, the name with its `!`.
    pub path: Vec<String>,
}

/// One file of `src/`.
pub struct Source {
    /// Its path in the repository.
    pub name: String,
    /// As it is.
    pub text: String,
    /// Without comments, strings and tests; every line where it was.
    pub code: String,
    /// Its module, from the root: `["nn", "flex", "gemm"]`.
    pub module: Vec<String>,
}

impl Source {
    /// Every path into the library that its code names.
    pub fn imports(&self) -> Vec<Import> {
        let mut found = Vec::new();
        for root in ["crate::", "firebrick::", "super::"] {
            let mut read_to = 0;
            for (at, _) in self.code.match_indices(root).filter(|(at, _)| begins_path(&self.code, *at)) {
                // The inner one of `super::{super::a}` has been read with the outer one.
                if at < read_to {
                    continue;
                }
                let mut paths = Vec::new();
                let rest = match root {
                    "super::" => tree(&self.code[at..], &self.module, &mut paths),
                    _ => tree(&self.code[at + root.len()..], &[], &mut paths),
                };
                read_to = self.code.len() - rest.len();
                let line = line_of(&self.code, at);
                found.extend(paths.into_iter().filter(|path| !path.is_empty()).map(|path| Import { line, path }));
            }
        }
        found
    }
}

/// Whether neither a name nor a path goes on at `at`.
fn begins_path(code: &str, at: usize) -> bool {
    let before = &code[..at];
    !before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !before.ends_with("super::")
}

/// Reads a path or a group of paths (`a::{b, c::d as e}`) behind `prefix`; returns what follows it.
fn tree<'a>(code: &'a str, prefix: &[String], paths: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = code.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        rest = group.trim_start();
        while !rest.is_empty() && !rest.starts_with('}') {
            tree(rest, prefix, paths);
            rest = next_in_group(rest);
        }
        return rest.strip_prefix('}').unwrap_or(rest);
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    let path = match word {
        // `a::*` and `a::<T>` end with what came before.
        "" | "self" => prefix.to_vec(),
        "super" => prefix[..prefix.len().saturating_sub(1)].to_vec(),
        _ if after.starts_with('!') && !after.starts_with("!=") => [prefix, &[format!("{word}!")]].concat(),
        _ => [prefix, &[word.to_owned()]].concat(),
    };
    match after.strip_prefix("::") {
        Some(inner) if !word.is_empty() => tree(inner, &path, paths),
        _ => {
            paths.push(path);
            after
        }
    }
}

/// What stands behind the next comma of a group, or the brace that ends it.
fn next_in_group(group: &str) -> &str {
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return &group[at..],
            '}' => depth -= 1,
            ',' if depth == 0 => return group[at + 1..].trim_start(),
            _ => {}
        }
    }
    ""
}

/// All files of `src/` but the root, whose prelude names everything, and files that hold only tests.
pub fn library() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut tests = Vec::new();
    for path in files_under("src", "rs") {
        let module = module_of(&path);
        let text = fs::read_to_string(&path).unwrap();
        let (code, test_modules) = without_tests(&blank(&text, Strings::Blanked));
        tests.extend(test_modules.into_iter().map(|name| [&module[..], &[name]].concat()));
        sources.push(Source { name: relative(&path), text, code, module });
    }
    sources.retain(|source| !source.module.is_empty() && !tests.iter().any(|test| source.module.starts_with(test)));
    assert!(sources.len() > 20, "the scan finds only {} files in src/", sources.len());
    sources
}

fn module_of(path: &Path) -> Vec<String> {
    let inside = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut module: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// Blanks what stands under `#[cfg(test)]` and `#[cfg(all(test, …))]`; also the names of test modules in files of their own.
pub fn without_tests(code: &str) -> (String, Vec<String>) {
    let (mut kept, mut modules) = (code.to_owned(), Vec::new());
    for attribute in ["#[cfg(test", "#[cfg(all(test"] {
        while let Some(start) = kept.find(attribute) {
            let rest = &kept[start..];
            let open = rest.find(['{', ';']).unwrap_or(rest.len() - 1);
            let item = rest[..open].rsplit(']').next().unwrap_or_default();
            let end = if rest[open..].starts_with('{') {
                open + closing_brace(&rest[open..])
            } else {
                modules.extend(item.trim().strip_prefix("mod ").map(|name| name.trim().to_owned()));
                open + 1
            };
            let hole = spaces(&rest[..end]);
            kept.replace_range(start..start + end, &hole);
        }
    }
    (kept, modules)
}

/// Bytes up to and with the brace that closes the one at the start.
fn closing_brace(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// What [`blank`] does with string literals.
#[derive(Clone, Copy, PartialEq)]
pub enum Strings {
    /// They become spaces.
    Blanked,
    /// They stay.
    Kept,
}

/// Replaces comments and character literals, and strings where asked, by spaces, so that lines stay where they are.
pub fn blank(text: &str, strings: Strings) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (length, keep) = match c {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (rest.find("*/").map_or(rest.len(), |end| end + 2), false),
            'r' if raw_string(rest).is_some() && begins_path(text, text.len() - rest.len()) => {
                (raw_string(rest).unwrap_or(1), strings == Strings::Kept)
            }
            '"' => (quoted(rest, '"'), strings == Strings::Kept),
            '\'' if is_char_literal(rest) => (quoted(rest, '\''), false),
            _ => (c.len_utf8(), true),
        };
        let (piece, tail) = rest.split_at(length);
        if keep {
            out.push_str(piece)
        } else {
            out.push_str(&spaces(piece))
        }
        rest = tail;
    }
    out
}

fn spaces(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Length of a literal that begins with `quote`.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of `r"…"` or `r#"…"#`, where one begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest[1..].bytes().take_while(|&byte| byte == b'#').count();
    let body = rest[1 + hashes..].strip_prefix('"')?;
    let end = body.find(&format!("\"{}", "#".repeat(hashes)))?;
    Some(1 + hashes + 1 + end + 1 + hashes)
}

/// A character, as opposed to a lifetime.
fn is_char_literal(rest: &str) -> bool {
    let mut after = rest.chars().skip(1);
    match after.next() {
        Some('\\') => true,
        Some(_) => after.next() == Some('\''),
        None => false,
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

pub fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// All files below a folder with this extension, or with any where it is empty; none where there is no such folder.
pub fn files_under(folder: &str, extension: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                // What the generators of the fixtures leave is not ours.
                let foreign = name.starts_with("venv") || name == "__pycache__";
                folders.extend((!foreign).then_some(path));
            } else if extension.is_empty() || path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A lexer that overlooks imports would pass everything.
#[test]
fn the_scan_sees_every_form_of_an_import() {
    let code = r##"
        //! crate::comment
        use crate::{nn::{self, Linear as L}, text::*,};
        use super::{super::image::Rgb8, sibling};
        fn f<'a>(c: char) -> &'a str { let _ = '"'; let _ = "crate::string"; crate::data::g::<u8>(c) }
        macro_rules! m { () => { $crate::device::choose() } }
        firebrick::component! {}
        #[cfg(test)]
        mod tests { use crate::recipe::Experiment; fn g() { if true {} } }
        #[cfg(test)]
        mod far;
        /* crate::block */ const S: &str = r#"crate::raw " "#;
        fn h() { ::firebrick::vlm::x() }
    "##;
    let (kept, modules) = without_tests(&blank(code, Strings::Blanked));
    assert_eq!(modules, ["far"]);
    assert_eq!(kept.lines().count(), code.lines().count());
    let module = vec!["a".to_owned(), "b".to_owned()];
    let source = Source { name: String::new(), text: String::new(), code: kept, module };
    let mut found: Vec<String> = source.imports().iter().map(|import| import.path.join("::")).collect();
    found.sort();
    let expected =
        ["a::sibling", "component!", "data::g", "device::choose", "image::Rgb8", "nn", "nn::Linear", "text", "vlm::x"];
    assert_eq!(found, expected);
}
