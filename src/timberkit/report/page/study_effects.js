// Effects with intervals: edits beside their controls, and edits of parts of the weights.

const inPoints = (ends) => ends.map((value) => 100 * value);

function effectTrace(ends, row, { symbol, ink, size }, hover, more = {}) {
  return {
    type: "scatter", mode: "markers", x: [100 * ends[0]], y: [row], showlegend: false,
    marker: { symbol, size, color: ink, line: { width: symbol.endsWith("-open") ? 1.6 : 0, color: ink } },
    ...asBars([inPoints(ends)], "x", ink),
    hovertemplate: `${hover}<br>${spanWords(ends, signedPoints)} points<extra></extra>`, ...more,
  };
}

function legendMark(name, symbol, ink, size = 10) {
  return {
    type: "scatter", mode: "markers", x: [null], y: [null], name, hoverinfo: "skip",
    marker: { symbol, size, color: ink, line: { width: symbol.endsWith("-open") ? 1.6 : 0, color: ink } },
  };
}

function controlledK() {
  const ks = [...new Set(taskOf().controls.map(({ k }) => k))].sort((a, b) => a - b);
  return { ks, k: ks[byId("controlled-k").selectedIndex] ?? ks[0] };
}

function controlsFigure() {
  const { k } = controlledK();
  const rows = taskOf().controls.filter((one) => one.k === k);
  if (!rows.length) return "This task has no controls.";
  const edit = { symbol: "triangle-up", ink: colour("g-timber"), size: 12 };
  const merge = { symbol: "diamond-open", ink: colour("g-matched-merge"), size: 11 };
  const noise = { symbol: "x", ink: colour("g-noise"), size: 9 };
  const traces = rows.flatMap((one, row) => {
    const name = inTemplate(modelLabel(one.edit));
    const found = [effectTrace(one.effect, row - 0.26, { ...markOf(one.edit, true, 12) }, `<b>${name}</b>`)];
    if (one.merge) found.push(effectTrace(one.merge, row, merge, `matched merge of <b>${name}</b>`));
    if (one.seeds.length) {
      found.push({
        type: "scatter", mode: "markers", x: one.seeds.map(([value]) => 100 * value),
        y: one.seeds.map(() => row + 0.26), showlegend: false, name: "seeds",
        marker: { symbol: "circle", size: 6, color: faded("g-noise", 0.75) },
        customdata: one.seeds.map((ends) => spanWords(ends, signedPoints)),
        hovertemplate: `noise of <b>${name}</b>, one seed<br>%{customdata} points<extra></extra>`,
      });
    }
    if (one.noise) found.push(effectTrace(one.noise, row + 0.26, noise, `noise of <b>${name}</b>, mean`));
    return found;
  });
  const lines = rows.slice(1).map((_, row) => ({
    type: "line", xref: "paper", x0: 0, x1: 1, y0: row + 0.5, y1: row + 0.5, line: { color: colour("line"), width: 1 },
  }));
  return {
    traces: [
      ...traces, legendMark("edit", edit.symbol, edit.ink), legendMark("matched merge", merge.symbol, merge.ink),
      legendMark("noise, mean", noise.symbol, noise.ink, 9), legendMark("noise, each seed", "circle", faded("g-noise", 0.75), 6),
    ],
    layout: layout(Math.max(tall(rows.length * 84), rows.length * 72) + 108, {
      margin: { l: 10, r: 16, t: narrow() ? 60 : 44, b: 48 }, shapes: [zeroLine(), ...lines],
      xaxis: axis(`Points of Pass@${k}, difference to Instruct`, POINTS_AXIS),
      yaxis: axis("", {
        range: [rows.length - 0.5, -0.5], tickvals: rows.map((_, i) => i), showgrid: false, zeroline: false,
        ticktext: rows.map(({ edit: place }) => `<b>${rowName(modelLabel(place))}</b>`), ticks: "", ticklabelstandoff: 8,
      }),
    }),
  };
}

// What may be said of each edit at the chosen number of attempts.
function sayControls() {
  const { k } = controlledK();
  byId("controlled-reading").replaceChildren(...taskOf().controls.filter((one) => one.k === k).map((one) => {
    const line = document.createElement("li"), name = document.createElement("strong");
    name.textContent = `${modelLabel(one.edit)}: `;
    line.append(name, one.says);
    return line;
  }));
}

function beginControls() {
  if (!byId("controlled-k")) return;
  const { ks, k } = controlledK();
  options(byId("controlled-k"), ks.map((one) => `Pass@${one}`), ks.indexOf(k));
  sayControls();
}

function startControls() {
  if (byId("figure-parts")) FIGURES.push(["figure-parts", partsFigure]);
  if (!byId("figure-controls")) return;
  FIGURES.push(["figure-controls", controlsFigure]);
  byId("controlled-k").addEventListener("change", () => { sayControls(); draw("figure-controls", controlsFigure); });
}

const BLOCKS = [["timber", "All weights"], ["family", "By family"], ["depth", "By depth"], ["band", "By band of directions"]];

// A row for each model, and one for the name of each block.
function partRows() {
  return BLOCKS.flatMap(([group, words]) => {
    const own = (study.series[group] ?? []).filter((model) => taskOf().contrasts[model]);
    return own.length ? [{ words }, ...own.map((model) => ({ model }))] : [];
  });
}

function partsFigure() {
  const { plane, contrasts } = taskOf();
  const rows = partRows();
  if (!rows.some(({ model }) => model !== undefined)) return "No edit of a part was asked on this task.";
  const all = [...new Set(rows.flatMap(({ model }) => (model === undefined ? [] : contrasts[model].k)))].sort((a, b) => a - b);
  const ks = [...new Set(plane ? [plane.low_k, plane.high_k] : [all[0], all.at(-1)])];
  const traces = ks.flatMap((k, panel) => rows.flatMap(({ model }, row) => {
    if (model === undefined) return [];
    const at = contrasts[model].k.indexOf(k);
    if (at < 0) return [];
    const word = contrasts[model].words[at];
    const trace = effectTrace(
      contrasts[model].difference[at], row, markOf(model, word !== "not distinguishable", 10),
      `${nameHover(model)}<br>Pass@${k}: ${word}`, { xaxis: panel ? "x2" : "x" },
    );
    return [trace];
  }));
  const wide = ks.length > 1 ? [[0, 0.47], [0.53, 1]] : [[0, 1]];
  const figure = layout(tall(rows.length * 25) + 90, {
    margin: { l: 10, r: 16, t: 34, b: 48 },
    yaxis: axis("", {
      range: [rows.length - 0.4, -0.6], showgrid: false, zeroline: false, ticks: "", ticklabelstandoff: 8,
      tickvals: rows.map((_, i) => i),
      ticktext: rows.map(({ words, model }) => (words ? `<b>${words}</b>` : rowName(modelLabel(model)))),
    }),
    shapes: [], annotations: [],
  });
  ks.forEach((k, panel) => {
    figure[`xaxis${panel ? 2 : ""}`] = axis(narrow() ? "points" : "Points, difference to Instruct", {
      ...POINTS_AXIS, domain: wide[panel], anchor: "y", nticks: narrow() ? 4 : 7,
    });
    figure.shapes.push({ ...zeroLine(), xref: panel ? "x2" : "x" });
    figure.annotations.push(note(`<b>Pass@${k}</b>`, { x: wide[panel][0], y: 1, yshift: 6 }));
  });
  return { traces, layout: figure };
}
