// One problem: what was asked, what is right, and two answers side by side. All text goes in as text.

const CASE_FIRST = 4000;
const CASE_STOPS = {
  stop: "ended by itself", length: "cut off at the token limit", content_filter: "stopped by a filter",
  error: "the request failed", unknown: "",
};
const CASE_WHY = {
  all: "", changed: "Chosen because its rate changed most.", "only-one": "Chosen because only one model solves it.",
  random: "Chosen by lot.",
};
const caseShown = { drawn: 0, a: 0, b: 0, marked: true };

// Where a text may be cut without tearing a letter apart.
function caseCut(text, at) {
  if (at >= text.length) return text.length;
  const code = text.charCodeAt(at - 1);
  return code >= 0xd800 && code <= 0xdbff ? at + 1 : at;
}

function caseMarked(text, ranges, end) {
  const parts = document.createDocumentFragment();
  let at = 0;
  for (const [from, to] of ranges) {
    if (from >= end) break;
    parts.append(text.slice(at, from), caseElement("mark", "", text.slice(from, Math.min(to, end))));
    at = Math.min(to, end);
  }
  parts.append(text.slice(at, end));
  return parts;
}

// A text in its box: the beginning, and a button for all of it.
function caseText(box, { text, left_out: leftOut }, ranges = []) {
  const words = caseElement("div", "case-words");
  words.dir = "auto";
  const end = box.dataset.whole ? text.length : caseCut(text, CASE_FIRST);
  words.append(caseMarked(text, ranges, end));
  box.replaceChildren(words);
  if (leftOut) {
    box.append(caseElement("p", "case-note", `${leftOut.toLocaleString("en")} characters of this text are`
      + " left out of this page, in its middle."));
  }
  if (end === text.length) return;
  const later = ranges.filter(([from]) => from >= end).length;
  const button = caseElement("button", "case-more", `Show all ${text.length.toLocaleString("en")} characters`
    + (later ? `, with ${later.toLocaleString("en")} more differences` : ""));
  button.type = "button";
  button.addEventListener("click", () => {
    box.dataset.whole = "yes";
    caseText(box, { text, left_out: leftOut }, ranges);
    box.tabIndex = -1;
    box.focus({ preventScroll: true });
  });
  words.classList.add("case-goes-on");
  box.append(button);
}

function caseBox(title, kept, name = "") {
  const block = caseElement("div", `case-block ${name}`);
  block.append(caseElement("h5", "", title));
  const box = caseElement("div", "case-box");
  if (kept.text) caseText(box, kept);
  else box.append(caseElement("p", "case-note", "Nothing was recorded."));
  block.append(box);
  return block;
}

function caseFolded(kept) {
  const folded = caseElement("details", "case-reasoning");
  folded.append(caseElement("summary", "", `Reasoning, ${kept.text.length.toLocaleString("en")} characters`));
  folded.addEventListener("toggle", () => {
    if (!folded.open || folded.querySelector(".case-box")) return;
    const box = caseElement("div", "case-box");
    folded.append(box);
    caseText(box, kept);
  });
  return folded;
}

function caseFacts(one) {
  const facts = [
    CASE_STOPS[one.stop] ?? one.stop,
    one.tokens === null ? "" : `${one.tokens.toLocaleString("en")} tokens`,
    one.seed === null ? "" : `seed ${one.seed}`,
  ].filter(Boolean);
  return caseElement("p", "case-facts", facts.join(" · "));
}

function caseVerdict(one) {
  const verdict = caseElement("p", "case-verdict");
  verdict.append(caseElement("span", `case-grade ${one.correct ? "right" : "wrong"}`, one.correct ? "✓ right" : "✗ wrong"));
  if (one.answer !== null) {
    const answer = caseElement("span", "case-answer", one.answer);
    answer.dir = "auto";
    verdict.append(", taken as the answer: ", answer);
  } else {
    verdict.append(", no answer found");
  }
  return verdict;
}

// The rollouts of one side as a row of buttons; more than those shown are counted beside them.
function casePicker(side, shown, redo) {
  const row = caseElement("div", "case-rollouts");
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", `Rollouts of model ${side.toUpperCase()}`);
  shown.forEach((one, place) => {
    const button = caseElement("button", one.correct ? "right" : "wrong", `${one.correct ? "✓" : "✗"} ${one.number}`);
    button.type = "button";
    button.title = `Rollout ${one.number}, ${one.correct ? "right" : "wrong"}`;
    button.setAttribute("aria-pressed", String(place === caseShown[side]));
    button.addEventListener("click", () => {
      caseShown[side] = place;
      redo();
      byId("case-detail").querySelectorAll(`.case-side.${side} .case-rollouts button`)[place].focus();
    });
    row.append(button);
  });
  return row;
}

function caseTally(counts) {
  if (!counts) return "was not asked this problem";
  const [n, c, first] = counts;
  const tally = `${c.toLocaleString("en")} of ${n.toLocaleString("en")} right`;
  return first === null || first === 1 ? tally : `${tally}, the first of them rollout ${first.toLocaleString("en")}`;
}

