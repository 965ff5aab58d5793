//! `{% generation %}` … `{% endgeneration %}`, which Jinja implementations other than transformers' do not know.

/// A template source in which the tags are blocks of `filter`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rewritten {
    pub(super) source: String,
    /// Whether there was a tag at all.
    pub(super) found: bool,
}

/// Rewrites the tags to `{% filter … %}{% with %}` and `{% endwith %}{% endfilter %}`, which have the same scope and keep
/// the whitespace control. (A call block, as in transformers, is a macro here, and those cannot set what lies outside.)
/// Comments, raw blocks and string literals are left alone.
pub(super) fn rewrite(source: &str, filter: &str) -> Rewritten {
    let mut out = String::with_capacity(source.len() + 32);
    let mut found = false;
    let mut rest = source;
    while let Some(open) = rest.find('{') {
        let (before, tag) = rest.split_at(open);
        out.push_str(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => code_end(tag, "}}"),
            Some(b'%') => {
                let end = code_end(tag, "%}");
                match keyword(&tag[..end]) {
                    "raw" => raw_end(tag, end),
                    word @ ("generation" | "endgeneration") => {
                        found = true;
                        let opens = format!("filter {filter} %}}{{% with");
                        let words = if word == "generation" { &opens } else { "endwith %}{% endfilter" };
                        out.push_str(&tag[..end].replacen(word, words, 1));
                        rest = &tag[end..];
                        continue;
                    }
                    _ => end,
                }
            }
            _ => 1,
        };
        out.push_str(&tag[..end]);
        rest = &tag[end..];
    }
    out.push_str(rest);
    Rewritten { source: out, found }
}

/// The first word of a block tag.
fn keyword(tag: &str) -> &str {
    let body = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let end = body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len());
    &body[..end]
}

/// Where the code that `tag` begins with ends: past `close`, which does not count inside string literals.
fn code_end(tag: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in tag.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if tag[i..].starts_with(close) => return i + close.len(),
            None => {}
        }
    }
    tag.len()
}

/// Where the raw block that opens in `tag[..open]` ends: past its `{% endraw %}`.
fn raw_end(tag: &str, open: usize) -> usize {
    let mut at = open;
    while let Some(next) = tag[at..].find("{%") {
        let start = at + next;
        let end = start + code_end(&tag[start..], "%}");
        if keyword(&tag[start..end]) == "endraw" {
            return end;
        }
        at = start + 2;
    }
    tag.len()
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        assert_eq!(rewrite(source, "f").source, expected);
    }

    #[test]
    fn tags_become_filter_blocks_with_their_whitespace_control() {
        check("{% generation %}x{% endgeneration %}", "{% filter f %}{% with %}x{% endwith %}{% endfilter %}");
        check("{%- generation -%}x{%-endgeneration+%}", "{%- filter f %}{% with -%}x{%-endwith %}{% endfilter+%}");
        assert!(rewrite("{%generation%}{%endgeneration%}", "f").found);
    }

    #[test]
    fn text_comments_raw_blocks_and_strings_are_left_alone() {
        for source in [
            "generation",
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{% endraw %}",
            "{{ '{% generation %}' }}",
            "{{ '}}\\'{% generation %}' }}",
            "{% set a = '%}{% generation %}' %}",
            "{% if generation %}{% endif %}",
            "{",
            "{%",
            "{% generatio",
        ] {
            check(source, source);
            assert!(!rewrite(source, "f").found, "{source}");
        }
        check("{% raw %}{%{% endraw %}{% generation %}", "{% raw %}{%{% endraw %}{% filter f %}{% with %}");
    }
}
