from collections.abc import Mapping
from typing import Any


class Camera:
    def __init__(self, d: Mapping[str, Any]) -> None:
        self.d = d

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Camera":
        for k in ("width", "height", "fx", "fy"):
            if k not in document:
                raise ValueError("expected " + k)
        return cls(document)


def level_sides_m(lowest: float, highest: float, camera: Camera) -> list[float]:
    a, b = sorted((lowest * camera.d["width"] / camera.d["fx"], lowest * camera.d["height"] / camera.d["fy"]))
    s = min((a * b) ** 0.5, 1.35 * a)
    out = [s]
    while out[-1] < s * highest / lowest / 1.12:
        out.append(out[-1] * 1.25)
    return out
