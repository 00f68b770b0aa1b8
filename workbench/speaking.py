"""One checkpoint, one prompt, one continuation."""

from __future__ import annotations

from workbench.checkpoint import Checkpoint
from workbench.errors import Misuse


def speak(
    checkpoint: Checkpoint, prompt: str, chat: bool, max_new_tokens: int, temperature: float, seed: int
) -> str:
    """The checkpoint's continuation of `prompt` (asked as a question in chat form with `chat`)."""
    from workbench.generation import chat_prompt, complete

    if not prompt.strip():
        raise Misuse("the prompt is empty: write at least one word")
    tokenizer = checkpoint.tokenizer()
    if chat:
        ids = chat_prompt(tokenizer, prompt)
    else:
        ids = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    room = checkpoint.n_ctx - max_new_tokens
    if len(ids) > room:
        raise Misuse(
            f"the prompt has {len(ids)} tokens and {max_new_tokens} are to be written, but the context holds "
            f"{checkpoint.n_ctx}: shorten the prompt by {len(ids) - room} tokens or ask for fewer with --tokens"
        )
    found = complete(
        checkpoint.model(), tokenizer, [ids], max_new_tokens, temperature if temperature > 0 else None, seed
    )
    return found[0].text