function caseSide(side, row, shown, redo) {
  const block = caseElement("section", `case-side ${side}`);
  const about = caseElement("div", "case-about");
  const label = caseElement("h4", `case-mark ${side}`, caseData.models[caseModel(side)]);
  label.dir = "auto";
  about.append(label, caseElement("p", "case-facts", caseTally(row.counts[side])));
  block.append(about);
  if (!shown?.length) return block;
  const one = shown[caseShown[side]];
  about.append(casePicker(side, shown, redo), caseVerdict(one), caseFacts(one));
  for (const words of [one.correct ? "" : one.reason, one.error ?? ""]) {
    if (words) about.append(caseElement("p", "case-reason", words));
  }
  block.append(one.reasoning.text ? caseFolded(one.reasoning) : caseElement("div", "case-unreasoned"));
  block.append(caseBox("Answer", one.response, "case-response"));
  return block;
}

// The two rollouts that tell most: of the better model a right one, of the other a wrong one.
function casePairing(row, shownA, shownB) {
  const first = (shown, correct) => Math.max((shown ?? []).findIndex((one) => one.correct === correct), 0);
  const better = (row.b ?? 0) >= (row.a ?? 0);
  caseShown.a = first(shownA, !better);
  caseShown.b = first(shownB, better);
  if (caseModel("a") === caseModel("b") && caseShown.a === caseShown.b && shownA?.length > 1) caseShown.b = caseShown.a ? 0 : 1;
}

function caseDifferences(detail, a, b) {
  const reading = detail.querySelector(".case-common");
  const both = a?.response.text && b?.response.text;
  detail.querySelector(".case-marking").hidden = !both;
  if (!both) return;
  if (!caseShown.marked) { reading.textContent = ""; return; }
  const { ranges, common, unit } = caseDiff(a.response.text, b.response.text);
  const boxes = detail.querySelectorAll(".case-response .case-box");
  [a, b].forEach((one, i) => caseText(boxes[i], one.response, ranges[i]));
  reading.textContent = common === 1 ? "The two answers say the same." : `${percent(common)} of their ${unit} are in both.`;
}

function caseMarking(redo) {
  const line = caseElement("div", "case-marking");
  const label = caseElement("label", "case-check");
  const box = caseElement("input");
  box.type = "checkbox";
  box.id = "case-marks";
  box.checked = caseShown.marked;
  box.addEventListener("change", () => { caseShown.marked = box.checked; redo(); byId("case-marks").focus(); });
  label.append(box, " Mark differences");
  line.append(label, caseElement("span", "case-common"));
  return line;
}

function caseHead({ one }, place) {
  const head = caseElement("div", "case-head");
  const title = caseElement("h3", "", one.key);
  title.dir = "auto";
  const steps = caseElement("span", "steps");
  for (const [label, step] of [["← Previous", -1], ["Next →", 1]]) {
    const button = caseElement("button", "", label);
    button.type = "button";
    button.disabled = !caseView.rows[place + step];
    button.addEventListener("click", () => { chooseCase(place + step, false); byId("case-detail").focus({ preventScroll: true }); });
    steps.append(button);
  }
  head.append(title, steps);
  return head;
}

function caseBody(detail, row, place, texts) {
  const [shownA, shownB] = ["a", "b"].map((side) => texts.models[caseModel(side)]);
  const redo = () => {
    const asked = [...detail.querySelectorAll(".case-asked")];
    const pair = caseElement("div", "case-pair");
    pair.append(caseSide("a", row, shownA, redo), caseSide("b", row, shownB, redo));
    detail.replaceChildren(caseHead(row, place), ...asked, caseMarking(redo), pair);
    caseDifferences(detail, shownA?.[caseShown.a], shownB?.[caseShown.b]);
  };
  casePairing(row, shownA, shownB);
  const asked = caseElement("div", "case-asked");
  if (CASE_WHY[row.one.why]) asked.append(caseElement("p", "case-facts", CASE_WHY[row.one.why]));
  asked.append(caseBox("Prompt", texts.prompt), caseBox("Target", texts.target, "case-target"));
  detail.replaceChildren(asked);
  redo();
}

async function showCase(row, place) {
  const detail = byId("case-detail");
  caseShown.drawn += 1;
  const mine = caseShown.drawn;
  delete detail.dataset.shows;
  if (!row) { detail.replaceChildren(); return; }
  let texts = null, failure = null;
  try {
    texts = (await casePack(row.one.pack))[row.one.at];
  } catch (error) {
    failure = error;
  }
  if (mine !== caseShown.drawn) return;
  if (texts) caseBody(detail, row, place, texts);
  else detail.replaceChildren(caseHead(row, place), caseElement("p", "notice", failure.message));
  detail.dataset.shows = row.one.key;
}
