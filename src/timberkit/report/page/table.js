// The table of every matrix: filter, sort, pages, CSV. Text goes in as text, never as markup.

const PAGE_ROWS = 25;
const TEXTS = [["name", "Name"], ["layer", "Layer"], ["module", "Module"]];
const view = { rows: [], order: [], page: 0, key: null, direction: 1 };

function restored(patterns, [pattern, ...numbers]) {
  return patterns[pattern].split("\0").map((piece, i) => piece + (numbers[i] ?? "")).join("");
}

// Base64 of 32-bit floats; what was not measured is null.
function unpacked(text, count) {
  if (text === null) return new Array(count).fill(null);
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Array.from(new Float32Array(bytes.buffer), (value) =>
    Number.isNaN(value) ? null : Number(value.toPrecision(6)));
}

function loadRows() {
  const { table } = currentRun();
  const { name: names, module: modules, layer: depths, dtype: dtypes, ...packed } = table.rows;
  const numbers = Object.entries(packed).map(([key, text]) => [key, unpacked(text, names.length)]);
  view.rows = names.map((name, place) => ({
    at: place, name: restored(table.patterns, name), layer: depths[place],
    module: table.modules[modules[place]], family: table.families[modules[place]],
    dtype: table.dtypes[dtypes[place]],
    ...Object.fromEntries(numbers.map(([key, values]) => [key, values[place]])),
  }));
  const layers = [...new Set(view.rows.map((row) => row.layer))];
  options(byId("table-module"), ["All", ...table.modules]);
  options(byId("table-layer"), ["All", ...layers.map((layer) => (layer === null ? "none" : String(layer)))]);
  view.page = 0;
}

function shown(row, column) {
  const value = row[column.key];
  if (value === null || value === undefined) return "–";
  if (column.kind === "ratio") return value.toFixed(3);
  return column.kind === "share" ? percent(value) : value.toLocaleString("en");
}

function compared(a, b) {
  return inOrder(a[view.key], b[view.key], view.direction) || a.at - b.at;
}

function arrange() {
  const words = byId("table-filter").value.toLowerCase();
  const module = byId("table-module").selectedIndex, layer = byId("table-layer").selectedIndex;
  const { table } = currentRun();
  const layerWords = layer > 0 ? byId("table-layer").selectedOptions[0].textContent : null;
  view.order = view.rows.filter((row) =>
    row.name.toLowerCase().includes(words)
    && (module <= 0 || row.module === table.modules[module - 1])
    && (layerWords === null || (row.layer === null ? "none" : String(row.layer)) === layerWords));
  if (view.key) view.order.sort(compared);
  view.page = Math.min(view.page, Math.max(Math.ceil(view.order.length / PAGE_ROWS) - 1, 0));
}

function cell(tag, text, numeric) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (numeric) made.className = "number";
  return made;
}

function showTable() {
  arrange();
  const start = view.page * PAGE_ROWS;
  byId("table").tBodies[0].replaceChildren(...view.order.slice(start, start + PAGE_ROWS).map((row) => {
    const line = document.createElement("tr");
    const name = cell("th", row.name);
    name.scope = "row";
    name.title = row.name;
    line.append(name, cell("td", row.layer ?? "–", true), cell("td", row.module));
    line.append(...data.columns.map((column) => cell("td", shown(row, column), true)));
    line.append(cell("td", row.dtype));
    return line;
  }));
  const { table } = currentRun();
  const count = (number) => number.toLocaleString("en");
  const rows = table.each_expert ? "matrices" : "rows; the experts of a layer are one row, with their medians";
  byId("table-count").textContent = `${count(view.order.length)} of ${count(view.rows.length)} ${rows}`;
  const pages = Math.max(Math.ceil(view.order.length / PAGE_ROWS), 1);
  byId("table-page").textContent = `Page ${count(view.page + 1)} of ${count(pages)}`;
  byId("table-back").disabled = view.page === 0;
  byId("table-next").disabled = view.page + 1 >= pages;
  for (const head of byId("table").tHead.querySelectorAll("th")) {
    tellOrder(head, head.dataset.key === view.key ? view.direction : 0);
  }
}

function heading(key, label, help, numeric) {
  const head = document.createElement("th");
  head.scope = "col";
  head.dataset.key = key;
  if (numeric) head.className = "number";
  sortingButton(head, label, help, () => {
    view.direction = view.key === key ? -view.direction : 1;
    view.key = key;
    view.page = 0;
    showTable();
  });
  return head;
}

// A spreadsheet runs what begins like a formula; an apostrophe in front keeps it text.
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[\s]*[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return `"${text.replace(/"/g, '""')}"`;
}

function csv() {
  const keys = ["name", "layer", "module", "family", "dtype", ...data.columns.map((column) => column.key)];
  const lines = view.order.map((row) => keys.map((key) => csvCell(row[key])).join(","));
  return `${keys.join(",")}\r\n${lines.join("\r\n")}\r\n`;
}

function download() {
  const link = document.createElement("a");
  const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv;charset=utf-8" }));
  link.href = address;
  link.download = "timberkit-matrices.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function startTable() {
  const line = document.createElement("tr");
  line.append(...TEXTS.map(([key, label]) => heading(key, label, "", key === "layer")));
  line.append(...data.columns.map((column) => heading(column.key, column.label, column.help, true)));
  line.append(heading("dtype", "Stored as", "Types of Base and Instruct in their files", false));
  byId("table").tHead.append(line);
  for (const id of ["table-filter", "table-module", "table-layer"]) {
    byId(id).addEventListener("input", () => { view.page = 0; showTable(); });
  }
  byId("table-back").addEventListener("click", () => { view.page -= 1; showTable(); });
  byId("table-next").addEventListener("click", () => { view.page += 1; showTable(); });
  byId("table-csv").addEventListener("click", download);
}
