// What all figures share: colours from the style sheet, labels without markup, one way to draw.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const root = document.documentElement;
const printing = window.matchMedia("print");
const darkness = window.matchMedia("(prefers-color-scheme: dark)");
const PRINT_WIDTH = 660;
const drawn = new Map();

// Plotly reads tags and entities in labels; a name from a checkpoint must stay a name.
function escaped(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// In a template of Plotly a name must fill in nothing either.
function inTemplate(text) {
  return escaped(text).replace(/%\{/g, "%&#123;");
}

// The medium changes only after the browser has counted its pages; beforeprint comes before that.
function onPaper() {
  return printing.matches || "paper" in root.dataset;
}

function colour(name) {
  return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
}

function faded(name, opacity) {
  const hex = colour(name);
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
  return `rgba(${red},${green},${blue},${opacity})`;
}

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 10, font: { size: 13, color: colour("soft") } },
    gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line"),
    tickfont: { color: colour("soft"), size: 12 }, automargin: true, fixedrange: true, ...more,
  };
}

// Layers are whole numbers: a model of few layers has no tick between two.
function layerTicks(layers) {
  return layers.length <= 12 ? { tickmode: "linear", dtick: 1 } : {};
}

function note(text, more = {}) {
  return {
    text, showarrow: false, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom",
    align: "left", font: { size: 13, color: colour("ink") }, ...more,
  };
}

// Titles of panels begin at the left edge where labels leave them little room.
function panelNote(text, y) {
  return note(text, { x: 0, y, yshift: 6, xshift: narrow() ? -56 : 0 });
}

function layout(height, more = {}) {
  return {
    height, width: onPaper() ? PRINT_WIDTH : undefined, autosize: !onPaper(),
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("ink") },
    margin: { l: 10, r: 10, t: 30, b: 40 }, dragmode: false, hovermode: "closest",
    hoverlabel: {
      bgcolor: colour("page"), bordercolor: colour("line"), font: { color: colour("ink"), size: 13 },
      align: "left",
    },
    legend: {
      orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", font: { size: 13 },
      itemclick: false, itemdoubleclick: false,
    },
    ...more,
  };
}

const CONFIG = {
  displaylogo: false, typesetMath: false, responsive: true, scrollZoom: false, doubleClick: "reset",
  modeBarButtons: [["toImage"]], toImageButtonOptions: { format: "svg", filename: "timberkit" },
};

// A figure is drawn by a function, so that it can be drawn again in other colours.
function draw(id, make) {
  const place = byId(id);
  if (!place) return;
  drawn.set(id, make);
  const figure = make();
  if (typeof figure === "string") {
    Plotly.purge(place);
    const words = document.createElement("p");
    words.className = "empty";
    words.textContent = figure;
    place.replaceChildren(words);
    return;
  }
  if (place.querySelector(".empty")) place.replaceChildren();
  Plotly.react(place, figure.traces, figure.layout, CONFIG);
}

function look() {
  return [onPaper(), darkness.matches && !onPaper(), narrow()].join();
}

function redraw() {
  if (look() === root.dataset.look) return;
  root.dataset.look = look();
  for (const [id, make] of drawn) draw(id, make);
}

// Two figures fit on a printed page.
function tall(height) {
  return onPaper() ? Math.round(0.7 * height) : height;
}

function narrow() {
  return !onPaper() && window.innerWidth < 640;
}

function percent(share) {
  if (share === null || share === undefined) return "–";
  const points = 100 * share;
  if (points === 0) return "0\u00a0%";
  if (Math.abs(points) >= 99 && Math.abs(points) < 100) return `${points.toFixed(2)}\u00a0%`;
  if (Math.abs(points) >= 10) return `${points.toFixed(1)}\u00a0%`;
  return Math.abs(points) >= 0.1 ? `${points.toFixed(2)}\u00a0%` : `${Number(points.toPrecision(1))}\u00a0%`;
}

function options(select, words, chosen = 0) {
  select.replaceChildren(...words.map((word, place) => {
    const option = document.createElement("option");
    option.value = String(place);
    option.textContent = word;
    return option;
  }));
  select.selectedIndex = Math.min(Math.max(chosen, 0), words.length - 1);
}

const currentRun = () => data.runs[byId("run") ? byId("run").selectedIndex : 0];
