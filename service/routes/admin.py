"""What operators do while the service runs."""

from __future__ import annotations

from fastapi import Request

from .router import Router

router = Router()


@router.post("/v1/admin/reload", tags=["admin"])
async def reload(request: Request) -> dict[str, str]:
    """Open the bundle and read the settings again, as SIGHUP does; answered when they serve."""
    state = await request.app.state.reloader.reload()
    return {"fingerprint": state.encoder.manifest.fingerprint}
