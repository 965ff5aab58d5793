//! Against transformers' `apply_chat_template` with the families' templates (fixtures by
//! `tests/parity/gen/chat_templates.py`).

use super::*;
use crate::text::conversation::ToolCall;
use serde_json::json;

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("chat_templates.json")).unwrap()).unwrap()
}

fn source(name: &str) -> String {
    std::fs::read_to_string(fixture("templates").join(name).with_extension("jinja")).unwrap()
}

/// The family's template, with the bytelevel tokenizer's special tokens.
fn family(name: &str) -> JinjaTemplate {
    JinjaTemplate::new(name, &source(name), tokenizer("bytelevel").template_variables()).unwrap()
}

fn message(json: &Value) -> Message {
    let role = match text_of(json, "role") {
        "system" => Role::System,
        "user" => Role::User,
        "tool" => Role::Tool,
        _ => Role::Assistant,
    };
    let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
    let call = |call: &Value| ToolCall {
        id: Some(text_of(call, "id").to_owned()),
        ..ToolCall::new(text_of(&call["function"], "name"), call["function"]["arguments"].clone())
    };
    Message {
        tool_calls: json.get("tool_calls").map_or(vec![], |calls| calls.as_array().unwrap().iter().map(call).collect()),
        reasoning: text("reasoning_content"),
        name: text("name"),
        tool_call_id: text("tool_call_id"),
        ..Message::new(role, text("content").map(Part::Text).into_iter().collect())
    }
}

fn conversation(golden: &Value, key: &str) -> Conversation {
    let json = &golden["conversations"][key];
    let messages = json["messages"].as_array().unwrap().iter().map(message).collect();
    Conversation::new(messages).with_tools(json["tools"].as_array().cloned().unwrap_or_default())
}

/// Offsets in characters, as Python counts.
fn in_characters(rendered: &Rendered) -> Value {
    let characters = |byte: usize| rendered.text[..byte].chars().count();
    rendered.spans.iter().map(|span| json!([characters(span.start), characters(span.end)])).collect()
}

#[test]
fn texts_spans_and_tokens_of_all_families_are_those_of_transformers() {
    let golden = golden();
    let bytelevel = tokenizer("bytelevel");
    let mut refused = 0;
    for case in golden["cases"].as_array().unwrap() {
        let (name, key) = (text_of(case, "template"), text_of(case, "conversation"));
        let place = format!("{name} {key}");
        let mut template = family(name);
        for (variable, value) in case["variables"].as_object().unwrap() {
            template = template.with_variable(variable, value.clone());
        }
        let conversation = conversation(&golden, key);
        let rendered = template.render(&conversation);
        if let Some(reason) = case["error"].as_str() {
            let error = rendered.unwrap_err().to_string();
            assert!(error.contains(reason), "{place}: {error}");
            refused += 1;
            continue;
        }
        if place == "deepseek_r1 thinking_inline" {
            // transformers would train on an answer that has lost its thoughts.
            let error = rendered.unwrap_err().to_string();
            assert!(error.contains("message 4 ") && error.contains("Three and three"), "{error}");
            continue;
        }
        let rendered = rendered.unwrap();
        assert_eq!(rendered.text, text_of(case, "text"), "{place}");
        let learned: Vec<&str> = rendered.spans.iter().map(|span| &rendered.text[span.clone()]).collect();
        assert_eq!(in_characters(&rendered), case["spans"], "{place}: {learned:#?}");

        let last = conversation.messages.iter().rposition(|message| message.role == Role::Assistant).unwrap();
        let prompt = template.render_prompt(&conversation.up_to(last)).unwrap();
        match case["prompt"].as_u64() {
            Some(n) => assert_eq!(prompt, rendered.text.chars().take(n as usize).collect::<String>(), "{place}"),
            None => assert_eq!(prompt, text_of(case, "prompt"), "{place}"),
        }
        if let Some(n) = case["continued"].as_u64() {
            let continued = template.render_continuation(&conversation).unwrap();
            assert_eq!(continued, rendered.text.chars().take(n as usize).collect::<String>(), "{place}");
        }

        let encoded = encode_rendered(&bytelevel, &rendered, &ImageTokens::default()).unwrap();
        // `apply_chat_template` adds no BOS of its own.
        let added = encoded.input_ids.len() - case["tokens"].as_u64().unwrap() as usize;
        assert_eq!(added, usize::from(!rendered.text.starts_with("<s>")), "{place}");
        let mut expected = vec![false; encoded.supervised.len()];
        for range in case["learned"].as_array().unwrap() {
            let range = numbers(range);
            expected[range[0] as usize + added..range[1] as usize + added].fill(true);
        }
        assert_eq!(encoded.supervised, expected, "{place}");
    }
    assert_eq!(refused, 8);
}

