"""Fixtures of src/metrics: what the reference implementations say of texts, classes, rankings and resamples.

    python text_metrics.py ../../fixtures/metrics [--pairs 36]

sacrebleu 2.6.0, rouge_score 0.1.2, nltk 3.10.4, scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6, jsonschema 4.26.0,
regex 2026.11.15, on Python 3.11. Where a metric is no package but the evaluation program of a challenge (SQuAD, DocVQA, VQA,
POPE, ScienceQA), or a formula of a paper, its rules are written down here anew.

The texts are drawn: sentences and edits of them, with numbers, markup, odd white space, contractions, many scripts, emoji, lone
combining marks, and nothing at all. `--pairs 300` writes more of them, for a check by hand; what is committed is small.
"""

import argparse
import json
import random
import re
import string
import unicodedata
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import meteor_score
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from scipy import special, stats
from sklearn import metrics as sk

WORDS = """the a an cat dogs running relational sat on mat quickly Ponies happiness agreed troubled conflated rational hopping
controlling fall 3 12 1,000.5 U.S. don't it's rock-n-roll e-mail (maybe) "quoted" end. yes, no; what? wow! $5 50% #tag @you
foo/bar &amp; &lt;b&gt; <skipped> x=y A&B ... -- well- 3-4 .5 5. ,7 7, naïve café Straße İstanbul ΣΟΦΟΣ Привет мир 你好 世界
日本語です こんにちは مرحبا שלום हिन्दी ไทย 👩‍👩‍👧 🙂 e\u0301 \u0301 ½ Ⅷ ² ٣ «да» “so” ‘it’ — – … ¿qué? €9 ™ ° ∑ ≤ \u200b \ufeff
national organization generalizations oscillators dying lying skies news innings proceed flies died spied enjoy logi
archaeology analogous sensibility formative electricity goodness activate adoption cease rate roll controll yyy sayyy""".split()
SPACES = [" ", " ", " ", " ", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\x1c", "\x0b", "-\n", "\u3000", "\u2028", "\n\n"]
TOKENIZERS = ["13a", "intl", "char", "none"]
SMOOTHING = [("exp", None), ("floor", 0.1), ("add-k", 1), ("none", None)]
ROUGES = ["rouge1", "rouge2", "rouge4", "rougeL", "rougeLsum"]
VOCABULARY = 32000


def noise(rng):
    while True:
        code = rng.choice([rng.randrange(0x20, 0x250), rng.randrange(0x370, 0x600), rng.randrange(0x900, 0xE80),
                           rng.randrange(0x2000, 0x2C00), rng.randrange(0x3000, 0x3200), rng.randrange(0x1F300, 0x1F700)])
        if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co"):
            return chr(code)


def sentence(rng, longest=24):
    kind = rng.random()
    if kind < 0.04:
        return rng.choice(["", " ", "\n", "\u200b", ".", "...", "?!", " . ", "a", "the", "\u0301"])
    words = [rng.choice(WORDS) if rng.random() < 0.93 else "".join(noise(rng) for _ in range(rng.randint(1, 4)))
             for _ in range(rng.randint(1, longest))]
    if kind < 0.2:
        words = [rng.choice(words)] * rng.randint(2, 12)
    spaces = SPACES if kind < 0.5 else [" "]
    text = "".join(word + rng.choice(spaces) for word in words)
    return text if rng.random() < 0.3 else text.strip()


def edited(rng, text):
    words = text.split(" ")
    for _ in range(rng.randint(0, 5)):
        at = rng.randrange(len(words) + 1)
        action = rng.random()
        if action < 0.3:
            words.insert(at, rng.choice(WORDS))
        elif action < 0.6 and len(words) > 1:
            words.pop(min(at, len(words) - 1))
        elif action < 0.8:
            rng.shuffle(words)
        elif words:
            words[min(at, len(words) - 1)] = words[min(at, len(words) - 1)].upper()
    return " ".join(words)


def pairs(rng, count):
    found = []
    for _ in range(count):
        first = sentence(rng)
        references = [first] + [edited(rng, first) if rng.random() < 0.7 else sentence(rng) for _ in range(rng.choice([0, 0, 1, 2]))]
        answer = edited(rng, rng.choice(references)) if rng.random() < 0.8 else sentence(rng)
        found.append((answer, references))
    return found


# Overlap with references.

class NoSynonyms:
    def synsets(self, word):
        return []


def meteor(answer, references):
    words = Tokenizer13a()
    split = lambda text: words(text.rstrip()).split()
    return float(meteor_score([split(text) for text in references], split(answer), wordnet=NoSynonyms()))


def squad_plain(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(answer, reference):
    ours, theirs = squad_plain(answer).split(), squad_plain(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, before = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def anls(answer, references):
    values = []
    for reference in references:
        distance = levenshtein(" ".join(reference.strip().lower().split()), " ".join(answer.strip().lower().split()))
        length = max(len(reference.upper()), len(answer.upper()))
        values.append(0.0 if length == 0 else distance / length)
    result = 1 - min(values)
    return 0.0 if result < 0.5 else result


def against_references(cases):
    sentence_bleu = {f"bleu/{t}/{s}": BLEU(tokenize=t, smooth_method=s, smooth_value=v, effective_order=True)
                     for t in TOKENIZERS for s, v in SMOOTHING}
    chrfs = {"chrf": CHRF(), "chrf++": CHRF(word_order=2), "chrf/lower": CHRF(lowercase=True, beta=1)}
    scorers = {stem: rouge_scorer.RougeScorer(ROUGES, use_stemmer=stem) for stem in (False, True)}
    names, rows = None, []
    for answer, references in cases:
        values = {name: bleu.sentence_score(answer, references).score for name, bleu in sentence_bleu.items()}
        values["bleu/lower"] = BLEU(lowercase=True, effective_order=True).sentence_score(answer, references).score
        values["bleu/2"] = BLEU(max_ngram_order=2, effective_order=True).sentence_score(answer, references).score
        values |= {name: chrf.sentence_score(answer, references).score for name, chrf in chrfs.items()}
        for stem, scorer in scorers.items():
            found = scorer.score_multi(references, answer)
            for kind in ROUGES:
                for part in ("precision", "recall", "fmeasure"):
                    values[f"{kind}/{'stem' if stem else 'plain'}/{part}"] = float(getattr(found[kind], part))
        values["meteor"] = meteor(answer, references)
        values["squad/exact"] = float(any(squad_plain(answer) == squad_plain(text) for text in references))
        values["squad/f1"] = max(squad_f1(answer, text) for text in references)
        values["anls"] = anls(answer, references)
        names = names or list(values)
        rows.append({"answer": answer, "references": references, "values": [values[name] for name in names]})
    return {"names": names, "rows": rows, "corpus": corpus(cases)}


def corpus(cases):
    answers = [answer for answer, _ in cases]
    most = max(len(references) for _, references in cases)
    columns = [[references[i] if i < len(references) else None for _, references in cases] for i in range(most)]
    values = {f"bleu/{t}/{s}": BLEU(tokenize=t, smooth_method=s, smooth_value=v).corpus_score(answers, columns).score
              for t in TOKENIZERS for s, v in SMOOTHING}
    values["chrf"] = CHRF().corpus_score(answers, columns).score
    values["chrf++"] = CHRF(word_order=2).corpus_score(answers, columns).score
    return values


# Variety of several answers.

def variety(rng, count):
    rows = []
    for _ in range(count):
        first = sentence(rng, 12)
        answers = [first] + [edited(rng, first) for _ in range(rng.randint(1, 3))]
        values = {}
        for n in range(1, 5):
            split = [text.split() for text in answers]
            grams = [tuple(words[i:i + n]) for words in split for i in range(len(words) - n + 1)]
            values[f"distinct/{n}"] = len(set(grams)) / len(grams) if grams else 0.0
            expected = VOCABULARY * (1 - ((VOCABULARY - 1) / VOCABULARY) ** len(grams))
            values[f"ead/{n}"] = len(set(grams)) / expected if grams else 0.0
            counts = sorted(Counter(tuple(split[0][i:i + n]) for i in range(len(split[0]) - n + 1)).values(), reverse=True)
            values[f"entropy/{n}"] = float(stats.entropy(counts)) if counts else 0.0
            values[f"entropy/{n}/top3"] = float(stats.entropy(counts[:3])) if counts else 0.0
        bleu = BLEU(effective_order=True)
        each = [bleu.sentence_score(text, answers[:i] + answers[i + 1:]).score for i, text in enumerate(answers)]
        values["self_bleu"] = float(np.mean(each))
        rows.append({"answers": answers, "values": values})
    return rows


# Answers to questions about pictures.

CONTRACTIONS = """aint:ain't arent:aren't cant:can't couldve:could've couldnt:couldn't couldn'tve:couldn't've couldnt've:couldn't've
didnt:didn't doesnt:doesn't dont:don't hadnt:hadn't hadnt've:hadn't've hadn'tve:hadn't've hasnt:hasn't havent:haven't hed:he'd
hed've:he'd've he'dve:he'd've hes:he's howd:how'd howll:how'll hows:how's Id've:I'd've I'dve:I'd've Im:I'm Ive:I've isnt:isn't
itd:it'd itd've:it'd've it'dve:it'd've itll:it'll let's:let's maam:ma'am mightnt:mightn't mightnt've:mightn't've
mightn'tve:mightn't've mightve:might've mustnt:mustn't mustve:must've neednt:needn't notve:not've oclock:o'clock
oughtnt:oughtn't ow's'at:'ow's'at 'ows'at:'ow's'at 'ow'sat:'ow's'at shant:shan't shed've:she'd've she'dve:she'd've she's:she's
shouldve:should've shouldnt:shouldn't shouldnt've:shouldn't've shouldn'tve:shouldn't've somebody'd:somebodyd
somebodyd've:somebody'd've somebody'dve:somebody'd've somebodyll:somebody'll somebodys:somebody's someoned:someone'd
someoned've:someone'd've someone'dve:someone'd've someonell:someone'll someones:someone's somethingd:something'd
somethingd've:something'd've something'dve:something'd've somethingll:something'll thats:that's thered:there'd
thered've:there'd've there'dve:there'd've therere:there're theres:there's theyd:they'd theyd've:they'd've they'dve:they'd've
theyll:they'll theyre:they're theyve:they've twas:'twas wasnt:wasn't wed've:we'd've we'dve:we'd've weve:we've werent:weren't
whatll:what'll whatre:what're whats:what's whatve:what've whens:when's whered:where'd wheres:where's whereve:where've whod:who'd
whod've:who'd've who'dve:who'd've wholl:who'll whos:who's whove:who've whyll:why'll whyre:why're whys:why's wont:won't
wouldve:would've wouldnt:wouldn't wouldnt've:wouldn't've wouldn'tve:wouldn't've yall:y'all yall'll:y'all'll y'allll:y'all'll
yall'd've:y'all'd've y'alld've:y'all'd've y'all'dve:y'all'd've youd:you'd youd've:you'd've you'dve:you'd've youll:you'll
youre:you're youve:you've"""
CONTRACTIONS = dict(pair.split(":") for pair in CONTRACTIONS.split())
NUMBERS = dict(zip("none zero one two three four five six seven eight nine ten".split(), "0 0 1 2 3 4 5 6 7 8 9 10".split()))
MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]


def vqa_normalise(text):
    plain = text
    for mark in MARKS:
        falls = mark + " " in text or " " + mark in text or re.search(r"(\d)(\,)(\d)", text) is not None
        plain = plain.replace(mark, "" if falls else " ")
    plain = re.sub(r"(?!<=\d)(\.)(?!\d)", "", plain, count=int(re.UNICODE))
    words = [NUMBERS.get(word, word) for word in plain.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def vqa_accuracy(answer, people):
    trim = lambda text: text.replace("\n", " ").replace("\t", " ").strip()
    answer, people = trim(answer), [trim(text) for text in people]
    if len(set(people)) > 1:
        answer, people = vqa_normalise(answer), [vqa_normalise(text) for text in people]
    each = [min(1, sum(other == answer for j, other in enumerate(people) if j != i) / 3) for i in range(len(people))]
    return sum(each) / len(each)


def says_yes(text):
    words = text.split(".")[0].replace(",", "").split(" ")
    return not ("No" in words or "not" in words or "no" in words)


def science_letter(text, choices):
    options = ["A", "B", "C", "D", "E"]
    if text in options:
        answer = text
    elif len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        answer = text[0]
    else:
        found = re.findall(r"The answer is ([A-Z]).", text)
        answer = found[0] if len(found) == 1 else "FAILED"
    return options.index(answer) if answer in options[:choices] else None


def questions(rng, count):
    short = ["yes", "no", "Yes.", "2", "two", "Two", "none", "a cat", "the cat", "cat", "black & white", "black and white", "3.5",
             "1,000", "1000", "it's", "its", "dont know", "don't know", "t-shirt", "t shirt", "tshirt", "p.m.", "u.s.a", "red/blue",
             "red / blue", "", " ", "\u0663.\u0664", "\u0663,\u0664", "yall'd've", "somebody'd", "7-eleven", "no.", "café", "ΣΟΦΟΣ"]
    vqa = []
    for _ in range(count):
        pool = rng.sample(short, rng.randint(1, 4))
        people = [rng.choice(pool) for _ in range(10)]
        answer = rng.choice(pool) if rng.random() < 0.7 else sentence(rng, 6)
        vqa.append({"answer": answer, "people": people, "value": vqa_accuracy(answer, people)})
    texts = [sentence(rng, 10) for _ in range(count)] + list(CONTRACTIONS) + [" ".join(["x."] * 40), ". " * 40]
    normal = [[text, vqa_normalise(text)] for text in texts]
    replies = ["Yes", "No", "no", "yes.", "No, there is not.", "Yes, there is no doubt", "There is not", "I do not. Yes", "NO",
               "Not really", "", "yes\nno", "There is no.", "Yes. No.", " no", "no,", "nothing", "n,o", "“no”"]
    replies += [sentence(rng, 6) for _ in range(count // 2)]
    letters = ["A", "B", "E", "F", "A. ", "A.", "C. because", "The answer is B.", "The answer is B", "The answer is C. The answer is D.",
               "The answer is F.", "The answer is A\n", "the answer is A.", "", "AB", "D. The answer is A.", " B", "B ", "é. x",
               "The answer is BC", "BECAUSE: x. The answer is D."]
    return {
        "vqa": vqa,
        "vqa_normalise": normal,
        "pope": [[text, says_yes(text)] for text in replies],
        "science": [[text, n, science_letter(text, n)] for text in letters for n in (2, 5)],
    }


# Numbers.

def classes(rng, count):
    rows = []
    for i in range(count):
        labels = ["cat", "dog", "bird", "", "ζ"][: rng.randint(1, 5)]
        n = rng.randint(1, 30)
        right = [rng.choice(labels) for _ in range(n)]
        predicted = [label if rng.random() < 0.6 else rng.choice(labels + ["other"]) for label in right]
        values = {"accuracy": sk.accuracy_score(right, predicted)}
        for average in ("macro", "micro", "weighted"):
            precision, recall, f1, _ = sk.precision_recall_fscore_support(right, predicted, average=average, zero_division=0)
            values |= {f"precision/{average}": precision, f"recall/{average}": recall, f"f1/{average}": f1}
        table = sk.confusion_matrix(right, predicted, labels=sorted(set(right + predicted)))
        rows.append({"right": right, "predicted": predicted, "values": {k: float(v) for k, v in values.items()},
                     "table": table.tolist()})
    return rows


def rankings(rng, count):
    rows = []
    for i in range(count):
        n = rng.randint(2, 12)
        scores = [round(rng.gauss(0, 1), 1 if i % 2 else 6) for _ in range(n)]
        relevances = [float(rng.choice([0, 0, 0, 1, 1, 3])) for _ in range(n)]
        # Of equal scores the least relevant first.
        order = sorted(range(n), key=lambda j: (-scores[j], relevances[j]))
        ranked = [relevances[j] for j in order]
        relevant = sum(r > 0 for r in ranked)
        values = {f"recall/{k}": sum(r > 0 for r in ranked[:k]) / max(relevant, 1) for k in (1, 3, 10)}
        values["mrr"] = next((1 / (j + 1) for j, r in enumerate(ranked) if r > 0), 0.0)
        values["ndcg"] = float(sk.ndcg_score([relevances], [scores]))
        values["ndcg/3"] = float(sk.ndcg_score([relevances], [scores], k=3))
        lengths = [rng.randint(1, 20) for _ in range(n)]
        log_likelihoods = [-abs(score) * 10 for score in scores]
        chosen = [int(np.argmax(log_likelihoods)), int(np.argmax(np.array(log_likelihoods) / np.array([float(x) for x in lengths])))]
        rows.append({"scores": scores, "relevances": relevances, "lengths": lengths, "log_likelihoods": log_likelihoods,
                     "values": values, "chosen": chosen})
    return rows


def resamples(rng):
    rows = []
    for i, (n, level) in enumerate([(5, 0.95), (12, 0.9), (40, 0.95), (40, 0.99), (25, 0.5)]):
        data = [round(rng.expovariate(1.0) if i % 2 else rng.gauss(3, 2), 4) for _ in range(n)]
        row = {"data": data, "level": level}
        for method in ("percentile", "BCa"):
            found = stats.bootstrap((data,), np.mean, n_resamples=199, confidence_level=level, method=method,
                                    rng=np.random.default_rng(i))
            row["values"] = found.bootstrap_distribution.tolist()
            row[method] = [float(found.confidence_interval.low), float(found.confidence_interval.high)]
        rows.append(row)
    shares = [1e-300, 1e-20, 1e-6, 0.01, 0.02425, 0.3, 0.5, 0.50000001, 0.8, 0.975, 0.999999, 1 - 1e-15]
    splits = [(0, 0), (0, 1), (0, 5), (1, 5), (3, 3), (10, 25), (7, 100), (400, 500), (1000, 1300)]
    summary = [round(rng.gauss(10, 4), 3) for _ in range(17)]
    return {
        "bootstrap": rows,
        "normal": [[p, float(special.ndtri(p))] for p in shares] + [[float(special.ndtr(z)), z] for z in (-8.0, -1.5, 0.25)],
        "mcnemar": [[a, b, float(stats.binomtest(a, a + b, 0.5).pvalue) if a + b else 1.0] for a, b in splits],
        "summary": {"data": summary, "values": [float(np.mean(summary)), float(np.std(summary, ddof=1)), min(summary),
                    *(float(np.quantile(summary, q)) for q in (0.25, 0.5, 0.75)), max(summary)]},
    }


# Arguments of tool calls.

WEATHER = {"type": "object", "required": ["city"], "additionalProperties": False,
           "properties": {"city": {"type": "string", "minLength": 1}, "unit": {"enum": ["C", "F"]},
                          "days": {"type": "integer", "minimum": 1, "maximum": 14}}}
NESTED = {"$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x", "y"]}},
          "type": "object", "properties": {"path": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 1, "uniqueItems": True},
                                           "note": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-z]+$"}]}},
          "required": ["path"]}
ARGUMENTS = [
    (WEATHER, [{"city": "Rome"}, {"city": ""}, {}, {"city": 3}, {"city": "Rome", "unit": "K"}, {"city": "Rome", "unit": "C", "days": 3},
               {"city": "Rome", "days": 3.0}, {"city": "Rome", "days": 3.5}, {"city": "Rome", "days": 0}, {"city": "Rome", "days": True},
               {"city": "Rome", "more": 1}, {"city": None}]),
    (NESTED, [{"path": [{"x": 1, "y": 2}]}, {"path": []}, {"path": [{"x": 1}]}, {"path": [{"x": 1, "y": "2"}]}, {"path": [{"x": 1, "y": 2}] * 2},
              {"path": [{"x": 1, "y": 2}], "note": None}, {"path": [{"x": 1, "y": 2}], "note": "ab"}, {"path": [{"x": 1, "y": 2}], "note": "AB"},
              {"path": {"x": 1, "y": 2}}]),
    ({"type": "object", "properties": {"n": {"const": 1}, "k": {"not": {"type": "string"}}}, "minProperties": 1},
     [{"n": 1}, {"n": 1.0}, {"n": 2}, {"k": "x"}, {"k": 1}, {}]),
    (True, [{"anything": 1}, {}]),
]


def schemas():
    valid = lambda schema, value: jsonschema.Draft202012Validator(schema).is_valid(value)
    return [{"schema": schema, "cases": [[value, valid(schema, value)] for value in values]} for schema, values in ARGUMENTS]


def stems(rng, count):
    stemmer = PorterStemmer()
    roots = "relat hop trouble fall cri fl geo logic commun art form sens happi ski d t ye electr adjust oper vietnam rad analog y b".split()
    ends = """ed ing s es ies ied ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness fulness ousness
aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent ion sion tion ou
ism ate iti ous ive ize e ll lle eed y ly ying yed ss sses at bl iz pping zzing""".split()
    words = {rng.choice(roots) + rng.choice(ends) + (rng.choice(ends) if rng.random() < 0.3 else "") for _ in range(count)}
    words |= set(WORDS) | {"sky", "Skies", "a", "By", "is", "*d", "a*ding", "éed", "caféing", "İng", "yyyying", "sayyed"}
    return [[word, stemmer.stem(word)] for word in sorted(words)]


def write(folder, name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    (folder / name).write_text(text + "\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--pairs", type=int, default=36)
    arguments = arguments.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    n = arguments.pairs
    rng = lambda name: random.Random(f"{name}/{n}")
    write(arguments.folder, "references.json", against_references(pairs(rng("pairs"), n)))
    write(arguments.folder, "variety.json", {"vocabulary": VOCABULARY, "rows": variety(rng("variety"), max(12, n // 3))})
    write(arguments.folder, "questions.json", questions(rng("questions"), n))
    write(arguments.folder, "numbers.json", {"classes": classes(rng("classes"), max(10, n // 4)),
                                             "rankings": rankings(rng("rankings"), max(16, n // 3)), **resamples(rng("resamples"))})
    write(arguments.folder, "schemas.json", schemas())
    write(arguments.folder, "stems.json", stems(rng("stems"), 10 * n))


if __name__ == "__main__":
    main()
