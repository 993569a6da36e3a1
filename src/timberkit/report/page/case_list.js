// The list of problems: filters, search, sorting, and moving through it with the keyboard.

const CASE_CHANGED_MOST = 50;
const CASE_FILTERS = [
  ["all", "All"], ["only-a", "Solved only by A"], ["only-b", "Solved only by B"],
  ["changed", "Changed most"], ["neither", "Solved by neither"],
];
const CASE_COLUMNS = [["key", "Problem"], ["a", "A"], ["b", "B"], ["change", "B − A"]];
const caseView = { filter: "all", sort: "key", direction: 1, rows: [], chosen: null, asked: 0, whole: null };

const caseModel = (side) => byId(`case-${side}`).selectedIndex;
const caseRate = (counts) => (counts ? counts[1] / counts[0] : null);

function caseElement(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

// A case as the two chosen models have it.
function caseRow(one) {
  const a = one.counts[caseModel("a")], b = one.counts[caseModel("b")];
  const change = a && b ? caseRate(b) - caseRate(a) : null;
  return { one, counts: { a, b }, key: one.place, a: caseRate(a), b: caseRate(b), change };
}

function casePasses(filter, { a, b, change }) {
  if (filter === "only-a") return a > 0 && b === 0;
  if (filter === "only-b") return b > 0 && a === 0;
  if (filter === "neither") return a === 0 && b === 0;
  return filter === "all" || Boolean(change);
}

function caseFiltered(filter, rows) {
  const passing = rows.filter((row) => casePasses(filter, row));
  if (filter !== "changed" || passing.length <= CASE_CHANGED_MOST) return passing;
  const least = passing.map((row) => Math.abs(row.change)).sort((x, y) => y - x)[CASE_CHANGED_MOST - 1];
  return passing.filter((row) => Math.abs(row.change) >= least);
}

function caseCompared(x, y) {
  const [p, q] = [x[caseView.sort], y[caseView.sort]];
  // What a model was not asked stands last, whichever way the column is sorted.
  if (p === null || q === null) return (p === null) - (q === null) || x.key - y.key;
  return caseView.direction * (p - q) || x.key - y.key;
}

function caseMatching(rows) {
  const words = byId("case-search").value.trim().toLowerCase();
  if (!words) return rows;
  const whole = byId("case-whole").checked ? caseView.whole : null;
  return rows.filter(({ one }) => one.words.includes(words) || whole?.has(one));
}

// Whole answers are searched in the background; the list grows when that is done.
async function caseSearchWhole() {
  const words = byId("case-search").value.trim().toLowerCase();
  caseView.asked += 1;
  caseView.whole = null;
  showCases();
  if (!words || !byId("case-whole").checked) return;
  const asked = caseView.asked;
  const wanted = caseData.cases.filter((one) => one.task === byId("case-task").selectedIndex);
  const found = await caseSearch(words, wanted, (share) => {
    if (asked !== caseView.asked) return false;
    byId("case-count").textContent = `Searching whole answers … ${percent(share)}`;
    return true;
  });
  if (!found || asked !== caseView.asked) return;
  caseView.whole = found.found;
  showCases();
  if (found.unread) {
    byId("case-count").textContent += ` ${found.unread.toLocaleString("en")} of the files beside this`
      + " page could not be read and were not searched.";
  }
}

function showCases() {
  const all = caseData.cases.filter((one) => one.task === byId("case-task").selectedIndex).map(caseRow);
  const matching = caseMatching(all);
  showCaseFilters(matching);
  caseView.rows = caseFiltered(caseView.filter, matching).sort(caseCompared);
  byId("case-table").tBodies[0].replaceChildren(...caseView.rows.map(caseLine));
  const count = (number) => number.toLocaleString("en");
  byId("case-count").textContent = caseView.rows.length || all.length === 0
    ? `${count(caseView.rows.length)} of ${count(all.length)} problems`
    : `None of the ${count(all.length)} problems fits; choose another filter or search for less.`;
  for (const head of byId("case-table").tHead.querySelectorAll("th[data-key]")) {
    const sorted = head.dataset.key === caseView.sort;
    head.setAttribute("aria-sort", !sorted ? "none" : caseView.direction > 0 ? "ascending" : "descending");
  }
  const kept = caseView.rows.findIndex((row) => row.one === caseView.chosen);
  chooseCase(Math.max(kept, 0), false);
}

function showCaseFilters(rows) {
  byId("case-filters").replaceChildren(...CASE_FILTERS.map(([name, label]) => {
    const button = caseElement("button", "", label);
    button.type = "button";
    button.dataset.filter = name;
    button.setAttribute("aria-pressed", String(caseView.filter === name));
    button.append(caseElement("span", "case-number", caseFiltered(name, rows).length.toLocaleString("en")));
    return button;
  }));
}

function caseCount(counts) {
  return counts ? `${counts[1]} / ${counts[0]}` : "not asked";
}

function caseSvg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}

