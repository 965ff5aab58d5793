"""The fixed records that the TRL generators train on. Plain data: nothing here imports anything.

Short on purpose (the tiny tokenizer spells most words out) and never changed without regenerating every fixture.
"""


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


# Pairs: several turns before the answer, a system message of its own, multi-byte text, answers that share a
# beginning, a longer chosen, a longer rejected answer, margins of both signs and zero.
PAIRS = [
    {"id": "short", "prompt": [user("Name a prime number greater than ten.")],
     "chosen": [assistant("11")], "rejected": [assistant("12")], "margin": 1.0},
    {"id": "long-chosen", "prompt": [user("How does a picture become tokens?")],
     "chosen": [assistant("The picture is cut into patches; each patch becomes one token.")],
     "rejected": [assistant("It does not.")], "margin": 0.5},
    {"id": "long-rejected", "prompt": [user("Is the sky blue?")],
     "chosen": [assistant("Yes.")],
     "rejected": [assistant("No, the sky is a dark picture with pale stripes.")], "margin": 0.25},
    {"id": "two-turns", "prompt": [user("Is the sky blue?"), assistant("Yes."), user("And at night?")],
     "chosen": [assistant("Dark, with stars.")], "rejected": [assistant("Dark, with discs.")], "margin": 0.0},
    {"id": "three-turns",
     "prompt": [user("Is this grey?"), assistant("Yes."), user("How bright is it?"), assistant("Darker on the left."),
                user("Thank you.")],
     "chosen": [assistant("You are welcome!")], "rejected": [assistant("No.")], "margin": 2.0},
    {"id": "multi-byte", "prompt": [user("Antworte auf Deutsch: große Übung?")],
     "chosen": [assistant("Schöne Grüße 🙂")], "rejected": [assistant("Привет")], "margin": -0.5},
    {"id": "system", "prompt": [system("Give polite answers."), user("Which of the two has stars?")],
     "chosen": [assistant("The first has stars.")], "rejected": [assistant("The second.")], "margin": 0.75},
    {"id": "same-start", "prompt": [user("Name the first picture.")],
     "chosen": [assistant("A dark ridge under a pale sky.")],
     "rejected": [assistant("A dark ridge under a pale token.")], "margin": 1.5},
]

# Unpaired: five desirable, three not; a batch of four has both kinds, answers of every length, several turns.
UNPAIRED = [
    {"id": "yes", "prompt": [user("Is the sky blue?")], "completion": [assistant("Yes.")], "label": True},
    {"id": "no", "prompt": [user("Name a prime number greater than ten.")], "completion": [assistant("12")],
     "label": False},
    {"id": "tokens", "prompt": [user("How does a picture become tokens?")],
     "completion": [assistant("The picture is cut into patches.")], "label": True},
    {"id": "turns", "prompt": [user("Is the sky blue?"), assistant("Yes."), user("And at night?")],
     "completion": [assistant("Dark, with stars.")], "label": True},
    {"id": "rude", "prompt": [user("Thank you.")], "completion": [assistant("No.")], "label": False},
    {"id": "multi-byte", "prompt": [user("Antworte auf Deutsch: große Übung?")],
     "completion": [assistant("Schöne Grüße 🙂")], "label": True},
    {"id": "system", "prompt": [system("Give polite answers."), user("Which has stars?")],
     "completion": [assistant("The second has stripes.")], "label": False},
    {"id": "ridge", "prompt": [user("Name the first picture.")],
     "completion": [assistant("A dark ridge under a pale sky.")], "label": True},
]

# Steps with one label each, as the process reward model reads them: one to four steps, all right, all wrong, mixed.
SCORED = [
    {"id": "one-right", "prompt": "Is 11 prime?", "completions": ["Yes."], "labels": [True]},
    {"id": "one-wrong", "prompt": "Is 12 prime?", "completions": ["Yes."], "labels": [False]},
    {"id": "two", "prompt": "Which is greater?", "completions": ["11 is a prime number.", "12 is greater than 11."],
     "labels": [True, True]},
    {"id": "wrong-end", "prompt": "Is the sky blue?", "completions": ["The sky is pale.", "The sky has stripes."],
     "labels": [True, False]},
    {"id": "three", "prompt": "How does a picture become tokens?",
     "completions": ["The picture is cut.", "A patch is a token.", "The text has stars."],
     "labels": [True, True, False]},
    {"id": "wrong-start", "prompt": "Name a number.", "completions": ["A picture.", "No: 11."],
     "labels": [False, True]},
    {"id": "four", "prompt": "Count.", "completions": ["1", "2", "4", "5"], "labels": [True, True, False, False]},
    {"id": "multi-byte", "prompt": "Antworte auf Deutsch.", "completions": ["Schöne Grüße", "你好"],
     "labels": [True, False]},
]

# Conversations for supervised training: the first two have one answer, the third two, the fourth multi-byte text.
SUPERVISED = [
    {"id": "short", "messages": [user("Name a prime number greater than ten."), assistant("11")]},
    {"id": "long", "messages": [user("How does a picture become tokens?"),
                                assistant("The picture is cut into patches; each patch becomes one token.")]},
    {"id": "turns", "messages": [user("Is the sky blue?"), assistant("Yes."), user("And at night?"),
                                 assistant("Dark, with stars.")]},
    {"id": "multi-byte", "messages": [user("Antworte auf Deutsch: große Übung?"), assistant("Schöne Grüße 🙂")]},
]

# Forms of a pair whose tokens TRL makes differently; only their ids are in the fixtures.
FORMS = {
    "plain": {"prompt": "The first prime greater than ten is", "chosen": " 11.", "rejected": " 12."},
    "plain_with_eos": {"prompt": "The first prime greater than ten is", "chosen": " 11.</s>", "rejected": " 12."},
    "plain_space_in_prompt": {"prompt": "The first prime greater than ten is ", "chosen": "11.", "rejected": "12."},
    "plain_implicit_prompt": {"chosen": "The first prime is 11.", "rejected": "The first prime is 12."},
    "implicit_prompt": {"chosen": [user("Is the sky blue?"), assistant("Yes.")],
                        "rejected": [user("Is the sky blue?"), assistant("No.")]},
    "turns_in_the_answer": {"prompt": [user("Is the sky blue?")],
                            "chosen": [assistant("Yes."), user("And at night?"), assistant("Dark.")],
                            "rejected": [assistant("No.")]},
}
