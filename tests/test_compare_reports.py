"""The comparison on the terminal, as Markdown and as JSON, also of files that nobody should trust."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import jsonschema
import pytest
from compared import ENVIRONMENT, PASSES, between, deviates, family, made, refuses, run
from markdown_it import MarkdownIt
from rich.console import Console

from conformance.comparison import Comparison, compare, schema
from conformance.reports.comparison import show_comparison
from conformance.reports.markdown import LIMIT, MOST_LINES, code, comparison_page, text

CRASHES = made(verdict="crash")
RAISES = made(verdict="error")
HOSTILE = (
    "</details><script>alert(1)</script>",
    "`` ` ```\n```",
    "**bold** _em_ [link](http://evil.example) ![i](http://evil.example/x.png)",
    "| a | b |\n|---|---|",
    "<img src=x onerror=alert(1)> &lt;b&gt;",
    "@somebody please see #12 and https://evil.example WWW.evil.example www.evil.example me@evil.example",
    "\x1b[31mred\x1b[0m \x07 \u202e reversed \ud800",
    "# heading\n- item\n> quote",
    "a" * 100_000,
    "`",
    "\\",
    "",
)


def shown(found: Comparison, limit: int = 40, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    show_comparison(found, console, limit)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _word(number: int) -> str:
    """Words, since numbers do not make a kind."""
    return "".join(chr(97 + int(digit)) for digit in str(number))


def many(kinds: int) -> Comparison:
    """So many kinds of new failures, of several cells each."""
    old = [made(case=f"sweep/a[kernel={n}]", target=f"t{n // 3 % 7}@cpu") for n in range(3 * kinds)]
    new = [
        made(
            case=r.case,
            target=r.target,
            verdict="error",
            message=f"RuntimeError: {_word(n // 3)} {'is not supported ' * 9}",
        )
        for n, r in enumerate(old)
    ]
    return compare(run(old), run(new))


EVERYTHING_OLD = [
    *(made(case=f"sweep/{name}") for name in ("silent", "loud", "documented", "refused", "same", "same-too")),
    deviates(case="sweep/mended"),
    made(case="sweep/worse", verdict="error", message="no kernel"),
    made(case="old/case"),
    made(case="sweep/changed", digest="before"),
    made(case="sweep/a", target="gone@cpu"),
]
EVERYTHING_NEW = [
    deviates(case="sweep/silent", diagnosis="one pixel off"),
    made(case="sweep/loud", verdict="crash", message="signal 11"),
    deviates(case="sweep/documented", known=True, deviation="one-pixel"),
    refuses(case="sweep/refused"),
    made(case="sweep/mended"),
    deviates(case="sweep/worse"),
    *(made(case=f"sweep/{name}") for name in ("same", "same-too")),
    made(case="new/case"),
    made(case="sweep/changed", digest="after"),
]


def everything() -> Comparison:
    return compare(run(EVERYTHING_OLD, "old.sqlite"), run(EVERYTHING_NEW, "new.sqlite", versions={"torch": "2.13.0"}))


# ---- The terminal ----


def test_the_head_says_what_is_compared_and_the_next_line_is_the_answer() -> None:
    lines = shown(everything()).splitlines()
    assert lines[0] == "old.sqlite (11 verdicts) -> new.sqlite (10 verdicts)"
    assert lines[1] == "conformance 0.1.0, Python 3.11.7, Linux, AMD EPYC"
    assert lines[2] == "torch 2.12.0 -> 2.13.0"
    assert lines[3] == (
        "2 newly failing (1 silent), 1 failing worse, 1 failing as documented, 1 newly unsupported, 1 fixed; "
        "2 cells the same, 1 came, 2 gone, 1 not comparable"
    )


def test_the_silent_failure_comes_first_with_all_that_is_known_of_it() -> None:
    out = shown(everything())
    first = next(line for line in out.splitlines() if line.startswith("✗"))
    assert first == (
        "✗ within_bound -> deviates torch@cpu sweep/silent (rounding): one pixel off; "
        "at [0,1] got 2, expected 1; max error 1e-07 -> 1"
    )
    assert "documented: one-pixel" in out
    assert out.endswith("See one: conformance show sweep/silent --target torch@cpu\n")


def test_a_deviation_that_no_longer_predicts_what_happens_is_told_as_one_that_did() -> None:
    out = shown(between(deviates(known=True, deviation="one-pixel"), deviates(diagnosis="two pixels off")))
    assert "two pixels off; at [0,1] got 2, expected 1; was documented: one-pixel" in out
    out = shown(between(deviates(known=True, deviation="one-pixel"), made(verdict="fixed", deviation="one-pixel")))
    assert "; documented: one-pixel" in out


def test_what_is_in_one_run_only_is_told_in_a_line() -> None:
    out = shown(everything())
    assert "gone@cpu gone: 1 cell in the old run only\n" in out
    assert "1 cell gone: old 1\n" in out
    assert "1 cell came: new 1\n" in out


def test_two_runs_of_the_same_thing_are_said_to_be_the_same() -> None:
    assert "\nnothing changed; 30 cells the same\n" in shown(compare(run(family(30)), run(family(30))))


def test_more_kinds_than_the_limit_are_counted() -> None:
    out = shown(many(20), limit=5)
    assert sum(line.startswith("✗") for line in out.splitlines()) == 5
    more = next(line for line in out.splitlines() if line.startswith("..."))
    kinds = len(many(20).changes)
    assert more == f"... and {kinds - 5} kinds more (--limit {kinds})"


def test_the_command_to_see_one_is_of_a_regression_and_can_be_pasted() -> None:
    fails = compare(run([PASSES, made(case="s/a")]), run([PASSES, deviates(case="s/a")]))
    assert "conformance show s/a --target torch@cpu" in shown(fails)
    out = shown(between(PASSES, deviates()))
    assert "conformance show 'sweep/line[kernel=3]' --target torch@cpu" in out
    out = shown(between(made(target="$(reboot)"), deviates(target="$(reboot)")))
    assert "--target '$(reboot)'" in out
    assert "conformance show" not in shown(between(deviates(), PASSES))


def test_a_reason_that_the_message_has_already_is_not_told_twice() -> None:
    out = shown(between(PASSES, refuses(message="no groups of 3")))
    assert out.count("no groups") == 1


def test_a_long_text_does_not_flood_the_terminal() -> None:
    assert len(shown(hostile("a" * 100_000))) < 8_000


def test_growth_of_errors_is_told_with_its_size() -> None:
    old = [made(case=f"sweep/a[kernel={n}]", rms_usage=0.1 + n / 1000) for n in range(40)]
    new = [made(case=r.case, rms_usage=(r.rms_usage or 0) * 3) for r in old]
    out = shown(compare(run(old), run(new)))
    assert "errors grew in 1 group; 40 cells the same" in out
    assert "✗ torch@cpu float32: errors 2.84 times as large on 40 cells, 0.12 -> 0.36 of the gate" in out


@pytest.mark.parametrize("said", HOSTILE)
def test_what_a_run_file_says_does_not_steer_the_terminal(said: str) -> None:
    out = shown(hostile(said))
    assert all(c.isprintable() or c == "\n" for c in out)


def hostile(said: str) -> Comparison:
    """A comparison in which everything that a file can say is this text."""
    odd = {"case": said, "target": said, "data": said}
    records = [
        made(**odd),
        made(**odd | {"data": said + "2"}),
        made(**odd | {"data": said + "3"}),
        made(case="a/b", target=said),
        made(case=said + "c", target=said + " in the old run only"),
    ]
    fails = {"diagnosis": said, "message": said, "deviation": said, "arithmetic": said}
    changed = [
        made(**odd, verdict="deviates", **fails),
        made(**odd | {"data": said + "2"}, verdict="deviates", known=True, **fails),
        made(**odd | {"data": said + "3"}, verdict="unsupported", **fails),
        made(case="a/b", target=said, digest="other"),
        made(case=said, target=said + " in the new run only"),
        made(case=said + "/new", target=said),
    ]
    world = {key: said for key in ENVIRONMENT if key not in ("versions", "cpu", "settings", "finished")}
    world |= {"versions": {said: said}, "cpu": {"model": said}, "settings": {said: {said: said}}}
    return compare(run(records, said), run(changed, said + "!", **world))


def hostile_shifts(said: str) -> Comparison:
    """Errors and times that grew, on a target and in a suite of this name."""
    names = {"target": said, "arithmetic": said}
    old = [made(case=f"{said}/x[kernel={n}]", rms_usage=0.1, **names) for n in range(40)]
    old += [made(case=f"still/x[kernel={n}]", rms_usage=0.1, **names) for n in range(400)]
    new = [replace(r, seconds=9.0, rms_usage=0.1 if r.case.startswith("still") else 0.5) for r in old]
    return compare(run(old), run(new))


# ---- Markdown ----


class Elements(HTMLParser):
    """What of a page is an element, and the text that stands outside code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.outside = ""
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "code" not in self.open:
            self.outside += data


