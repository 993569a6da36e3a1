// The trade-off plane: a single attempt against many, the line of plain merges, and gaps to it.

const JOINED = ["timber", "truncate-rank", "truncate-energy", "temperature"];
const planeView = { zoom: 0 };

function shownPoints() {
  const plane = taskOf().plane;
  return plane ? plane.points.filter(({ model }) => chosen.groups.has(study.models[model].group)) : [];
}

function around(values, margin) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const more = Math.max((high - low) * margin, 0.004);
  return [low - more, high + more];
}

// Near Instruct: the models that lie no farther from it, in both scores, than four fifths do.
function nearest(all, instruct) {
  const places = ["low", "high"];
  const far = places.map((place) => all.map((point) => Math.abs(point[place][0] - instruct[place][0])));
  const reach = far.map((values) => [...values].sort((a, b) => a - b)[Math.floor(0.8 * (values.length - 1))]);
  return [instruct, ...all.filter((_, i) => places.every((_, j) => far[j][i] <= reach[j]))];
}

function planeRanges(shown) {
  const { plane } = taskOf();
  const instruct = plane.points.find(({ model }) => model === study.reference);
  const near = byId("plane-view").value === "near" ? instruct : null;
  const within = near ? nearest(shown.filter(({ model }) => study.models[model].group !== "base"), near) : shown;
  const ranges = ["low", "high"].map((place) => around(within.map((point) => point[place][0]), 0.15));
  return ranges.map(([low, high]) => {
    const [middle, half] = [(low + high) / 2, (high - low) / 2 * 0.7 ** planeView.zoom];
    return [middle - half, middle + half];
  });
}

function planeHover(point, plane) {
  const gap = point.gap
    ? `<br>gap to plain merges ${spanWords(point.gap, signedPoints)}, ${escaped(point.word)}` : "";
  return `${nameHover(point.model)}<br>Pass@${plane.low_k} ${spanWords(point.low)}`
    + `<br>Pass@${plane.high_k} ${spanWords(point.high)}${gap}`;
}

function frontierTraces(plane, at) {
  const line = plane.frontier.map((model) => at.get(model)).filter(Boolean);
  if (line.length < 2) return [];
  const x = line.map(({ low }) => low[0]), y = line.map(({ high }) => high[0]);
  return [
    {
      type: "scatter", mode: "none", x: [...x, x.at(-1), x[0]], y: [...y, 3, 3], fill: "toself",
      fillcolor: faded("g-merge", 0.07), hoverinfo: "skip", showlegend: false,
    },
    {
      type: "scatter", mode: "lines", x, y, name: "frontier", line: { color: colour("g-merge"), width: 2.4 },
      hoverinfo: "skip", showlegend: false,
    },
  ];
}

function joiningTraces(at) {
  return JOINED.filter((group) => chosen.groups.has(group) && study.series[group]).map((group) => {
    const own = study.series[group];
    const places = group === "temperature" ? [study.reference, ...own] : [...own, study.reference];
    const line = places.map((model) => at.get(model)).filter(Boolean);
    return {
      type: "scatter", mode: "lines", x: line.map(({ low }) => low[0]), y: line.map(({ high }) => high[0]),
      line: { color: faded(groupInk(group), 0.55), width: 1.2, dash: group === "truncate-energy" ? "dot" : "solid" },
      hoverinfo: "skip", showlegend: false, name: `joined ${group}`,
    };
  });
}

function groupTrace(group, shown, plane) {
  const own = shown.filter(({ model }) => study.models[model].group === group);
  if (!own.length) return [];
  const bars = byId("plane-bars").value, source = ["base", "instruct"].includes(group);
  const visible = bars === "all" || (bars === "two" && source);
  const thin = { thickness: 1, color: faded(groupInk(group), 0.45), visible };
  return [{
    type: "scatter", mode: "markers", x: own.map(({ low }) => low[0]), y: own.map(({ high }) => high[0]),
    name: group, showlegend: false, customdata: own.map((point) => planeHover(point, plane)),
    hovertemplate: "%{customdata}<extra></extra>",
    marker: {
      symbol: study.groups[group].symbol, size: source ? 14 : group === "noise" ? 8 : 11,
      color: colour(groupInk(group)),
      line: { color: study.groups[group].symbol.endsWith("-open") ? colour(groupInk(group)) : colour("page"), width: 1.2 },
    },
    ...asBars(own.map(({ low }) => low), "x", "", thin), ...asBars(own.map(({ high }) => high), "y", "", thin),
  }];
}

