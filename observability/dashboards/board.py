"""A dashboard's frame: variables, links to the others, and where its panels lie."""

from __future__ import annotations

from typing import Self

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from observability.dashboards.panels import SOURCE, Panel

TAG = "tritonforge"
COLUMNS = 24
PERCENTILES = ("0.5", "0.9", "0.95", "0.99", "0.999")

Variable = Builder[models.VariableModel]


class Board:
    """A dashboard under construction: rows of panels, laid out from left to right.

    Args:
        name: Of its file; its uid is ``tritonforge-NAME``, by which others link to it.
        title: Heading.
        description: What it answers.
        variables: What its user chooses, the data source aside, which each has.
    """

    def __init__(self, name: str, title: str, description: str, *variables: Variable) -> None:
        """Begin with no panels."""
        self.name = name
        self._next_id = 1
        self._y = 0
        self._builder = (
            dashboard.Dashboard(f"tritonforge / {title}")
            .uid(f"{TAG}-{name}")
            .description(description)
            .tags([TAG])
            .time("now-1h", "now")
            .refresh("30s")
            .timezone("browser")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .readonly()  # a change belongs into the code
            .variables([_datasource(), *variables])
            .annotation(_alerts())
            .link(
                dashboard.DashboardLink("tritonforge")
                .type(models.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .include_vars(True)
                .keep_time(True)
            )
        )

    def row(self, title: str, *panels: Panel) -> Self:
        """Add a heading and what is below it; panels that do not fit beside each other go further down."""
        place = models.GridPos(x=0, y=self._y, w=COLUMNS, h=1)
        self._builder.with_row(dashboard.Row(title).id(self._id()).grid_pos(place))
        self._y += 1
        x = height = 0
        for panel in panels:
            built = panel.build()
            assert built.grid_pos is not None, "every maker of panels sets a size"
            if x + built.grid_pos.w > COLUMNS:
                self._y, x, height = self._y + height, 0, 0
            size = built.grid_pos
            self._builder.with_panel(_Placed(built, self._id(), x, self._y, size.w, size.h))
            x, height = x + size.w, max(height, size.h)
        self._y += height
        return self

    def build(self) -> models.Dashboard:
        """The dashboard as Grafana takes it."""
        return self._builder.build()

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id - 1


class _Placed(Builder[models.Panel]):
    """A panel with its number and place."""

    def __init__(self, panel: models.Panel, number: int, x: int, y: int, width: int, height: int) -> None:
        panel.id_val = number
        panel.grid_pos = models.GridPos(x=x, y=y, w=width, h=height)
        self._panel = panel

    def build(self) -> models.Panel:
        return self._panel


def choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A variable of some of the values that a label has, all by default.

    Args:
        name: As expressions name it, ``$name``.
        label: As people read it.
        query: Grafana's ``label_values(metric, label)``.
    """
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query({"query": query, "refId": name})
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def percentile() -> dashboard.CustomVariable:
    """Which percentile the latency panels show."""
    return (
        dashboard.CustomVariable("percentile")
        .label("Percentile")
        .values(",".join(PERCENTILES))
        .options([models.VariableOption(selected=p == "0.99", text=p, value=p) for p in PERCENTILES])
        .current(models.VariableOption(selected=True, text="0.99", value="0.99"))
    )


def _datasource() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _alerts() -> dashboard.AnnotationQuery:
    """Marks the times at which an alert fired on every curve."""
    return (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("red")
        .expr('sum by (alertname) (ALERTS{alertstate="firing"})')
    )
