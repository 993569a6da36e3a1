// Everything at its start, and again when the run, the colours or the medium change.

function showRun() {
  const run = currentRun();
  for (const [figure] of BY_LAYER) {
    options(byId(`${figure}-module`), ["All modules", ...run.modules], chosenModule(figure));
  }
  options(byId("spectrum-module"), run.spectra.modules, byId("spectrum-module").selectedIndex);
  listSpectrumLayers();
  draw("figure-depth", depthFigure);
  draw("figure-spread", spreadFigure);
  showSpectrum();
  for (const [figure, make] of BY_LAYER) draw(`figure-${figure}`, make);
  draw("figure-hidden", hiddenFigure);
  loadRows();
  showTable();
}

startSpectrum();
startDepthFigures();
startTable();
if (byId("run")) byId("run").addEventListener("change", showRun);
darkness.addEventListener("change", redraw);
printing.addEventListener("change", redraw);
window.addEventListener("resize", redraw);
window.addEventListener("beforeprint", () => { root.dataset.paper = ""; redraw(); });
window.addEventListener("afterprint", () => { delete root.dataset.paper; redraw(); });
root.dataset.look = look();
showRun();
root.dataset.ready = "yes";
