"""Text in, text and figures out, with a checkpoint: for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Sequence

from gpt1.errors import UserError
from gpt1.model.loglikelihood import text_score
from gpt1.tasks.predictor import Predictor
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.weights.checkpoint import Checkpoint


def generate(
    checkpoint: Checkpoint, prompts: Sequence[str], **parameters: float | bool
) -> list[str]:
    """The text that follows each prompt.

    `parameters` and their defaults: `tokens` 60, `temperature` 0.8 (0: greedy), `top_k` 40, `top_p`
    1, `beams` 0 (more: beam search in place of sampling), `length_penalty` 1, `stop_at_newline`
    False, `seed` 0. UserError for another name or an impossible value.

        >>> gpt1.generate(checkpoint, ["the old man"], tokens=8, temperature=0)
    """
    if isinstance(prompts, str):
        raise UserError("prompts: found one text, expected a list of texts: [text]")
    rows = Predictor(checkpoint).answer([{"prompt": prompt} for prompt in prompts], parameters)
    return [row["text"] for row in rows]


def perplexity(checkpoint: Checkpoint, text: str, stride: int | None = None) -> float:
    """exp of the mean nats a token of `text`, each but the first judged once.

    The text is read in windows of the model's context that start `stride` tokens apart (default:
    half the context). UserError for a text of fewer than two tokens.

        >>> gpt1.perplexity(checkpoint, "It was a dark night.")
    """
    ids, size = Tokenizer(checkpoint.vocabulary).encode(text), len(text.encode(errors="replace"))
    return text_score(checkpoint.model, "text", ids, size, stride).perplexity
