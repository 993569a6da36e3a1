// Effective rank by layer and module (heat maps), and its distribution beside noise.

const KINDS = [
  ["base", "Base", "circle"], ["instruct", "Instruct", "square"], ["delta", "Delta", "diamond"],
];

function extent(grids) {
  const values = grids.flat(2).filter((value) => value !== null);
  return [Math.min(...values), Math.max(...values)];
}

function minus(grid, other) {
  return grid.map((row, i) => row.map((value, j) =>
    value === null || other[i][j] === null ? null : value - other[i][j]));
}

function diverging(grid) {
  const [low, high] = extent([grid]);
  const reach = Math.max(Math.abs(low), Math.abs(high)) || 1e-9;
  const step = 10 ** Math.floor(Math.log10(0.95 * reach));
  const mark = Number((Math.floor(0.95 * reach / step) * step).toPrecision(1));
  return {
    cmin: -reach, cmax: reach, marks: [-mark, 0, mark],
    colorscale: [[0, colour("low")], [0.5, colour("middle")], [1, colour("high")]],
  };
}

function depthFigure() {
  const run = currentRun();
  const { base, instruct, difference, delta, null: noise } = run.grids;
  if (!run.layers.length) return "No matrix of this run lies in a layer.";
  const [low, high] = extent([base, instruct]);
  const shared = { cmin: low, cmax: high > low ? high : low + 1e-6, colorscale: "Cividis" };
  const beside = minus(delta, noise);
  const panels = [
    ["Base: effective rank / full rank", base, shared],
    ["Instruct, on the same scale", instruct, shared],
    ["Instruct − Base", difference, diverging(difference)],
    ["Delta − random noise of the same shape", beside, diverging(beside)],
  ];
  const row = tall(Math.max(14, Math.min(24, 168 / run.modules.length)));
  const panel = Math.max(run.modules.length * row, 60), gap = tall(56), bottom = 48;
  const inside = panels.length * panel + panels.length * gap;
  const labels = run.modules.map(escaped);
  const figure = layout(inside + bottom, { margin: { l: 10, r: 76, t: 0, b: bottom } });
  figure.annotations = [];
  const traces = panels.map(([title, grid, { marks, ...scale }], place) => {
    const suffix = place ? String(place + 1) : "";
    const top = 1 - (place * (panel + gap) + gap) / inside, low = top - panel / inside;
    figure[`xaxis${suffix}`] = axis(place === 3 ? "Layer" : "", {
      anchor: `y${suffix}`, showgrid: false, zeroline: false, matches: place ? "x" : undefined,
      showticklabels: place === 3, ticks: "", ...layerTicks(run.layers),
    });
    figure[`yaxis${suffix}`] = axis("", {
      anchor: `x${suffix}`, domain: [Math.max(low, 0), top], autorange: "reversed", ticks: "",
      showgrid: false, zeroline: false, tickmode: "array", tickvals: labels.map((_, i) => i),
      ticktext: labels, ticklabelstandoff: 6,
    });
    figure[`coloraxis${suffix}`] = {
      ...scale,
      colorbar: {
        x: 1.01, xanchor: "left", y: top, yanchor: "top", len: panel, lenmode: "pixels",
        thickness: 10, outlinewidth: 0, ypad: 0, nticks: 4, tickvals: marks,
        tickfont: { size: 11, color: colour("soft") },
      },
    };
    figure.annotations.push(panelNote(title, top));
    return {
      type: "heatmap", x: run.layers, z: grid, xaxis: `x${suffix}`, yaxis: `y${suffix}`,
      coloraxis: `coloraxis${suffix}`, xgap: run.layers.length > 60 ? 0 : 1, ygap: 1,
      text: grid.map((_, i) => run.layers.map(() => labels[i])), hoverongaps: false,
      hovertemplate: `%{text}, layer %{x}: <b>%{z:${place > 1 ? "+.4f" : ".4f"}}</b><extra></extra>`,
    };
  });
  return { traces, layout: figure };
}

