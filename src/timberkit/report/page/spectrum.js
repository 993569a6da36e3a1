// The singular values of one delta with noise curve, bulk edge and cut.

const LEADING = 50;

function chosenSpectrum() {
  const spectra = currentRun().spectra;
  const module = byId("spectrum-module").selectedIndex;
  const layer = byId("spectrum-layer").selectedIndex;
  const matrix = module < 0 || layer < 0 ? null : spectra.matrices[module][layer];
  return matrix && {
    ...matrix, places: spectra.places[matrix.shape],
    noise: spectra.nulls[matrix.shape].map((value) => value * matrix.noise_scale),
  };
}

function power(value) {
  if (value >= 0.001 && value < 10000) return String(Number(value.toPrecision(1)));
  const [digit, exponent] = value.toExponential(0).split("e");
  return `${digit === "1" ? "" : `${digit} · `}10<sup>${Number(exponent)}</sup>`;
}

// 1, 2, 5, 10 over a short range, powers of ten over a long one.
function logarithmicAxis(low, high) {
  const digits = Math.log10(high / low) < 2.6 ? [1, 2, 5] : [1];
  const values = [];
  for (let exponent = Math.floor(Math.log10(low)); exponent <= Math.log10(high); exponent += 1) {
    values.push(...digits.map((digit) => digit * 10 ** exponent));
  }
  return {
    type: "log", range: [Math.log10(low), Math.log10(high)],
    tickmode: "array", tickvals: values, ticktext: values.map(power),
  };
}

function spectrumTraces({ places, values, noise, spikes }) {
  const hover = "direction %{x}: <b>%{y:.4g}</b><extra></extra>";
  // Zeros have no place on a logarithmic axis: a line ends where they begin.
  const positive = (line) => line.map((value) => (value > 0 ? value : null));
  return [
    {
      x: places, y: positive(values), name: "Delta", mode: "lines", hovertemplate: hover,
      line: { color: faded("delta", 0.75), width: 4.5 },
    },
    {
      x: places, y: positive(noise), name: "Random noise of this size", mode: "lines",
      line: { color: colour("ink"), width: 1.5, dash: "dash" }, hovertemplate: `noise, ${hover}`,
    },
    {
      x: places, y: places.map((place, i) => (place <= spikes ? values[i] : null)),
      name: "Above the edge", mode: "markers", hovertemplate: hover,
      marker: {
        symbol: "diamond", size: 9, color: colour("instruct"), line: { color: colour("page"), width: 1 },
      },
    },
  ].map((trace) => ({ type: "scatter", ...trace }));
}

function spectrumMarks({ cut, edge }, right) {
  const upright = { yref: "paper", y0: 0, y1: 1 };
  const marks = edge > 0 ? [{
    type: "line", xref: "paper", x0: 0, x1: 1, y0: edge, y1: edge,
    line: { color: colour("warn"), width: 1.5, dash: "dot" },
  }] : [];
  if (cut >= right) return marks;
  return [
    ...marks,
    { type: "rect", x0: cut + 0.5, x1: right, ...upright, layer: "below", fillcolor: colour("shade"), line: { width: 0 } },
    { type: "line", x0: cut + 0.5, x1: cut + 0.5, ...upright, line: { color: colour("ink"), width: 1.5 } },
  ];
}

function spectrumNotes({ cut, edge }, right, logarithmic) {
  const small = (ink) => ({ size: 13, color: colour(ink) });
  const edgeNotes = edge > 0 ? [note("edge of the bulk", {
    x: 1, xanchor: "right", yref: "y", y: logarithmic ? Math.log10(edge) : edge, yshift: 2,
    font: { size: 12, color: colour("warn") },
  })] : [];
  if (cut >= right) return edgeNotes;
  const top = { xref: "x", x: cut + 0.5, y: 1, yanchor: "top", yshift: -4 };
  const words = `head, K = ${cut.toLocaleString("en")}`;
  return [
    ...edgeNotes, note(words, { ...top, xanchor: "right", xshift: -8, font: small("ink") }),
    note("tail", { ...top, xshift: 8, font: small("soft") }),
  ];
}

