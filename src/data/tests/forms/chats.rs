//! Conversations to learn: turbo-alignment's, Hugging Face's, Alpaca's, ShareGPT's.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{images_are_files, parse, read, refuses, roles, said, with, without};
use crate::data::{AlpacaData, ChatData, DataKind, MessagesData, MessagesImagesData, ShareGptData};
use crate::text::{Role, ToolCall};

fn user(words: &str) -> Value {
    json!({"role": "user", "content": words})
}

fn bot(words: &str) -> Value {
    json!({"role": "bot", "content": words})
}

fn assistant(words: &str) -> Value {
    json!({"role": "assistant", "content": words})
}

#[test]
fn chats_keep_every_message_in_order() {
    let row = json!({"id": "1", "messages": [
        bot("Welcome."), {"role": "system", "content": "Be kind."}, user("Salut <image>"), bot("Bien."), bot("Et toi ?"),
        {"role": "assistant", "content": "", "disable_loss": true}, {"role": "tool", "content": "3"},
    ], "label": 2, "meta": {"name": "x"}});
    let sample = read(&ChatData::default(), &row);
    assert_eq!(
        said(&sample.conversation),
        [
            "assistant: Welcome.",
            "system: Be kind.",
            "user: Salut <image>",
            "assistant: Bien.",
            "assistant: Et toi ?",
            "assistant: ",
            "tool: 3"
        ]
    );
    assert_eq!(sample.conversation.messages.iter().filter(|message| message.is_learned()).count(), 3);
    assert_eq!((sample.id.as_str(), sample.dropped_leading), ("1", 0));
}

#[test]
fn an_image_message_is_one_turn_with_its_neighbour() {
    let image = |path: &str| json!({"role": "user", "type": "image", "content": path});
    let words = |words: &str| json!({"role": "user", "type": "text", "content": words});
    let check = |messages: Vec<Value>, turns: &[&str], images: &[&str]| {
        let sample = read(&ChatData::default(), &json!({"messages": messages}));
        assert_eq!(said(&sample.conversation), turns);
        assert_eq!(sample.images, images.iter().map(std::path::PathBuf::from).collect::<Vec<_>>());
    };
    check(vec![image("a.jpg"), words("What?"), bot("Sky.")], &["user: ▣What?", "assistant: Sky."], &["a.jpg"]);
    check(
        vec![image("a.jpg"), words("q"), bot("x"), words("And"), image("b/c.jpg"), bot("y")],
        &["user: ▣q", "assistant: x", "user: And▣", "assistant: y"],
        &["a.jpg", "b/c.jpg"],
    );
    check(
        vec![image("a.jpg"), image("b.jpg"), words("Both."), bot("ok")],
        &["user: ▣▣Both.", "assistant: ok"],
        &["a.jpg", "b.jpg"],
    );
    check(vec![words("one"), words("two"), bot("x")], &["user: one", "user: two", "assistant: x"], &[]);
}

#[test]
fn spoilt_chats_are_refused() {
    let kind = ChatData::default();
    let good = json!({"messages": [user("q"), bot("a")]});
    read(&kind, &good);
    refuses(&kind, without(&good, "messages"), "missing field", &["`messages`"]);
    refuses(&kind, with(&good, "/messages", json!([])), "empty conversation", &["`messages`"]);
    refuses(&kind, with(&good, "/messages", json!("hi")), "wrong type", &["list of objects"]);
    refuses(&kind, with(&good, "/messages/0", json!(null)), "wrong type", &["messages[0]"]);
    refuses(&kind, with(&good, "/messages/0/role", json!("human")), "unknown role", &["turn 1", "\"human\"", "bot"]);
    refuses(&kind, with(&good, "/messages/1/role", json!(1)), "wrong type", &["messages[1].role"]);
    refuses(&kind, with(&good, "/messages/1", json!({"role": "bot"})), "missing field", &["messages[1].content"]);
    refuses(&kind, with(&good, "/messages/1/content", json!(["a"])), "wrong type", &["messages[1].content", "a list"]);
    refuses(&kind, with(&good, "/messages/1/content", json!(" \n")), "empty answer", &["messages[1].content"]);
    refuses(&kind, json!({"messages": [user("q")]}), "no answer", &[]);
    refuses(&kind, json!({"messages": [bot("a")]}), "no answer", &[]);
    refuses(&kind, json!({"messages": [bot("a"), user("q")]}), "no answer", &[]);
    let audio = json!({"role": "user", "type": "audio", "content": "a.wav"});
    refuses(&kind, json!({"messages": [audio, bot("a")]}), "audio or video", &["messages[0]", "audio", "not read"]);
    let address = json!({"role": "user", "type": "image", "content": "https://example.org/a.jpg"});
    refuses(&kind, json!({"messages": [address, bot("a")]}), "image is not a file", &["messages[0].content"]);
    let loss = json!({"role": "bot", "content": "a", "disable_loss": "yes"});
    refuses(&kind, json!({"messages": [user("q"), loss]}), "wrong type", &["messages[1].disable_loss"]);
    refuses(&kind, with(&good, "id", json!({})), "wrong type", &["`id`"]);
}