#[test]
fn a_header_is_not_learned_where_prompt_and_history_differ_in_white_space() {
    let golden = golden();
    let conversation = conversation(&golden, "several");
    for case in golden["spaced"].as_array().unwrap() {
        let template = JinjaTemplate::new("t", text_of(case, "source"), serde_json::Map::new()).unwrap();
        let rendered = template.render(&conversation).unwrap();
        assert_eq!(rendered.text, text_of(case, "text"));
        assert_eq!(in_characters(&rendered), case["spans"], "{case}: {rendered:?}");
    }
    assert_eq!(golden["spaced"].as_array().unwrap().len(), 4);
}

#[test]
fn another_header_in_history_is_refused() {
    let turns = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}END{% elif loop.last %}\
                 <new>{{ m.content }}</s>{% else %}<old>{{ m.content }}</s>{% endif %}{% endfor %}\
                 {% if add_generation_prompt %}<new>{% endif %}";
    for end in ["", " \n", "<|end|>", "<|end|>\n", "{{ '\n' }}"] {
        let template = JinjaTemplate::new("t", &turns.replace("END", end), serde_json::Map::new()).unwrap();
        let mut messages = question_and_answer().messages;
        messages.extend(question_and_answer().messages);
        let mut conversation = Conversation::new(messages);
        let error = template.render(&conversation).unwrap_err().to_string();
        assert!(error.contains("message 2 ") && error.contains("another header"), "{end:?}: {error}");
        conversation.messages[1].train = false;
        let rendered = template.render(&conversation).unwrap();
        assert_eq!(&rendered.text[rendered.spans[0].clone()], "Yo</s>", "{end:?}");
    }
}

#[test]
fn every_family_ends_its_turns() {
    for (name, stop) in [
        ("chatml", "<|im_end|>"),
        ("qwen3", "<|im_end|>"),
        ("llama2", "</s>"),
        ("llama3_1", "<|eot_id|>"),
        ("mistral_v3", "</s>"),
        ("gemma", "<end_of_turn>"),
        ("phi3", "<|end|>"),
        ("deepseek_v3", "<｜end▁of▁sentence｜>"),
        ("zephyr", "</s>"),
    ] {
        assert_eq!(family(name).stop().as_deref(), Some(stop), "{name}");
    }
    assert_eq!(ChatTemplate::llava("v1").unwrap().stop().as_deref(), Some("</s>"));
}

#[test]
fn what_the_prompt_already_writes_is_not_learned() {
    let template = family("qwen3");
    let learned = |template: &JinjaTemplate| {
        let rendered = template.render(&question_and_answer()).unwrap();
        rendered.text[rendered.spans[0].clone()].to_owned()
    };
    assert_eq!(learned(&template), "<think>\n\n</think>\n\nYo<|im_end|>");
    assert_eq!(learned(&template.with_variable("enable_thinking", false.into())), "Yo<|im_end|>");
}

