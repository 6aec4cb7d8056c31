"""The bundle that serves and the limits, in the shape of OpenAI's list of models."""

from __future__ import annotations

from typing import Any

from media.containers import MEDIA
from media.text import LETTERS_MAX

from ..access import needs
from ..active import Tercet
from ..exceptions import UnknownModel
from ..keys import READ
from ..state import State
from .router import Router

router = Router()


@router.get("/v1/models", tags=["models"])
@router.get("/v1/models/", include_in_schema=False)  # else a model without a name
@needs(READ)
async def models(tercet: Tercet) -> dict[str, Any]:
    """The bundle that serves, with its limits, in the shape of OpenAI's list."""
    return {"object": "list", "data": [describe_model(tercet)]}


@router.get("/v1/models/{model:path}", tags=["models"])
@needs(READ)
async def get_model(tercet: Tercet, model: str) -> dict[str, Any]:
    """One model of the list, by its name or an alias."""
    check_model(tercet, model)
    return describe_model(tercet)


def check_model(tercet: State, model: str | None) -> None:
    """Take the bundle's name and its aliases, alone or behind a provider's, as in "openai/default".

    Raises:
        UnknownModel
    """
    name = tercet.encoder.manifest.name
    known = (name, *tercet.settings.model_aliases)
    if model is not None and not any(model == one or model.endswith(f"/{one}") for one in known):
        raise UnknownModel(model, name)


def describe_model(tercet: State) -> dict[str, Any]:
    """In OpenAI's shape, with fields of our own. `created` is 0: a bundle does not tell when."""
    manifest = tercet.encoder.manifest
    settings = tercet.settings
    limits = {
        "window_s": manifest.inputs.window_s,
        "tokens": max((t.spec.tokens for t in manifest.tokenizers.values()), default=0),
        "letters": LETTERS_MAX,
        "media_max_s": settings.media_max_s,
        "upload_max_mb": settings.upload_max_mb,
        "files_max": settings.files_max,
        "texts_max": settings.texts_max,
        "suffixes": sorted(MEDIA),
    }
    spaces = {
        name: {"dim": space.dim, "modalities": list(space.encodings)}
        for name, space in manifest.spaces.items()
    }
    return {
        "id": manifest.name,
        "object": "model",
        "created": 0,
        "owned_by": "tercet",
        "name": manifest.name,
        "fingerprint": manifest.fingerprint,
        "modalities": list(manifest.modalities),
        "spaces": spaces,
        "dim": manifest.spaces[manifest.space_for((manifest.modalities[0],))].dim,
        "limits": limits,
        "provenance": manifest.provenance,
    }
