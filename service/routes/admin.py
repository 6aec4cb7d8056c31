"""What operators do while the service runs."""

from __future__ import annotations

from fastapi import Request

from ..access import needs
from ..keys import ADMIN
from .router import Router

router = Router()


@router.post("/v1/admin/reload", tags=["admin"])
@needs(ADMIN, "service.reload", everything=True)
async def reload(request: Request) -> dict[str, str]:
    """Read the settings and open the bundle again, as SIGHUP does. Answered when they serve."""
    state = await request.app.state.owner.reloader.reload()
    return {"fingerprint": state.encoder.manifest.fingerprint}
