//! What one training example consists of, as types: a conversation to learn, a pair of answers, a judged answer, …
//!
//! A data kind says which shape its records have, an objective which shape it learns from, and the compiler holds the
//! two together ([`Provides`]).

use crate::text::{Conversation, Message, Part, Role};
use std::fmt::Debug;

/// The shape of an example: what a record holds besides its conversation, and the rows that a model is shown.
pub trait Shape: Copy + Debug + Send + Sync + 'static {
    /// What a record holds besides the conversation.
    type Target: Clone + Debug + PartialEq + Send + Sync;

    /// What messages call it.
    const NAME: &'static str;

    /// Rows of one example in a batch.
    const ROWS: usize;

    /// What each of the rows is called, [`ROWS`](Self::ROWS) names.
    const PLACES: &'static [&'static str];

    /// What is learned from a row.
    const LEARNS: Learns = Learns::Answers;

    /// Whether every answer is there to be imitated, so that the share of its tokens that a model would have chosen says
    /// how well it has learned.
    const IMITATES: bool = false;

    /// Whether the answer that [`shown`](Self::shown) ends with is a right one, so that a generated answer can be compared with
    /// it.
    const SHOWS: bool = true;

    /// The conversations that a model is shown, [`ROWS`](Self::ROWS) of them; what is to be learned is the assistant's
    /// turns whose `train` is set.
    fn rows(context: &Conversation, target: &Self::Target) -> Vec<Conversation>;

    /// What the objective is told of the example besides its rows.
    fn facts(_target: &Self::Target) -> Facts {
        Facts::default()
    }

    /// The context of one example with the answer of another, for estimates over mismatched pairs; `None` where the
    /// shape has no use for them.
    fn mismatched(_context: &Conversation, _other: &Self::Target) -> Option<Conversation> {
        None
    }

    /// An example of this shape made of a question with a right and a wrong answer.
    fn made(exchange: &Exchange) -> (Conversation, Self::Target);

    /// The conversation whose last answer an evaluation generates anew and compares.
    fn shown(context: &Conversation, target: &Self::Target) -> Conversation {
        Self::rows(context, target).swap_remove(0)
    }
}

/// What is learned from a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learns {
    /// The tokens of the assistant's turns.
    Answers,
    /// A value for the whole row, read at its last token.
    Row,
    /// A value for each step of the answer, read at the step's last token.
    Steps,
}

/// A question that a recipe without data makes up, with all that an example of any shape can be made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// The user's message.
    pub question: Vec<Part>,
    /// The right answer.
    pub right: String,
    /// A wrong one.
    pub wrong: String,
    /// Another message of the user's, and the class that it is of.
    pub about: (Vec<Part>, usize),
    /// Which of two forms the example takes, where its shape has two: every other example is odd.
    pub odd: bool,
}

impl Exchange {
    fn asked(&self) -> Conversation {
        Conversation::new(vec![Message::new(Role::User, self.question.clone())])
    }
}

fn answer(text: &str) -> Vec<Message> {
    vec![Message::text(Role::Assistant, text)]
}

/// What an objective is told of one example besides its rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// By how much the chosen answer is better, in the units of the implicit reward.
    pub margin: Option<f64>,
    /// Scores that a reward model gave the chosen and the rejected answer.
    pub scores: Option<[f64; 2]>,
    /// Whether the chosen and the rejected answer are harmless.
    pub safe: Option<[bool; 2]>,
    /// Whether the answer is desirable.
    pub desirable: Option<bool>,
    /// The class or the values of the row.
    pub label: Option<Label>,
    /// Whether each step of the answer is right, in order.
    pub steps: Vec<bool>,
}

/// What a classifier should say of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Label {
    /// One class, counted from 0.
    Class(usize),
    /// One number for each output: 0 or 1 where several classes may hold, any number in regression.
    Values(Vec<f64>),
}

/// A conversation whose answers are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supervised {}

