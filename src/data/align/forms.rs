//! The fields of align-anything's data sets.

/// One data set's form: what is asked, about which image, and `T`, what is learned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form<T> {
    pub(super) ask: Ask,
    pub(super) image: Option<&'static str>,
    pub(super) target: T,
}

/// How the question is made of a row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// It is this field.
    Field(&'static str),
    /// Alpaca's instruction and input.
    Instruction,
    /// Aligner's question and answer, to be corrected.
    Aligner,
    /// TLDR's text, to be summarized.
    Summary,
}

/// How the answer is made of a row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Supervision {
    /// It is this field.
    Field(&'static str),
    /// Aligner's correction.
    Correction,
    /// The most frequent of this list.
    MostFrequent(&'static str),
    /// The row is LLaVA's.
    Llava,
}

/// How the better and the worse answer are told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Preference {
    /// The better one is the first field, the worse one the second.
    Fields([&'static str; 2]),
    /// `by` has the number of the better one, counted from `first`.
    Judged {
        /// The answers.
        fields: [&'static str; 2],
        /// The field of the judgement.
        by: &'static str,
        /// The number of the first answer.
        first: i64,
    },
}

pub(super) const SUPERVISED: &[&str] = &[
    "AA_T2T",
    "AA_TI2T",
    "SafeRLHF_V",
    "Alpaca",
    "Aligner",
    "GSM8K",
    "GQA",
    "OK-VQA",
    "TLDR",
    "LLaVA_Pretrain",
    "ShareGPT-4o",
];

pub(super) const SUPERVISED_FIELDS: &[&str] = &[
    "id",
    "prompt",
    "response",
    "image",
    "instruction",
    "input",
    "output",
    "question",
    "answer",
    "answers",
    "correction",
    "image_path",
    "content",
    "summary",
    "conversations",
    "conversations[].from",
    "conversations[].value",
];

pub(super) const PREFERENCE: &[&str] =
    &["PKUSafeRLHF", "AA_TI2T", "SafeRLHF_V_Reward", "AA_TI2T_LLF", "RLAIFV", "SPA_VL", "Aligner"];

pub(super) const PREFERENCE_FIELDS: &[&str] = &[
    "id",
    "prompt",
    "question",
    "image",
    "response",
    "response_0",
    "response_1",
    "response_2",
    "better_response_id",
    "overall_response",
    "more_helpful_response_id",
    "refinement",
    "chosen",
    "rejected",
    "answer",
    "correction",
];

pub(super) const PROMPTS: &[&str] =
    &["PKUSafeRLHF", "AA_TI2T", "SafeRLHF_V_Reward", "AA_TI2T_LLF", "RLAIFV", "SPA_VL", "Aligner", "GSM8K", "AA_T2T"];

pub(super) const PROMPT_FIELDS: &[&str] = &["id", "prompt", "question", "image"];

/// The form of this name, which the settings' table has checked.
pub(super) fn supervised(name: &str) -> Form<Supervision> {
    let (ask, image, target) = match name {
        "AA_T2T" => (Ask::Field("prompt"), None, Supervision::Field("response")),
        "Alpaca" => (Ask::Instruction, None, Supervision::Field("output")),
        "Aligner" => (Ask::Aligner, None, Supervision::Correction),
        "GSM8K" => (Ask::Field("question"), None, Supervision::Field("answer")),
        "GQA" => (Ask::Field("question"), Some("image_path"), Supervision::Field("answer")),
        "OK-VQA" => (Ask::Field("question"), Some("image"), Supervision::MostFrequent("answers")),
        "TLDR" => (Ask::Summary, None, Supervision::Field("summary")),
        "LLaVA_Pretrain" | "ShareGPT-4o" => (Ask::Field("conversations"), Some("image"), Supervision::Llava),
        _ => (Ask::Field("prompt"), Some("image"), Supervision::Field("response")),
    };
    Form { ask, image, target }
}

/// The form of this name, which the settings' table has checked.
pub(super) fn preference(name: &str) -> Form<Preference> {
    let (ask, image) = prompt(name);
    let target = match name {
        "PKUSafeRLHF" => {
            Preference::Judged { fields: ["response_0", "response_1"], by: "better_response_id", first: 0 }
        }
        "SafeRLHF_V_Reward" => {
            Preference::Judged { fields: ["response_1", "response_2"], by: "more_helpful_response_id", first: 1 }
        }
        "AA_TI2T_LLF" => Preference::Fields(["refinement", "response"]),
        "RLAIFV" | "SPA_VL" => Preference::Fields(["chosen", "rejected"]),
        "Aligner" => Preference::Fields(["correction", "answer"]),
        _ => Preference::Judged { fields: ["response_1", "response_2"], by: "overall_response", first: 1 },
    };
    Form { ask, image, target }
}

/// The question and the image of the form of this name.
pub(super) fn prompt(name: &str) -> (Ask, Option<&'static str>) {
    match name {
        "PKUSafeRLHF" | "AA_T2T" => (Ask::Field("prompt"), None),
        "Aligner" | "GSM8K" => (Ask::Field("question"), None),
        "AA_TI2T_LLF" => (Ask::Field("prompt"), Some("image")),
        _ => (Ask::Field("question"), Some("image")),
    }
}
