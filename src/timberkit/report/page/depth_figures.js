// Curves by layer: energy, rounding, overlap of subspaces, hidden states.

const NO_LAYERS = "Nothing of this module lies in a layer.";

function chosenModule(figure) {
  return Math.max(byId(`${figure}-module`).selectedIndex, 0);
}

// Median by layer; a band from the 10th to the 90th percentile where a layer has several matrices.
function curve(run, key, module, name, style, more = {}) {
  const found = run.curves[key][module];
  if (!found) return [];
  const line = {
    type: "scatter", mode: "lines+markers", x: run.layers, y: found.mid, name, connectgaps: false,
    line: { color: colour(style.ink), width: 2, dash: style.dash },
    marker: { symbol: style.symbol || "circle", size: style.dash ? 0.1 : 5, color: colour(style.ink) },
    hovertemplate: `layer %{x}: <b>%{y:${style.format || ".3~p"}}</b><extra>${name}</extra>`, ...more,
  };
  if (!found.low || style.dash) return [line];
  const band = {
    type: "scatter", x: [...run.layers, ...[...run.layers].reverse()],
    y: [...found.high, ...[...found.low].reverse()], fill: "toself", mode: "none",
    fillcolor: faded(style.ink, 0.14), hoverinfo: "skip", showlegend: false, ...more,
  };
  return run.layers.length > 1 && !found.low.includes(null) ? [band, line] : [line];
}

// Two panels, one above the other, over the same layers.
function twoPanels(traces, titles, axes, height = 460) {
  const figure = layout(tall(height), {
    margin: { l: 10, r: 16, t: narrow() ? 84 : 62, b: 48 },
    xaxis: axis("", { anchor: "y", showticklabels: false, showgrid: false, zeroline: false }),
    xaxis2: axis("Layer", {
      anchor: "y2", matches: "x", showgrid: false, zeroline: false, ...layerTicks(traces[0].x),
    }),
    yaxis: axis("", { domain: [0.57, 0.96], ...axes[0] }),
    yaxis2: axis("", { domain: [0, 0.39], anchor: "x2", ...axes[1] }),
    annotations: [panelNote(titles[0], 0.96), panelNote(titles[1], 0.39)],
  });
  figure.legend = { ...layout(0).legend, yref: "container", y: 1, yanchor: "top" };
  return { traces, layout: figure };
}

const LOWER = { xaxis: "x2", yaxis: "y2" };
const SHARE = { tickformat: ".3~p", rangemode: "tozero" };

function energyFigure() {
  const run = currentRun(), module = chosenModule("energy");
  if (!run.curves.tail_energy[module]) return NO_LAYERS;
  return twoPanels(
    [
      ...curve(run, "tail_energy", module, "Tail of the delta", { ink: "delta" }),
      ...curve(run, "null_tail_energy", module, "Tail of random noise", { ink: "noise", dash: "dash" }),
      ...curve(run, "tail_sum", module, "Tail sum of the delta", { ink: "delta" }, { ...LOWER, showlegend: false }),
    ],
    ["Share of the energy in the tail", "Share of the sum of singular values in the tail"],
    [SHARE, SHARE],
  );
}

function roundingFigure() {
  const run = currentRun(), module = chosenModule("rounding");
  if (!run.curves.changed[module] && run.curves.changed[0]) return NO_LAYERS;
  if (!run.curves.changed[module]) {
    return "Rounding was not measured in this run; timberkit analyze --measure rounding does.";
  }
  const figure = twoPanels(
    [
      ...curve(run, "error", module, "Rounding error / correction", { ink: "instruct" }),
      ...curve(run, "delta_noise", module, "Rounding already in the delta / delta", { ink: "base", symbol: "square" }),
      ...curve(run, "changed", module, "Elements changed", { ink: "delta" }, { ...LOWER, showlegend: false }),
    ],
    ["Rounding, as a share of what it disturbs", "Share of elements that change at all"],
    [SHARE, { ...SHARE, range: [0, 1] }],
  );
  figure.layout.shapes = [{
    type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1,
    line: { color: colour("warn"), width: 1.5, dash: "dot" },
  }];
  figure.layout.yaxis = { ...figure.layout.yaxis, autorangeoptions: { include: [0, 1.05] } };
  figure.layout.annotations.push(note("rounding as large as the correction", {
    x: 1, xanchor: "right", yref: "y", y: 1, yshift: 2, font: { size: 12, color: colour("warn") },
  }));
  return figure;
}

