"""Settings of ``attack``: what every attack is given, and what each declares itself."""

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass, replace
from typing import TYPE_CHECKING, Any, get_args, get_origin

from mastlens.attacks.catalogue import ATTACKS, attack_lines, foreign_lines, shown
from mastlens.attacks.method import AttackMethod
from mastlens.decoding.settings import grading
from mastlens.errors import BadSetting, unknown
from mastlens.problems.settings import Reading
from mastlens.runs.settings import ATTACK, CheckpointPath, FilePath, bare, declared, hints_of, path_to, setting


def _uses(key: str) -> str:
    """Return what the attacks have problems for, e.g. ``relearn-forget, relearn-rlvr: problems to relearn from``."""
    having: dict[str, list[str]] = {}
    for name, method in ATTACKS.shipped.items():
        if key in method.uses:
            having.setdefault(method.uses[key], []).append(name)
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in having.items())


@dataclass(frozen=True, kw_only=True)
class _Attacking(Reading):
    """What every attack is given."""

    command, group = "attack", ATTACK
    summary = "does what was forgotten come back? by relearning, quantisation, prompts"
    example = (
        "attack quantise --model organism:qwen2/rlvr-retain --source organism:qwen2/rlvr --control organism:qwen2/sft "
        "--split forget=forget-eval.jsonl --out attacked"
    )
    function = "mastlens.attacks.running:attack"
    then = "report {out}"

    name: str | AttackMethod = setting("which attack", positional=True, metavar="NAME", listing=attack_lines)
    model: CheckpointPath = setting(path_to("what --edit belongs to, or is edited"), metavar="PATH")
    edit: FilePath | Any | None = setting("the edit to attack; its source is attacked beside it", None, metavar="EDIT")
    source: CheckpointPath | None = setting(
        path_to("without --edit, the model before it was edited"), None, metavar="PATH"
    )
    control: CheckpointPath | None = setting(path_to("a model without the skill, e.g. after SFT"), None, metavar="PATH")
    reference: CheckpointPath | None = setting(
        path_to("a model retrained without the skill, e.g. rewarded on the retain side alone"), None, metavar="PATH"
    )
    splits: Mapping[str, FilePath] = setting("what is tested, JSON lines", flag="--split", metavar="NAME=FILE")
    train: FilePath | None = setting(f"what the attacker has, JSON lines ({_uses('train')})", None, metavar="FILE")
    retain: FilePath | None = setting(f"what the attacker has beside it ({_uses('retain')})", None, metavar="FILE")
    max_new_tokens: int = setting("where a response ends", 1024, unit="tokens")
    grader: str | Any = grading("what is right, and what relearn-rlvr rewards")
    own: Mapping[str, Any] | None = setting(
        "settings of an attack of your own or of an installed package, which have no options here",
        None,
        flag="--set",
        metavar="NAME=VALUE",
        listing=foreign_lines,
    )


def _own_fields() -> list[tuple[str, Any, Any]]:
    """Return name, type and declaration of each setting of the attacks in the package.

    Attacks that share a setting share the option. Where their defaults differ, not giving it means each one's own.
    """
    having: dict[str, list[tuple[str, type[AttackMethod], Field[Any]]]] = {}
    for name, method in ATTACKS.shipped.items():
        for item in fields(method):
            having.setdefault(item.name, []).append((name, method, item))
    made = []
    for key, those in having.items():
        (_, method, item), defaults = those[0], {name: each.default for name, _, each in those}
        said = replace(declared(item), group=", ".join(defaults))
        hint, default = hints_of(method)[key], item.default
        if len(set(defaults.values())) > 1:
            text = "; ".join(f"{name} {shown(value)}" for name, value in defaults.items())
            said, hint, default = replace(said, shown_default=text), hint | None, None
        made.append((key, hint, field(default=default, metadata={"declared": said})))
    return made


if TYPE_CHECKING:

    class AttackSettings(_Attacking):
        """Settings of ``attack``, those of the attacks included."""
else:
    AttackSettings = make_dataclass("AttackSettings", _own_fields(), bases=(_Attacking,), frozen=True, kw_only=True)
    AttackSettings.__module__ = __name__
    AttackSettings.__doc__ = "Settings of ``attack``, those of the attacks included."


def method_of(settings: AttackSettings) -> AttackMethod:
    """Return the attack that is asked for, with its settings.

    Raises:
        MastlensError: If there is none of that name, it has no such setting, or a value makes no sense.
    """
    if isinstance(settings.name, AttackMethod):
        return settings.name
    kind = ATTACKS.find(settings.name)
    known = {item.name: item for item in fields(kind)}
    given = {key: getattr(settings, key, None) for key in known}
    for key, value in (settings.own or {}).items():
        if key not in known:
            raise unknown("setting", key, known, of=f"the attack {kind.name}")
        given[key] = _read(value, bare(hints_of(kind)[key]), f"{key} of {kind.name}")
    return kind(**{key: value for key, value in given.items() if value is not None})


def spelled_out(settings: AttackSettings, method: AttackMethod) -> AttackSettings:
    """Return the settings as they can be typed: an attack that was given as an object by its name and settings."""
    if not isinstance(settings.name, AttackMethod):
        return settings
    here = {item.name for item in fields(settings)}
    values = {item.name: getattr(method, item.name) for item in fields(method)}
    own = {key: value for key, value in values.items() if key not in here}
    return replace(settings, name=method.name, own=own or None, **{k: v for k, v in values.items() if k in here})


def _read(value: Any, kind: Any, what: str) -> Any:
    """Return what was typed as a setting has it; what is no text stays as it is."""
    if not isinstance(value, str) or kind is str:
        return value
    if get_origin(kind) in (tuple, list, Sequence):
        return tuple(_read(part, get_args(kind)[0], what) for part in value.split(","))
    if kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return value if kind not in (int, float) else kind(value)
    except ValueError as error:
        raise BadSetting(f"{what} is a number, not {value!r}.") from error
