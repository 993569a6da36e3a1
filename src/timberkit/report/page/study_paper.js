// Figures of the paper with ours beside them, the choice of lambda, and cost.

const ROW_INKS = ["g-instruct", "g-timber", "g-base", "g-edit", "g-merge", "g-temperature"];
const ROW_SYMBOLS = ["square", "triangle-up", "circle", "pentagon", "diamond", "star"];

function paperTraces(row, at, axisValues) {
  const ink = ROW_INKS[at % ROW_INKS.length], symbol = ROW_SYMBOLS[at % ROW_SYMBOLS.length];
  const there = axisValues.map((_, i) => i).filter((i) => row.ours[i]);
  const x = there.map((i) => axisValues[i]), ends = there.map((i) => row.ours[i]);
  const name = escaped(row.label);
  const ours = {
    type: "scatter", mode: "lines+markers", x, y: ends.map(([value]) => value), name: `${name}, ours`,
    line: { color: colour(ink), width: 2 }, marker: { symbol, size: 7, color: colour(ink) },
    customdata: ends.map((one) => spanWords(one, (share) => (100 * share).toFixed(2))),
    hovertemplate: `<b>${inTemplate(row.label)}</b>, ours<br>%{x}: %{customdata}<extra></extra>`,
  };
  const band = {
    type: "scatter", mode: "none", x: [...x, ...[...x].reverse()],
    y: [...ends.map((one) => one[2]), ...ends.map((one) => one[1]).reverse()],
    fill: "toself", fillcolor: faded(ink, 0.09), hoverinfo: "skip", showlegend: false,
  };
  const paper = {
    type: "scatter", mode: "lines+markers", x: axisValues, y: row.published, name: `${name}, paper`,
    line: { color: colour(ink), width: 1.6, dash: "dash" }, marker: { symbol: `${symbol}-open`, size: 8, color: colour(ink) },
    hovertemplate: `<b>${inTemplate(row.label)}</b>, paper<br>%{x}: <b>%{y:.2%}</b><extra></extra>`,
  };
  return [
    ...(x.length > 1 ? [band] : []), ...(x.length ? [ours] : []),
    ...(row.published.some((value) => value !== null) ? [paper] : []),
  ];
}

function paperFigure(figure) {
  const values = figure.axis;
  const logarithmic = Math.min(...values) > 0 && Math.max(...values) >= 16 * Math.min(...values);
  const traces = figure.rows.flatMap((row, at) => paperTraces(row, at, values));
  if (!traces.length) return "Neither the paper nor this study has numbers of it.";
  const named = traces.filter(({ showlegend }) => showlegend !== false).length;
  const rows = Math.ceil(named / (narrow() ? 2 : 5));
  const ticks = !logarithmic ? values : values.filter((value) => Math.log2(value) % 1 === 0);
  return {
    traces,
    layout: layout(tall(330) + 22 * rows, {
      margin: { l: 10, r: 16, t: 14 + 22 * rows, b: 48 },
      xaxis: axis(escaped(figure.axis_label), {
        type: logarithmic ? "log" : "linear", tickvals: ticks, ticktext: ticks.map(String), showgrid: false, zeroline: false,
      }),
      yaxis: axis("Score", { tickformat: ".0~%", zeroline: false }),
    }),
  };
}

function startPaper() {
  study.paper.forEach((figure, place) => {
    if (figure) draw(`figure-paper-${place}`, () => paperFigure(figure));
  });
}

function selectionFigure({ candidates, picks, halves, chosen: winner }) {
  const inks = candidates.map((model) => (model === winner ? colour("g-timber") : faded("g-timber", 0.35)));
  return {
    traces: [{
      type: "bar", orientation: "h", x: picks.map((count) => count / halves), y: candidates.map((_, i) => i),
      marker: { color: inks }, text: candidates.map((model) => (model !== winner ? "" : narrow() ? "chosen" : "chosen by all problems")),
      textposition: "auto", insidetextanchor: "start", width: 0.62, cliponaxis: false,
      customdata: candidates.map((model) => escaped(modelLabel(model))),
      hovertemplate: `<b>%{customdata}</b>: %{x:.1%} of ${halves.toLocaleString("en")} halves<extra></extra>`,
    }],
    layout: layout(tall(candidates.length * 36) + 70, {
      margin: { l: 10, r: 16, t: 10, b: 48 },
      xaxis: axis(narrow() ? "Share of halves" : "Chosen by this share of random halves", { tickformat: ".0%", rangemode: "tozero" }),
      yaxis: axis("", {
        range: [candidates.length - 0.5, -0.5], tickvals: candidates.map((_, i) => i), showgrid: false, zeroline: false,
        ticktext: candidates.map((model) => rowName(modelLabel(model))), ticks: "", ticklabelstandoff: 8,
      }),
    }),
  };
}

