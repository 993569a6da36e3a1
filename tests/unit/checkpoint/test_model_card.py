"""The model card: read by the hub's own parser, and not to be broken by what is written into it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import given
from hypothesis import strategies as st

from timberkit.checkpoint.model_card import (
    CardSource,
    escape_markdown,
    read_licence,
    read_pipeline_tag,
    write_model_card,
)

HUB_BASE = CardSource("org/model-base", is_hub=True, revision="0123abc")
HUB_INSTRUCT = CardSource("org/model", is_hub=True)
HOSTILE = "x\n---\nlicense: mit\n---\n`|<script>alert(1)</script>](http://a) \u202e\x1b[31m"


def card(
    folder: Path,
    *,
    base: CardSource = HUB_BASE,
    instruct: CardSource = HUB_INSTRUCT,
    method: str = "timber",
    explanation: str = "Keep the head.",
    reference: str = "arXiv 2509.23595",
    licence: dict[str, str] | None = None,
    pipeline_tag: str | None = None,
    command: list[str] | None = None,
) -> ModelCard:
    folder.mkdir(exist_ok=True)
    write_model_card(
        folder,
        base=base,
        instruct=instruct,
        method=method,
        explanation=explanation,
        reference=reference,
        parameters={"lam": 0.2},
        families=["attention", "ffn"],
        tool_version="1.0",
        command=command or ["timberkit", "refine"],
        licence=licence or {},
        pipeline_tag=pipeline_tag,
    )
    found: ModelCard = ModelCard.load(folder / "README.md")
    return found


def readme(folder: Path, front_matter: str) -> Path:
    (folder / "README.md").write_text(f"---\n{front_matter}\n---\n# Title\n", encoding="utf-8")
    return folder


def test_hub_reads_the_front_matter(tmp_path: Path) -> None:
    licence = {"license": "other", "license_name": "llama 3.1", "license_link": "LICENSE"}
    found = card(tmp_path, licence=licence)
    assert found.data.to_dict() == {
        **licence,
        "base_model": ["org/model", "org/model-base"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["timberkit", "timber", "merge"],
    }
    assert "| Parameters | lam = 0.2 |" in found.text
    assert "| What it does | Keep the head. |" in found.text
    assert "| Source | arXiv 2509.23595 |" in found.text
    assert "| Base revision | 0123abc |" in found.text
    assert "2509.23595" in found.text


def test_metadata_goes_round_through_the_hubs_own_class(tmp_path: Path) -> None:
    found = card(tmp_path, licence={"license": "apache-2.0"}, pipeline_tag="text-generation")
    fields = found.data.to_dict()
    assert fields["pipeline_tag"] == "text-generation"
    again = ModelCardData(**fields)
    assert again.to_dict() == fields
    assert yaml.safe_load(again.to_yaml()) == fields
    # What the hub takes: https://huggingface.co/docs/hub/model-cards#specifying-a-base-model
    assert fields["base_model_relation"] in {"adapter", "merge", "quantized", "finetune"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pipeline_tag: text-generation", "text-generation"),
        ("pipeline_tag: any-to-any", "any-to-any"),
        ("license: mit", None),
        ("pipeline_tag: [text-generation]", None),
        ('pipeline_tag: "a\\nlicense: mit"', None),
        ("pipeline_tag: <script>", None),
        ("pipeline_tag: a--b", None),
        (f"pipeline_tag: {'a' * 65}", None),
        (f"pipeline_tag: {'-'.join('a' * 20)}", None),
    ],
)
def test_pipeline_tag_is_inherited_where_it_looks_like_one(
    tmp_path: Path, line: str, expected: str | None
) -> None:
    assert read_pipeline_tag(readme(tmp_path, line)) == expected


def test_hostile_pipeline_tag_is_left_out(tmp_path: Path) -> None:
    assert "pipeline_tag" not in card(tmp_path, pipeline_tag=HOSTILE).data.to_dict()


def test_local_folder_is_never_taken_for_a_hub_repository(tmp_path: Path) -> None:
    local = CardSource("/home/someone/private/org", is_hub=False)
    found = card(tmp_path, base=local)
    assert found.data.base_model == ["org/model"]
    assert found.data.to_dict()["base_model_relation"] == "merge"
    assert "| Base | org (local folder) |" in found.text
    assert "someone" not in found.content
    found = card(tmp_path, base=local, instruct=local)
    assert "base_model" not in found.data.to_dict()
    assert "base_model_relation" not in found.data.to_dict()


def test_one_repository_in_two_revisions_is_named_once(tmp_path: Path) -> None:
    assert card(tmp_path, base=HUB_INSTRUCT).data.base_model == ["org/model"]


def test_methods_other_than_timber_are_tagged_by_their_name(tmp_path: Path) -> None:
    assert card(tmp_path, method="merge").data.tags == ["timberkit", "merge"]
    assert card(tmp_path, method="timber-l").data.tags == ["timberkit", "timber", "merge"]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = CardSource(HOSTILE, is_hub=True, revision=HOSTILE)
    expected = card(tmp_path / "plain", base=hostile)
    found = card(
        tmp_path,
        base=hostile,
        explanation=HOSTILE,
        reference=HOSTILE,
        licence={"license": HOSTILE, "license_link": "javascript:alert(1)\n"},
        command=["timberkit", "`" * 5, HOSTILE, "\n``````\n<script>"],
    )
    assert found.data.to_dict() == expected.data.to_dict()
    assert found.data.base_model == ["org/model"]
    before, fence, rest = found.text.partition("```````bash\n")
    command, _, after = rest.partition("\n```````\n")
    assert fence
    assert after
    assert "<script>" in command
    for text in (before, after):
        assert "\\<script\\>" in text or text is after
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "<script>" not in text.replace("\\<script\\>", "")
    rows = [line for line in found.text.splitlines() if line.startswith("| ")]
    assert [row.replace("\\|", "").count("|") for row in rows] == [3] * 11


@given(st.text(max_size=300))
def test_escaped_text_is_one_bounded_printable_line(text: str) -> None:
    escaped = escape_markdown(text)
    assert escaped.isprintable()
    assert len(escaped) <= 400
    plain = escaped.replace("\\\\", "")
    for mark in "`|<>[]":
        assert plain.count(mark) == plain.count("\\" + mark)


def test_command_is_shown_as_a_shell_takes_it(tmp_path: Path) -> None:
    command = ["timberkit", "refine", "--base", "my model", "--variant", "timber:lam=0.2"]
    assert shlex.join(command) in card(tmp_path, command=command).text


@pytest.mark.parametrize(
    ("front_matter", "expected"),
    [
        ("license: apache-2.0\ntags: [a]", {"license": "apache-2.0"}),
        (
            "license: other\nlicense_name: llama3.1\nlicense_link: https://a.b/LICENSE",
            {
                "license": "other",
                "license_name": "llama3.1",
                "license_link": "https://a.b/LICENSE",
            },
        ),
        ("license: [mit]", {}),
        ("license: 'MIT\n\n  evil: 1'", {}),
        ("license: mit\nlicense_link: 'javascript:alert(`1`)'", {"license": "mit"}),
        ("license_name: alone", {}),
        ("- a list", {}),
        ("license: !!python/object/apply:os.system ['true']", {}),
        ("license: mit\na: !!int ''\nb: !!timestamp x", {"license": "mit"}),
        ('license: mit\na: "\\UFFFFFFFF"', {}),
        ("[" * 600, {}),
        ("a: &a [x]\nb: &b [*a, *a]\nlicense: mit\nc: [*b, *b]", {"license": "mit"}),
        ("license: mit\nlicense: : :", {}),
    ],
)
def test_licence_is_read_where_it_looks_like_one(
    tmp_path: Path, front_matter: str, expected: dict[str, str]
) -> None:
    assert read_licence(readme(tmp_path, front_matter)) == expected


def test_missing_or_unreadable_readme_has_no_licence(tmp_path: Path) -> None:
    assert read_licence(tmp_path) == {}
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert read_licence(tmp_path) == {}
    (tmp_path / "README.md").write_text("# no front matter\n")
    assert read_licence(tmp_path) == {}
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert read_licence(tmp_path) == {}
