// Everything at its start, and again when the colours or the medium change.

darkness.addEventListener("change", redraw);
printing.addEventListener("change", redraw);
window.addEventListener("resize", redraw);
window.addEventListener("beforeprint", () => { root.dataset.paper = ""; redraw(); });
window.addEventListener("afterprint", () => { delete root.dataset.paper; redraw(); });
root.dataset.look = look();
if (typeof startStudy === "function") startStudy();
if (typeof startAnalysis === "function" && data.runs.length) startAnalysis();
if (typeof startCases === "function") startCases();
root.dataset.ready = "yes";
