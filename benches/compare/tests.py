"""Of the package's own arithmetic: `cd benches && python -m unittest compare.tests`; a minute, no Rust program needed."""
import dataclasses
import os
import pathlib
import tempfile
import unittest
from unittest import mock

from . import cases, cli, making, measure, roofline, table
from .cases import Case
from .contender import Contender, Failed, Spec, first_step

TINY = Case("train", "llama", "tiny", "full", 64, 2)


def row(**changes) -> dict:
    made = dict(name="case", case={}, against="torch eager", parameters=5e6, tokens=1000, seconds=[0.5, 1.0], flops=5e9, bytes=1e9,
                processor=[0.1, 0.2], peak=[1e8, 4e8], idle=[0, 0], first=[(0.5, 0.4), (5.0, 4.0)], losses=[8.0, 8.0], difference=1e-7)
    return {**made, **changes}


class Cases(unittest.TestCase):
    def test_names_are_unique_and_the_usual_table_is_part_of_all(self):
        def select(everything: bool) -> list[Case]:
            return cases.select(cases.JOBS, cases.FAMILIES, list(cases.SIZES), cases.LENGTHS, cases.MODES, cases.SUPERVISIONS,
                                list(cases.REFERENCES), everything)

        usual, every = select(False), select(True)
        self.assertEqual(len({case.name for case in every}), len(every))
        self.assertLess(set(usual), set(every))
        self.assertEqual((len(usual), len(every)), (54, 180), "README.md says so")

    def test_sizes_are_what_they_are_called(self):
        for size, expected in [("5m", 5e6), ("60m", 60e6), ("300m", 300e6), ("8b", 8e9), ("1.5b", 1.5e9), ("7b", 7e9)]:
            shape = (cases.SIZES | cases.LARGE)[size]
            self.assertLess(abs(roofline.parameters(shape) / expected - 1), 0.07, size)

    def test_sparse_batches_learn_a_tenth_and_pairs_differ(self):
        self.assertEqual(roofline.learned(dataclasses.replace(TINY, length=1000, supervision="sparse")), 2 * 100)
        pair = dataclasses.replace(TINY, job="dpo", length=64)
        self.assertEqual(pair.bounds(), [(0, 64), (0, 56)])
        self.assertEqual(roofline.learned(pair), 48 + 40)


class Batches(unittest.TestCase):
    def test_what_is_written_is_what_is_counted(self):
        from safetensors.torch import load_file

        with tempfile.TemporaryDirectory() as folder:
            for job in cases.JOBS:
                for family in cases.FAMILIES:
                    case = dataclasses.replace(TINY, job=job, family=family)
                    making.make_batch(path := pathlib.Path(folder) / "batch.safetensors", case)
                    batch = load_file(path)
                    self.assertEqual(int((batch["ends"] - batch["starts"]).sum()), roofline.tokens(case))
                    if job != "generate":
                        self.assertEqual(int((batch["labels"][:, 1:] != -100).sum()), roofline.learned(case), case.name)
                    self.assertEqual(int((batch["input_ids"] == making.IMAGE_TOKEN).sum()), 2 * case.image_tokens)


class Roofline(unittest.TestCase):
    def test_operations_are_those_that_torch_counts(self):
        import torch
        from peft import get_peft_model
        from torch.utils.flop_counter import FlopCounterMode

        for mode in cases.MODES:
            case = dataclasses.replace(TINY, mode=mode)
            model = making.fresh(case, "float32", "cpu")
            if mode == "lora":
                model = get_peft_model(model, making.lora_config("llama", case.rank))
            shape, ids = case.shape, torch.randint(5, case.shape["vocabulary"], (case.rows, case.length))
            with FlopCounterMode(display=False) as counter:
                model(input_ids=ids, labels=ids).loss.backward()
            # They also count the other half of the square and, backward, the scores that sdpa computes again; and the head at
            # every position.
            half = shape["layers"] * case.rows * case.length ** 2 * 2 * shape["width"]
            rest = case.rows * case.length - roofline.learned(case)
            head = (3 if mode == "full" else 2) * 2 * rest * shape["width"] * shape["vocabulary"]
            self.assertEqual(counter.get_total_flops(), roofline.of(case).flops + 4 * half + head, mode)