impl Shape for Supervised {
    type Target = ();
    const NAME: &'static str = "a conversation";
    const IMITATES: bool = true;
    const ROWS: usize = 1;
    const PLACES: &'static [&'static str] = &["answer"];

    fn rows(context: &Conversation, (): &()) -> Vec<Conversation> {
        vec![context.clone()]
    }

    fn made(exchange: &Exchange) -> (Conversation, ()) {
        (answered(&exchange.asked(), &answer(&exchange.right)), ())
    }
}

/// A question and two answers, one better than the other. `X` is what the record says of the pair besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs<X = Plain>(std::marker::PhantomData<X>);

/// The two answers of a pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair<X = Plain> {
    /// The better one.
    pub chosen: Vec<Message>,
    /// The worse one.
    pub rejected: Vec<Message>,
    /// What the record says of the pair besides.
    pub extra: X,
}

/// What a record says of a pair besides its answers.
pub trait PairExtra: Copy + Debug + PartialEq + Send + Sync + 'static {
    /// As the objective is told.
    fn facts(&self) -> Facts;

    /// What is said of a pair that a recipe makes up: this, and whether its chosen answer is the wrong one.
    fn made() -> (Self, bool);
}

/// Nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Plain;

/// A margin: by how much the chosen answer is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin(pub f64);

/// The scores that a reward model gave the two answers, the chosen one's first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores(pub [f64; 2]);

/// Whether the two answers are harmless; chosen is then the more harmful one, which costs more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Safety(pub [bool; 2]);

impl PairExtra for Plain {
    fn facts(&self) -> Facts {
        Facts::default()
    }

    fn made() -> (Self, bool) {
        (Self, false)
    }
}

impl PairExtra for Margin {
    fn facts(&self) -> Facts {
        Facts { margin: Some(self.0), ..Facts::default() }
    }

    fn made() -> (Self, bool) {
        (Self(0.5), false)
    }
}

impl PairExtra for Scores {
    fn facts(&self) -> Facts {
        Facts { scores: Some(self.0), ..Facts::default() }
    }

    fn made() -> (Self, bool) {
        (Self([2.0, -2.0]), false)
    }
}

impl PairExtra for Safety {
    fn facts(&self) -> Facts {
        Facts { safe: Some(self.0), ..Facts::default() }
    }

    fn made() -> (Self, bool) {
        (Self([false, true]), true)
    }
}

impl<X: PairExtra> Shape for Pairs<X> {
    type Target = Pair<X>;
    const NAME: &'static str = "a pair of answers";
    const ROWS: usize = 2;
    const PLACES: &'static [&'static str] = &["chosen", "rejected"];

    fn rows(context: &Conversation, pair: &Pair<X>) -> Vec<Conversation> {
        vec![answered(context, &pair.chosen), answered(context, &pair.rejected)]
    }

    fn facts(pair: &Pair<X>) -> Facts {
        pair.extra.facts()
    }

    fn made(exchange: &Exchange) -> (Conversation, Pair<X>) {
        let (extra, wrong_is_chosen) = X::made();
        let (right, wrong) = (answer(&exchange.right), answer(&exchange.wrong));
        let (chosen, rejected) = if wrong_is_chosen { (wrong, right) } else { (right, wrong) };
        (exchange.asked(), Pair { chosen, rejected, extra })
    }
}

/// A question and an answer that is desirable or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpaired {}

/// An answer and its judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The answer.
    pub answer: Vec<Message>,
    /// Whether it is desirable.
    pub desirable: bool,
}

impl Shape for Unpaired {
    type Target = Judged;
    const NAME: &'static str = "a judged answer";
    const SHOWS: bool = false;
    const ROWS: usize = 1;
    const PLACES: &'static [&'static str] = &["answer"];

    fn rows(context: &Conversation, judged: &Judged) -> Vec<Conversation> {
        vec![answered(context, &judged.answer)]
    }

    fn facts(judged: &Judged) -> Facts {
        Facts { desirable: Some(judged.desirable), ..Facts::default() }
    }

    fn made(exchange: &Exchange) -> (Conversation, Judged) {
        let text = if exchange.odd { &exchange.wrong } else { &exchange.right };
        (exchange.asked(), Judged { answer: answer(text), desirable: !exchange.odd })
    }

    fn mismatched(context: &Conversation, other: &Judged) -> Option<Conversation> {
        Some(answered(context, &other.answer))
    }
}

