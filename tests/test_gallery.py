"""Galleries: nothing but what is meant gets into a page; thumbnails keep what there is; figures are as defined."""

import base64
import io
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from active.gallery import Card, gallery, thumbnail, write_page
from active.pool import Query
from active.selection import pick_details, pick_facts
from dan.errors import UserError

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\n</li></style>"
PIXEL = thumbnail(Image.new("RGB", (1, 1), "red"))


class Page(HTMLParser):
    """All tags with their attributes, and all text by the tag that it stands in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag  # every tag that opens is closed, in order

    def handle_data(self, data: str) -> None:
        self.text.append((self._inside[-1] if self._inside else "", data))


def card(order: int = 1, **changed: object) -> Card:
    given: dict = {"order": order, "title": "cat", "share": 0.5, "path": "a.png", "picture": PIXEL} | changed
    return Card(**given)


def test_names_are_text_whatever_they_say() -> None:
    page = Page(gallery(NASTY, [NASTY], [card(title=NASTY, path=NASTY, facts=[(NASTY, NASTY, True)])], notes=[NASTY]))
    allowed = "html head meta title style body main h1 p ol li div img b h2 small i dl dt dd"
    assert {tag for tag, _ in page.tags} == set(allowed.split())
    told = [place for place, text in page.text if text.strip() == NASTY.strip()]
    assert sorted(told) == sorted(["title", "h1", "p", "p", "h2", "dt", "dd", "div"])
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    (image,) = (attributes for tag, attributes in page.tags if tag == "img")
    assert image["src"] == PIXEL and NASTY in str(image["alt"])


def test_a_page_needs_nothing_from_outside() -> None:
    page = Page(gallery("t", [], [card(i) for i in range(1, 4)] + [card(4, picture="")]))
    links = [(tag, name) for tag, attributes in page.tags for name in attributes if name in ("src", "href", "action")]
    assert links == [("img", "src")] * 3
    assert all(str(a["src"]).startswith("data:image/") and a["alt"] for tag, a in page.tags if tag == "img")
    (policy,) = (a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    (style,) = (text for place, text in page.text if place == "style")
    assert "prefers-color-scheme: dark" in style and "url(" not in style and "@import" not in style
    assert ("span", "no picture") in page.text
    assert [text for place, text in page.text if place == "b"] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(("share", "width"), [(0.25, "25.0"), (-1.0, "0.0"), (2.0, "100.0")])
def test_a_bar_stays_in_its_card(share: float, width: str) -> None:
    assert f"width:{width}%" in gallery("t", [], [card(share=share)])


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


@pytest.mark.parametrize(("height", "width", "mode"), [(16, 16, "L"), (8, 20, "RGB"), (1, 80, "RGB"), (80, 79, "L")])
def test_a_tiny_picture_is_enlarged_and_keeps_each_pixel(height: int, width: int, mode: str) -> None:
    shape = (height, width) if mode == "L" else (height, width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    uri = thumbnail(Image.fromarray(pixels))
    assert uri.startswith("data:image/png;base64,")
    factor = 160 // max(height, width)
    assert (np.asarray(opened(uri)) == pixels.repeat(factor, 0).repeat(factor, 1)).all()


@pytest.mark.parametrize("side", [64, 320])
def test_a_large_picture_is_shrunk_and_keeps_its_shape(side: int) -> None:
    uri = thumbnail(Image.linear_gradient("L").resize((1200, 600)), side)
    assert uri.startswith("data:image/jpeg;base64,") and opened(uri).size == (side, side // 2)
    assert abs(float(np.asarray(opened(uri)).mean()) - 127.5) < 2
    small = Image.new("RGB", (100, 90), "red")
    assert opened(thumbnail(small)).size == (100, 90)  # neither tiny nor large


def test_a_page_is_written_whole_or_told_of(tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "page.html", "caf\u00e9 \udcff")
    assert (tmp_path / "new" / "page.html").read_bytes() == b"caf\xc3\xa9 \\udcff"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_page(tmp_path / "file" / "page.html", "")


def query(labelled: int) -> Query:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Query(
        ids=torch.tensor([3, 5, 8, 13, 21]),
        probs=draw(5, 4).softmax(1),
        features=draw(5, 3),
        labelled_features=draw(labelled, 3),
        labelled_targets=torch.arange(labelled) % 4,
        source_features=draw(6, 3),
        source_targets=torch.arange(6) % 4,
    )


@pytest.mark.parametrize("labelled", [0, 7])
def test_figures_are_their_definitions(labelled: int) -> None:
    asked = query(labelled)
    picks = pick_details([13, 3], asked)
    assert [(pick.order, pick.id) for pick in picks] == [(1, 13), (2, 3)]
    for pick, row in zip(picks, (3, 0), strict=True):
        assert asked.probs is not None and asked.features is not None
        p = asked.probs[row].tolist()
        order = sorted(range(4), key=lambda c: -p[c])
        assert (pick.guess, pick.second) == (order[0], order[1])
        assert pick.probability == p[order[0]] and pick.margin == pytest.approx(p[order[0]] - p[order[1]], abs=1e-15)
        assert pick.entropy == pytest.approx(-sum(q * math.log(q) for q in p) / math.log(4), abs=1e-12)
        everyone = [
            (math.dist(asked.features[row].tolist(), f.tolist()), int(y), domain)
            for domain, features, targets in (
                ("target", asked.labelled_features, asked.labelled_targets),
                ("source", asked.source_features, asked.source_targets),
            )
            for f, y in zip(features, targets, strict=True)  # type: ignore[arg-type]
        ]
        distance, nearest, domain = min(everyone)
        assert pick.distance == pytest.approx(distance, abs=1e-12)
        assert (pick.nearest, pick.nearest_in) == (nearest, domain)
        facts = {name: value for name, value, _ in pick_facts(pick, ["w", "x", "y", "z"])}
        assert facts["margin"] == f"{pick.margin:.3f}" and facts["nearest"] == f"{'wxyz'[nearest]} ({domain})"


def test_figures_at_their_ends() -> None:
    sure = pick_details([0, 1], Query(ids=torch.arange(2), probs=torch.tensor([[1.0, 0.0], [0.5, 0.5]])))
    assert [(p.probability, p.margin, p.entropy) for p in sure] == [(1, 1, 0), (0.5, 0, 1)]
    assert all(math.isnan(p.distance) and p.nearest_in == "" for p in sure)
    assert "distance" not in {name for name, _, _ in pick_facts(sure[0], ["a", "b"])}
    with pytest.raises(ValueError, match="sample 4 is not among the query's"):
        pick_details([4], query(0))