class Table(unittest.TestCase):
    LIMITS = {"ours": dict(flops=1e11, copied=1e10, read=2e10, dtype="f32"),
              "theirs": dict(flops=5e10, copied=1e10, read=1e10, dtype="f32")}

    def test_a_row_and_its_failures(self):
        found = dict(zip(table.HEAD, table.cells(row(), self.LIMITS), strict=True))
        self.assertEqual(found["ratio"], "**2.00**")
        self.assertEqual(found["peak memory, MB"], "100 / 400 (0.25)")
        self.assertEqual(found["start to first step, s"], "0.50 / 5.00 (0.10)")
        self.assertEqual(found["of the arithmetic limit"], "10% / 5%")
        self.assertEqual(found["of the memory limit"], "10% / 5%")
        failed = row(failed="too | large", wrong=True)
        self.assertEqual(table.cells(failed, {})[-1], "**no speed counts:** too / large")
        lines = table.text([row(first=[(None, None)] * 2, processor=[None, 0.1]), failed], {}).splitlines()
        self.assertEqual({line.count("|") for line in lines}, {len(table.HEAD) + 1})

    def test_what_the_program_fails_for(self):
        rows = [row(), row(failed="other losses", wrong=True), row(failed="firebrick: killed"), row(failed="too large: …")]
        self.assertEqual(len(cli.wrong(rows, None, "eager")), 2)
        self.assertEqual(len(cli.wrong(rows, 2.5, "eager")), 3)
        self.assertEqual(len(cli.wrong(rows, 2.5, "sdpa")), 2)


class Groups(unittest.TestCase):
    def test_as_many_as_memory_suffices_for_are_alive(self):
        options = measure.Options(pathlib.Path(), "", 1, 8, 4, 1, [])
        specs = [Spec(name, None, 1) for name in "abc"]
        case = Case("train", "llama", "300m", "full", 2048, 1)
        for free, expected in [(100, ["abc"]), (29, ["ab", "ac"]), (22, ["a", "b", "c"])]:
            with mock.patch.object(measure, "free_memory", lambda: free * 1e9):
                found = measure.groups(case, specs, options)
            self.assertEqual(["".join(spec.name for spec in group) for group in found], expected, free)
        with mock.patch.object(measure, "free_memory", lambda: 10e9), self.assertRaisesRegex(Failed, "too large"):
            measure.groups(case, specs, options)


class Agreement(unittest.TestCase):
    def both(self, mine: list[dict], other: list[dict], job: str = "train") -> tuple:
        def contender(turns: list[dict]) -> Contender:
            made = Contender.__new__(Contender)
            made.turns, made.ready = turns, dict.fromkeys(measure.SAME, 1)
            return made

        options = measure.Options(pathlib.Path(), "", 1, 8, 4, 1, [])
        return measure.disagreement(dataclasses.replace(TINY, job=job), options, contender(mine), contender(other))

    def test_losses_tokens_and_scores(self):
        self.assertEqual(self.both([{"loss": 2.0}], [{"loss": 2.0}]), (0.0, None))
        self.assertIn("loss differs by 5.0e-01", self.both([{"loss": 3.0}], [{"loss": 2.0}])[1])
        self.assertIsNotNone(self.both([{"loss": float("nan")}], [{"loss": 2.0}])[1])
        self.assertIn("1 of 2", self.both([{"answers": [[1, 2]]}], [{"answers": [[1, 3]]}], "generate")[1])
        self.assertIn("log_probs", self.both([{"log_probs": [-1.0, -2.0]}], [{"log_probs": [-1.0, -2.1]}], "score")[1])


class Processes(unittest.TestCase):
    def test_without_a_compiler_the_row_says_so(self):
        with mock.patch.dict(os.environ, CXX="no-such-compiler"):
            self.assertIn("no-such-compiler", measure.missing("compile"))
            self.assertIsNone(measure.missing("eager"))

    def spec(self, code: str) -> Spec:
        return Spec("fake", lambda turns: ["python3", "-c", code], 1)

    def test_a_contender_that_ends_says_why(self):
        with self.assertRaisesRegex(Failed, "status 3: for a reason"):
            first_step(self.spec("import sys; print('for a reason', file=sys.stderr); sys.exit(3)"))
        self.assertEqual(Contender(self.spec("print('{\"failed\": \"no compiler\"}', flush=True)")).failed, "no compiler")
        killed = Contender(self.spec("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
        self.assertIn("want of memory", killed.failed)


if __name__ == "__main__":
    unittest.main()
