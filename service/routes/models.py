"""The bundle that serves and the limits, in the shape of OpenAI's list of models."""

from __future__ import annotations

from typing import Any

from media.containers import MEDIA
from media.text import LETTERS_MAX

from ..active import Tercet
from .router import Router

router = Router()


@router.get("/v1/models", tags=["models"])
async def models(tercet: Tercet) -> dict[str, Any]:
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
    model = {
        "id": manifest.name,
        "object": "model",
        "name": manifest.name,
        "fingerprint": manifest.fingerprint,
        "modalities": list(manifest.modalities),
        "spaces": spaces,
        "dim": manifest.spaces[manifest.space_for((manifest.modalities[0],))].dim,
        "limits": limits,
        "provenance": manifest.provenance,
    }
    return {"object": "list", "data": [model]}
