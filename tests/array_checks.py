"""Makes jaxtyping's import hook, which checks all of Hilum in tests, cheap where a signature has no arrays."""

from typing import Literal, get_args, get_origin

import jaxtyping

_jaxtyped = jaxtyping.jaxtyped


def _has_arrays(annotation):
    if isinstance(annotation, str):
        return True  # a forward reference, which could be one
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return get_origin(annotation) is not Literal and any(map(_has_arrays, get_args(annotation)))


def _checked(*, typechecker):
    """jaxtyping binds all arguments at each call; without arrays beartype alone checks the same, ten times faster."""

    def decorate(target):
        if isinstance(target, type) or any(map(_has_arrays, getattr(target, "__annotations__", {}).values())):
            return _jaxtyped(target, typechecker=typechecker)
        return typechecker(target)

    return decorate


jaxtyping.jaxtyped = _checked
