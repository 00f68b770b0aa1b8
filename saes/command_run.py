"""What the commands that train have in common: settings that can be, the bar, folders that are there whole."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saes.given import Data


def shared_settings(
    out: Path, tokens: int, batch_size: int, *, state: tuple[Path | None, int], **settings: Any
) -> Any:
    """The settings that all of a run share, once `out` is free and the numbers can be."""
    from saes.config import TrainConfig

    refuse_existing(out)
    folder, every = state
    steps = n_steps_for(tokens, batch_size)
    return TrainConfig(n_steps=steps, batch_size=batch_size, state_every=every if folder else 0, **settings)


def resumable(state: Path | None) -> dict[str, Path | None]:
    """Where the run writes its states, and the one to go on from if it is there."""
    from saes.state import FILE

    return {"state_dir": state, "resume": state if state and (state / FILE).is_file() else None}


def model_names(paths: list[Path]) -> list[str]:
    """The models' names: their files' stems, or paths where two files are called the same."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path.with_suffix("")) for path in paths]


def save_made(
    out: Path,
    made: dict[str, Any],
    configs: dict[str, Any],
    write_more: Callable[[Path], None] | None = None,
) -> None:
    """One dictionary is the folder `out`; each of several (or of a sweep, which has `write_more` beside them) a
    folder in it. Renamed into place when whole."""
    from saes.folder import save

    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    for name, dictionary in made.items():
        folder = partial if len(made) == 1 and write_more is None else partial / name
        save(dictionary, folder, {"training": configs[name].to_dict()})
    if write_more is not None:
        write_more(partial)
    partial.replace(out)


def refuse_existing(out: Path) -> None:
    from saes.errors import DictionaryError

    if out.exists():
        raise DictionaryError(f"{out} exists already; name a new folder or remove it")


def n_steps_for(tokens: int, batch_size: int) -> int:
    from saes.errors import DictionaryError

    if batch_size < 1:
        raise DictionaryError(f"--batch-size is {batch_size}; it has to be at least 1")
    if tokens < batch_size:
        raise DictionaryError(f"--tokens {tokens} is less than one batch of {batch_size}")
    return tokens // batch_size


def whole_numbers(listed: str) -> list[int]:
    """The numbers of a comma-separated list, each once."""
    from saes.errors import DictionaryError

    try:
        return list(dict.fromkeys(int(each) for each in listed.split(",")))
    except ValueError:
        raise DictionaryError(f"{listed!r} is not a list of whole numbers; write 2048 or 2048,8192") from None


def run_with_bar(data: Data, configs: list[Any], **options: Any) -> Any:
    from tqdm import tqdm

    from saes.trainer import fit_together

    with tqdm(total=configs[0].n_steps, unit="step", file=sys.stderr) as bar:

        def on_step(steps: Any) -> None:
            bar.update(steps[0].step - bar.n)
            fvu, dead = [f"{s.fvu:.4f}" for s in steps], [f"{s.dead_share:.1%}" for s in steps]
            l0 = [f"{s.l0:.1f}" for s in steps]
            bar.set_postfix(fvu=" ".join(fvu), l0=" ".join(l0), dead=" ".join(dead))

        return fit_together(data.activations, configs, on_step=on_step, targets=data.targets, **options)