def rendered(markdown: str) -> Elements:
    """As GitHub does it: HTML passes, links and tables are made of what looks like one."""
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    elements = Elements(page)
    assert elements.open == []
    return elements


OURS = {"h3", "pre", "code", "p", "strong", "ul", "li", "details", "summary"}


def test_the_page_has_the_answer_as_its_heading_and_the_worst_first() -> None:
    page = comparison_page(everything())
    assert page.startswith("### ❌ 2 newly failing (1 silent), 1 failing worse")
    assert "torch 2.12.0 -> 2.13.0\n" in page
    places = [
        page.index(word) for word in ("newly failing (1 silent), 2 kinds", "sweep/silent", "sweep/loud", "1 fixed,")
    ]
    assert places == sorted(places)


def test_the_page_of_no_change_is_short_and_green() -> None:
    page = comparison_page(compare(run([PASSES], "a"), run([PASSES], "b")))
    assert page.startswith("### ✅ nothing changed; 1 cell the same\n")
    assert len(page.splitlines()) < 10


def test_regressions_are_open_and_the_rest_is_folded() -> None:
    page = comparison_page(everything())
    folded = page[page.index("<details>") :]
    assert "sweep/silent" not in folded
    assert "sweep/mended" in folded
    assert page.count("<details>") == page.count("</details>") == 4


