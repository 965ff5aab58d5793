//! Against Python's Jinja2 as transformers sets it up (fixtures by `tests/parity/gen/chat_templates.py`).

use super::date::strftime;
use super::*;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

fn golden() -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text/chat_templates.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn question(text: &str) -> Conversation {
    Conversation::new(vec![Message::text(Role::User, text)])
}

#[test]
fn snippets_come_out_as_in_python() {
    let golden = golden();
    let asked = question(golden["snippet_question"].as_str().unwrap());
    let asked = asked.with_tools(vec![golden["snippet_tool"].clone()]);
    let mut refused = 0;
    for snippet in golden["snippets"].as_array().unwrap() {
        let source = snippet[0].as_str().unwrap();
        let text =
            JinjaTemplate::new("t", source, serde_json::Map::new()).and_then(|template| template.render_prompt(&asked));
        match snippet[1].as_str() {
            Some(expected) => assert_eq!(text.unwrap(), expected, "{source:?}"),
            None => {
                let error = text.unwrap_err();
                assert!(matches!(error, TextError::Template { .. }), "{source:?}: {error}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 9);
}

#[test]
fn dates_are_those_of_python() {
    for date in golden()["dates"].as_array().unwrap() {
        let at = UNIX_EPOCH + Duration::from_secs(date[0].as_u64().unwrap());
        let format = date[1].as_str().unwrap();
        assert_eq!(strftime(format, at).unwrap(), date[2].as_str().unwrap(), "{format} {at:?}");
    }
    for unknown in ["%q", "%", "%-", "%-B", "%é", "%Ey"] {
        let error = strftime(unknown, UNIX_EPOCH).unwrap_err().to_string();
        assert!(error.contains(&format!("{unknown} is not")) || error.contains("%E is not"), "{unknown}: {error}");
    }
}

#[test]
fn values_without_end_are_refused() {
    let render = |source: &str| {
        let template = JinjaTemplate::new("t", source, serde_json::Map::new()).unwrap();
        template.render_prompt(&question("q")).unwrap_err().to_string()
    };
    let knot = "{% set ns = namespace() %}{% set ns.a = ns %}";
    assert!(render(&format!("{knot}{{{{ ns }}}}")).contains("nested"));
    assert!(render(&format!("{knot}{{{{ ns|tojson }}}}")).contains("nested"));
    let doubled = format!("{{% set x = ['{}'] %}}{}", "a".repeat(64), "{% set x = [x, x] %}".repeat(40));
    assert!(render(&format!("{doubled}{{{{ x }}}}")).contains("bytes"));
    assert!(render("{{ 'a'.ljust(10 ** 12) }}").contains("bytes"));
}
