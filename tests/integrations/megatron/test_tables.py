"""docs/megatron.md carries the tables the code runs by."""

from pathlib import Path

import pytest

from ascendspeed.device.cuda_scripts import SCRIPT_ROWS
from ascendspeed.device.cuda_shim import ROWS
from ascendspeed.integrations.megatron.masks import MAPPING
from ascendspeed.integrations.megatron.patches import PATCHES
from ascendspeed.integrations.megatron.tables import filled, mapping_table, patches_table, shim_table

DOCUMENT = Path(__file__).parents[3] / "docs" / "megatron.md"


def test_the_document_is_up_to_date():
    text = DOCUMENT.read_text()
    assert text == filled(text), "run: python -m ascendspeed.integrations.megatron.tables docs/megatron.md"


def test_every_row_is_in_its_table():
    assert len(mapping_table().splitlines()) == len(MAPPING) + 2
    assert len(patches_table().splitlines()) == len(PATCHES) + 2
    assert len(shim_table().splitlines()) == len(ROWS) + 2
    assert len(shim_table(SCRIPT_ROWS).splitlines()) == len(SCRIPT_ROWS) + 2
    assert all(row.needed_by.removeprefix("megatron.core.") in shim_table() for row in ROWS)


def test_a_stale_table_is_replaced_and_the_text_around_it_kept():
    places = [
        f"<!-- table {name} -->\nold\n<!-- end {name} -->\n" for name in ("mapping", "patches", "shim", "scripts")
    ]
    stale = "a\n" + "b\n".join(places) + "c\n"
    text = filled(stale)
    assert text.startswith("a\n<!-- table mapping -->\n| mask |")
    assert "old" not in text
    assert text.endswith("<!-- end scripts -->\nc\n")
    assert filled(text) == text


def test_a_document_without_a_place_is_refused():
    with pytest.raises(ValueError, match="no place for table 'mapping'"):
        filled("nothing here")
