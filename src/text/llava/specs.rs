//! LLaVA's conversations as data: the keys of its `conv_templates` with their words and one of five styles.

const VICUNA_USER: &str = "A chat between a curious user and an artificial intelligence assistant. \
    The assistant gives helpful, detailed, and polite answers to the user's questions.";
const VICUNA_HUMAN: &str = "A chat between a curious human and an artificial intelligence assistant. \
    The assistant gives helpful, detailed, and polite answers to the human's questions.";
const MMTAG: &str = "A chat between a curious user and an artificial intelligence assistant. \
    The assistant is able to understand the visual content that the user provides, and assist the user with a variety \
    of tasks using natural language.The visual content will be provided with the following format: \
    <Image>visual content</Image>.";
/// Meta's text for Llama 2, with its two spaces after "safe.".
const LLAMA_2: &str = "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, \
    while being safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or \
    illegal content. Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question \
    does not make any sense, or is not factually coherent, explain why instead of answering something not correct. If \
    you don't know the answer to a question, please don't share false information.";
const LLAVA_LLAMA_2: &str = "You are a helpful language and vision assistant. You are able to understand the visual \
    content that the user provides, and assist the user with a variety of tasks using natural language.";
const MPT: &str = "A conversation between a user and an LLM-based AI assistant. \
    The assistant gives helpful and honest answers.";
const CHATML_DIRECT: &str = "Answer the questions.";

/// The exchange that `v0` shows in front of every prompt.
const V0_EXAMPLE: (&str, &str) = (
    "What are the key differences between renewable and non-renewable energy sources?",
    "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, such as \
     solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are finite and will \
     eventually be depleted, such as coal, oil, and natural gas. Here are some key differences between renewable and \
     non-renewable energy sources:\n\
     1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources are \
     finite and will eventually run out.\n\
     2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable \
     sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n\
     3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower \
     operational costs than non-renewable sources.\n\
     4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations than \
     non-renewable sources.\n\
     5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations and \
     needs, while non-renewable sources are more rigid and inflexible.\n\
     6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable sources \
     are not, and their depletion can lead to economic and social instability.\n",
);

/// How turns are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Training: `SYSTEM\n\n### Human: q\n### Assistant: a\n### `; prompt: `SYSTEM###Human: q###Assistant:`, with
    /// `example` after the system text.
    Hashed { example: Option<(&'static str, &'static str)> },
    /// `SYSTEM USER: q ASSISTANT: a</s>USER: …`
    Labelled,
    /// `[INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nq [/INST] a </s>`, each later turn opened by `opening`.
    Instruct { opening: &'static str },
    /// `<|im_start|>system\nSYSTEM<|im_end|><|im_start|>user\nq<|im_end|><|im_start|>assistant\na<|im_end|>`
    Fenced,
    /// `<image>caption\n`: pretraining of the projector.
    Caption,
}

impl Style {
    /// What ends an answer; in the styles that come from Llama the tokenizer's end of sequence.
    pub(super) fn stop(self) -> &'static str {
        match self {
            Self::Hashed { .. } => "###",
            Self::Labelled | Self::Instruct { .. } => "</s>",
            Self::Fenced => "<|im_end|>",
            Self::Caption => "\n",
        }
    }
}

/// One of LLaVA's conversations.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) system: &'static str,
    pub(super) style: Style,
    /// Images are written `<Image><image></Image>`.
    pub(super) tagged: bool,
}

const fn spec(name: &'static str, system: &'static str, style: Style) -> Spec {
    Spec { name, system, style, tagged: false }
}

const fn tagged(name: &'static str, style: Style) -> Spec {
    Spec { name, system: MMTAG, style, tagged: true }
}

const V0: Style = Style::Hashed { example: Some(V0_EXAMPLE) };
const LLAVA_V0: Style = Style::Hashed { example: None };
const LLAMA: Style = Style::Instruct { opening: "<s>" };

/// LLaVA 1.5's own first.
pub(super) const CONVERSATIONS: &[Spec] = &[
    spec("v1", VICUNA_USER, Style::Labelled),
    spec("vicuna_v1", VICUNA_USER, Style::Labelled),
    spec("llava_v1", VICUNA_HUMAN, Style::Labelled),
    tagged("v1_mmtag", Style::Labelled),
    spec("plain", "", Style::Caption),
    spec("v0_plain", "", Style::Caption),
    spec("default", VICUNA_HUMAN, V0),
    spec("v0", VICUNA_HUMAN, V0),
    spec("llava_v0", VICUNA_HUMAN, LLAVA_V0),
    tagged("v0_mmtag", LLAVA_V0),
    spec("llama_2", LLAMA_2, LLAMA),
    spec("llava_llama_2", LLAVA_LLAMA_2, LLAMA),
    spec("mistral_instruct", "", Style::Instruct { opening: "" }),
    spec("mpt", MPT, Style::Fenced),
    spec("chatml_direct", CHATML_DIRECT, Style::Fenced),
    spec("mistral_direct", CHATML_DIRECT, Style::Fenced),
];