#[test]
fn an_answer_that_loses_its_thoughts_is_refused_where_it_would_be_learned() {
    let mut conversation = question_and_answer();
    conversation.messages[1].reasoning = Some("Greet back.".into());
    let error = family("llama3").render(&conversation).unwrap_err();
    assert!(matches!(error, TextError::NoSpans { .. }), "{error}");
    assert!(error.to_string().contains("Greet back.") && error.to_string().contains("data.template"), "{error}");
    // In history it is the template's right, and what is only context may lose what it will.
    conversation.messages.extend(question_and_answer().messages);
    assert_eq!(family("llama3").render(&conversation).unwrap().spans.len(), 2);
    conversation.messages.truncate(2);
    conversation.messages[1].train = false;
    assert!(family("llama3").render(&conversation).unwrap().spans.is_empty());
}

#[test]
fn a_call_that_a_template_does_not_write_is_refused() {
    let mut conversation = chat(&[(Role::User, "How late?")]);
    conversation.messages.push(Message {
        content: vec![Part::Text(String::new())],
        ..Message::calls(vec![ToolCall::new("now", json!({}))])
    });
    let error = family("chatml").render(&conversation).unwrap_err().to_string();
    assert!(error.contains("message 2 ") && error.contains("now"), "{error}");
    assert_eq!(family("qwen3").render(&conversation).unwrap().spans.len(), 1);
}

#[test]
fn tools_go_to_the_template_for_tools() {
    let variables = serde_json::Map::new;
    let tool_use = JinjaTemplate::new("tool_use", "{{ tools|length }} tools, {{ now }}", variables()).unwrap();
    let template = JinjaTemplate::new("default", "no tools, {{ now }}", variables()).unwrap();
    let template = template.with_tool_use(tool_use).with_variable("now", "noon".into());
    let question = chat(&[(Role::User, "q")]);
    assert_eq!(template.render_prompt(&question).unwrap(), "no tools, noon");
    assert_eq!(template.render_prompt(&question.with_tools(vec![json!({})])).unwrap(), "1 tools, noon");
}

#[test]
fn generation_blocks_belong_to_the_answers_whose_words_they_hold() {
    let learned = |source: &str, train: [bool; 2]| {
        let mut conversation =
            chat(&[(Role::User, "q"), (Role::Assistant, "a"), (Role::User, "r"), (Role::Assistant, "b")]);
        conversation.messages[1].train = train[0];
        conversation.messages[3].train = train[1];
        let template = JinjaTemplate::new("t", source, serde_json::Map::new()).unwrap();
        let rendered = template.render(&conversation)?;
        Ok::<_, TextError>(rendered.spans.iter().map(|span| rendered.text[span.clone()].to_owned()).collect::<Vec<_>>())
    };
    // As TRL's version for Phi-3: the last answer has a second block.
    let two = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}{% generation %}{{ m.content }}.\
               {% endgeneration %}{% endif %}{% endfor %}{% generation %}!{% endgeneration %}";
    assert_eq!(learned(two, [true, true]).unwrap(), ["a.", "b.", "!"]);
    assert_eq!(learned(two, [true, false]).unwrap(), ["a."]);
    assert_eq!(learned(two, [false, true]).unwrap(), ["b.", "!"]);
    // Around everybody's words, and around the user's only.
    let all = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}";
    assert_eq!(learned(all, [true, true]).unwrap(), ["a", "b"]);
    let user = "{% for m in messages %}{% if m.role == 'user' %}{% generation %}{{ m.content }}{% endgeneration %}\
                {% else %}{{ m.content }}{% endif %}{% endfor %}";
    assert!(learned(user, [true, true]).unwrap().is_empty());
    let mixed = "{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}";
    assert!(learned(mixed, [true, true]).unwrap_err().to_string().contains("several messages"));
    // A block may change what lies outside, and what it sets itself stays inside.
    let scopes = "{% set ns = namespace(n=0) %}{% set x = 'x' %}{% for m in messages %}{% if m.role == 'user' %}\
                  {{ m.content }}{% else %}{% generation %}{% set ns.n = ns.n + 1 %}{% set x = 'y' %}{{ m.content ~ ns.n }}\
                  {% endgeneration %}{{ x }}{% endif %}{% endfor %}";
    assert_eq!(learned(scopes, [true, true]).unwrap(), ["a1", "b2"]);
}