function planeFigure() {
  const { plane } = taskOf();
  if (!plane) return "This task has no plane: it was asked at a single k.";
  const shown = shownPoints();
  if (!shown.length) return "No group is chosen; choose one above.";
  const at = new Map(plane.points.map((point) => [point.model, point]));
  const [xRange, yRange] = planeRanges(shown);
  const inside = shown.filter(({ low, high }) => low[0] >= xRange[0] && low[0] <= xRange[1]
    && high[0] >= yRange[0] && high[0] <= yRange[1]).length;
  const hidden = shown.length - inside;
  // Base and Instruct above all others.
  const groups = [...Object.keys(study.groups)].reverse();
  return {
    traces: [
      ...frontierTraces(plane, at), ...joiningTraces(at),
      ...groups.flatMap((group) => groupTrace(group, shown, plane)),
    ],
    layout: layout(tall(narrow() ? 420 : 560), {
      margin: { l: 10, r: 16, t: 34, b: 48 }, dragmode: narrow() || onPaper() ? false : "zoom",
      uirevision: [chosen.task, byId("plane-view").value, planeView.zoom].join(),
      xaxis: axis(`Pass@${plane.low_k}: solved at the first attempt`, {
        range: xRange, tickformat: ".1~%", zeroline: false, fixedrange: false, nticks: narrow() ? 5 : 9,
      }),
      yaxis: axis(`Pass@${plane.high_k}: solved in ${plane.high_k} attempts`, {
        range: yRange, tickformat: ".1~%", zeroline: false, fixedrange: false,
      }),
      annotations: [
        note("↑ beyond the reach of plain merging", {
          x: 0, y: 1, yshift: 6, font: { size: 12, color: colour("g-merge") },
        }),
        ...(hidden ? [note(`${hidden} outside this view`, {
          x: 1, y: 0, xanchor: "right", yshift: 4, xshift: -4, font: { size: 12, color: colour("soft") },
        })] : []),
      ],
    }),
  };
}

function gapFigure() {
  const { plane } = taskOf();
  if (!plane) return "This task has no plane: it was asked at a single k.";
  const rows = Object.keys(study.groups).flatMap((group) => shownPoints()
    .filter((point) => point.gap && study.models[point.model].group === group)
    .sort((a, b) => b.gap[0] - a.gap[0]));
  if (!rows.length) return "No model of the groups shown has a gap; choose others above.";
  const traces = rows.map((point, row) => {
    const told = point.word === "better" || point.word === "worse";
    const { symbol, ink, size } = markOf(point.model, told);
    return {
      type: "scatter", mode: "markers", x: [100 * point.gap[0]], y: [row], showlegend: false,
      name: escaped(modelLabel(point.model)), marker: { symbol, size, color: ink, line: { width: told ? 0 : 1.6, color: ink } },
      ...asBars([point.gap.map((value) => 100 * value)], "x", ink),
      hovertemplate: `${planeHover(point, plane)}<extra></extra>`,
    };
  });
  return {
    traces,
    layout: layout(tall(Math.max(rows.length * 21, 60)) + 84, {
      margin: { l: 10, r: 16, t: 30, b: 48 }, shapes: [zeroLine()],
      xaxis: axis(`Points of Pass@${plane.high_k} at equal Pass@${plane.low_k}`, { ...POINTS_AXIS, showgrid: true }),
      yaxis: axis("", {
        range: [rows.length - 0.4, -0.6], tickvals: rows.map((_, i) => i), showgrid: false, zeroline: false,
        ticktext: rows.map(({ model }) => rowName(modelLabel(model))), ticks: "", ticklabelstandoff: 8,
      }),
      annotations: [note("plain merges", {
        xref: "x", x: 0, xanchor: "center", y: 1, yshift: 4, font: { size: 12, color: colour("soft") },
      })],
    }),
  };
}

// Where Base is not far from the rest, there is nothing to come nearer to.
function firstView() {
  const { plane } = taskOf();
  if (!plane) return;
  const all = around(plane.points.map(({ low }) => low[0]), 0);
  byId("plane-view").value = "near";
  const [x] = planeRanges(plane.points);
  if (x[1] - x[0] > 0.6 * (all[1] - all[0])) byId("plane-view").value = "all";
}

function startPlane() {
  if (!byId("figure-plane")) return;
  FIGURES.push(["figure-plane", planeFigure], ["figure-gap", gapFigure]);
  const again = () => { draw("figure-plane", planeFigure); draw("figure-gap", gapFigure); };
  for (const box of document.querySelectorAll("[data-group]")) {
    if (box.checked) chosen.groups.add(box.dataset.group);
    box.addEventListener("change", () => {
      if (box.checked) chosen.groups.add(box.dataset.group);
      else chosen.groups.delete(box.dataset.group);
      again();
    });
  }
  firstView();
  byId("plane-bars").addEventListener("change", again);
  byId("plane-view").addEventListener("change", () => { planeView.zoom = 0; again(); });
  for (const [id, step] of [["plane-in", 1], ["plane-out", -1]]) {
    byId(id).addEventListener("click", () => { planeView.zoom += step; again(); });
  }
}
