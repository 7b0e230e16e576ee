"""Makes jaxtyping's import hook, which checks all of Hilum in tests, cheap."""

import functools
import inspect
from typing import Literal, get_args, get_origin

import jaxtyping

_jaxtyped = jaxtyping.jaxtyped


def _has_arrays(annotation):
    if isinstance(annotation, str):
        return True  # a forward reference, which could be one
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return get_origin(annotation) is not Literal and any(map(_has_arrays, get_args(annotation)))


def _needs_arguments(annotation):
    """Whether the size of an array is computed from an argument, such as ``{self.in_channels}``, or may be."""
    if isinstance(annotation, str):
        return True
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return "{" in annotation.dim_str
    return get_origin(annotation) is not Literal and any(map(_needs_arguments, get_args(annotation)))


def _checked(*, typechecker):
    """Check each argument and result once, and the sizes of arrays among them together.

    jaxtyping itself binds all arguments at each call and checks them twice, for better messages.
    """

    def decorate(target):
        annotations = list(getattr(target, "__annotations__", {}).values())
        if isinstance(target, type) or any(map(_needs_arguments, annotations)):
            return _jaxtyped(target, typechecker=typechecker)
        checked = typechecker(target)
        if not inspect.isfunction(target) or not any(map(_has_arrays, annotations)):
            return checked

        @functools.wraps(target)
        def within_sizes(*args, **kwargs):
            with _jaxtyped("context"):
                return checked(*args, **kwargs)

        return within_sizes

    return decorate


jaxtyping.jaxtyped = _checked