// A row of the figure: the null of each shape as an upright line, three kinds below one another, each with its range, middle half, layers and median.
function spreadRow(box, at, traces, shapes) {
  for (const x of box.null) {
    shapes.push({
      type: "line", x0: x, x1: x, y0: at - 0.42, y1: at + 0.42,
      line: { color: colour("noise"), width: 2 },
    });
  }
  KINDS.forEach(([kind, name, symbol], place) => {
    const [least, first, middle, third, greatest] = box[kind].five;
    const y = at + (place - 1) * 0.25, ink = colour(kind);
    const line = (x0, x1, width, opacity) => shapes.push({
      type: "line", x0, x1, y0: y, y1: y, line: { color: faded(kind, opacity), width },
    });
    line(least, greatest, 1.2, 0.6);
    line(first, third, 7, 0.4);
    traces.points[place].x.push(...box[kind].points);
    traces.points[place].y.push(...box[kind].points.map(() => y));
    traces.medians[place].x.push(middle);
    traces.medians[place].y.push(y);
    traces.medians[place].text.push(
      `<b>${escaped(box.label)}</b>, ${name}<br>median ${middle.toFixed(3)}, `
      + `middle half ${first.toFixed(3)} to ${third.toFixed(3)}<br>`
      + `all ${box.count.toLocaleString("en")}: ${least.toFixed(3)} to ${greatest.toFixed(3)}<br>`
      + `noise ${box.null.map((value) => value.toFixed(3)).join(", ")}`,
    );
    traces.medians[place].marker = {
      symbol, size: 10, color: ink, line: { color: colour("page"), width: 1.5 },
    };
    traces.points[place].marker = { symbol, size: 4.5, color: faded(kind, 0.45) };
  });
}

function spreadFigure() {
  const several = data.runs.length > 1;
  const run = currentRun();
  const rows = several
    ? [...data.runs.map((one) => ({ ...one.boxes[0], label: one.title })), ...run.boxes.slice(1)]
    : run.boxes;
  const traces = {
    points: KINDS.map(() => ({ type: "scatter", mode: "markers", x: [], y: [], hoverinfo: "skip", showlegend: false })),
    medians: KINDS.map(([, name]) => ({
      type: "scatter", mode: "markers", x: [], y: [], text: [], name, hovertemplate: "%{text}<extra></extra>",
    })),
  };
  const shapes = [];
  rows.forEach((box, at) => spreadRow(box, at, traces, shapes));
  const noise = {
    type: "scatter", mode: "markers", x: [null], y: [null], name: "Random noise", hoverinfo: "skip",
    marker: { symbol: "line-ns", size: 14, line: { color: colour("noise"), width: 2 } },
  };
  const totals = several ? data.runs.length : 1;
  shapes.push({
    type: "line", xref: "paper", x0: 0, x1: 1, y0: totals - 0.5, y1: totals - 0.5,
    line: { color: colour("line"), width: 1 },
  });
  return {
    traces: [...traces.points, ...traces.medians, noise],
    layout: layout(90 + rows.length * tall(58), {
      shapes,
      margin: { l: 10, r: 16, t: narrow() ? 92 : 36, b: 48 },
      xaxis: axis("Effective rank / full rank", { range: spreadRange(rows), zeroline: false }),
      yaxis: axis("", {
        range: [rows.length - 0.5, -0.5], tickmode: "array", showgrid: false, zeroline: false,
        tickvals: rows.map((_, at) => at), ticks: "", ticklabelstandoff: 8,
        ticktext: rows.map((box, at) => at < totals ? `<b>${escaped(shortened(box.label))}</b>` : escaped(box.label)),
      }),
    }),
  };
}

function shortened(label) {
  return label.length > 24 ? `${label.slice(0, 14)}…${label.slice(-9)}` : label;
}

// All that is there, to the nearest twentieth; up to 1 only where something lies near it.
function spreadRange(rows) {
  const values = rows.flatMap((box) => [
    ...box.null, ...KINDS.flatMap(([kind]) => [box[kind].five[0], box[kind].five[4]]),
  ]);
  const low = Math.floor((Math.min(...values) - 0.01) * 20) / 20;
  return [Math.max(low, 0), Math.min(Math.ceil((Math.max(...values) + 0.01) * 20) / 20, 1.005)];
}