#[test]
fn messages_have_parts_thoughts_and_tools() {
    let schema = json!({"name": "sum", "parameters": {"type": "object"}});
    let row = json!({
        "tools": [schema, {"type": "function", "function": {"name": "other"}}],
        "messages": [
            {"role": "assistant", "content": "Hello."},
            {"role": "developer", "content": [{"type": "text", "text": "Think."}]},
            {"role": "user", "content": [{"type": "text", "text": "1+"}, "1 <image>"]},
            {"role": "assistant", "content": null, "reasoning_content": "Add.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "sum", "arguments": {"a": 1}}},
                {"name": "other", "arguments": "{}"},
            ]},
            {"role": "tool", "tool_call_id": "c1", "name": "sum", "content": "2"},
            {"role": "assistant", "content": "2", "tool_calls": null, "thinking": "Said."},
        ],
    });
    let sample = read(&MessagesData::default(), &row);
    assert_eq!(sample.dropped_leading, 1);
    let conversation = &sample.conversation;
    assert_eq!(roles(conversation), [Role::System, Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
    assert_eq!(conversation.messages[1].words(), "1+1 <image>");
    let call = &conversation.messages[2];
    assert_eq!(call.reasoning.as_deref(), Some("Add."));
    let first = ToolCall { id: Some("c1".into()), ..ToolCall::new("sum", json!({"a": 1})) };
    assert_eq!(call.tool_calls, [first, ToolCall::new("other", json!("{}"))]);
    assert!(call.content.is_empty());
    let result = &conversation.messages[3];
    assert_eq!((result.tool_call_id.as_deref(), result.name.as_deref()), (Some("c1"), Some("sum")));
    assert_eq!(conversation.messages[4].reasoning.as_deref(), Some("Said."));
    assert_eq!(conversation.tools[0], json!({"type": "function", "function": schema}));
    assert_eq!(conversation.tools[1]["function"]["name"], "other");
    let written = with(&row, "tools", json!(row["tools"].to_string()));
    assert_eq!(read(&MessagesData::default(), &written).conversation, *conversation);
}

#[test]
fn spoilt_messages_are_refused() {
    let kind = MessagesData::default();
    let good = json!({"messages": [user("q"), assistant("a")]});
    let part = |part: Value| with(&good, "/messages/0/content", json!([part]));
    refuses(&kind, with(&good, "/messages/1/role", json!("bot")), "unknown role", &["turn 2", "assistant"]);
    refuses(&kind, with(&good, "/messages/1/content", json!(null)), "wrong type", &["messages[1].content", "null"]);
    refuses(&kind, with(&good, "/messages/1/content", json!([])), "empty answer", &["messages[1].content"]);
    refuses(&kind, with(&good, "/messages/1", json!({"role": "assistant"})), "missing field", &["messages[1].content"]);
    refuses(&kind, part(json!({"text": "q"})), "missing field", &["messages[0].content[0].type"]);
    refuses(&kind, part(json!({"type": "text"})), "missing field", &["messages[0].content[0].text"]);
    refuses(&kind, part(json!(5)), "wrong type", &["messages[0].content[0]"]);
    let media = "audio or video";
    refuses(&kind, part(json!({"type": "input_audio"})), media, &["messages[0].content[0]", "input_audio"]);
    refuses(&kind, part(json!({"type": "video", "video": "a.mp4"})), media, &["video"]);
    let text_only = "image in a record of text";
    refuses(&kind, part(json!({"type": "image"})), text_only, &["messages[0].content[0]", "MessagesImagesData"]);
    refuses(&kind, with(&good, "images", json!(["a.png"])), text_only, &["`images`"]);
    read(&kind, &with(&good, "images", json!([])));
    refuses(&kind, with(&good, "tools", json!("[{")), "malformed JSON in a field", &["`tools`"]);
    refuses(&kind, with(&good, "tools", json!({})), "wrong type", &["`tools`"]);
    refuses(&kind, with(&good, "tools", json!([{"x": 1}])), "wrong type", &["tools[0]"]);
    let calls =
        |calls: Value| json!({"messages": [user("q"), {"role": "assistant", "content": "", "tool_calls": calls}]});
    refuses(&kind, calls(json!([])), "empty answer", &["messages[1]"]);
    refuses(&kind, calls(json!("sum")), "wrong type", &["messages[1].tool_calls"]);
    refuses(&kind, calls(json!([{"function": {}}])), "missing field", &["messages[1].tool_calls[0].name"]);
    refuses(&kind, calls(json!([{"function": 3}])), "wrong type", &["messages[1].tool_calls[0].function"]);
    refuses(&kind, calls(json!([{"name": "f", "arguments": 3}])), "wrong type", &["tool_calls[0].arguments"]);
    let thoughts = json!({"role": "assistant", "content": "a", "reasoning_content": 3});
    refuses(&kind, json!({"messages": [user("q"), thoughts]}), "wrong type", &["messages[1].reasoning_content"]);
}

#[test]
fn messages_show_images_where_they_say() {
    let kind = MessagesImagesData::default();
    let row = |content: Value, images: Value| json!({"images": images, "messages": [{"role": "user", "content": content}, assistant("a")]});
    let check = |row: &Value, turn: &str, images: &[&str]| {
        let sample = read(&kind, row);
        assert_eq!(said(&sample.conversation)[0], turn);
        assert_eq!(sample.images, images.iter().map(std::path::PathBuf::from).collect::<Vec<_>>());
    };
    let (image, words) = (json!({"type": "image"}), json!({"type": "text", "text": "q", "image": null}));
    check(&row(json!([words, image]), json!("a.png")), "user: q▣", &["a.png"]);
    let own = json!({"type": "image", "path": "own.png", "text": null});
    let in_order = &["own.png", "a.png", "b.png"];
    check(&row(json!([own, image, words, image]), json!(["a.png", "b.png"])), "user: ▣▣q▣", in_order);
    let url = json!({"type": "image_url", "image_url": {"url": "file:///x/u.png"}});
    check(&row(json!([url, {"type": "image", "image": "i.png"}]), json!(null)), "user: ▣▣", &["/x/u.png", "i.png"]);
    check(&row(json!("q <image> r"), json!(["a.png"])), "user: q ▣ r", &["a.png"]);
    check(&row(json!("q <image> r"), json!([])), "user: q <image> r", &[]);
    check(&row(json!("q"), json!(["a.png", "b.png"])), "user: ▣▣q", &["a.png", "b.png"]);
    images_are_files(&kind, &row(json!([words, image]), json!(null)), "images");
    images_are_files(
        &kind,
        &row(json!([{"type": "image", "path": "x.png"}]), json!(null)),
        "/messages/0/content/0/path",
    );
    let mismatched = "mismatched number of images";
    refuses(&kind, row(json!([image, image, words]), json!(["a.png"])), mismatched, &["2 place(s)", "1 image(s)"]);
    refuses(&kind, row(json!([image, words]), json!(["a.png", "b.png"])), mismatched, &["1 place(s)", "2 image(s)"]);
    refuses(&kind, row(json!([own, words]), json!(["a.png"])), mismatched, &["0 place(s)", "1 image(s)"]);
    refuses(&kind, row(json!([image, words]), json!(null)), mismatched, &["1 place(s)", "0 image(s)"]);
    // The place goes with the message that is dropped.
    let greeted = json!({"images": ["a.png"], "messages": [
        {"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": "hi"}]}, user("q"), assistant("a"),
    ]});
    refuses(&kind, greeted, mismatched, &["0 place(s)", "1 image(s)"]);
}

