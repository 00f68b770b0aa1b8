"""One checkpoint, one prompt, one continuation."""

from __future__ import annotations

from workbench.checkpoint import Checkpoint
from workbench.errors import Misuse


def speak(
    checkpoint: Checkpoint, prompt: str, chat: bool, max_new_tokens: int, temperature: float, seed: int
) -> str:
    """The checkpoint's continuation of `prompt` (asked as a question in chat form with `chat`)."""
    from workbench.generation import complete
    from workbench.prompt import read_prompt

    if not prompt.strip():
        raise Misuse("the prompt is empty: write at least one word")
    room = checkpoint.n_ctx - max_new_tokens
    if room < 2:
        raise Misuse(
            f"{max_new_tokens} tokens leave no room for a prompt in a context of {checkpoint.n_ctx}: "
            f"ask for at most {checkpoint.n_ctx - 2} with --tokens"
        )
    tokenizer = checkpoint.tokenizer()
    read = read_prompt(tokenizer, prompt, room, chat=chat)
    if read.n_cut:
        raise Misuse(
            f"the prompt is {read.n_cut} tokens too long: the context holds {checkpoint.n_ctx} and "
            f"{max_new_tokens} are to be written; shorten the prompt or ask for fewer with --tokens"
        )
    asked = temperature if temperature > 0 else None
    said = complete(checkpoint.model(), tokenizer, [read.ids], max_new_tokens, asked, seed)[0].text
    return said.split(tokenizer.bos_token)[0] if tokenizer.bos_token else said  # BOS: another document begins