const STEPS = ["step1", "step2", "step3", "step4"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up"];

function overlapTraces(run, side, module, panel) {
  const found = run.overlaps[side][module];
  if (!found) return [];
  // JSON puts whole numbers first, ascending, and K after them: the order wanted.
  return Object.keys(found).flatMap((label, place) => {
    const ink = colour(STEPS[Math.min(place, 3)]);
    const name = label === "1" ? "1 direction" : `${label} directions`;
    const shared = { type: "scatter", x: run.layers, ...panel, legendgroup: label };
    return [
      {
        ...shared, y: found[label].overlap, name, mode: "lines+markers", showlegend: !panel.xaxis,
        line: { color: ink, width: 2 }, marker: { symbol: SYMBOLS[Math.min(place, 3)], size: 6, color: ink },
        hovertemplate: `layer %{x}: <b>%{y:.3f}</b><extra>${name}</extra>`,
      },
      {
        ...shared, y: found[label].chance, mode: "lines", showlegend: false,
        line: { color: ink, width: 1.5, dash: "dot" },
        hovertemplate: `layer %{x}: chance %{y:.3f}<extra>${name}</extra>`,
      },
    ];
  });
}

function overlapFigure() {
  const run = currentRun(), module = chosenModule("overlap"), side = byId("overlap-side").value;
  if (!run.layers.length || (!run.overlaps[side][module] && run.overlaps[side][0])) return NO_LAYERS;
  if (!run.overlaps[side][module]) {
    return "Subspaces were not measured in this run; timberkit analyze --measure subspaces does.";
  }
  const traces = [
    ...overlapTraces(run, side, module, {}), ...overlapTraces(run, `delta_${side}`, module, LOWER),
    {
      type: "scatter", mode: "lines", x: [null], y: [null], name: "chance", hoverinfo: "skip",
      line: { color: colour("step3"), width: 1.5, dash: "dot" },
    },
  ];
  const whole = { range: [0, 1.03], dtick: 0.25, tickformat: ".2f" };
  return twoPanels(traces, ["Base with Instruct", "Delta with Base"], [whole, whole], 520);
}

function hiddenFigure() {
  const states = currentRun().hidden;
  if (!states) return "Hidden states were not measured in this run; timberkit analyze --hidden-states does.";
  const line = (key, name, ink, symbol, more = {}) => ({
    type: "scatter", mode: "lines+markers", x: states.layers, y: states[key], name,
    line: { color: colour(ink), width: 2 }, marker: { symbol, size: 6, color: colour(ink) },
    hovertemplate: `layer %{x}: <b>%{y:.4~g}</b><extra>${name}</extra>`, ...more,
  });
  return twoPanels(
    [
      line("base", "Base", "base", "circle"), line("instruct", "Instruct", "instruct", "square"),
      line("difference", "Base − Instruct", "delta", "diamond", { ...LOWER, showlegend: false }),
    ],
    [`Effective rank of the hidden states (${states.tokens.toLocaleString("en")} tokens)`, "Base − Instruct (Diff-eRank)"],
    [{ rangemode: "tozero" }, { rangemode: "tozero", zeroline: true, zerolinecolor: colour("soft") }],
  );
}

const BY_LAYER = [
  ["energy", energyFigure], ["rounding", roundingFigure], ["overlap", overlapFigure],
];

function startDepthFigures() {
  for (const [figure, make] of BY_LAYER) {
    byId(`${figure}-module`).addEventListener("change", () => draw(`figure-${figure}`, make));
  }
  byId("overlap-side").addEventListener("change", () => draw("figure-overlap", overlapFigure));
}
