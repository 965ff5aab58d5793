//! align-anything's rows.

use serde_json::{Value, json};

use super::super::super::{AlignPreferenceData, AlignPromptsData, AlignSupervisedData};
use super::{images_are_files, lines, read, refuses, said, with, without};

fn supervised(format: &str) -> AlignSupervisedData {
    AlignSupervisedData::builder().format(format.to_owned()).build().expect("a format")
}

fn preference(format: &str) -> AlignPreferenceData {
    AlignPreferenceData::builder().format(format.to_owned()).build().expect("a format")
}

#[test]
fn supervised_formats() {
    let check = |format: &str, row: Value, question: &str, answer: &str, needed: &[&str]| {
        let kind = supervised(format);
        let expected = [format!("user: {question}"), format!("assistant: {answer}")];
        assert_eq!(said(&read(&kind, &row).conversation), expected, "{format}");
        needed.iter().for_each(|field| refuses(&kind, without(&row, field), "missing field", &[field]));
    };
    check("AA_T2T", json!({"prompt": "q", "response": "a"}), "q", "a", &["prompt", "response"]);
    let picture = json!({"image": "a.png", "prompt": "q", "response": "a"});
    check("AA_TI2T", picture.clone(), "▣q", "a", &["image", "prompt", "response"]);
    check("SafeRLHF_V", picture.clone(), "▣q", "a", &["image", "prompt", "response"]);
    check("GSM8K", json!({"question": "q", "answer": "a"}), "q", "a", &["question", "answer"]);
    check("GQA", json!({"image_path": "a.png", "question": "q", "answer": "a"}), "▣q", "a", &["image_path"]);
    let alpaca = json!({"instruction": "Add.", "input": "1", "output": "a"});
    check("Alpaca", alpaca.clone(), "Add. 1", "a", &["instruction", "output"]);
    check("Alpaca", without(&alpaca, "input"), "Add.", "a", &[]);
    let summary = "Please summarize the following text: c";
    check("TLDR", json!({"content": "c", "summary": "s"}), summary, "s", &["content", "summary"]);
    let aligner = json!({"question": "q", "answer": "a", "correction": "c"});
    let fields = &["question", "answer", "correction"];
    check("Aligner", aligner.clone(), "##QUESTION: q ##ANSWER: a", "##CORRECTION: c", fields);
    refuses(&supervised("Aligner"), with(&aligner, "correction", json!(" ")), "empty answer", &["`correction`"]);
    let vqa = json!({"image": "a.png", "question": "q", "answers": ["x", "y", "z", "y", "z"]});
    check("OK-VQA", vqa.clone(), "▣q", "y", &["image", "question"]);
    refuses(&supervised("OK-VQA"), with(&vqa, "answers", json!([])), "missing field", &["`answers`"]);
    refuses(&supervised("OK-VQA"), without(&vqa, "answers"), "missing field", &["`answers`"]);
    let turns = json!([{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]);
    check("LLaVA_Pretrain", json!({"image": "a.png", "conversations": turns}), "▣\nq", "a", &["conversations"]);
    images_are_files(&supervised("AA_TI2T"), &picture, "image");
    refuses(&supervised("AA_TI2T"), with(&picture, "response", json!("")), "empty answer", &["`response`"]);
    let error = AlignSupervisedData::builder().format("AA_TA2T".to_owned()).build().expect_err("audio").to_string();
    assert!(error.contains("AA_TI2T") && error.contains("AA_TA2T"), "{error}");
}

#[test]
fn preference_formats() {
    let check = |format: &str, row: Value, question: &str, better: &str, worse: &str| {
        let sample = read(&preference(format), &row);
        assert_eq!(said(&sample.conversation), [format!("user: {question}")], "{format}");
        let answers = (lines(&sample.target.chosen), lines(&sample.target.rejected));
        assert_eq!(answers, (vec![format!("assistant: {better}")], vec![format!("assistant: {worse}")]), "{format}");
        let fields = row.as_object().into_iter().flat_map(|row| row.keys());
        fields.for_each(|field| refuses(&preference(format), without(&row, field), "missing field", &[field]));
    };
    let safe = json!({"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1});
    check("PKUSafeRLHF", safe, "q", "b", "a");
    let ti2t = json!({"image": "a.png", "question": "q", "response_1": "a", "response_2": "b", "overall_response": 2});
    check("AA_TI2T", ti2t.clone(), "▣q", "b", "a");
    check("AA_TI2T", with(&ti2t, "overall_response", json!("1")), "▣q", "a", "b");
    for neither in [json!(0), json!(3), json!("-1")] {
        refuses(
            &preference("AA_TI2T"),
            with(&ti2t, "overall_response", neither),
            "no preference",
            &["overall_response"],
        );
    }
    refuses(&preference("AA_TI2T"), with(&ti2t, "overall_response", json!("tie")), "wrong type", &["1 or 2"]);
    refuses(&preference("AA_TI2T"), with(&ti2t, "response_1", json!("b ")), "equal answers", &["response_2"]);
    images_are_files(&preference("AA_TI2T"), &ti2t, "image");
    let reward =
        json!({"image": "a.png", "question": "q", "response_1": "a", "response_2": "b", "more_helpful_response_id": 1});
    check("SafeRLHF_V_Reward", reward, "▣q", "a", "b");
    check("AA_TI2T_LLF", json!({"image": "a.png", "prompt": "q", "refinement": "a", "response": "b"}), "▣q", "a", "b");
    let named = json!({"image": "a.png", "question": "q", "chosen": "a", "rejected": "b"});
    check("RLAIFV", named.clone(), "▣q", "a", "b");
    check("SPA_VL", with(&named, "question", json!("q\n<image>")), "q\n▣", "a", "b");
    check("Aligner", json!({"question": "q", "answer": "b", "correction": "a"}), "q", "a", "b");
}

#[test]
fn prompt_formats() {
    let check = |format: &str, row: Value, question: &str| {
        let kind = AlignPromptsData::builder().format(format.to_owned()).build().expect("a format");
        assert_eq!(said(&read(&kind, &row).conversation), [format!("user: {question}")], "{format}");
        let fields = row.as_object().into_iter().flat_map(|row| row.keys());
        fields.for_each(|field| refuses(&kind, without(&row, field), "missing field", &[field]));
    };
    for format in ["PKUSafeRLHF", "AA_T2T"] {
        check(format, json!({"prompt": "q"}), "q");
    }
    for format in ["GSM8K", "Aligner"] {
        check(format, json!({"question": "q"}), "q");
    }
    for format in ["AA_TI2T", "SafeRLHF_V_Reward", "RLAIFV", "SPA_VL"] {
        check(format, json!({"image": "a.png", "question": "q"}), "▣q");
    }
    check("AA_TI2T_LLF", json!({"image": "a.png", "prompt": "q"}), "▣q");
}