// Both rates on one line from 0 to 100 %: A is a ring, B a disc.
function caseDrawing({ a, b }) {
  const place = (rate) => 6 + 108 * rate;
  const drawing = caseSvg("svg", { viewBox: "0 0 120 16", width: 120, height: 16, "aria-hidden": "true" });
  drawing.append(caseSvg("line", { class: "case-scale", x1: 6, x2: 114, y1: 8, y2: 8 }));
  if (a !== null && b !== null) {
    const side = b > a ? "b" : "a";
    drawing.append(caseSvg("line", { class: `case-span ${side}`, x1: place(a), x2: place(b), y1: 8, y2: 8 }));
  }
  if (b !== null) drawing.append(caseSvg("circle", { class: "case-dot b", cx: place(b), cy: 8, r: 4.5 }));
  if (a !== null) drawing.append(caseSvg("circle", { class: "case-dot a", cx: place(a), cy: 8, r: 4.5 }));
  return drawing;
}

function casePoints(change) {
  if (change === null) return "–";
  const points = Math.round(1000 * change) / 10;
  return points === 0 ? "0" : `${points > 0 ? "+" : "−"}${Math.abs(points)}`;
}

function caseLine(row) {
  const line = document.createElement("tr");
  const head = caseElement("th");
  head.scope = "row";
  const button = caseElement("button", "case-name");
  button.type = "button";
  button.tabIndex = -1;
  const key = caseElement("span", "case-key", row.one.key);
  const start = caseElement("span", "case-start", row.one.start);
  for (const words of [key, start]) words.dir = "auto";
  button.append(key, start);
  head.append(button);
  const rates = caseElement("td", "case-drawing");
  rates.append(caseDrawing(row));
  line.append(head, caseElement("td", "number", caseCount(row.counts.a)),
    caseElement("td", "number", caseCount(row.counts.b)), rates,
    caseElement("td", "number", casePoints(row.change)));
  return line;
}

function caseHeadings() {
  const line = document.createElement("tr");
  for (const [key, label] of CASE_COLUMNS) {
    if (key === "change") line.append(caseElement("td", "case-drawing", "0 to 100 %"));
    const head = caseElement("th", key === "key" ? "" : "number");
    head.scope = "col";
    head.dataset.key = key;
    const button = caseElement("button", ["a", "b"].includes(key) ? `case-mark ${key}` : "", label);
    button.type = "button";
    if (key === "change") button.title = "Rate of B minus rate of A, in points of percent";
    button.addEventListener("click", () => {
      caseView.direction = caseView.sort === key ? -caseView.direction : key === "key" ? 1 : -1;
      caseView.sort = key;
      showCases();
    });
    head.append(button);
    line.append(head);
  }
  byId("case-table").tHead.append(line);
}

function chooseCase(place, focus) {
  const lines = byId("case-table").tBodies[0].rows;
  const before = byId("case-table").querySelector("tr[aria-current]");
  if (before) {
    before.removeAttribute("aria-current");
    before.querySelector("button").tabIndex = -1;
  }
  const row = caseView.rows[place];
  if (row) caseView.chosen = row.one;  // kept over a search that finds nothing
  if (row) {
    lines[place].setAttribute("aria-current", "true");
    lines[place].querySelector("button").tabIndex = 0;
    caseIntoView(lines[place]);
    if (focus) lines[place].querySelector("button").focus({ preventScroll: true });
  }
  showCase(row, place);
}

// Within the list only: the page itself stays where it is.
function caseIntoView(line) {
  const list = byId("case-list");
  const above = byId("case-table").tHead.offsetHeight;
  if (line.offsetTop - above < list.scrollTop) list.scrollTop = line.offsetTop - above;
  const below = line.offsetTop + line.offsetHeight - list.clientHeight;
  if (below > list.scrollTop) list.scrollTop = below;
}

function caseKey(event) {
  const last = caseView.rows.length - 1;
  const now = caseView.rows.findIndex((row) => row.one === caseView.chosen);
  const steps = { ArrowDown: now + 1, ArrowUp: now - 1, PageDown: now + 8, PageUp: now - 8, Home: 0, End: last };
  if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey || last < 0) return;
  event.preventDefault();
  chooseCase(Math.min(Math.max(steps[event.key], 0), last), true);
}

function startCaseList() {
  caseHeadings();
  const body = byId("case-table").tBodies[0];
  body.addEventListener("keydown", caseKey);
  body.addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    if (line) chooseCase(line.sectionRowIndex, true);
  });
  byId("case-filters").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    caseView.filter = button.dataset.filter;
    if (caseView.filter === "changed" && caseView.sort === "key") [caseView.sort, caseView.direction] = ["change", -1];
    caseView.chosen = null;
    showCases();
    byId("case-filters").querySelector("[aria-pressed=true]").focus();
  });
  for (const id of ["case-a", "case-b"]) byId(id).addEventListener("change", showCases);
  for (const id of ["case-search", "case-whole", "case-task"]) byId(id).addEventListener("input", caseSearchWhole);
  byId("case-swap").addEventListener("click", () => {
    const [a, b] = [caseModel("a"), caseModel("b")];
    byId("case-a").selectedIndex = b;
    byId("case-b").selectedIndex = a;
    showCases();
  });
}
