//! Tool calls.

use super::super::*;
use super::{Check, fixture, rows};
use serde_json::{Value, json};

fn calls(text: &str) -> Vec<(String, Value)> {
    parse_tool_calls(text).unwrap().into_iter().map(|call| (call.name, call.arguments)).collect()
}

#[test]
fn calls_are_read_in_every_format() {
    let one = vec![("f".to_owned(), json!({"x": 1}))];
    let two = vec![("f".to_owned(), json!({"x": 1})), ("g".to_owned(), json!({}))];
    for (text, expected) in [
        (
            r#"{"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]}"#,
            &one,
        ),
        (
            r#"{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}"#,
            &one,
        ),
        (r#"[{"function": {"name": "f", "arguments": {"x": 1}}}, {"name": "g", "arguments": ""}]"#, &two),
        ("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>", &one),
        (
            "Let me see.\n<tool_call>{\"name\":\"f\",\"arguments\":{\"x\":1}}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}",
            &two,
        ),
        (r#"{"name": "f", "parameters": {"x": 1}}"#, &one),
        (r#"<|python_tag|>{"name": "f", "parameters": {"x": 1}}; {"name": "g", "parameters": null}<|eom_id|>"#, &two),
        (r#"[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]</s>"#, &two),
        (r#"[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[CALL_ID]abc[ARGS]{}"#, &two),
        (r#"[TOOL_CALLS]f{"x": 1}"#, &one),
    ] {
        assert_eq!(&calls(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_call_is_refused_and_says_why() {
    for (text, message) in [
        ("", "calls no tool"),
        ("I cannot do that {really}", "calls no tool"),
        ("[]", "calls no tool"),
        (r#"{"tool_calls": null, "content": "hi"}"#, "calls no tool"),
        (r#"{"tool_calls": 3}"#, "`tool_calls` is no list"),
        ("[TOOL_CALLS]", "there is no name"),
        ("[TOOL_CALLS] [", "call 1 is no JSON"),
        ("[TOOL_CALLS]f[ARGS]", "calls no tool"),
        ("<tool_call>{\"name\": \"f\", \"arguments\": {}</tool_call>", "call 1 is no JSON"),
        ("<tool_call></tool_call>", "call 1 is no JSON"),
        (
            "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call><tool_call>{}</tool_call>",
            "call 2: it has no `name`",
        ),
        (r#"{"name": "", "arguments": {}}"#, "it has no `name`"),
        (r#"{"name": "f"}"#, "neither `arguments` nor `parameters`"),
        (r#"{"name": "f", "arguments": [1]}"#, "its arguments are no object"),
        (r#"{"name": "f", "arguments": "[1]"}"#, "its arguments are no object"),
        (r#"{"name": "f", "arguments": "{"}"#, "call 1 is no JSON"),
        (r#"{"name": "f", "arguments": {}} and so on"#, "other text follows"),
        ("[3]", "it is no object"),
    ] {
        match parse_tool_calls(text) {
            Err(error) => assert!(error.to_string().contains(message), "{text}: {error}"),
            // A name alone calls a function without arguments.
            Ok(calls) => assert_eq!((text, calls.len()), ("[TOOL_CALLS]f[ARGS]", 1)),
        }
    }
    let deep = "[".repeat(100_000);
    assert!(parse_tool_calls(&deep).is_err());
}

#[test]
fn arguments_are_valid_where_jsonschema_says_so() {
    let mut check = Check::default();
    let metric = by_name("tool_call_arguments", &Facts::default()).unwrap();
    for row in rows(&fixture("schemas.json")) {
        for case in rows(&row["cases"]) {
            let call = json!({"name": "f", "arguments": case[0]}).to_string();
            let tools = vec![Tool { name: "f".to_owned(), parameters: row["schema"].clone() }];
            let sample = Judged { tools, ..Judged::new("1", call, &[]) };
            let found = metric.measure(&sample).unwrap().value == Some(1.0);
            check.equal(&format!("{} against {}", case[0], row["schema"]), found, case[1].as_bool().unwrap());
        }
    }
}

#[test]
fn each_check_asks_for_more() {
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"required": ["x"]}}});
    let tools = vec![Tool::from_json(&tool).unwrap(), Tool::from_json(&json!({"name": "g"})).unwrap()];
    let right = r#"{"name": "f", "arguments": {"x": 1, "y": [1.0]}}"#;
    for (answer, expected) in [
        ("no call", [0.0, 0.0, 0.0, 0.0]),
        (r#"{"name": "h", "arguments": {}}"#, [1.0, 0.0, 0.0, 0.0]),
        (r#"{"name": "f", "arguments": {}}"#, [1.0, 1.0, 0.0, 0.0]),
        (r#"{"name": "g", "arguments": {"any": 1}}"#, [1.0, 1.0, 1.0, 0.0]),
        (r#"<tool_call>{"arguments": {"y": [1], "x": 1.0}, "name": "f"}</tool_call>"#, [1.0, 1.0, 1.0, 1.0]),
    ] {
        let sample = Judged { tools: tools.clone(), ..Judged::new("1", answer, &[right]) };
        for (check, expected) in ["json", "name", "arguments", "match"].iter().zip(expected) {
            let metric = by_name(&format!("tool_call_{check}"), &Facts::default()).unwrap();
            assert_eq!(metric.measure(&sample).unwrap().value, Some(expected), "{check} of {answer}");
        }
    }
}

#[test]
fn a_schema_that_is_none_or_lies_elsewhere_is_refused() {
    for schema in [json!({"type": "nothing"}), json!({"$ref": "https://example.org/schema.json"}), json!(3)] {
        let tools = vec![Tool { name: "f".to_owned(), parameters: schema }];
        let sample = Judged { tools, ..Judged::new("9", r#"{"name": "f", "arguments": {}}"#, &[]) };
        let error =
            by_name("tool_call_arguments", &Facts::default()).unwrap().measure(&sample).unwrap_err().to_string();
        assert!(error.contains("record `9`, tool `f`: its parameters are no usable JSON schema"), "{error}");
    }
}
