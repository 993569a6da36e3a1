// Which parts of two texts stand in both. Words are compared, spaces are not; very long texts are
// compared line by line. Words that each text has once are matched first, in their longest common
// order (patience); what lies between them by the shortest edit in linear memory (Myers 1986), or
// where that is long, by the edit that gets furthest in few steps, and then the next. Work is
// counted: where it still grows too large, a stretch is called different as a whole.

const CASE_MOST_WORDS = 50000;
const CASE_MOST_EDITS = 64;
const CASE_WORDS_AN_ANCHOR = 64;
const CASE_MOST_STEPS = 20_000_000;
const CASE_SPECK = /^(?:[^\p{L}\p{N}]*|[\x20-\x7e]{1,3})$/u;
const CASE_WORD = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}]|[\p{L}\p{M}\p{N}_]+|[^\s]/gu;
const CASE_LINE = /[^\n]*\S[^\n]*/g;

function caseTokens(text, pattern, numbers) {
  const starts = [], ends = [], ids = [];
  for (const { 0: word, index } of text.matchAll(pattern)) {
    if (!numbers.has(word)) numbers.set(word, numbers.size);
    starts.push(index);
    ends.push(index + word.length);
    ids.push(numbers.get(word));
  }
  return { starts, ends, ids: Int32Array.from(ids) };
}

function caseTokenPair(first, second) {
  let numbers = new Map();
  const pair = [first, second].map((text) => caseTokens(text, CASE_WORD, numbers));
  if (Math.max(pair[0].ids.length, pair[1].ids.length) <= CASE_MOST_WORDS) return { pair, unit: "words" };
  numbers = new Map();
  return { pair: [first, second].map((text) => caseTokens(text, CASE_LINE, numbers)), unit: "lines" };
}

// Places of words that both stretches have exactly once, in their longest common order, the last
// first.
function caseAnchors(a, b, [a0, a1, b0, b1], work) {
  work.steps -= 20 * (a1 - a0 + b1 - b0);
  if (work.steps < 0) return [];
  const once = (ids, from, to) => {
    const places = new Map();
    for (let i = from; i < to; i += 1) places.set(ids[i], places.has(ids[i]) ? -1 : i);
    return places;
  };
  const inA = once(a, a0, a1), inB = once(b, b0, b1);
  const tops = [], chain = [];
  for (const [id, place] of inA) {
    const other = place < 0 ? -1 : inB.get(id) ?? -1;
    if (other < 0) continue;
    let low = 0, high = tops.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (chain[tops[middle]][1] < other) low = middle + 1; else high = middle;
    }
    chain.push([place, other, low ? tops[low - 1] : -1]);
    tops[low] = chain.length - 1;
  }
  const anchors = [];
  for (let at = tops.length ? tops[tops.length - 1] : -1; at >= 0; at = chain[at][2]) anchors.push(chain[at]);
  return anchors;
}

// Where an edit of a stretch may be taken apart, as [x, y, u, v]: the words from x to u of the first
// are those from y to v of the second. In the middle of the shortest edit, or where that is long, at
// the point that few edits from the start reach; null where no work is left.
function caseMiddle(a, b, [a0, a1, b0, b1], work) {
  const n = a1 - a0, m = b1 - b0, delta = n - m, odd = (delta & 1) !== 0;
  const most = Math.min(Math.ceil((n + m) / 2), CASE_MOST_EDITS), offset = most + 1;
  const forth = new Int32Array(2 * most + 3), back = new Int32Array(2 * most + 3);
  for (let d = 0; d <= most; d += 1) {
    work.steps -= 2 * d + 2;
    if (work.steps < 0) return null;
    const lowest = 2 * Math.max(0, d - m) - d, highest = d - 2 * Math.max(0, d - n);
    for (let k = lowest; k <= highest; k += 2) {
      let x = caseReach(forth, offset + k, k === -d, k === d);
      const x0 = x;
      while (x < n && x - k < m && a[a0 + x] === b[b0 + x - k]) x += 1;
      forth[offset + k] = x;
      const mirror = delta - k;
      if (odd && Math.abs(mirror) < d && x + back[offset + mirror] >= n) return [x0, x0 - k, x, x - k];
    }
    for (let k = lowest; k <= highest; k += 2) {
      let x = caseReach(back, offset + k, k === -d, k === d);
      const x0 = x;
      while (x < n && x - k < m && a[a1 - 1 - x] === b[b1 - 1 - x + k]) x += 1;
      back[offset + k] = x;
      const mirror = delta - k;
      if (!odd && Math.abs(mirror) <= d && x + forth[offset + mirror] >= n) {
        return [n - x, m - x + k, n - x0, m - x0 + k];
      }
    }
  }
  return caseFurthest(forth, offset, most, n, m);
}

