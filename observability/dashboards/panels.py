"""The panels that all dashboards are made of, in one look: units, thresholds, legends, data source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Panel = Builder[models.Panel]
AnyPanel = TypeVar("AnyPanel", timeseries.Panel, stat.Panel, heatmap.Panel, statetimeline.Panel)

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT, LOW = 8, 4


def query(expr: str, legend: str = "", *, exemplars: bool = False) -> prometheus.Dataquery:
    """One expression.

    Args:
        expr: PromQL.
        legend: What a series is called, with ``{{label}}`` for labels.
        exemplars: Show the traces of single requests as points, each a link to its trace.
    """
    target = prometheus.Dataquery().expr(expr).legend_format(legend or "__auto").datasource(SOURCE).range()
    return target.exemplar(True) if exemplars else target


def series(
    title: str,
    description: str,
    unit: str,
    *queries: prometheus.Dataquery,
    width: int = 8,
    stacked: bool = False,
    levels: dashboard.ThresholdsConfig | None = None,
    least: float | None = 0,
    most: float | None = None,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        title: Heading.
        description: What it shows, and what to do when it looks wrong.
        unit: Of Grafana's units.
        queries: Expressions.
        width: Of 24 columns.
        stacked: Areas on top of one another, where they add up.
        levels: Lines from which it is worth a look, or bad (:func:`levels`).
        least: Least value of the axis.
        most: Greatest value of the axis.
    """
    panel = _common(timeseries.Panel(), title, description, unit, queries, width, HEIGHT)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(looks.LegendDisplayMode.TABLE)
        .placement(looks.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["mean", "max", "lastNotNull"])
    )
    panel.tooltip(
        common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING)
    )
    panel.show_points(looks.VisibilityMode.NEVER).fill_opacity(40 if stacked else 8)
    if stacked:
        panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    if levels is not None:
        panel.thresholds(levels)
        style = looks.GraphTresholdsStyleMode.DASHED
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(style))
    return panel


def number(
    title: str,
    description: str,
    unit: str,
    target: prometheus.Dataquery,
    *,
    width: int = 4,
    levels: dashboard.ThresholdsConfig | None = None,
    decimals: int | None = None,
) -> stat.Panel:
    """The last value, large, over a small curve."""
    panel = _common(stat.Panel(), title, description, unit, [target], width, LOW)
    panel.graph_mode(looks.BigValueGraphMode.AREA).reduce_options(
        common.ReduceDataOptions().calcs(["lastNotNull"])
    )
    panel.thresholds(levels or _levels(()))
    return panel if decimals is None else panel.decimals(decimals)


def distribution(
    title: str, description: str, unit: str, target: prometheus.Dataquery, *, width: int = 8
) -> heatmap.Panel:
    """How many fell into which bucket, over time.

    Args:
        title: Heading.
        description: What it shows.
        unit: Of the buckets' bounds.
        target: Rates of a histogram's buckets, summed by ``le``.
        width: Of 24 columns.
    """
    target.format(PromQueryFormat.HEATMAP).legend_format("{{le}}")
    panel = _common(heatmap.Panel(), title, description, unit, [target], width, HEIGHT)
    panel.calculate(False).show_tooltip().y_axis(heatmap.YAxisConfig().unit(unit))
    panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
    even = common.ScaleDistributionConfig().type(looks.ScaleDistribution.LINEAR)
    return panel.scale_distribution(even)


def states(
    title: str,
    description: str,
    target: prometheus.Dataquery,
    mappings: Sequence[models.ValueMapping],
    *,
    width: int = 8,
) -> statetimeline.Panel:
    """A band of coloured states for each series."""
    panel = _common(statetimeline.Panel(), title, description, "none", [target], width, HEIGHT)
    panel.mappings(list(mappings)).merge_values(True).show_value(looks.VisibilityMode.NEVER)
    return panel.fill_opacity(70).line_width(0)


def levels(warn: float, bad: float) -> dashboard.ThresholdsConfig:
    """Green, orange from ``warn``, red from ``bad``; the other way round where less is worse."""
    if warn <= bad:
        return _levels((("orange", warn), ("red", bad)))
    return _levels((("orange", bad), ("green", warn)), base="red")


def mapping(**states_by_text: tuple[int, str]) -> list[models.ValueMapping]:
    """Names and colours of numbers: ``mapping(open=(1, "red"), closed=(0, "green"))``."""
    return [
        models.ValueMap(options={str(value): models.ValueMappingResult(text=text, color=color)})
        for text, (value, color) in states_by_text.items()
    ]


def linked(panel: AnyPanel, title: str, board: str, variable: str, label: str) -> AnyPanel:
    """Let a click on a series lead to another dashboard, at the same time.

    Args:
        panel: Whose series.
        title: Of the link.
        board: Name of the other dashboard.
        variable: Of the other dashboard, that takes the label's value.
        label: Of the series.
    """
    url = f"/d/tritonforge-{board}?var-{variable}=${{__field.labels.{label}}}&${{__url_time_range}}"
    link = dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(url)
    panel.data_links([link])
    return panel


def _common(
    panel: AnyPanel,
    title: str,
    description: str,
    unit: str,
    queries: Sequence[prometheus.Dataquery],
    width: int,
    height: int,
) -> AnyPanel:
    panel.title(title).description(description).unit(unit).datasource(SOURCE)
    panel.grid_pos(models.GridPos(h=height, w=width))
    for place, target in enumerate(queries):
        panel.with_target(target.ref_id(chr(ord("A") + place)))
    return panel


def _levels(steps: Sequence[tuple[str, float]], base: str = "green") -> dashboard.ThresholdsConfig:
    found = [models.Threshold(value=None, color=base)]
    found += [models.Threshold(value=value, color=color) for color, value in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)
