//! Names that come from a server or from a file and become paths: what they may be.

/// Longest file name that common file systems hold, in bytes.
const LONGEST: usize = 255;

/// Whether `name` is a full git commit, as the cache names its snapshots.
pub(super) fn is_commit(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `sum` is a SHA-256 sum in lower-case hexadecimal digits.
pub(super) fn is_sha256(sum: &str) -> bool {
    sum.len() == 64 && sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Why a listed name can be no file of a git repository, which no honest server lists.
pub(super) fn forged(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.starts_with('/') {
        return Some("it is an absolute path");
    }
    if name.split(['/', '\\']).any(|part| part == "..") {
        return Some("it leaves the folder");
    }
    if name.split('/').any(|part| part.is_empty() || part == ".") {
        return Some("it has an empty part");
    }
    name.contains('\0').then_some("it contains a zero byte")
}

/// Why a name cannot be a file on every system; stricter than [`forged`], for names that are about
/// to be written.
pub(super) fn unportable(name: &str) -> Option<&'static str> {
    if let Some(reason) = forged(name) {
        return Some(reason);
    }
    for part in name.split('/') {
        if part.len() > LONGEST {
            return Some("it is longer than file systems allow");
        }
        if part.chars().any(|c| c.is_control() || r#"<>:"\|?*"#.contains(c)) {
            return Some("it contains a character that file names cannot have everywhere");
        }
        if part.ends_with(['.', ' ']) {
            return Some("it ends with a dot or a space");
        }
        if is_device(part) {
            return Some("it is the name of a device on Windows");
        }
    }
    None
}

/// `CON`, `nul.txt`, `COM1` and their kin.
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).trim_end().to_ascii_uppercase();
    if ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem.as_str()) {
        return true;
    }
    let mut port = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")).unwrap_or_default().chars();
    matches!((port.next(), port.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
}

/// Why a revision can be no branch, tag or commit; it becomes a file below `refs`.
pub(super) fn no_revision(revision: &str) -> Option<&'static str> {
    if revision.is_empty() {
        return Some("nothing follows the @");
    }
    if !revision.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+/".contains(&b)) {
        return Some("a revision has letters, digits and ._-+/ only");
    }
    if revision.len() > LONGEST {
        return Some("the revision is too long");
    }
    // git's own rules for names, and the cache's temporary names begin with a dot.
    let wrong = |part: &str| part.is_empty() || part.starts_with(['.', '-']) || part.ends_with(".lock");
    if revision.contains("..") || revision.split('/').any(wrong) {
        return Some("no part of a revision is empty, begins with a dot or a dash, or has two dots in a row");
    }
    if let Some(reason) = unportable(revision) {
        return Some(reason);
    }
    None
}

/// Why an ETag cannot name a blob.
pub(super) fn no_blob(etag: &str) -> Option<&'static str> {
    if etag.is_empty() || etag.len() > 128 {
        return Some("it has not between 1 and 128 characters");
    }
    if !etag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
        return Some("it contains other characters than letters, digits and _-.");
    }
    if etag.starts_with('.') || [".incomplete", ".lock"].iter().any(|end| etag.ends_with(end)) {
        return Some("the cache uses such names otherwise");
    }
    unportable(etag)
}

/// A server's text for a message: one line of bounded length, without control characters.
pub(super) fn printable(text: &str) -> String {
    const SHOWN: usize = 200;
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = text.chars().take(SHOWN).map(clean).collect();
    if text.chars().nth(SHOWN).is_some() { format!("{shown}…") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_git_cannot_hold_are_forged() {
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "..\\x", "a\\..\\b", "a\0b", ".."] {
            assert!(forged(name).is_some(), "{name:?}");
        }
        for name in ["config.json", "original/params.json", "a..b", "ä ö.json", "...", "a\\b"] {
            assert_eq!(forged(name), None, "{name:?}");
        }
    }

    #[test]
    fn names_that_some_system_cannot_hold_are_refused() {
        for name in ["NUL", "nul.json", "com1", "LPT9.txt", "con .json", "a:b", "a.", "b ", "a\\b", "x\u{1b}[2J", "a*"]
        {
            assert!(unportable(name).is_some(), "{name:?}");
        }
        assert!(unportable(&"x".repeat(256)).is_some());
        for name in ["config.json", "model-00001-of-00002.safetensors", "console.json", "com.json", "common", "com10"] {
            assert_eq!(unportable(name), None, "{name:?}");
        }
    }

    #[test]
    fn revisions_are_git_s_names() {
        for revision in ["", "..", "a..b", "/a", "a/", "a//b", ".a", "a/.b", "-x", "x.lock", "a b", "a~1", "nul", "a@b"]
        {
            assert!(no_revision(revision).is_some(), "{revision:?}");
        }
        for revision in ["main", "v1.0", "refs/pr/3", "feature/x_y", "0123abc", "a+b"] {
            assert_eq!(no_revision(revision), None, "{revision:?}");
        }
    }

    #[test]
    fn etags_become_file_names() {
        for etag in ["", ".x", "a/b", "..", "a b", "x.incomplete", "x.lock", "a\u{fc}", "\"q\"", &"a".repeat(129)] {
            assert!(no_blob(etag).is_some(), "{etag:?}");
        }
        assert_eq!(no_blob("0123abcdef"), None);
    }

    #[test]
    fn a_server_s_text_cannot_write_on_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc"), "a [2Jb  c");
        assert_eq!(printable(&"x".repeat(300)).chars().count(), 201);
    }
}
