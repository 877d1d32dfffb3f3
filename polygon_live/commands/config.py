"""``polygon-live config show | validate FILE | diff FILE``: what is in force, and what a file would make of it."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import click
import trio

from polygon_live import logs
from polygon_live.commands.inforce import Found, find
from polygon_live.commands.posting import Posting, posting
from polygon_live.commands.tables import say, show
from polygon_live.config import settings_from
from polygon_live.document import SYMBOLS, digest, document, flat, nested
from polygon_live.errors import CollectorError, ConfigurationRefused
from polygon_live.gap import instant_text
from polygon_live.hub.standing import SAFE_DEFAULTS
from polygon_live.inforce import ConfigurationSnapshot
from polygon_live.model import encode
from polygon_live.operational import ALL_PAIRS, Operational
from polygon_live.plan import Plan, plan
from polygon_live.reading import read

REFUSED: Final = 1
FEW: Final = 40
"""So many symbols are shown; of more, how many there are."""
LOUD: Final = "bold red"

_json = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
_file = click.argument("file")
_codes = "FILE holds what is posted to Central Hub, a JSON object; - is standard input. Exit codes: 0 it is good, "


@click.group()
def config() -> None:
    """What operators have set through Central Hub, and what a file would change."""


@config.command("show")
@_json
def show_(*, as_json: bool) -> None:
    """Print what is in force, and where each value comes from.

    The running collector is asked, at POLYGON_LIVE_HTTP_HOST and _HTTP_PORT. Where none runs, Central Hub is: then it
    is what a start would find.
    """
    found = _found()
    if as_json:
        click.echo(encode({"collector": found.address, "configuration": found.configuration}))
        return
    for line, style in _about(found):
        say(line, style)
    now = found.configuration
    show(("NAME", "VALUE", "FROM"), [(n, _spelled(v), now.origins.get(n, "?")) for n, v in now.values.items()])
    for line, style in _remarks(now):
        say(line, style)


@config.command(epilog=_codes + "1 it would be refused, 2 it can't be read.")
@_file
@_json
def validate(file: str, *, as_json: bool) -> None:
    """Judge a configuration as the collector would, before it is posted. Nothing is asked and nothing is sent."""
    given = posting(file)
    operational = given.reading.operational
    if as_json:
        values = None if operational is None else document(operational)
        name = None if operational is None else digest(operational)
        click.echo(encode(_verdict(given) | {"configuration": values, "digest": name}))
    else:
        _say_verdict(given)
        if operational is not None:
            say(f"posted, it would be in force as {digest(operational)}:")
            values = flat(document(operational))
            show(("NAME", "VALUE", "FROM"), [(n, _spelled(v), _source(given, n)) for n, v in values.items()])
    if operational is None:
        sys.exit(REFUSED)


@config.command(epilog=_codes + "1 it would be refused, or what is in force can't be had, 2 it can't be read.")
@_file
@_json
def diff(file: str, *, as_json: bool) -> None:
    """Print what posting a file would change in what is in force. Nothing is sent.

    A POST replaces everything: what the file leaves out goes back to the safe defaults.
    """
    given = posting(file)
    new = given.reading.operational
    if new is None:
        if as_json:
            click.echo(encode(_verdict(given)))
        else:
            _say_verdict(given)
        sys.exit(REFUSED)
    found = _found()
    old = _operational(found)
    named_by_caller = found.configuration.origins.get(SYMBOLS) == "caller"
    if named_by_caller:
        new = attrs.evolve(new, symbols=old.symbols)
    steps = plan(old, new)
    if as_json:
        click.echo(encode(_verdict(given) | _changes(found, given, old, new, steps)))
        return
    _say_changes(found, given, new, steps)
    if named_by_caller:
        say("the symbols of this run were named by whoever started it: the Hub's are not for it", "yellow")
    _say_verdict(given)


def _found() -> Found:
    settings = settings_from(os.environ, needed=())
    logs.configure("error", settings.log_format, settings.secrets())  # what there is to say is said here
    try:
        return trio.run(find, settings)
    except CollectorError as why:
        raise click.ClickException(str(why)) from None


def _operational(found: Found) -> Operational:
    try:
        return read(nested(found.configuration.values)).taken()
    except ConfigurationRefused as why:
        msg = f"the collector at {found.address} is of another version: {why.faults[0]}"
        raise click.ClickException(msg) from None


def _about(found: Found) -> Iterator[tuple[str, str]]:
    now = found.configuration
    from_ = now.hub.source
    if now.hub.version is not None:
        from_ += f", version {now.hub.version}"
    if now.hub.updated_by is not None:
        from_ += f", posted by {now.hub.updated_by}"
    if now.hub.copied_ms is not None:
        from_ += f", fetched {instant_text(now.hub.copied_ms)}"
    if found.address is None:
        yield f"{now.digest} from {from_}", "bold"
    else:
        yield f"{now.digest} from {from_}; in force since {instant_text(now.since_ms)}", "bold"
        yield f"generation {now.generation} of the collector at {found.address}", ""


def _remarks(now: ConfigurationSnapshot) -> Iterator[tuple[str, str]]:
    if now.ignored:
        yield _ignored(now.ignored), "yellow"
    refused = now.hub.last_refusal
    if refused is not None:
        who = f" posted by {refused.updated_by}" if refused.updated_by else ""
        yield f"REFUSED at {instant_text(refused.at_ms)}: what {refused.source} has{who}, {refused.digest}", LOUD
        yield from ((f"  - {fault}", "red") for fault in refused.faults)
    if now.hub.last_error is not None:
        yield f"no answer when it was asked last: {now.hub.last_error}", "red"
    if now.hub.url is None:
        yield "there is no Central Hub: POLYGON_LIVE_HUB_URL is not set", "yellow"
    if now.unheard is not None:
        yield f"announcements can't be heard, so a change is seen only by asking: {now.unheard}", "yellow"


def _verdict(given: Posting) -> dict[str, Any]:
    reading = given.reading
    return {"good": not reading.faults, "faults": reading.faults, "ignored": reading.ignored, "doubled": given.doubled}


def _say_verdict(given: Posting) -> None:
    faults = given.reading.faults
    if faults:
        say(f"{given.name} would be refused as a whole:", LOUD)
        for fault in faults:
            say(f"  - {fault}", "red")
    else:
        say(f"{given.name} is good", "green")
    if given.reading.ignored:
        say(_ignored(given.reading.ignored), "yellow")
    if given.doubled:
        say(f"standing twice in one object, so that only the last one counts: {', '.join(given.doubled)}", "yellow")


def _ignored(names: Sequence[str]) -> str:
    return f"ignored, for addresses and secrets come from the environment: {', '.join(names)}"


def _changes(found: Found, given: Posting, old: Operational, new: Operational, steps: Plan) -> dict[str, Any]:
    return {
        "collector": found.address,
        "going": steps.going,
        "subscribe": steps.subscribe,
        "unsubscribe": steps.unsubscribe,
        "changed": {
            name: {"now": was, "then": then, "from": _source(given, name)}
            for name, (was, then) in steps.changed.items()
        },
        "digest": {"now": digest(old), "then": digest(new)},
    }


def _say_changes(found: Found, given: Posting, new: Operational, steps: Plan) -> None:
    if steps.going:
        everything = ALL_PAIRS in steps.going
        gone = f"every pair but these: {_spelled(new.symbols)}" if everything else " ".join(steps.going)
        why = "" if SYMBOLS in given.given else " The file leaves symbols out, so those of the safe defaults hold."
        say(f"GOING AWAY, not collected any more: {gone}.{why}", LOUD)
    if steps.subscribe:
        say(f"added: {_spelled(steps.subscribe)}", "green")
    show(
        ("NAME", "NOW", "THEN", "FROM"),
        [(name, _spelled(was), _spelled(then), _source(given, name)) for name, (was, then) in steps.changed.items()],
    )
    if not (steps.subscribe or steps.unsubscribe or steps.changed):
        say(f"nothing would change: {found.configuration.digest} is in force")


def _source(given: Posting, name: str) -> str:
    return "the file" if name in given.given else f"left out: {SAFE_DEFAULTS}"


def _spelled(value: object) -> str:
    if isinstance(value, list | tuple):
        if ALL_PAIRS in value:
            return "all pairs (*)"
        shown = " ".join(map(str, value[:FEW]))
        return shown if len(value) <= FEW else f"{shown} and {len(value) - FEW} more"
    return f"{value:g}" if isinstance(value, float) else str(value)