#[test]
fn templates_of_a_folder_are_read_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let bytelevel = tokenizer("bytelevel");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let text = |tools: usize| {
        let template = ChatTemplate::from_dir(dir.path(), &bytelevel).unwrap().unwrap();
        template.render_prompt(&chat(&[(Role::User, "q")]).with_tools(vec![json!({}); tools])).unwrap()
    };
    assert!(ChatTemplate::from_dir(dir.path(), &bytelevel).unwrap().is_none());
    write("tokenizer_config.json", r#"{"chat_template": "one"}"#);
    assert_eq!((text(0), text(1)), ("one".into(), "one".into()));
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#,
    );
    assert_eq!((text(0), text(1)), ("d".into(), "t".into()));
    write("tokenizer_config.json", r#"{"chat_template": {"default": "D", "rag": "R"}}"#);
    assert_eq!((text(0), text(1)), ("D".into(), "D".into()));
    let rag = ChatTemplate::named_in_dir(dir.path(), "rag", &bytelevel).unwrap();
    assert_eq!(rag.render_prompt(&chat(&[(Role::User, "q")])).unwrap(), "R");
    let error = ChatTemplate::named_in_dir(dir.path(), "tools", &bytelevel).unwrap_err().to_string();
    assert!(error.contains("`tools`") && error.contains("default, rag"), "{error}");
    // Files go before the configuration.
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    write("chat_template.jinja", "file");
    write("additional_chat_templates/tool_use.jinja", "file with tools");
    write("additional_chat_templates/notes.txt", "{% if %}");
    assert_eq!((text(0), text(1)), ("file".into(), "file with tools".into()));
    assert!(ChatTemplate::named_in_dir(dir.path(), "rag", &bytelevel).is_err());
    std::fs::remove_dir_all(dir.path().join("additional_chat_templates")).unwrap();
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    write("tokenizer_config.json", r#"{"chat_template": [{"name": "default"}]}"#);
    let error = ChatTemplate::from_dir(dir.path(), &bytelevel).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("template"), "{error}");
}

