use super::*;
use serde_json::json;

fn names() -> Vec<String> {
    vec!["look".to_owned(), "add".to_owned()]
}

/// The words and calls of an answer that comes in pieces of so many characters.
fn streamed(text: &str, size: usize) -> (String, Vec<ToolCall>) {
    let characters: Vec<char> = text.chars().collect();
    let mut stream = ToolText::new(&names());
    let mut words: String =
        characters.chunks(size).map(|piece| stream.push(&piece.iter().collect::<String>())).collect();
    let (rest, calls) = stream.finish();
    words.push_str(&rest);
    (words, calls)
}

#[test]
fn words_and_calls_are_parted_alike_whole_and_in_pieces() {
    let look = || ToolCall::new("look", json!({"at": "it"}));
    let add = || ToolCall::new("add", json!({"a": 1}));
    let hermes = r#"<tool_call>{"name": "look", "arguments": {"at": "it"}}</tool_call>"#;
    for (text, words, calls) in [
        ("plain words", "plain words", vec![]),
        ("  ", "  ", vec![]),
        ("", "", vec![]),
        ("1 < 2 and <tool", "1 < 2 and <tool", vec![]),
        (hermes, "", vec![look()]),
        (&format!("\n{hermes}\n"), "", vec![look()]),
        (&format!("I look.\n{hermes}"), "I look.\n", vec![look()]),
        (
            &format!(
                "I look.{hermes}\n<tool_call>\n{{\"name\": \"add\", \"arguments\": {{\"a\": 1}}}}\n</tool_call> Done."
            ),
            "I look. Done.",
            vec![look(), add()],
        ),
        // The end of a block may have been a stop token.
        (r#"<tool_call>{"name": "look", "arguments": {"at": "it"}}"#, "", vec![look()]),
        (r#"{"name": "look", "parameters": {"at": "it"}}"#, "", vec![look()]),
        (
            r#"<|python_tag|>{"name": "look", "parameters": {"at": "it"}}; {"name": "add", "parameters": {"a": 1}}"#,
            "",
            vec![look(), add()],
        ),
        (r#"[TOOL_CALLS] [{"name": "look", "arguments": {"at": "it"}}]"#, "", vec![look()]),
        (r#"Well. [TOOL_CALLS]look[ARGS]{"at": "it"}[TOOL_CALLS]add[ARGS]{"a": 1}"#, "Well. ", vec![look(), add()]),
        // An answer in JSON, as somebody may have asked for.
        (r#"{"name": "Ada", "parameters": {"at": "it"}}"#, r#"{"name": "Ada", "parameters": {"at": "it"}}"#, vec![]),
        (r#"[1, 2]"#, "[1, 2]", vec![]),
        // What cannot be read is not swallowed.
        ("I <tool_call>{\"name\": \"look\"</tool_call>", "I <tool_call>{\"name\": \"look\"</tool_call>", vec![]),
        ("cut <tool_call>{\"na", "cut <tool_call>{\"na", vec![]),
    ] {
        assert_eq!(ToolText::split(text, &names()), (words.to_owned(), calls.clone()), "{text}");
        for size in [1, 2, 3, 7, 1000] {
            assert_eq!(streamed(text, size), (words.to_owned(), calls.clone()), "{text} by {size}");
        }
    }
}

#[test]
fn words_are_not_held_back_without_need() {
    let mut stream = ToolText::new(&names());
    assert_eq!(stream.push("so"), "so");
    assert_eq!(stream.push(" it <to"), " it ");
    assert_eq!(stream.push("ad>"), "<toad>");
    assert_eq!(stream.push(" [TOOL_CALLS"), " ");
    assert_eq!(stream.push("]look"), "");
    // A name alone calls a function without arguments.
    assert_eq!(stream.finish(), (String::new(), vec![ToolCall::new("look", json!({}))]));
}
