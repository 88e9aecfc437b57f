"""The package's type stub, written from the declarations: what an editor shows when it completes a call.

Functions that take settings are decorated, and a type checker does not look behind that. So ``mastlens/__init__.pyi``
has each with its settings object and with its fields; everything else is named as it is.

    python -m mastlens.cli.stubs > stub && mv stub mastlens/__init__.pyi
"""

import inspect
import re
import sys
from dataclasses import fields
from typing import Any, get_args

import mastlens
from mastlens.runs.settings import declared, is_required, takes_several

_HEAD = '"""Written by ``python -m mastlens.cli.stubs``; not to be edited."""\n'


def public_stub() -> str:
    """Return the text of ``mastlens/__init__.pyi``."""
    functions, names = [], []
    for name in sorted(mastlens.__all__):
        value = getattr(mastlens, name)
        if inspect.isfunction(value) and hasattr(value, "settings"):
            functions.append(_overloads(name, value))
        else:
            names.append(f"from mastlens.{mastlens._PUBLIC[name]} import {name} as {name}")
    body = "\n".join(functions)
    modules = sorted(set(re.findall(r"\b(mastlens(?:\.[a-z_]+)+)(?=\.[A-Z])", body)))
    modules += sorted(set(re.findall(r"\b(collections\.abc|os|pathlib|pandas)\.\w", body)))
    imports = [f"import {module}" for module in dict.fromkeys(modules)]
    listed = "\n".join(f"    {name!r}," for name in sorted(mastlens.__all__)).replace("'", '"')
    top = [_HEAD, *imports, "from typing import Any, overload", "", *names]
    return "\n".join(
        [
            *top,
            "",
            "__version__: str",
            "_PUBLIC: dict[str, str]",
            "_FORMER: dict[str, str]",
            f"__all__ = [\n{listed}\n]",
            "",
            body,
        ]
    )


def _overloads(name: str, function: Any) -> str:
    settings = function.settings
    returned = _type(inspect.signature(function).return_annotation)
    own = f"{settings.__module__}.{settings.__qualname__}"
    places = [item for item in fields(settings) if declared(item).positional]
    variadic = [item.name for item in places if len(places) == 1 and takes_several(settings, item)]
    parameters, starred = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parameters.append("*")
            starred = True
        default = "" if parameter.default is parameter.empty else " = ..."
        if parameter.name in variadic:
            parameters.append(f"*{parameter.name}: {_type(get_args(parameter.annotation)[0])}")
            starred = True
        else:
            parameters.append(f"{parameter.name}: {_type(parameter.annotation)}{default}")
    if places and not is_required(places[0]):
        own = f"{own} | None"
    return (
        f"@overload\ndef {name}(settings: {own}, /, **fields: Any) -> {returned}: ...\n"
        f"@overload\ndef {name}({', '.join(parameters)}) -> {returned}: ...\n"
    )


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\btyping\.", "", text).replace("NoneType", "None")
    return re.sub(r"\bpd\.", "pandas.", text)


if __name__ == "__main__":
    sys.stdout.write(public_stub())