def test_errors_that_grew_stand_open_and_times_folded() -> None:
    page = comparison_page(hostile_shifts("torch@cpu"))
    assert page.startswith("### ❌ errors grew in 1 group; 440 cells the same\n")
    open_, folded = page.split("<details><summary>Times</summary>")
    assert "- `torch@cpu` `torch@cpu` `torch@cpu`: `errors 4.64 times as large on 40 cells" in open_
    assert "- `torch@cpu`: 9e+03 times as long: 0.001 s -> 9 s a cell in the median" in folded


def test_verdicts_keep_their_underlines() -> None:
    page = MarkdownIt("commonmark").render(comparison_page(between(made(verdict="wrong_shape"), PASSES)))
    assert "<strong>wrong_shape → within_bound</strong>" in page


def test_the_page_renders_as_what_it_is() -> None:
    elements = rendered(comparison_page(everything()))
    assert set(elements.names) == OURS
    assert elements.names.count("details") == 4
    assert elements.names.count("li") == 9
    assert "within_bound → deviates" in elements.outside


def test_long_lists_are_folded_and_the_page_stays_below_its_limit() -> None:
    page = comparison_page(many(30))
    assert "20 lines more</summary>" in page
    for kinds in (300, 2000):
        page = comparison_page(many(kinds))
        assert len(page) <= LIMIT
        assert f"- ... and {kinds - MOST_LINES:,} more\n" in page
        assert set(rendered(page).names) <= OURS