function spectrumFigure() {
  const matrix = chosenSpectrum();
  if (!matrix) return "The singular values of this matrix were not kept.";
  const { places, values, noise, edge } = matrix;
  if (!(values[0] > 0)) return "This delta is zero: Base and Instruct hold the same matrix.";
  const logarithmic = byId("spectrum-scale").value === "log";
  const full = places[places.length - 1];
  const last = byId("spectrum-part").value === "first" ? Math.min(LEADING, full) : full;
  const right = last + 0.012 * last + 0.5;
  const inside = values.filter((value, i) => value > 0 && places[i] <= last);
  // A square matrix has values near zero that would take half of a logarithmic axis.
  const low = Math.max(Math.min(...inside), edge * 0.01) * 0.85;
  const high = Math.max(values[0], noise[0], edge) * (logarithmic ? 1.6 : 1.1);
  const small = narrow();
  const figure = layout(small ? 400 : tall(470), {
    margin: { l: 10, r: 16, t: small ? 84 : 44, b: 52 },
    legend: { ...layout(0).legend, y: 1.02 },
    xaxis: axis("Direction, strongest first", {
      range: [0.5 - 0.012 * last, right], zeroline: false, showgrid: false, nticks: small ? 5 : 10,
    }),
    yaxis: axis("Singular value", logarithmic
      ? logarithmicAxis(low, high)
      : { range: [0, high], exponentformat: "power", zeroline: false }),
    shapes: spectrumMarks(matrix, right),
    annotations: spectrumNotes(matrix, right, logarithmic),
  });
  return { traces: spectrumTraces(matrix), layout: figure };
}

function spectrumReading() {
  const matrix = chosenSpectrum();
  const words = byId("spectrum-reading");
  if (!matrix) { words.textContent = ""; return; }
  const full = matrix.places[matrix.places.length - 1];
  const name = matrix.index === null ? matrix.name : `${matrix.name}[${matrix.index}]`;
  const which = matrix.alike > 1 ? ` (the most typical of ${matrix.alike} experts)` : "";
  const count = (number) => number.toLocaleString("en");
  const above = matrix.spikes
    ? `${count(matrix.spikes)} of its values lie above the edge and hold ${percent(matrix.energy_outside)} of the energy`
    : "none of its values lies above the edge";
  words.textContent = `${name}${which}, ${matrix.shape.replace("x", " × ")}: Timber keeps `
    + `${count(matrix.cut)} of ${count(full)} directions whole and weakens ${count(full - matrix.cut)}, `
    + `which hold ${percent(1 - matrix.head_energy)} of the energy; ${above}.`;
}

function showSpectrum() {
  draw("figure-spectrum", spectrumFigure);
  spectrumReading();
  const layer = byId("spectrum-layer");
  byId("spectrum-back").disabled = layer.selectedIndex <= 0;
  byId("spectrum-next").disabled = layer.selectedIndex >= layer.options.length - 1;
}

// The layers of the chosen module; the layer stays where the module has it too.
function listSpectrumLayers() {
  const { layers } = currentRun().spectra;
  const own = layers[byId("spectrum-module").selectedIndex] || [];
  const select = byId("spectrum-layer");
  const before = select.selectedOptions.length ? select.selectedOptions[0].textContent : null;
  const words = own.map((layer) => (layer === null ? "outside the layers" : String(layer)));
  const kept = words.indexOf(before);
  options(select, words, kept >= 0 ? kept : Math.floor(words.length / 2));
}

function startSpectrum() {
  const layer = byId("spectrum-layer");
  byId("spectrum-module").addEventListener("change", () => { listSpectrumLayers(); showSpectrum(); });
  layer.addEventListener("change", showSpectrum);
  for (const id of ["spectrum-scale", "spectrum-part"]) byId(id).addEventListener("change", showSpectrum);
  for (const [id, step] of [["spectrum-back", -1], ["spectrum-next", 1]]) {
    byId(id).addEventListener("click", () => { layer.selectedIndex += step; showSpectrum(); });
  }
}