#[test]
fn values_are_printed_as_python_prints_them() {
    let text = |source: &str| {
        let x = json!({"a": [1, "b'", null, true, 2.0], "c": {}});
        let template = JinjaTemplate::new("t", source, serde_json::Map::new()).unwrap().with_variable("x", x);
        template.render_prompt(&chat(&[(Role::User, "q")])).unwrap()
    };
    assert_eq!(text("{{ none }} {{ true }} {{ x.a[4] }} {{ nothing }}"), "None True 2.0 ");
    assert_eq!(text("{{ x }}"), "{'a': [1, \"b'\", None, True, 2.0], 'c': {}}");
    assert_eq!(text("{{ 'is ' ~ false ~ none }} {{ true|string }}"), "is FalseNone True");
    assert_eq!(text("{{ 'x' is iterable }} {{ 'x' is sequence }} {{ 1 is iterable }}"), "True True False");
    assert_eq!(text("{{ '%s-%d' | format('a', 3) }} {{ '{} b'.format('a') }}"), "a-3 a b");
    assert_eq!(text("{{ dict(a=1).a }} {{ [3, 1] | sort | join(', ') }} {{ 'ab'[::-1] }} {{ 7 // 2 }}"), "1 1, 3 ba 3");
    assert_eq!(
        text("{%- for k, v in x | items %}{{ k }}{% if loop.first %}{% continue %}{% endif %}!{% endfor %}"),
        "ac!"
    );
    assert_eq!(text("{{ x | tojson(indent=2, separators=(',', ':')) | length }}"), "70");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn nothing_a_user_writes_is_learned(
        asked in hostile(), system in hostile(), answer in words(), again in hostile(),
    ) {
        for name in ["chatml", "qwen2_5", "qwen3", "llama2", "llama3_1", "mistral_v3", "gemma3", "phi3", "zephyr",
                     "deepseek_v2", "deepseek_v3"] {
            let conversation = chat(&[
                (Role::System, &system), (Role::User, &asked), (Role::Assistant, &answer), (Role::User, &again),
                (Role::Assistant, "The end."),
            ]);
            let rendered = family(name).render(&conversation).unwrap();
            let learned: Vec<&str> = rendered.spans.iter().map(|span| &rendered.text[span.clone()]).collect();
            prop_assert_eq!(learned.len(), 2, "{}: {:?}", name, learned);
            // What ends every other answer of the family ends these, and nothing else is in them but the answer.
            let end = family(name).stop().unwrap();
            for (learned, said) in learned.iter().zip([answer.as_str(), "The end."]) {
                let said = said.trim();
                prop_assert!(learned.ends_with(&end), "{}: {:?}", name, learned);
                let rest = learned.replacen(said, "", 1).replace("<think>\n\n</think>", "");
                prop_assert_eq!(rest.trim(), &end, "{}: {:?}", name, learned);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn nothing_a_user_writes_to_llava_is_learned(asked in hostile(), answer in words(), again in hostile()) {
        for name in LlavaTemplate::names().into_iter().filter(|name| !name.ends_with("plain")) {
            let template = LlavaTemplate::named(name).unwrap();
            let turns = [(Role::User, asked.as_str()), (Role::Assistant, &answer), (Role::User, &again), (Role::Assistant, "end")];
            let rendered = template.render(&chat(&turns)).unwrap();
            let learned: Vec<&str> = rendered.spans.iter().map(|span| &rendered.text[span.clone()]).collect();
            prop_assert_eq!(learned.len(), 2);
            for (learned, said) in learned.iter().zip([answer.as_str(), "end"]) {
                let rest = learned.replacen(said, "", 1);
                prop_assert_eq!(rest.trim(), template.stop(), "{}: {:?}", name, learned);
            }
        }
    }
}

#[test]
fn a_loop_left_inside_a_block_is_no_panic() {
    for (open, close) in [("generation", "endgeneration"), ("with x = 1", "endwith")] {
        let source = format!("{{% for m in messages %}}{{% {open} %}}{{% continue %}}{{% {close} %}}{{% endfor %}}");
        let template = JinjaTemplate::new("t", &source, serde_json::Map::new()).unwrap();
        let error = template.render(&question_and_answer()).unwrap_err().to_string();
        assert!(error.contains("`t`") && error.contains("continue"), "{error}");
    }
}

/// Text in which somebody forges headers, ends, tags and marks.
fn hostile() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "<|im_start|>assistant\n",
        "<|im_end|>",
        "\n",
        " [/INST]",
        "[INST] ",
        "</s>",
        "<s>",
        "<<SYS>>",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<start_of_turn>model\n",
        "<end_of_turn>\n",
        "<|end|>\n",
        "<|assistant|>\n",
        "<｜Assistant｜>",
        "<｜end▁of▁sentence｜>",
        "Assistant:",
        "\n\n",
        "{% generation %}",
        "{% endgeneration %}",
        "{{ bos_token }}",
        "\u{F0000}",
        "\u{F0001}",
        "\u{F0002}",
        "\u{10FFFD}",
        "learn me",
        "The end.",
        "<think>\n",
        "</think>\n\n",
        "qzprobezq",
        " ",
        "[TOOL_CALLS]",
        "a",
    ]);
    prop::collection::vec(pieces, 1..8).prop_map(|pieces| format!("x{}", pieces.concat()))
}
