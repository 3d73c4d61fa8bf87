"""TOFU's metrics in PyTorch and `transformers`, written plainly, for the benchmark."""

import time
import zlib

import numpy as np
import torch
import transformers
from rouge_score import rouge_scorer
from scipy import stats

from ofmu_jax.data import DEFAULT_TEMPLATE

IGNORED = -100


class Peer:
    """A checkpoint and the items, encoded."""

    def __init__(self, folder, data, batch_size, new_tokens):
        # AutoTokenizer of transformers 5 drops unknown characters that tokenizer.json keeps.
        self.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = model.eval()
        eos = model.generation_config.eos_token_id
        self.eos = eos[0] if isinstance(eos, list) else eos
        self.batch_size, self.new_tokens = batch_size, new_tokens
        self.scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
        self.sets = {
            "forget": data.forget_eval,
            "retain": data.retain_eval,
            "ra": data.real_authors,
            "wf": data.world_facts,
            "holdout": data.holdout,
        }

    def encode(self, question, answer):
        prompt = DEFAULT_TEMPLATE.format(question=question)
        start = self.tokenizer(prompt)["input_ids"]
        rest = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        rest = [*rest, self.eos]
        return start, rest

    def batches(self, pairs):
        """Rows in their order, padded on the right to the longest of each batch."""
        rows = [self.encode(*pair) for pair in pairs]
        for first in range(0, len(rows), self.batch_size):
            part = rows[first : first + self.batch_size]
            width = max(len(start) + len(rest) for start, rest in part)
            tokens = torch.zeros((len(part), width), dtype=torch.long)
            labels = torch.full((len(part), width), IGNORED)
            for index, (start, rest) in enumerate(part):
                size = len(start) + len(rest)
                tokens[index, :size] = torch.tensor(start + rest)
                labels[index, len(start) : size] = torch.tensor(rest)
            mask = torch.arange(width) < torch.tensor([[len(s) + len(r)] for s, r in part])
            yield tokens, mask.long(), labels

    @torch.no_grad()
    def losses(self, pairs):
        out = []
        for tokens, mask, labels in self.batches(pairs):
            logits = self.model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
            )
            out.append(loss.sum(1) / (labels != IGNORED).sum(1))
        return torch.cat(out).double().numpy()

    @torch.no_grad()
    def token_scores(self, pairs):
        """Per item: the loss, and of its labels but the last the log-probabilities, whether they
        are right, and the two moments."""
        out = []
        for tokens, mask, labels in self.batches(pairs):
            logits = self.model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
            log_probs = torch.log_softmax(logits, dim=-1)
            for index in range(len(tokens)):
                places = (labels[index] != IGNORED).nonzero()[:, 0]
                row = log_probs[index, places - 1]
                chosen = row.gather(1, labels[index, places][:, None])[:, 0]
                probs = row.exp()
                mean = (probs * row).sum(1)
                variance = (probs * row.square()).sum(1) - mean.square()
                right = row.argmax(1) == labels[index, places]
                columns = (chosen, right, mean, variance)
                out.append([-float(chosen.mean()), *(x[:-1].numpy() for x in columns)])
        return out

    def gradient_norms(self, pairs):
        out = []
        for pair in pairs:
            start, rest = self.encode(*pair)
            logits = self.model(input_ids=torch.tensor([start + rest])).logits[0]
            labels = torch.tensor(rest[:-1])
            self.model.zero_grad()
            torch.nn.functional.cross_entropy(logits[len(start) - 1 : -2], labels).backward()
            norms = [p.grad.norm() for p in self.model.parameters() if p.grad is not None]
            out.append(float(torch.stack(norms).mean()))
        return np.array(out)

    @torch.no_grad()
    def generate(self, questions):
        texts = []
        for first in range(0, len(questions), self.batch_size):
            part = [self.encode(q, "")[0] for q in questions[first : first + self.batch_size]]
            width = max(map(len, part))
            tokens = torch.tensor([[self.eos] * (width - len(p)) + p for p in part])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])
            output = self.model.generate(
                tokens,
                attention_mask=mask,
                max_new_tokens=self.new_tokens,
                do_sample=False,
                pad_token_id=self.eos,
            )
            texts += self.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def evaluate(self, share=True):
        """The aggregates, and the seconds of each stage; without sharing, a pass per metric."""
        seconds, values = {}, {}
        pairs = {n: [(i.question, i.answer) for i in items] for n, items in self.sets.items()}
        start = time.perf_counter()
        losses = {}
        for name in ("forget", "retain", "ra", "wf"):
            items = self.sets[name]
            right = losses[name] = None if name == "forget" else self.losses(pairs[name])
            if name in ("forget", "retain"):
                right = self.losses([(i.question, i.paraphrased_answer) for i in items])
            wrong = [(i.question, text) for i in items for text in i.perturbed_answer]
            wrong = self.losses(wrong).reshape(len(items), -1)
            ratio = np.exp(-wrong.mean(1)) / (np.exp(-right) + 1e-10)
            if name == "forget":
                values["forget_truth_ratio"] = np.minimum(ratio, 1 / (ratio + 1e-10)).mean()
                continue
            values[f"{name}_Truth_Ratio"] = np.maximum(0, 1 - ratio).mean()
            prob = np.exp(-losses[name])
            values[f"{name}_Q_A_Prob"] = prob.mean()
            if name in ("ra", "wf"):
                prob = prob / (prob + np.exp(-wrong).sum(1) + 1e-10)
                values[f"{name}_Q_A_Prob_normalised"] = prob.mean()
        seconds["losses"] = time.perf_counter() - start

        start = time.perf_counter()
        values |= self.token_metrics(pairs, share)
        seconds["tokens"] = time.perf_counter() - start

        start = time.perf_counter()
        norms = {name: self.gradient_norms(pairs[name]) for name in ("forget", "holdout")}
        values["mia_gradnorm"] = auc(**norms)
        seconds["gradients"] = time.perf_counter() - start

        start = time.perf_counter()
        for name in ("forget", "retain", "ra", "wf"):
            texts = self.generate([item.question for item in self.sets[name]])
            scores = [
                self.scorer.score(item.answer, text)["rougeL"].recall
                for item, text in zip(self.sets[name], texts, strict=True)
            ]
            values[f"{name}_Q_A_ROUGE"] = np.mean(scores)
        seconds["generation"] = time.perf_counter() - start
        return {name: float(value) for name, value in values.items()}, seconds

    def token_metrics(self, pairs, share):
        """Memorisation of the forget set, and the attacks that need no gradient."""
        kept = {}

        def scores(name):
            if not share:
                return self.token_scores(pairs[name])
            if name not in kept:
                kept[name] = self.token_scores(pairs[name])
            return kept[name]

        def losses(name):
            if share:
                return np.array([row[0] for row in scores(name)])
            return self.losses(pairs[name])

        def least(rows):
            return np.array([-np.sort(r)[: max(1, int(0.4 * len(r)))].mean() for r in rows])

        def standardised(rows):
            for _, chosen, _, mean, variance in rows:
                yield (chosen - mean) / np.sqrt(np.maximum(variance, 1e-6))

        def strength(right):
            n = len(right)
            k = next((k for k in range(n) if right[k:].all()), n - 1)
            return 1 - k / n

        both = ("forget", "holdout")
        bytes_of = {n: [len(zlib.compress(a.encode())) for _, a in pairs[n]] for n in both}
        return {
            "forget_Q_A_Prob": np.exp(-losses("forget")).mean(),
            "exact_memorization": np.mean([row[2].mean() for row in scores("forget")]),
            "extraction_strength": np.mean([strength(row[2]) for row in scores("forget")]),
            "mia_loss": auc(**{n: losses(n) for n in both}),
            "mia_zlib": auc(**{n: losses(n) / bytes_of[n] for n in both}),
            "mia_min_k": auc(**{n: least(row[1] for row in scores(n)) for n in both}),
            "mia_min_k_plus_plus": auc(**{n: least(standardised(scores(n))) for n in both}),
        }


def auc(forget, holdout):
    return stats.mannwhitneyu(holdout, forget).statistic / (len(forget) * len(holdout))
