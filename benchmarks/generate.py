"""Greedy generation, tokens a second: ours with the key/value cache against transformers' own, on
the same weights, in one run.

transformers' OpenAIGPTLMHeadModel is called with `use_cache=True`; its class keeps no cache, so it
reads the whole text anew for every token. So that the comparison with a cache is there too,
GPT2LMHeadModel of the same shape (random weights: other architecture, only its speed counts) runs
with transformers' cache in the same rounds. Both must be reached: exit status 1 when our tokens a
second are fewer than either's, or when our tokens differ from OpenAIGPTLMHeadModel's.

    python benchmarks/generate.py            117 M; 256 new tokens, batches of 1 and 8;
                                             without a GPU 64, batches of 1 and 4
    python benchmarks/generate.py --quick    a smaller model, for tests of the benchmark itself
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gpt1.generation import Sampling, generate
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.weights.hf import hf_config, hf_weights

QUICK = ModelConfig(vocabulary=8_000, width=256, layers=6, heads=4, init_std=0.2)
FULL = ModelConfig(init_std=0.1)  # far enough from 0 that the best token is clearly the best


@dataclass(frozen=True)
class Row:
    """One batch size; tokens a second, the best of all rounds."""

    batch: int
    ours: float
    openai_gpt: float
    gpt2_cached: float
    same_tokens: bool

    @property
    def ratios(self) -> dict[str, float]:
        return {
            "openai_gpt": self.ours / self.openai_gpt,
            "gpt2_cached": self.ours / self.gpt2_cached,
        }


def main() -> int:
    """Run, print a table, one JSON object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smaller model, under a minute")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    small = (
        arguments.device == "cpu" and not arguments.quick
    )  # 117 M without a cache takes minutes a batch there
    config, new = (QUICK, 96) if arguments.quick else (FULL, 64 if small else 256)
    rows = [
        measure(config, new, batch, arguments.rounds, arguments.device)
        for batch in ((1, 4) if small else (1, 8))
    ]
    where = f"{arguments.device}, {torch.get_num_threads()} threads"
    print(
        f"{config.parameters():,} parameters, prompts of 32 tokens, {new} new tokens, {where};"
        " tokens a second"
    )
    for row in rows:
        a, b = row.ratios.values()
        print(
            f"batch {row.batch}: ours {row.ours:.1f}; OpenAIGPT (no cache) {row.openai_gpt:.1f},"
            f" ratio {a:.2f}; GPT-2's shape (cached) {row.gpt2_cached:.1f}, ratio {b:.2f};"
            f" same tokens: {row.same_tokens}"
        )
    good = all(row.same_tokens and min(row.ratios.values()) >= 1 for row in rows)
    result = {
        "benchmark": "generate", "quick": arguments.quick, "new_tokens": new,
        "device": arguments.device, "pass": good,
    }
    print(json.dumps({**result, "rows": [{**asdict(row), "ratios": row.ratios} for row in rows]}))
    return 0 if good else 1


def measure(config: ModelConfig, new: int, batch: int, rounds: int, device: str) -> Row:
    """All three in turn, `rounds` times after one warming round."""
    import transformers

    transformers.logging.set_verbosity_error()
    draw = torch.Generator().manual_seed(0)
    ours = GPT(config, draw).eval().to(device)
    theirs = transformers.OpenAIGPTLMHeadModel(
        transformers.OpenAIGPTConfig(**hf_config(config))
    ).eval()
    theirs.load_state_dict(hf_weights(ours), strict=False)
    theirs.tie_weights()
    shape = {
        "n_embd": config.width, "n_layer": config.layers, "n_head": config.heads,
        "n_positions": config.context,
    }
    cached = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=config.vocabulary, **shape)
    ).eval()
    prompts = torch.randint(0, config.vocabulary, (batch, 32), generator=draw)
    ids = prompts.to(device)
    runs: dict[str, Callable[[], list[list[int]]]] = {
        "ours": lambda: generate(
            ours, prompts.tolist(), new, Sampling(0.0), [torch.Generator()] * batch
        ),
        "openai_gpt": lambda: theirs_of(theirs.to(device), ids, new),
        "gpt2_cached": lambda: theirs_of(cached.to(device), ids, new),
    }
    best = dict.fromkeys(runs, 0.0)
    found: dict[str, list[list[int]]] = {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            if name == "openai_gpt" and turn != 1:
                continue  # slow, and far behind: one round is enough
            began = time.perf_counter()
            found[name] = run()
            speed = batch * new / (time.perf_counter() - began)
            best[name] = max(best[name], speed if turn else 0.0)
    return Row(batch, **best, same_tokens=found["ours"] == found["openai_gpt"])


def theirs_of(model: Any, ids: torch.Tensor, new: int) -> list[list[int]]:
    """transformers' generate, greedy, never ended early."""
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new,
        do_sample=False, use_cache=True, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return out[:, ids.shape[1] :].tolist()


if __name__ == "__main__":
    sys.exit(main())
