// The texts of cases: packs from the page, or from the folder beside it. See case_packs.py.

const CASE_PACKS_HELD = 6;
const casePacks = new Map();

async function caseInflated(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// A style sheet in a shadow tree of its own can hand over a text and can do nothing else.
function caseSheet(address) {
  const host = document.createElement("div");
  host.hidden = true;
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = address;
  return new Promise((found, missing) => {
    link.addEventListener("load", () => {
      const style = getComputedStyle(host);
      const pieces = [];
      for (let piece = style.getPropertyValue("--p0"); piece;) {
        pieces.push(piece.trim().slice(1, -1));
        piece = style.getPropertyValue(`--p${pieces.length}`);
      }
      host.remove();
      found(pieces.join(""));
    });
    link.addEventListener("error", () => {
      host.remove();
      missing(new Error(`The texts of this problem lie in ${decodeURIComponent(address)} beside this`
        + " page, and that file is not there. Keep the page and its folder together."));
    });
    host.attachShadow({ mode: "open" }).append(link);
    document.body.append(host);
  });
}

async function caseFromFile({ folder, digests }, number) {
  const address = `${folder}/${String(number).padStart(4, "0")}.css`;
  const text = await caseSheet(address);
  // A page over plain HTTP has no SHA-256; whoever could change the file there could change the page.
  if (crypto.subtle) {
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
    if (btoa(String.fromCharCode(...new Uint8Array(digest))) !== digests[number]) {
      throw new Error(`${decodeURIComponent(address)} beside this page is not the file that was`
        + " written with it: damaged, changed, or of another page. Its texts are not shown.");
    }
  }
  return text;
}

// The cases of a pack; the last few are held. Rejects with an Error whose message is for the reader.
function casePack(number) {
  const held = casePacks.get(number);
  if (held) {
    casePacks.delete(number);
    casePacks.set(number, held);
    return held;
  }
  const { packs, files } = caseData;
  const text = packs ? Promise.resolve(packs[number]) : caseFromFile(files, number);
  const opened = text.then(caseInflated);
  casePacks.set(number, opened);
  opened.catch(() => casePacks.delete(number));
  if (casePacks.size > CASE_PACKS_HELD) casePacks.delete(casePacks.keys().next().value);
  return opened;
}

// Everything that a case says, one text after the other.
function caseWords({ prompt, target, models }) {
  const rollouts = models.flatMap((shown) => shown ?? []);
  return [prompt.text, target.text, ...rollouts.flatMap((one) =>
    [one.answer ?? "", one.reason, one.reasoning.text, one.response.text])];
}

// Which cases say these words anywhere, pack by pack; ``told`` hears of the progress.
async function caseSearch(words, wanted, told) {
  const found = new Set();
  const byPack = Map.groupBy ? Map.groupBy(wanted, (one) => one.pack) : caseGrouped(wanted);
  let done = 0, unread = 0;
  for (const [pack, cases] of byPack) {
    try {
      const texts = await casePack(pack);
      for (const one of cases) {
        if (caseWords(texts[one.at]).some((text) => text.toLowerCase().includes(words))) found.add(one);
      }
    } catch {
      unread += 1;
    }
    done += 1;
    if (!told(done / byPack.size)) return null;
  }
  return { found, unread };
}

function caseGrouped(cases) {
  const groups = new Map();
  for (const one of cases) groups.set(one.pack, [...(groups.get(one.pack) ?? []), one]);
  return groups;
}