#[test]
fn alpaca_rows_are_question_and_answer() {
    let kind = AlpacaData::default();
    let good = json!({"instruction": "Add.", "input": "1, 2", "output": "3"});
    assert_eq!(said(&read(&kind, &good).conversation), ["user: Add.\n1, 2", "assistant: 3"]);
    for input in [json!(""), json!(null)] {
        assert_eq!(said(&read(&kind, &with(&good, "/input", input)).conversation)[0], "user: Add.");
    }
    let long = with(&with(&good, "system", json!("Brief.")), "history", json!([["a?", "A."], ["b?", "B."]]));
    let turns = ["system: Brief.", "user: a?", "assistant: A.", "user: b?", "assistant: B.", "user: Add.\n1, 2"];
    assert_eq!(said(&read(&kind, &long).conversation)[..6], turns);
    refuses(&kind, without(&good, "instruction"), "missing field", &["`instruction`"]);
    refuses(&kind, without(&good, "output"), "missing field", &["`output`"]);
    refuses(&kind, with(&good, "output", json!(3)), "wrong type", &["`output`", "3"]);
    refuses(&kind, with(&good, "output", json!(" ")), "empty answer", &["`output`"]);
    refuses(&kind, with(&good, "input", json!(["x"])), "wrong type", &["`input`"]);
    refuses(&kind, json!({"instruction": "", "output": "3"}), "no question", &["`instruction`"]);
    refuses(&kind, with(&good, "history", json!("x")), "wrong type", &["`history`"]);
    refuses(&kind, with(&good, "history", json!([["a?"]])), "wrong type", &["`history[0]`"]);
    refuses(&kind, with(&good, "history", json!([["a?", ""]])), "empty answer", &["`history[0][1]`"]);
    refuses(&kind, with(&good, "history", json!([["", "A."]])), "no question", &["`history[0][0]`"]);
}

