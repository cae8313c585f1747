"""Preprocess the pixels of a tile or camera frame into the input of a network. Pure.

Ground station and aircraft run the same code with the parameters from the manifest, so that their descriptors
can be compared. The steps are:

1. Composite alpha over the mean colour of what can be seen: the edge between a picture and another colour
   looks like ground to a network, and hides the place. The decoder has expanded palettes and repeated grey
   before. Embedded colour profiles and orientation tags are ignored.
2. If `size` is square and the picture is not, cut out its middle square: squeezed ground is not recognised.
   Tiles are square. Resize to `size` by `RESAMPLER`; leave an equal size alone.
3. Put channels into `colour` order and axes into `layout` order.
4. Compute (p - mean) / std in float32, for p from 0 to 255; mean and std are in the network's channel order.

One step comes after the network: where `normalise` is set, descriptors are divided by their length.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from store.base.joined_vectors import unit_rows
from store.base.valueclass import valueclass

Pixels = npt.NDArray[np.uint8]
Sample = npt.NDArray[np.float32]

RESAMPLER: Final = "pillow-bilinear-antialiased/1"
"""Pillow's triangle filter, antialiased, along rows and then along columns; 8-bit fixed-point arithmetic, hence the
same on every machine. `docs/images.md` has it."""
ALPHA: Final = "over-mean/1"
_ALPHA_BEFORE: Final = "over-black/1"
"""What caches of earlier versions name. It concerns tiles alone, so that their descriptors can be searched."""

MIN_SIDE: Final = 1
MAX_SIDE: Final = 16_384

_Triple = tuple[float, float, float]


@valueclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The parameters of preprocessing.

    Attributes:
        size: Height and width that the network sees, pixels.
        colour: Order of the colour channels.
        layout: "nchw" for [3, h, w] samples, "nhwc" for [h, w, 3].
        mean: Subtracted from each channel, on the scale 0 to 255, in `colour` order.
        std: Then divides each channel.
        resampler: Name and version of the resampler; only `RESAMPLER` exists.
        alpha: Name and version of the rule for transparency; new tiles follow `ALPHA`.
        normalise: Whether what the network gives is then divided by its length.

    Raises:
        ValueError: At construction: a parameter is out of range, or names a rule that this version lacks.
    """

    size: tuple[int, int]
    colour: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    mean: _Triple = (0.0, 0.0, 0.0)
    std: _Triple = (1.0, 1.0, 1.0)
    resampler: str = RESAMPLER
    alpha: str = ALPHA
    normalise: bool = False

    def __post_init__(self) -> None:
        """Check and normalize the parameters."""
        sides: list[object] = list(self.size)
        if len(sides) != 2 or not all(type(side) is int and MIN_SIDE <= side <= MAX_SIDE for side in sides):
            raise ValueError(
                f"expected size as two whole numbers from {MIN_SIDE} to {MAX_SIDE}, found {self.size!r}"
            )
        for name, value, known in (
            ("colour", self.colour, ("rgb", "bgr")),
            ("layout", self.layout, ("nchw", "nhwc")),
            ("resampler", self.resampler, (RESAMPLER,)),
            ("alpha", self.alpha, (ALPHA, _ALPHA_BEFORE)),
        ):
            if value not in known:
                raise ValueError(f"expected {name} to be {' or '.join(known)}, found {value!r}")
        if type(self.normalise) is not bool:
            raise ValueError(f"expected normalise to be true or false, found {self.normalise!r}")
        object.__setattr__(self, "size", tuple(self.size))
        object.__setattr__(self, "mean", _finite_triple("mean", self.mean))
        object.__setattr__(self, "std", _finite_triple("std", self.std))
        if any(np.float32(value) <= 0 for value in self.std):
            raise ValueError(f"expected std greater than 0, found {self.std!r}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one sample."""
        height, width = self.size
        return (3, height, width) if self.layout == "nchw" else (height, width, 3)

    def apply(self, image: Pixels, out: Sample | None = None) -> Sample:
        """Return the sample of an image.

        Args:
            image: uint8 [height, width, 3], RGB.
            out: float32 of `shape`, C-contiguous, that the sample is written to; memory that is used again
                takes less than half the time of new memory.

        Returns:
            float32 of `shape`, C-contiguous: `out`, or else a new array.

        Raises:
            ValueError: The image, or `out`, has another shape or type.
        """
        if not isinstance(image, np.ndarray):
            raise ValueError(  # noqa: TRY004 - one error for all that is no picture
                f"expected a picture uint8 [h, w, 3], found {type(image).__name__}"
            )
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"expected a picture uint8 [h, w, 3], found {image.dtype} {list(image.shape)}")
        sample = np.empty(self.shape, np.float32) if out is None else out
        if sample.dtype != np.float32 or sample.shape != self.shape or not sample.flags.c_contiguous:
            raise ValueError(
                f"expected memory float32 {list(self.shape)}, found {sample.dtype} {list(sample.shape)}"
            )
        height, width = self.size
        resized = resample(middle_square(image) if height == width else image, self.size)
        np.copyto(sample, self.ordered(resized))
        self._scale(sample)
        return sample

    def ordered(self, image: Pixels) -> Pixels:
        """Return a view of pixels uint8 [rows, columns, 3], RGB, with channels and axes in the network's order."""
        ordered = image[:, :, ::-1] if self.colour == "bgr" else image
        return ordered.transpose(2, 0, 1) if self.layout == "nchw" else ordered

    def scaled(self, ordered: Pixels) -> Pixels | Sample:
        """Return (p - mean) / std for the values p of `ordered` pixels in float32; themselves if that changes nothing."""
        if not any(self.mean) and self.std == (1.0, 1.0, 1.0):
            return ordered
        values = ordered.astype(np.float32)
        self._scale(values)
        return values

    def _scale(self, sample: Sample) -> None:
        # Values that change nothing are passed over: an image is 200,000 numbers.
        if any(self.mean):
            sample -= self._by_channel(self.mean)
        if self.std != (1.0, 1.0, 1.0):
            sample /= self._by_channel(self.std)

    def _by_channel(self, values: _Triple) -> Sample:
        found = np.array(values, np.float32)
        return found[:, None, None] if self.layout == "nchw" else found

    def finish(self, vectors: Sample) -> Sample:
        """Return descriptors from what the network gave, float32 [n, d]; what has no length stays as it is."""
        return unit_rows(vectors) if self.normalise else vectors

    def to_document(self) -> dict[str, object]:
        """Return the parameters as whole numbers and strings; a float is its shortest exact decimal."""
        # The last key came later, and is there only where used, so that older documents stay as they were.
        return {
            "alpha": self.alpha,
            "colour": self.colour,
            "layout": self.layout,
            "mean": [repr(value) for value in self.mean],
            "resampler": self.resampler,
            "size": list(self.size),
            "std": [repr(value) for value in self.std],
            **({"normalise": True} if self.normalise else {}),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Preprocessing":
        """Return the parameters in a document of `to_document`; refuse any other form of them.

        Raises:
            ValueError: The document does not have that form.
        """
        try:
            found = cls(
                size=tuple(document["size"]),
                colour=document["colour"],
                layout=document["layout"],
                mean=_from_decimals(document["mean"]),
                std=_from_decimals(document["std"]),
                resampler=document["resampler"],
                alpha=document["alpha"],
                normalise=document.get("normalise", False),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected a preprocessing document, found {error!r}") from None
        if found.to_document() != dict(document):
            raise ValueError(f"expected a preprocessing document in canonical form, found {dict(document)!r}")
        return found


def flatten_alpha(image: Pixels) -> Pixels:
    """Return a picture composited over the mean colour of its visible part; grey if nothing is visible.

    Args:
        image: uint8 [height, width, 4], RGBA, alpha not premultiplied.

    Returns:
        uint8 [height, width, 3], RGB.
    """
    alpha = image[:, :, 3:].astype(np.uint16)
    flat = image[:, :, :3] * alpha  # 16 bits hold a mixture: at most 255 * 255
    visible = int(alpha.sum(dtype=np.int64))
    mean = flat.sum(axis=(0, 1), dtype=np.int64) // visible if visible else np.full(3, 127)
    flat += mean.astype(np.uint16) * (np.uint16(255) - alpha)
    return ((flat + np.uint16(127)) // np.uint16(255)).astype(np.uint8)


def middle_square(image: Pixels) -> Pixels:
    """Return the largest square about the middle of an image [height, width, 3], a view.

    Where the margins cannot be equal, the upper or left one is the smaller.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def resample(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Return an image resized by `RESAMPLER`.

    Args:
        image: uint8 [height, width, 3].
        size: New height and width, pixels.

    Returns:
        uint8 [*size, 3]; the image itself when it has that size already.
    """
    height, width = size
    if image.shape[:2] == size:
        return image
    from PIL import Image  # noqa: PLC0415 - reading the parameters needs no images

    # Rows, then columns, each rounded to 8 bits. Pillow takes the columns first from 13 on where the height shrinks
    # most, with other last bits: so it gets one axis at a time.
    picture = Image.fromarray(np.ascontiguousarray(image))
    for new in ((width, picture.height), (width, height)):
        if picture.size != new:
            picture = picture.resize(new, resample=Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _from_decimals(texts: Sequence[str]) -> _Triple:
    try:
        first, second, third = (float(text) for text in texts)
    except ValueError as error:
        raise ValueError(f"expected three decimal numbers, found {texts!r}") from error
    return first, second, third


def _finite_triple(name: str, values: Sequence[object]) -> _Triple:
    numbers = [
        float(value) + 0.0 for value in values if isinstance(value, (int, float)) and np.isfinite(value)
    ]
    # Adding zero turns -0.0 into 0.0, so that equal parameters have equal documents.
    if len(values) != 3 or len(numbers) != 3:
        raise ValueError(f"expected {name} as three finite numbers, found {values!r}")
    return numbers[0], numbers[1], numbers[2]
