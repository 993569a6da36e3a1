// Pass@k over k of the chosen models.

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

// The models of a group share its colour; lines tell them apart.
function passStyles() {
  const seen = {};
  const shown = [...chosen.models].filter((model) => taskOf().curves[model]).sort((a, b) => a - b);
  return shown.map((model) => {
    const { group } = study.models[model];
    const place = seen[group] = (seen[group] ?? -1) + 1;
    return { model, dash: DASHES[place % DASHES.length], ...markOf(model, place < DASHES.length, 6) };
  });
}

function passLine({ model, dash, symbol, ink, size }, bands) {
  const curve = taskOf().curves[model], strong = ["base", "instruct"].includes(study.models[model].group);
  const line = {
    type: "scatter", mode: "lines+markers", x: curve.k, y: curve.value, name: escaped(modelLabel(model)),
    line: { color: ink, width: strong ? 2.6 : 1.8, dash }, marker: { symbol, size: size + (strong ? 1 : 0), color: ink },
    customdata: curve.k.map((_, i) => spanWords([curve.value[i], curve.low[i], curve.high[i]])),
    hovertemplate: `${nameHover(model)}<br>Pass@%{x}: %{customdata}<extra></extra>`,
  };
  const band = {
    type: "scatter", mode: "none", x: [...curve.k, ...[...curve.k].reverse()],
    y: [...curve.high, ...[...curve.low].reverse()], fill: "toself",
    fillcolor: faded(groupInk(study.models[model].group), strong ? 0.13 : 0.07),
    hoverinfo: "skip", showlegend: false,
  };
  return curve.k.length > 1 && (bands === "all" || (bands === "two" && strong)) ? [band, line] : [line];
}

// The height of a curve between two of its k, on the logarithmic axis.
function heightAt(curve, k) {
  const after = curve.k.findIndex((one) => one >= k);
  if (after < 0) return curve.value.at(-1);
  if (after === 0) return curve.value[0];
  const [left, right] = [curve.k[after - 1], curve.k[after]];
  const part = Math.log(k / left) / Math.log(right / left);
  return curve.value[after - 1] + part * (curve.value[after] - curve.value[after - 1]);
}

function crossings() {
  return [...chosen.models].sort((a, b) => a - b)
    .map((model) => ({ model, ...taskOf().contrasts[model] }))
    .filter((one) => one.crossing && one.behind !== null && chosen.models.has(study.reference)
      && taskOf().curves[one.behind]);
}

function crossingWords({ behind, ahead, crossing }) {
  return `${modelLabel(behind)} passes ${modelLabel(ahead)} from k = ${crossing.text}`;
}

function crossingMarks() {
  const found = crossings();
  if (!found.length) return [];
  const inks = found.map(({ model }) => colour(groupInk(study.models[model].group)));
  return found.map((one, i) => {
    const { k, low, high } = one.crossing;
    return {
      type: "scatter", mode: "markers", x: [k], y: [heightAt(taskOf().curves[one.behind], k)],
      showlegend: false, name: "crossing",
      marker: { symbol: "circle-open", size: 14, color: inks[i], line: { width: 1.8 } },
      error_x: {
        type: "data", symmetric: false, array: [(high ?? 2 * taskOf().curves[one.behind].k.at(-1)) - k], arrayminus: [low === null ? 0 : k - low],
        color: faded(groupInk(study.models[one.model].group), 0.55), thickness: 1, width: 3,
      },
      hovertemplate: `${inTemplate(crossingWords(one))}<extra></extra>`,
    };
  });
}

function passFigure() {
  const styles = passStyles();
  if (!styles.length) return "No model is chosen; open the list above.";
  const ks = [...new Set(styles.flatMap(({ model }) => taskOf().curves[model].k))].sort((a, b) => a - b);
  const powers = ks.filter((k) => Math.log2(k) % 1 === 0);
  const ticks = (powers.length > 3 ? powers : ks).filter((_, i) => !narrow() || i % 2 === 0);
  const bands = byId("pass-bands").value;
  const rows = Math.ceil(styles.length / (narrow() ? 2 : 5));
  return {
    traces: [...styles.flatMap((style) => passLine(style, bands)), ...crossingMarks()],
    layout: layout(tall(430) + 22 * rows, {
      margin: { l: 10, r: 16, t: 14 + 22 * rows, b: 48 },
      xaxis: axis("k, attempts at a problem", {
        type: "log", range: [Math.log10(ks[0]) - 0.06, Math.log10(ks.at(-1)) + 0.06], tickvals: ticks, ticktext: ticks.map(String), showgrid: false, zeroline: false,
      }),
      yaxis: axis("Problems solved at least once", { tickformat: ".0~%", rangemode: "tozero", zeroline: false }),
    }),
  };
}

function showPass() {
  byId("pass-count").textContent = String(chosen.models.size);
  for (const box of document.querySelectorAll("[data-model]")) box.checked = chosen.models.has(Number(box.dataset.model));
  byId("pass-reading").textContent = crossings().map((one) => `${crossingWords(one)}.`).join(" ");
}

function choosePass(models) {
  chosen.models = new Set(models);
  chosen.byHand = false;
  showPass();
}

// Another task begins with its own best models, unless the reader has chosen.
function beginPass() {
  if (!chosen.byHand) choosePass(taskOf().first);
  showPass();
}

function startPass() {
  FIGURES.push(["figure-pass", passFigure]);
  const again = () => { showPass(); draw("figure-pass", passFigure); };
  for (const box of document.querySelectorAll("[data-model]")) {
    box.addEventListener("change", () => {
      chosen.byHand = true;
      if (box.checked) chosen.models.add(Number(box.dataset.model));
      else chosen.models.delete(Number(box.dataset.model));
      again();
    });
  }
  byId("pass-bands").addEventListener("change", again);
  byId("pass-first").addEventListener("click", () => { choosePass(taskOf().first); again(); });
}
