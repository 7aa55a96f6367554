"""What Grafana would stumble over, and whether the files are what the code makes; no server is needed."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from observability.dashboards import FOLDER
from observability.dashboards.__main__ import main, render

UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and name[0].isupper()}
BOARDS = {name: json.loads(text) for name, text in render().items()}
PROVISIONING = FOLDER.parent / "provisioning"
each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_the_files_are_what_the_code_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out
    assert render() == render()


def test_check_finds_what_was_edited_and_what_is_left_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--folder", str(tmp_path)]
    assert main(["--check", *folder]) == 1
    assert main(folder) == 0
    assert main(["--check", *folder]) == 0
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "old.json").write_text("{}")
    capsys.readouterr()
    assert main(["--check", *folder]) == 1
    told = capsys.readouterr().out.replace("\n", "")
    assert "model.json" in told and "old.json" in told and "gpu.json" not in told
    assert main(folder) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(BOARDS)


@each_board
def test_the_sdk_s_types_hold_all_of_it(board: dict[str, Any]) -> None:
    register_default_plugins()
    read = Dashboard.from_json(board)
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == board


def test_uids_are_unique_and_links_lead_to_them() -> None:
    uids = [board["uid"] for board in BOARDS.values()]
    assert len(set(uids)) == len(uids)
    targets = re.findall(r"/d/([\w-]+)\?var-(\w+)=", json.dumps(list(BOARDS.values())))
    assert targets
    for uid, variable in targets:
        (board,) = (board for board in BOARDS.values() if board["uid"] == uid)
        assert variable in {entry["name"] for entry in board["templating"]["list"]}


@each_board
def test_panels_have_numbers_and_places_of_their_own(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) and all(number > 0 for number in ids)
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


@each_board
def test_panels_say_what_they_show_and_of_which_source(board: dict[str, Any]) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels(board):
        assert len(panel["description"]) > 5 and panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["datasource"] == source, panel["title"]
        assert panel["targets"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        assert all(target["datasource"] == source for target in panel["targets"])


@each_board
def test_every_variable_is_used_and_no_other(board: dict[str, Any]) -> None:
    names = {entry["name"] for entry in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"])))
    assert used - {"__rate_interval", "__field", "__url_time_range"} == names


@each_board
def test_what_is_counted_in_the_facade_by_time_shows_exemplars(board: dict[str, Any]) -> None:
    for panel in panels(board):
        shown = [target for target in panel["targets"] if target.get("exemplar")]
        timed = re.search(r"tritonforge_gateway_\w+_seconds_bucket", json.dumps(panel["targets"]))
        if timed and panel["type"] == "timeseries":
            assert shown, panel["title"]


def test_provisioning_names_each_other_and_the_scrape_interval() -> None:
    (sources,) = (yaml.safe_load(path.read_text()) for path in (PROVISIONING / "datasources").glob("*.yml"))
    by_uid = {source["uid"]: source for source in sources["datasources"]}
    prometheus = by_uid["prometheus"]["jsonData"]
    (destination,) = prometheus["exemplarTraceIdDestinations"]
    assert by_uid[destination["datasourceUid"]]["type"] == "tempo"
    scraping = yaml.safe_load((FOLDER.parents[1] / "prometheus" / "prometheus.yml").read_text())
    assert prometheus["timeInterval"] == scraping["global"]["scrape_interval"]
    (providers,) = (yaml.safe_load(path.read_text()) for path in (PROVISIONING / "dashboards").glob("*.yml"))
    (provider,) = providers["providers"]
    assert provider["type"] == "file" and not provider["allowUiUpdates"]
