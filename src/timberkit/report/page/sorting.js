// What tables that sort share: the order of values, heads that are buttons, tables of the page's HTML.

// What is not known (null) stands last, whichever way a column is sorted.
function inOrder(x, y, direction) {
  if (x === null || y === null) return (x === null) - (y === null);
  return direction * (typeof x === "string" ? (x < y ? -1 : x > y ? 1 : 0) : x - y);
}

function tellOrder(head, direction) {
  head.setAttribute("aria-sort", !direction ? "none" : direction > 0 ? "ascending" : "descending");
}

function sortingButton(head, label, help, sort) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  if (help) button.title = help;
  button.addEventListener("click", sort);
  head.replaceChildren(button);
}

// A cell's number in full stands in data-value; empty where there is none. Other cells are text.
function sortValue(cell) {
  if (!cell) return null;
  if (!("value" in cell.dataset)) return cell.textContent.trim().toLowerCase();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

// Heads with data-column sort the rows of each body of their table by that column.
function startSorting(table) {
  const heads = [...table.tHead.querySelectorAll("th[data-column]")];
  const bodies = [...table.tBodies].map((body) => [body, [...body.rows]]);
  let column = null, direction = 1;
  for (const head of heads) {
    tellOrder(head, 0);
    sortingButton(head, head.textContent, head.title, () => {
      const place = Number(head.dataset.column);
      // Numbers from the greatest, then from the least; words from A.
      const numeric = bodies.some(([, rows]) => rows.some((row) => "value" in (row.cells[place]?.dataset ?? {})));
      direction = column === place ? -direction : numeric ? -1 : 1;
      column = place;
      for (const [body, rows] of bodies) {
        const sorted = rows.map((row, at) => [sortValue(row.cells[place]), at, row]);
        sorted.sort((a, b) => inOrder(a[0], b[0], direction) || a[1] - b[1]);
        body.replaceChildren(...sorted.map(([, , row]) => row));
      }
      for (const other of heads) tellOrder(other, other === head ? direction : 0);
    });
  }
}
