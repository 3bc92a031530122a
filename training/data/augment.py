"""Random changes to training images, for a whole batch at once, that keep them valid images.

Grey sets are drawn on an empty ground, so what comes in from outside is 0; colour images are
continued by their mirror image.
"""

import math

import tensorflow as tf

from training.data.randomness import unit_interval

AUGMENTATIONS = ("affine", "crop", "flip", "cutout")  # always applied in this order
AUGMENT_WORDS = 8  # the random words one image uses, named by the columns below
_ROW, _COLUMN, _FLIP, _ANGLE, _SCALE, _SHEAR, _HOLE_ROW, _HOLE_COLUMN = range(AUGMENT_WORDS)
_MAX_ANGLE = math.pi / 18
_MAX_SCALE = 0.1
_MAX_SHEAR = 0.1


def augment_images(
    images: tf.Tensor, words: tf.Tensor, operations: tuple[str, ...] | list[str]
) -> tf.Tensor:
    """Changes each image of a batch at random.

    Args:
      images: uint8 images [batch, height, width, channels].
      words: random words, uint32 of shape [batch, AUGMENT_WORDS].
      operations: names from `AUGMENTATIONS`. "affine" turns by up to 10 degrees, scales and shears
        by up to a tenth; "crop" shifts by up to 4 pixels each way (2 below a height of 32, 1 below
        16); "flip" mirrors left and right half the time; "cutout" blanks a square of half the
        height around a random pixel.

    Returns:
      uint8 images of the same shape, with values between the smallest and largest given, or 0.
    """
    random = unit_interval(words)
    if "affine" in operations:
        images = _affine(images, random)
    if "crop" in operations or "flip" in operations:
        images = _shift(images, random, crop="crop" in operations, flip="flip" in operations)
    if "cutout" in operations:
        images = _cutout(images, random)
    return images


def views(images: tf.Tensor, operations: tuple[str, ...] | list[str]) -> list[tf.Tensor]:
    """Returns the images as they are, and shifted and mirrored as training has seen them.

    A network that was trained with "crop" or "flip" knows each of these views, and the mean of its
    answers errs less than one answer. Nothing is drawn at random.

    Args:
      images: images [batch, height, width, channels] of any number type.
      operations: names from `AUGMENTATIONS`. With "crop" one view is moved by a pixel down and to
        the right, and another one back; with "flip" each view has its mirror image.

    Returns:
      The images, then their other views: 1, 2, 3 or 6 tensors of one shape.
    """
    found = [images]
    if "crop" in operations:
        moves = [tf.fill([tf.shape(images)[0], 1], move) for move in (-1, 1)]
        found += [_moved(images, move, move, flipped=False) for move in moves]
    if "flip" in operations:
        found += [tf.reverse(view, axis=[2]) for view in found]
    return found


def _affine(images: tf.Tensor, random: tf.Tensor) -> tf.Tensor:
    _, height, width, channels = images.shape
    signed = 2.0 * random - 1.0
    angle = _MAX_ANGLE * signed[:, _ANGLE]
    scale = 1.0 + _MAX_SCALE * signed[:, _SCALE]
    shear = _MAX_SHEAR * signed[:, _SHEAR]
    cos, sin = scale * tf.cos(angle), scale * tf.sin(angle)
    # Output to input: turned and scaled after a shear, about the middle of the image.
    a, b = cos, cos * shear - sin
    c, d = sin, sin * shear + cos
    x, y = (width - 1) / 2, (height - 1) / 2
    none = tf.zeros_like(a)
    rows = [a, b, x - a * x - b * y, c, d, y - c * x - d * y, none, none]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=tf.stack(rows, axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT" if channels == 1 else "REFLECT",
    )
    return tf.cast(tf.round(moved), images.dtype)


def _shift(images: tf.Tensor, random: tf.Tensor, crop: bool, flip: bool) -> tf.Tensor:
    height, none = images.shape[1], tf.zeros([tf.shape(images)[0], 1], tf.int32)
    down = right = none
    if crop:
        reach = 4 if height >= 32 else 2 if height >= 16 else 1
        down = _integers(random[:, _ROW, None], 2 * reach + 1) - reach
        right = _integers(random[:, _COLUMN, None], 2 * reach + 1) - reach
    return _moved(images, down, right, (random[:, _FLIP, None] < 0.5) & flip)


def _moved(
    images: tf.Tensor, down: tf.Tensor, right: tf.Tensor, flipped: tf.Tensor | bool
) -> tf.Tensor:
    """Looks at each image from a place so far down and to the right, or in a mirror."""
    _, height, width, channels = images.shape
    rows, columns = tf.range(height)[None] + down, tf.range(width)[None] + right
    columns = tf.where(flipped, width - 1 - columns, columns)
    base = tf.range(tf.shape(images)[0])[:, None, None] * (height * width)
    pixels = base + _mirror(rows, height)[:, :, None] * width + _mirror(columns, width)[:, None]
    moved = tf.gather(tf.reshape(images, [-1, channels]), pixels)
    if channels == 1:
        inside = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None]
        moved *= tf.cast(inside[..., None], moved.dtype)
    return moved


def _cutout(images: tf.Tensor, random: tf.Tensor) -> tf.Tensor:
    _, height, width, _ = images.shape
    side = height // 2
    rows = tf.range(height) + side // 2 - _integers(random[:, _HOLE_ROW, None], height)
    columns = tf.range(width) + side // 2 - _integers(random[:, _HOLE_COLUMN, None], width)
    hole = _inside(rows, side)[:, :, None] & _inside(columns, side)[:, None]
    return images * tf.cast(~hole[..., None], images.dtype)


def _integers(random: tf.Tensor, count: int) -> tf.Tensor:
    return tf.cast(random * count, tf.int32)


def _mirror(index: tf.Tensor, size: int) -> tf.Tensor:
    index = tf.where(index < 0, -1 - index, index)
    return tf.where(index >= size, 2 * size - 1 - index, index)


def _inside(index: tf.Tensor, size: int) -> tf.Tensor:
    return (index >= 0) & (index < size)