#[test]
fn share_gpt_rows_have_tools() {
    let kind = ShareGptData::default();
    let turn = |from: &str, value: &str| json!({"from": from, "value": value});
    let row = json!({"system": "Use tools.", "tools": "[{\"name\": \"f\"}]", "conversations": [
        turn("gpt", "Hi."), turn("human", "q <image>"), turn("function_call", "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"),
        turn("observation", "5"), turn("chatgpt", "It is 5."), turn("user", "Thanks."), turn("bing", "Sure."),
    ]});
    let sample = read(&kind, &row);
    let turns = [
        "system: Use tools.",
        "user: q <image>",
        "assistant: ",
        "tool: 5",
        "assistant: It is 5.",
        "user: Thanks.",
        "assistant: Sure.",
    ];
    assert_eq!(said(&sample.conversation), turns);
    assert_eq!(sample.conversation.messages[2].tool_calls, [ToolCall::new("f", json!({"x": 1}))]);
    assert_eq!(sample.conversation.tools[0]["function"]["name"], "f");
    assert_eq!(sample.dropped_leading, 1);
    let good = json!({"conversations": [turn("human", "q"), turn("gpt", "a")]});
    read(&kind, &good);
    refuses(&kind, json!({"items": []}), "missing field", &["`conversations`"]);
    refuses(&kind, with(&good, "/conversations/1/from", json!("ai")), "unknown role", &["turn 2", "\"ai\"", "gpt"]);
    refuses(&kind, with(&good, "/conversations/1/value", json!(null)), "wrong type", &["conversations[1].value"]);
    refuses(&kind, with(&good, "/conversations/1/value", json!("")), "empty answer", &["conversations[1]"]);
    refuses(&kind, with(&good, "system", json!(1)), "wrong type", &["`system`"]);
    let call = with(&good, "/conversations/1/from", json!("function_call"));
    refuses(&kind, call, "malformed JSON in a field", &["`conversations[1].value`"]);
}

/// Turns of any roles, as `[role, words]`.
fn turns() -> impl Strategy<Value = Vec<(usize, String)>> {
    prop::collection::vec((0..4usize, "[a-zé猫 <>\"\\\\\n]{0,12}x"), 0..9)
}

/// What was read, after the dropped turns, or the refusal's reason.
fn kept<K: DataKind>(kind: &K, row: &Value) -> Result<(Vec<String>, usize), &'static str> {
    let sample = parse(kind, row).map_err(|error| error.reason())?;
    Ok((said(&sample.conversation), sample.dropped_leading))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn no_message_is_lost(turns in turns()) {
        let names = ["system", "user", "assistant", "tool"];
        let froms = ["system", "human", "gpt", "tool"];
        let messages: Vec<Value> =
            turns.iter().map(|(role, words)| json!({"role": names[*role], "content": words})).collect();
        let conversations: Vec<Value> =
            turns.iter().map(|(role, words)| json!({"from": froms[*role], "value": words})).collect();
        let all: Vec<String> = turns.iter().map(|(role, words)| format!("{}: {words}", names[*role])).collect();
        let asked = turns.iter().position(|turn| turn.0 == 1);
        let answers = asked.is_some_and(|asked| turns[asked..].iter().any(|turn| turn.0 == 2));
        let leading = |i: usize| turns[i].0 == 2 && Some(i) < asked;
        let after: Vec<String> = (0..turns.len()).filter(|&i| !leading(i)).map(|i| all[i].clone()).collect();
        let dropped = all.len() - after.len();
        let messages = json!({"messages": messages});
        let reason = if turns.is_empty() { "empty conversation" } else { "no answer" };
        let chat = if answers { Ok((all, 0)) } else { Err(reason) };
        let rest = if answers { Ok((after, dropped)) } else { Err(reason) };
        prop_assert_eq!(kept(&ChatData::default(), &messages), chat);
        prop_assert_eq!(kept(&MessagesData::default(), &messages), rest.clone());
        prop_assert_eq!(kept(&MessagesImagesData::default(), &messages), rest.clone());
        prop_assert_eq!(kept(&ShareGptData::default(), &json!({"conversations": conversations})), rest);
    }
}
