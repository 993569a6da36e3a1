// What the figures of a study share: groups, tasks, pickers, ways to write numbers.

const study = JSON.parse(byId("study-data").textContent);
const chosen = { task: 0, models: new Set(), groups: new Set() };

const groupInk = (group) => `g-${group}`;
const taskOf = () => study.tasks[chosen.task];
const modelLabel = (place) => (place === null || place === undefined ? "–" : study.models[place].label);

// As many decimals as the tables have.
function points(share) {
  return (100 * share).toFixed(taskOf().digits);
}

function signedPoints(share) {
  const { digits } = taskOf(), rounded = Number((100 * share).toFixed(digits));
  const text = Math.abs(rounded).toFixed(digits);
  return rounded === 0 ? text : `${rounded > 0 ? "+" : "−"}${text}`;
}

function spanWords([value, low, high], write = points) {
  return `<b>${write(value)}</b> [${write(low)}, ${write(high)}]`;
}

function asBars(ends, axisName, ink, more = {}) {
  return {
    [`error_${axisName}`]: {
      type: "data", symmetric: false, color: ink, thickness: 1.4, width: 0,
      array: ends.map(([value, , high]) => high - value),
      arrayminus: ends.map(([value, low]) => value - low), ...more,
    },
  };
}

// Where an estimate cannot be told from zero its mark is hollow.
function markOf(model, told = true, size = 10) {
  const group = study.models[model].group;
  const symbol = study.groups[group].symbol;
  const open = symbol.endsWith("-open") ? symbol : `${symbol}-open`;
  return { symbol: told ? symbol : open, ink: colour(groupInk(group)), size };
}

function nameHover(model) {
  const { label, group } = study.models[model];
  return `<b>${inTemplate(label)}</b>, ${escaped(study.groups[group].label)}`;
}

// Names at the left of rows take no more than their share of the width.
function rowName(label) {
  const most = narrow() ? 20 : 40;
  const short = label.length > most ? `${label.slice(0, most - 9)}…${label.slice(-8)}` : label;
  return escaped(short);
}

const zeroLine = () => ({
  type: "line", xref: "x", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1,
  line: { color: colour("soft"), width: 1.2 },
});

const POINTS_AXIS = { tickformat: ".2~f", zeroline: false };

const FIGURES = [];

function showTask(place) {
  chosen.task = place;
  for (const picker of document.querySelectorAll("[data-picker='task']")) picker.selectedIndex = place;
  for (const part of document.querySelectorAll("[data-task]")) part.hidden = Number(part.dataset.task) !== place;
  for (const begin of [beginPass, beginControls]) begin();
  for (const [id, make] of FIGURES) draw(id, make);
}

function startStudy() {
  for (const table of document.querySelectorAll("table.study")) startSorting(table);
  for (const picker of document.querySelectorAll("[data-picker='task']")) {
    picker.addEventListener("change", () => showTask(picker.selectedIndex));
  }
  startPass();
  startPlane();
  startControls();
  if (study.tasks.length) showTask(0);
  startPaper();
  startSelections();
  draw("figure-cost", costFigure);
}