/// A conversation with a class, several classes, or numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labelled {}

impl Shape for Labelled {
    type Target = Label;
    const NAME: &'static str = "a labelled conversation";
    const ROWS: usize = 1;
    const PLACES: &'static [&'static str] = &["text"];
    const LEARNS: Learns = Learns::Row;

    fn rows(context: &Conversation, _label: &Label) -> Vec<Conversation> {
        vec![context.clone()]
    }

    fn facts(label: &Label) -> Facts {
        Facts { label: Some(label.clone()), ..Facts::default() }
    }

    fn made(exchange: &Exchange) -> (Conversation, Label) {
        let (about, class) = exchange.about.clone();
        (Conversation::new(vec![Message::new(Role::User, about)]), Label::Class(class))
    }
}

/// A question and an answer in steps, each right or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {}

/// One step of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its words.
    pub text: String,
    /// Whether it is right.
    pub right: bool,
}

impl Shape for Steps {
    type Target = Vec<Step>;
    const NAME: &'static str = "an answer in steps";
    const ROWS: usize = 1;
    const PLACES: &'static [&'static str] = &["answer"];
    const LEARNS: Learns = Learns::Steps;

    fn rows(context: &Conversation, steps: &Vec<Step>) -> Vec<Conversation> {
        let parts = steps.iter().map(|step| Part::Text(step.text.clone())).collect();
        vec![answered(context, &[Message::new(Role::Assistant, parts)])]
    }

    fn facts(steps: &Vec<Step>) -> Facts {
        Facts { steps: steps.iter().map(|step| step.right).collect(), ..Facts::default() }
    }

    fn made(exchange: &Exchange) -> (Conversation, Vec<Step>) {
        let step = |text: &str, right| Step { text: format!("{text}\n"), right };
        let mut steps = vec![step(&exchange.right, true), step(&exchange.wrong, false)];
        if exchange.odd {
            steps.reverse();
        }
        (exchange.asked(), steps)
    }
}

/// A conversation that awaits an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompts {}

impl Shape for Prompts {
    type Target = ();
    const NAME: &'static str = "a question";
    const ROWS: usize = 1;
    const PLACES: &'static [&'static str] = &["question"];

    fn rows(context: &Conversation, (): &()) -> Vec<Conversation> {
        vec![context.clone()]
    }

    fn made(exchange: &Exchange) -> (Conversation, ()) {
        (exchange.asked(), ())
    }
}

impl Provides<Prompts> for Prompts {}

/// The context, none of which is learned, and an answer.
fn answered(context: &Conversation, answer: &[Message]) -> Conversation {
    let mut conversation = context.clone();
    conversation.messages.iter_mut().for_each(|message| message.train = false);
    conversation.messages.extend_from_slice(answer);
    conversation
}

/// A shape of records that an objective over shape `S` can learn from.
#[diagnostic::on_unimplemented(
    message = "the objective learns from `{S}`, but the data kind has records of the shape `{Self}`",
    label = "records of another shape",
    note = "choose a data kind whose records are of the objective's shape: conversations for `Sft`, pairs for `Dpo`, pairs \
            with margins for `DpoMargin`, judged answers for `Kto`, labelled conversations for `Classification`"
)]
pub trait Provides<S> {}

impl Provides<Supervised> for Supervised {}
// Pairs of safety are no pairs of preference: their chosen answer is the more harmful one.
impl Provides<Pairs> for Pairs {}
impl Provides<Pairs> for Pairs<Margin> {}
impl Provides<Pairs> for Pairs<Scores> {}
impl Provides<Pairs<Margin>> for Pairs<Margin> {}
impl Provides<Pairs<Scores>> for Pairs<Scores> {}
impl Provides<Pairs<Safety>> for Pairs<Safety> {}
impl Provides<Unpaired> for Unpaired {}
impl Provides<Labelled> for Labelled {}
impl Provides<Steps> for Steps {}