def test_a_page_that_is_full_still_says_what_else_changed() -> None:
    pairs = [
        (PASSES, CRASHES),
        (RAISES, deviates()),
        (PASSES, made(arithmetic="tf32")),
        (PASSES, deviates(known=True)),
        (deviates(), RAISES),
        (PASSES, refuses()),
        (PASSES, made(verdict="ambiguous")),
        (deviates(), PASSES),
        (refuses(), PASSES),
        (made(arithmetic="tf32"), PASSES),
        (made(verdict="ambiguous"), PASSES),
    ]
    name = "word " * 30
    cells = [
        [
            replace(pair[side], case=f"s/{name}{n}", target=f"{name}{n}", message=name * 3, diagnosis=name * 2)
            for n, pair in enumerate(pairs * 60)
        ]
        for side in (0, 1)
    ]
    found = compare(run(cells[0]), run(cells[1]))
    page = comparison_page(found)
    assert LIMIT - 3000 < len(page) <= LIMIT
    for title in (
        "60 newly failing, 60 kinds",
        "60 newly unsupported, 60 kinds",
        "60 no longer open or differing by run",
    ):
        assert title in page


@pytest.mark.parametrize("said", HOSTILE)
@pytest.mark.parametrize("kind", [hostile, hostile_shifts])
def test_nothing_of_a_run_file_is_markup(said: str, kind: Callable[[str], Comparison]) -> None:
    page = comparison_page(kind(said))
    elements = rendered(page)
    assert set(elements.names) <= OURS
    assert elements.links == []
    for word in ("evil", "alert", "somebody", "#12", "bold", "heading", "quote"):
        assert word not in elements.outside
    assert len(page) <= LIMIT


@pytest.mark.parametrize("said", HOSTILE)
def test_text_within_a_sentence_is_no_markup_either(said: str) -> None:
    elements = rendered(f"before {text(said)} after")
    assert elements.names == ["p"]
    outside = elements.outside
    assert "@somebody" not in outside
    assert "#12" not in outside
    assert "://" not in outside
    assert "www." not in outside.lower()
    assert "me@evil" not in outside


@pytest.mark.parametrize("said", HOSTILE)
def test_code_is_one_span_on_one_line(said: str) -> None:
    assert code(said).isprintable()
    elements = rendered(f"before {code(said)} after")
    assert elements.names == ["p", "code"]
    assert elements.outside.split() == ["before", "after"]


def test_text_and_code_say_what_was_said() -> None:
    for said in ("torch@cpu", "sweep/line[kernel=3x4,stride=1]", "a_b * <c> | d", "100% & more!"):
        assert rendered(text(said)).outside.strip() == said
        page = MarkdownIt("commonmark").render(code(said))
        inside = HTMLParser()
        found: list[str] = []
        inside.handle_data = found.append  # type: ignore[method-assign]
        inside.feed(page)
        assert "".join(found).strip() == said


# ---- JSON ----


@pytest.mark.parametrize("found", [everything(), many(5), hostile(HOSTILE[0]), compare(run([]), run([]))])
def test_json_is_what_the_schema_says_and_can_be_read_again(found: Comparison) -> None:
    value = json.loads(found.as_json(), parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(value, schema())
    assert (value["name"], value["schema"]) == ("conformance-comparison", 1)
    assert Comparison.model_validate_json(found.as_json()) == found


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("said", HOSTILE)
def test_all_texts_of_a_comparison_are_printable(said: str) -> None:
    assert all(text.isprintable() for text in _texts(json.loads(hostile(said).as_json())))


def test_numbers_that_json_cannot_say_are_text() -> None:
    found = between(made(max_abs_error=math.inf), deviates(max_abs_error=math.nan))
    example = json.loads(found.as_json())["changes"][0]["example"]
    assert (example["old_error"], example["new_error"]) == ("inf", "nan")
    jsonschema.validate(json.loads(found.as_json()), schema())


def test_the_schema_refuses_what_is_no_comparison() -> None:
    value = json.loads(everything().as_json())
    for wrong in ({"schema": 2}, {"name": "else"}, {"regressions": "no"}, {"changes": [{}]}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value | wrong, schema())