// From the neighbouring diagonals: one word of the second text skipped, or one of the first.
function caseReach(reached, at, lowest, highest) {
  const down = lowest || (!highest && reached[at - 1] < reached[at + 1]);
  return down ? reached[at + 1] : reached[at - 1] + 1;
}

function caseFurthest(forth, offset, most, n, m) {
  let best = [0, 0];
  for (let k = -most; k <= most; k += 2) {
    const x = forth[offset + k], y = x - k;
    if (x <= n && y >= 0 && y <= m && x + y > best[0] + best[1]) best = [x, y];
  }
  return best[0] + best[1] ? [...best, ...best] : null;
}

// Pairs of places, ascending in both, that hold the same word.
function caseMatches(a, b) {
  const work = { steps: CASE_MOST_STEPS };
  const partner = new Int32Array(a.length).fill(-1);
  const open = [[0, a.length, 0, b.length, true]];
  while (open.length) {
    let [a0, a1, b0, b1, whole] = open.pop();
    while (a0 < a1 && b0 < b1 && a[a0] === b[b0]) { partner[a0] = b0; a0 += 1; b0 += 1; }
    while (a0 < a1 && b0 < b1 && a[a1 - 1] === b[b1 - 1]) { a1 -= 1; b1 -= 1; partner[a1] = b1; }
    if (a0 === a1 || b0 === b1) continue;
    const stretch = [a0, a1, b0, b1];
    const anchors = whole ? caseAnchors(a, b, stretch, work) : [];
    if (anchors.length && anchors.length * CASE_WORDS_AN_ANCHOR >= Math.min(a1 - a0, b1 - b0)) {
      // The end goes onto the stack first: should the work run out, the beginning has been compared.
      let [to, end] = [a1, b1];
      for (const [place, there] of anchors) {
        partner[place] = there;
        open.push([place + 1, to, there + 1, end, true]);
        [to, end] = [place, there];
      }
      open.push([a0, to, b0, end, true]);
      continue;
    }
    const middle = caseMiddle(a, b, stretch, work);
    if (!middle) continue;
    const [x, y, u, v] = middle;
    for (let i = 0; i < u - x; i += 1) partner[a0 + x + i] = b0 + y + i;
    open.push([a0 + u, a1, b0 + v, b1, false], [a0, a0 + x, b0, b0 + y, false]);
  }
  return partner;
}

// A comma or an "of" shared between two long differences helps nobody: it counts as different.
function caseWithoutSpecks(partner, text, { starts, ends }, other) {
  for (let i = 0; i < partner.length;) {
    if (partner[i] < 0) { i += 1; continue; }
    let j = i + 1;
    while (j < partner.length && partner[j] === partner[j - 1] + 1) j += 1;
    const edge = (i === 0 && partner[i] === 0) || (j === partner.length && partner[j - 1] === other - 1);
    if (!edge && ends[j - 1] - starts[i] < 20 && CASE_SPECK.test(text.slice(starts[i], ends[j - 1]))) {
      partner.fill(-1, i, j);
    }
    i = j;
  }
}

function caseRanges(alone, { starts, ends }) {
  const ranges = [];
  for (let i = 0; i < alone.length; i += 1) {
    if (!alone[i]) continue;
    if (i > 0 && alone[i - 1]) ranges[ranges.length - 1][1] = ends[i];
    else ranges.push([starts[i], ends[i]]);
  }
  return ranges;
}

// For each text the stretches [from, to) that the other lacks, and the share of words in both.
function caseDiff(first, second) {
  const { pair: [a, b], unit } = caseTokenPair(first, second);
  const partner = caseMatches(a.ids, b.ids);
  if (unit === "words") caseWithoutSpecks(partner, first, a, b.ids.length);
  const aloneA = Uint8Array.from(partner, (place) => (place < 0 ? 1 : 0));
  const aloneB = new Uint8Array(b.ids.length).fill(1);
  for (const place of partner) if (place >= 0) aloneB[place] = 0;
  const both = 2 * partner.reduce((sum, place) => sum + (place >= 0 ? 1 : 0), 0);
  const all = a.ids.length + b.ids.length;
  return { ranges: [caseRanges(aloneA, a), caseRanges(aloneB, b)], common: all ? both / all : 1, unit };
}