function startSelections() {
  study.selections.forEach((one, place) => draw(`figure-selection-${place}`, () => selectionFigure(one)));
}

function sizeWords(bytes) {
  for (const [unit, size] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= size) return `${(bytes / size).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}

function timeWords(seconds) {
  if (seconds >= 5400) return `${(seconds / 3600).toFixed(1)} h`;
  return seconds >= 90 ? `${(seconds / 60).toFixed(1)} min` : `${seconds.toFixed(1)} s`;
}

// One panel: a bar for each step, a piece for each part of it; of memory only the largest.
function costPanel(steps, key, write, suffix, pieces) {
  const traces = [], totals = steps.map(() => 0);
  for (const cost of pieces) {
    const row = steps.indexOf(cost.step), seen = totals[row];
    const length = key === "peak" ? Math.max((cost.peak ?? 0) - seen, 0) : cost[key] ?? 0;
    totals[row] += length;
    if (!length) continue;
    traces.push({
      type: "bar", orientation: "h", x: [length], base: [seen], y: [row], showlegend: false, width: 0.6,
      xaxis: `x${suffix}`, yaxis: `y${suffix}`, marker: { color: colour("step3"), line: { color: colour("page"), width: 1 } },
      hovertemplate: `<b>${inTemplate(cost.step)}</b>, ${inTemplate(cost.what)}<br>${write(cost[key])}<extra></extra>`,
    });
  }
  const words = totals.map((total, row) => note(total ? write(total) : "–", {
    xref: `x${suffix}`, yref: `y${suffix}`, x: total, y: row, xanchor: "left", yanchor: "middle", xshift: 4,
    font: { size: 12, color: colour("soft") },
  }));
  return { traces, words, most: Math.max(...totals, 0) };
}

// Side by side where there is room, else below one another.
function costFigure() {
  if (!study.costs.length) return "No cost was recorded.";
  const steps = [...new Set(study.costs.map(({ step }) => step))], below = narrow();
  const panels = [["seconds", "Time", timeWords], ["written", "Written", sizeWords], ["peak", "Peak memory", sizeWords]];
  const row = tall(40);
  const figure = layout((below ? 3 : 1) * (steps.length * row + 34) + 26, {
    margin: { l: 10, r: 12, t: 34, b: 14 }, barmode: "overlay", annotations: [],
  });
  const traces = panels.flatMap(([key, title, write], panel) => {
    const suffix = panel ? String(panel + 1) : "";
    const { traces: own, words, most } = costPanel(steps, key, write, suffix, study.costs);
    const start = panel * 0.345, top = 1 - start;
    const domain = below ? { x: [0, 1], y: [top - 0.25, top] } : { x: [start, start + 0.31], y: [0, 1] };
    figure[`xaxis${suffix}`] = axis("", {
      domain: domain.x, anchor: `y${suffix}`, showticklabels: false, ticks: "", showgrid: false,
      range: [0, (most || 1) * 1.35], zeroline: true,
    });
    figure[`yaxis${suffix}`] = axis("", {
      domain: domain.y, anchor: `x${suffix}`, range: [steps.length - 0.5, -0.5], showgrid: false, zeroline: false,
      tickvals: steps.map((_, i) => i), ticktext: steps.map(rowName), ticks: "", ticklabelstandoff: 8,
      showticklabels: below || panel === 0,
    });
    figure.annotations.push(...words, note(`<b>${title}</b>`, { x: domain.x[0], y: domain.y[1], yshift: 6 }));
    return own;
  });
  return { traces, layout: figure };
}
