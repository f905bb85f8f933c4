"""Where a published vocabulary lies: a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from gpt1.errors import UserError

HUB = "hf://"
_FORMS = (("encoder_bpe_*.json", "vocab_*.bpe"), ("vocab.json", "merges.txt"))


def vocabulary_files(source: str) -> tuple[Path, Path]:
    """The file of ids and the file of merges of a folder, or of `hf://owner/name` (`@revision` may
    follow).

    A folder holds `encoder_bpe_N.json` with `vocab_N.bpe`, or, as on the hub, `vocab.json` with
    `merges.txt`: the same content. UserError when they are missing, ambiguous or cannot be had.
    """
    return _from_hub(source) if source.startswith(HUB) else _from_folder(Path(source).expanduser())


def _from_folder(folder: Path) -> tuple[Path, Path]:
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; expected one with the two files of a vocabulary."
        )
    for pair in _FORMS:
        encoders, merges = (sorted(folder.glob(pattern)) for pattern in pair)
        if len(encoders) == len(merges) == 1:
            return encoders[0], merges[0]
        if encoders or merges:
            raise UserError(
                f"{folder}: found {len(encoders)} files {pair[0]} and {len(merges)} files"
                f" {pair[1]}, expected exactly one of each. Keep the two that belong together."
            )
    raise UserError(
        f"{folder}: no vocabulary in it; expected {' with '.join(_FORMS[0])}, or"
        f" {' with '.join(_FORMS[1])} as on the hub."
    )


def _from_hub(source: str) -> tuple[Path, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = source.removeprefix(HUB).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(
            f"{source}: expected {HUB}owner/name, such as {HUB}openai-community/openai-gpt."
        )
    try:
        encoder, merges = (
            Path(hf_hub_download(name, file, revision=revision or None)) for file in _FORMS[1]
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{source}: its {' and '.join(_FORMS[1])} could not be downloaded"
            f" ({type(error).__name__}: {detail}); check the name and the network, or download both"
            " files and give their folder."
        ) from error
    return encoder, merges
