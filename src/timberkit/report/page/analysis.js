// The figures and the table of the analyses, at their start and when another run is chosen.

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

function startAnalysis() {
  startSpectrum();
  startDepthFigures();
  startTable();
  if (byId("run")) byId("run").addEventListener("change", showRun);
  showRun();
}
