// The case browser at its start. Every name here begins with case: the page has other scripts, too.

const caseData = JSON.parse(byId("case-data").textContent);

function startCases() {
  caseData.cases.forEach((one, place) => {
    one.place = place;
    one.words = [one.key, one.start, one.target, one.answers].join("\n").toLowerCase();
  });
  options(byId("case-task"), caseData.tasks);
  options(byId("case-a"), caseData.models, caseData.reference);
  options(byId("case-b"), caseData.models, caseData.focus);
  byId("case-task").closest("label").hidden = caseData.tasks.length < 2;
  byId("case-browser").hidden = false;
  startCaseList();
  showCases();
}
